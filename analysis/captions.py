"""What every caption says about how the numbers came to be."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.certificate import Certificate
from analysis.load import Results
from analysis.numbers import UNKNOWN
from analysis.summary import Summary
from experiments.config import INIT_TITLES, Experiment


@dataclass(frozen=True)
class Facts:
    """Sentences that the captions of one report share.

    Attributes
    ----------
    reference : str
        Title of the reference model.
    seeds, test, conditions, certificate : str
        Seeds; test images and checkpoint; track, device and precision; the settings' hash.
    banner : str
        Warning for tables over unequal settings, or empty.
    """

    reference: str
    seeds: str
    test: str
    conditions: str
    certificate: str
    banner: str

    @property
    def common(self) -> str:
        """The end of every caption."""
        return f"{self.test} {self.conditions} {self.certificate}"


def gather(results: Results, summary: Summary, experiment: Experiment, certificate: Certificate) -> Facts:
    """Collect the facts of one report."""
    cells = summary.cells
    incomplete = int((cells["n_seeds"] < cells["n_expected"]).sum())
    seeds = (
        f"Seeds {', '.join(map(str, experiment.seeds))}."
        if len(experiment.seeds) > 1
        else f"Seed {experiment.seeds[0]} alone."
    )
    if incomplete:
        seeds += f" {incomplete} of {len(cells)} cells lack seeds; footnotes say which and why."
    sizes = cells.dropna(subset=["n_test"]).drop_duplicates("data")
    many = len(sizes) > 1
    images = ", ".join(f"{int(row.n_test)}{f' ({row.data_title})' if many else ''}" for row in sizes.itertuples())
    precisions = sorted({str(value) for value in results.runs["precision"]})
    tables = certificate.content["settings_hash"]
    if certificate.equal:
        hashes = "; ".join(f"{value[:12]}{f' ({table})' if len(tables) > 1 else ''}" for table, value in tables.items())
        proof = f"Certificate: everything but the model is equal for all rows, settings {hashes}."
        if unverified := len(certificate.faults):
            proof += f" The settings of {unverified} of {len(results.runs)} runs are known by the recorded hash alone."
        banner = ""
    else:
        keys = ", ".join(dict.fromkeys(difference.key for difference in certificate.differences))
        proof = "Certificate: refused; see the warning."
        banner = f"UNEQUAL SETTINGS: rows of this table differ in more than the model ({keys}). Do not compare them."
    return Facts(
        reference=experiment.models[experiment.reference].title,
        seeds=seeds,
        test=f"{images} test images; checkpoint: the last of a fixed schedule, tested once.",
        conditions=(
            f"{_track(experiment)} {_starts(experiment)}"
            f"Trained on {', '.join(certificate.content['devices'])} in {', '.join(precisions)}. "
            f"{_parts(certificate.content['micro_batches'])}Training FLOPs are 3 × forward."
        ),
        certificate=proof,
        banner=banner,
    )


def _parts(micro_batches: list[int]) -> str:
    """What gradient accumulation means for the costs, with a blank after it; empty where every batch was trained whole."""
    if micro_batches == [1]:
        return ""
    return (
        f"Batches of some runs were trained in parts (up to {micro_batches[-1]}), with results equal up to rounding; this "
        "changes their times and memory. "
    )


def _track(experiment: Experiment) -> str:
    """How recipes were come by."""
    if experiment.track == "identical":
        return "Track: identical, one recipe for all."
    return (
        f"Tracks in blocks: identical, one recipe for all; tuned, for each model and fraction the best of "
        f"{experiment.tuning.trials} trials of one space, chosen on validation with a seed of its own, their cost charged."
    )


def _starts(experiment: Experiment) -> str:
    """What the endings of titles mean, with a blank after it; empty where every model starts from scratch."""
    labels = {model.init_label for model in experiment.models.values()}
    sentences = {
        "pretrained": f"'{INIT_TITLES['pretrained']}': started from published weights, then trained in full. ",
        "linear_probe": f"'{INIT_TITLES['linear_probe']}': published weights, only a new linear head trained. ",
        "random_features": f"'{INIT_TITLES['random_features']}': random weights, only the head trained. ",
    }
    said = "".join(sentence for label, sentence in sentences.items() if label in labels)
    frozen = labels & {"linear_probe", "random_features"}
    cost = "With frozen features the FLOPs are 1 × forward. " if frozen else ""
    return f"Not all models start from scratch; their titles say which do not. {said}{cost}" if said else ""


def accuracy(facts: Facts) -> str:
    """Caption of the accuracy table."""
    return (
        f"Accuracy. {facts.seeds} Top-1 accuracy is mean ± sample standard deviation over seeds; 95% intervals are of "
        "two-way random effects (new seeds and new test images; degrees of freedom after Hillis 2008). "
        f"Δ is the paired difference to {facts.reference} in percentage points, over the same seeds and test images. "
        "Bold: the best model of a block and all not significantly below it. † differs from the reference (p < .05), ≡ is "
        "equivalent (interval inside ±0.5 points), no mark: inconclusive. Intervals are unadjusted, marks Holm-adjusted "
        "(† over the table, bold within its block); no mark below 3 seeds. n counts images for training and validation. "
        "NLL in nats. ECE over 15 bins, as it is and after temperature scaling on validation. GMACs: forward pass of one "
        f"image. {facts.common}"
    )


def data_efficiency(facts: Facts) -> str:
    """Caption of the table of learning curves."""
    return (
        f"Data efficiency. {facts.seeds} Top-1 accuracy (%) at each train fraction, mean ± sample standard deviation over "
        "seeds; n counts images for training and validation; bold as in the accuracy table, Holm-adjusted within a "
        "fraction, none below 3 seeds. AULC: area under accuracy over ln n, divided by ln(n max / n min), in per cent; Δ "
        "paired, with the two-way interval over seeds and test images. Images needed: how many times more or fewer images "
        f"than {facts.reference} the model needs to reach the lower of their two accuracies at full data, by monotone "
        "interpolation of log error in log n, with a parametric-bootstrap interval over seeds; > and < where a limit lies "
        "outside the measured range; nothing is extrapolated. Crossover: the number of images from which the named model "
        f"stays ahead of the other up to full data; {UNKNOWN} where the mean curves do not cross. Intervals are "
        f"unadjusted. {facts.common}"
    )


def compute(facts: Facts) -> str:
    """Caption of the compute table."""
    return (
        "Compute of one run at the largest train fraction, mean over seeds; optimiser steps are equal at every fraction. "
        f"{facts.seeds} GMACs: billions of multiply-accumulates of the forward pass of one image. Train PFLOPs: 3 × forward "
        "FLOPs × images seen, in units of 1e15. Device-hours are net of evaluation and summed over attempts. Images/s: "
        "end to end, net of evaluation. Peak memory: of the device's allocator, on a CPU of the process. MFU: model FLOPs "
        f"over the dense peak of the device. {UNKNOWN}: not known, on this device or for one of the seeds. Time to "
        "target: training seconds to the validation accuracy that was fixed in advance, median, with the share of runs that "
        "reached it. "
        f"Top-1 accuracy (%) is mean ± sample standard deviation, bold as in the accuracy table. {facts.common}"
    )


def datasets(facts: Facts, friedman: str) -> str:
    """Caption of the table of models × datasets; `friedman` is the sentence on that test, or empty."""
    return (
        f"Top-1 accuracy (%) by dataset at the largest train fraction, mean ± sample standard deviation. {facts.seeds} "
        "Bold: the best model of a column and all not significantly below it (Holm-adjusted within the column); no mark "
        "below 3 seeds. Average rank: 1 is the most accurate, among models measured on every dataset. Δ across datasets: "
        f"mean paired difference to {facts.reference} in percentage points over datasets taken as a random sample, each "
        "counting once; random effects with the variance between datasets after Paule and Mandel, t intervals after Hartung "
        "and Knapp with one degree of freedom fewer than datasets. 95% PI: where the true Δ on a further such dataset is "
        "expected. Two or three datasets tell little about how datasets differ, so both intervals are then wide; "
        f"both are unadjusted. {friedman}{facts.common}"
    )
