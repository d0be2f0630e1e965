"""What every caption says about how the numbers came to be."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis import columns
from analysis.fairness.certificate import Certificate
from analysis.load import Results
from analysis.run_folder import devices
from analysis.statistics.intervals import holm
from analysis.summary import Summary
from analysis.text import UNKNOWN, percent
from experiments.config.schema import INIT_TITLES, Experiment
from experiments.records.dataset import test_split_title
from experiments.records.folder import read_merged
from experiments.records.record import Record


@dataclass(frozen=True)
class Facts:
    """Sentences that the captions of one report share."""

    reference: str
    """Title of the reference model."""
    seeds: str
    pool: str
    test: str
    conditions: str
    certificate: str
    marks: str
    """From `seeds` on: seeds; what their training sets share; test images and checkpoint; track, device and precision; the
    settings' hash; what marks mean."""
    banner: str
    """Warning for tables over unequal settings, or empty."""

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
        shown = {table: value[:12] if isinstance(value, str) else "of each model" for table, value in tables.items()}
        hashes = "; ".join(f"{value}{f' ({table})' if len(tables) > 1 else ''}" for table, value in shown.items())
        own = " and, on track own, its recipe" if experiment.track == "own" else ""
        proof = f"Certificate: everything but the model{own} is equal for all rows, settings {hashes}."
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
        pool=_pool(results.runs),
        test=f"{images} test images{_test_splits(results)}; checkpoint: the last of a fixed schedule, tested once."
        f"{_writers(experiment)}{_leaks(results)}",
        conditions=(
            f"{_track(experiment)} {_budget(results)}{_starts(experiment)}"
            f"Trained on {', '.join(certificate.content['devices'])} in {', '.join(precisions)}. "
            f"{_parts(certificate.content['micro_batches'])}Training FLOPs are 3 × forward."
        ),
        certificate=proof,
        marks=_marks(summary, experiment),
        banner=banner,
    )


def _marks(summary: Summary, experiment: Experiment) -> str:
    """What bold, † and ≡ mean, or why there are none."""
    if summary.pairs.empty:
        return "No marks: they need two models with 3 seeds each, and seeds that do not differ too much for the test."
    return (
        f"Bold: the best model at a budget and all that do not differ from it; †: differs from the reference; ≡: equivalent "
        f"to it within ±{100 * experiment.equivalence_margin:g} points. One family for all marks: every pair of models at "
        "every budget of a block of equal settings, Holm-adjusted, p < .05; none below 3 seeds."
    )


def _pool(runs: pd.DataFrame) -> str:
    """How much of their images two seeds train on in common, with a blank after it; empty for one seed.

    A seed's training set is a random part of the pool, per class, so that of another's it holds its own share of the pool.
    """
    if runs["seed"].nunique() < 2:
        return ""
    largest = runs.sort_values("train_fraction").drop_duplicates("data", keep="last").set_index("data")
    pools = runs["data"].map(largest["n"] / largest["train_fraction"])
    shares = (runs["n_train"] / pools).groupby(runs["train_fraction"]).mean().sort_index(ascending=False)
    said = ", ".join(f"{100 * share:.0f}% at {percent(float(str(fraction)))}" for fraction, share in shares.items())
    return (
        f"Share of images that the training sets of two seeds have in common: {said}; where it is large, no interval covers "
        "a new pool of images. "
    )


def _writers(experiment: Experiment) -> str:
    """That digits cut at random are no new handwriting, with a blank before it; empty for other data."""
    titles = [data.title for data in experiment.data.values() if data.source == "digits" and data.test_cut == "random"]
    return f" {' and '.join(titles)}: test and training images are by the same writers." if titles else ""


def _test_splits(results: Results) -> str:
    """Where the test images came from, with a blank before it; empty where the records do not say."""
    titles = dict(zip(results.runs["data"], results.runs["data_title"], strict=True))
    found = {
        (titles[record.data], test_split_title(record.test_split))
        for record in results.records.values()
        if record.test_split
    }
    if len({origin for _, origin in found}) == 1:
        return f" (test split: {next(iter(found))[1]})"
    return f" (test splits: {'; '.join(f'{title}: {origin}' for title, origin in sorted(found))})" if found else ""


def _leaks(results: Results) -> str:
    """Test images that are training images too, with a blank before it; empty where none is known."""
    leaks = {described.title: described.leak for described in results.descriptions.values() if described.leak}
    many = len(results.descriptions) > 1
    return "".join(f" {f'{title}: ' if many else ''}{leak}." for title, leak in leaks.items())


def _parts(micro_batches: list[int]) -> str:
    """What gradient accumulation means for the costs, with a blank after it; empty where every batch was trained whole."""
    if micro_batches == [1]:
        return ""
    return (
        f"Batches of some runs were trained in parts (up to {micro_batches[-1]}), with results equal up to rounding; this "
        "changes their times and memory. "
    )


def _budget(results: Results) -> str:
    """That runs are equally many epochs long and not steps, where they are, with a blank after it."""
    frame = results.runs
    by_epochs = frame.groupby(["data", "setting", "model"])["samples_seen"].nunique().gt(1).any() if len(frame) else False
    return "Budget: equal epochs, so that fewer images take fewer steps. " if by_epochs else ""


def _track(experiment: Experiment) -> str:
    """Whether all models share one recipe, or each has the best of its own trials."""
    if experiment.track == "identical":
        return "Track: identical, one recipe for all."
    if experiment.track == "random":
        return "Track: random; the other tables are of the shared recipe, one for all."
    if experiment.track == "own":
        seen = "equally many images seen" if experiment.equal_images else "images seen as each recipe says"
        return f"Tracks in blocks: identical, one recipe for all; own, the recipe of each family's authors, {seen}."
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
        f"Accuracy. {facts.seeds} Top-1 accuracy is mean ± sample standard deviation over seeds; 95% intervals cover new "
        "seeds and new test images, with the seeds' variance moderated over the table and pseudo-images at the bounds "
        f"(docs/method.md). Δ is the difference to {facts.reference} in percentage points, paired over seeds and test "
        f"images. {facts.marks} Intervals are unadjusted. {facts.pool}n counts images for training and validation. "
        f"{columns.caption('accuracy')} {facts.common}"
    )


def data_efficiency(facts: Facts) -> str:
    """Caption of the table of learning curves."""
    return (
        f"Data efficiency. {facts.seeds} Top-1 accuracy (%) at each train fraction, mean ± sample standard deviation over "
        f"seeds; n counts images for training and validation. {facts.marks} AULC: area under accuracy over ln n, divided by "
        "ln(n max / n min), in per cent; Δ paired. Direct bound: the fewest images with which the model that is ahead at "
        "full data still is, against the other with all of them, and their difference in points; tested from full data "
        "down, nothing interpolated. Images needed: how many times more or fewer images than all the model ahead needs for "
        f"the other's accuracy at full data, against {facts.reference}, by monotone interpolation of log error in log n; no "
        "direction where the interval holds 1; < and > where a limit lies outside the measured budgets, not bounded where "
        "both do. Crossover: from which number of images the named model is ahead, where differences of opposite sign are "
        f"marked on both sides; {UNKNOWN} elsewhere. Intervals are at 95%, unadjusted, over new seeds and new test images. "
        f"{facts.pool}{facts.common}"
    )


def budgets(facts: Facts) -> str:
    """Caption of the table of direct comparisons across budgets."""
    return (
        f"Across budgets. {facts.seeds} Accuracy of each model with its number of images minus that of {facts.reference} "
        "with the fraction in the column's head, in points, with unadjusted 95% intervals over new seeds and test images. "
        f"{facts.common}"
    )


def recipes(facts: Facts) -> str:
    """Caption of the table of random recipes."""
    return (
        "Random recipes. All models were trained with the same recipes, drawn once from one space. Best of k: mean over all "
        "choices of k recipes of the best validation accuracy among them (Dodge et al. 2019). Ahead: share of recipes under "
        f"which the model's validation accuracy is above {facts.reference}'s; a tie is not. Intervals are over recipes, of "
        f"one seed and one split each. No test image was seen. {facts.certificate}"
    )


def interactions(summary: Summary, facts: Facts) -> str:
    """Caption of the table of differences in differences."""
    return (
        f"Changes of the difference. {facts.seeds} How the difference to {facts.reference} changes from one budget, "
        "setting or lab to another, in points: the difference of the two differences, paired over seeds and test images, "
        f"with unadjusted 95% intervals. {_labs(summary)}{facts.common}"
    )


def _labs(summary: Summary) -> str:
    """Who ran what, and whether labs differ; empty where there are no two."""
    of_labs = summary.interactions.query("changed == 'lab'")
    if of_labs.empty:
        return ""
    records, who = summary.groups[0].results.records, dict[str, list[Record]]()
    for run_id, merged in read_merged(summary.groups[0].results.folder).items():
        if run_id in records:
            who.setdefault(merged.get("lab") or "not named", []).append(records[run_id])
    ran = [
        f"{lab}: {len(own)} runs, seeds {', '.join(map(str, sorted({record.seed for record in own})))}, on "
        f"{' and '.join(sorted({name for record in own for name in devices(record)}))}"
        for lab, own in sorted(who.items())
    ]
    least = holm(of_labs["p"]).min()  # NaN where there is no interval
    shown = f"{'is' if least < 0.05 else 'is not'} shown (smallest p, adjusted over all their rows, {least:.3f})"
    return f"{'; '.join(ran)}. Between labs heterogeneity {shown if least >= 0 else 'takes two seeds of each to test'}. "


def compute(facts: Facts) -> str:
    """Caption of the compute table."""
    return (
        "Compute of one run at the largest train fraction, mean over seeds; optimiser steps are equal at every fraction. "
        f"{facts.seeds} {columns.caption('compute')} "
        f"{UNKNOWN}: not known, on this device or for one of the seeds. Time to target: training seconds to the validation "
        "accuracy that was fixed in advance, median, with the share of runs that reached it; ≤ where the first evaluation "
        "met it. "
        f"Top-1 accuracy (%) is mean ± sample standard deviation, bold as in the accuracy table. {facts.common}"
    )


def datasets(facts: Facts, friedman: str) -> str:
    """Caption of the table of models × datasets; `friedman` is the sentence on that test, or empty."""
    return (
        f"Top-1 accuracy (%) by dataset at the largest train fraction, mean ± sample standard deviation. {facts.seeds} "
        f"{facts.marks} Average rank: 1 is the most accurate, among models measured on every dataset. Δ across datasets: "
        f"mean paired difference to {facts.reference} in percentage points over datasets taken as a random sample, each "
        "counting once; random effects with the variance between datasets after Paule and Mandel, t intervals after Hartung "
        "and Knapp with one degree of freedom fewer than datasets. 95% PI: where the true Δ on a further such dataset is "
        "expected. Two or three datasets tell little about how datasets differ, so both intervals are then wide, and the "
        "prediction interval covers less than 95% where standard errors differ much (.88 at least in simulation); "
        f"both are unadjusted. {friedman}{facts.common}"
    )
