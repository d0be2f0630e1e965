"""What stands under tables: a caption of two sentences, one line on the conditions, and the method once for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from analysis import decided
from analysis.fairness.certificate import Certificate
from analysis.load import Results
from analysis.run_folder import devices
from analysis.statistics.intervals import holm
from analysis.summary import Summary
from analysis.text import percent
from experiments.config.schema import INIT_TITLES, Experiment
from experiments.records.dataset import test_split_title
from experiments.records.folder import read_merged
from experiments.records.record import Record

FAMILY = (
    "One family for all marks: every pair of models at every budget of a block of equal settings, Holm-adjusted; none below "
    "3 seeds."
)


@dataclass(frozen=True)
class Facts:
    """Sentences that the tables of one report share."""

    reference: str
    """Title of the reference model."""
    marks: str
    """What bold, † and ≡ mean, or why there are none."""
    short: str
    """The line under every table: seeds, test images, track, precision, settings, and what would mislead if left unsaid."""
    details: list[str]
    """Everything else on how the numbers came to be; it stands once in a report."""
    banner: str
    """Warning for tables over unequal settings, or empty."""


def gather(results: Results, summary: Summary, experiment: Experiment, certificate: Certificate) -> Facts:
    """Collect the facts of one report."""
    cells = summary.cells
    incomplete = int((cells["n_seeds"] < cells["n_expected"]).sum())
    lacking = f"{incomplete} of {len(cells)} cells lack seeds; footnotes say which and why." if incomplete else ""
    seeds = f"Seed{'s' * (len(experiment.seeds) > 1)} {', '.join(map(str, experiment.seeds))}"
    sizes = cells.dropna(subset=["n_test"]).drop_duplicates("data")
    many = len(sizes) > 1
    images = ", ".join(f"{int(row.n_test):,}{f' ({row.data_title})' if many else ''}" for row in sizes.itertuples())
    precisions = ", ".join(sorted({str(value) for value in results.runs["precision"]}))
    proof, hashes, banner = _certificate(results, experiment, certificate)
    track, briefly = _track(experiment)
    warnings = [lacking, decided.caption(results.decision), _leaks(results), _starts(experiment)]
    details = [
        "Accuracies are means ± sample standard deviations over seeds, on the test set, of the last checkpoint of a fixed "
        "schedule, tested once. 95% intervals cover new seeds and new test images, with the seeds' variance moderated over "
        "the table and pseudo-images at the bounds (docs/method.md); they are unadjusted. Differences are paired over seeds "
        "and test images. n counts images for training and validation.",
        "" if summary.pairs.empty else FAMILY,
        _pool(results.runs),
        _writers(experiment),
        track,
        _budget(results),
        f"Trained on {', '.join(certificate.content['devices'])} in {precisions}. Training FLOPs are 3 × forward.",
        _parts(certificate.content["micro_batches"]),
        proof,
    ]
    return Facts(
        reference=experiment.models[experiment.reference].title,
        marks=_marks(summary, experiment),
        short=" ".join(filter(None, [
            f"{seeds}; {images} test images{_test_splits(results)}; {briefly}; {precisions}; {hashes}.", *warnings,
        ])),
        details=[text for text in details if text],
        banner=banner,
    )  # fmt: skip


def _certificate(results: Results, experiment: Experiment, certificate: Certificate) -> tuple[str, str, str]:
    """What is proven of the settings, in a sentence and in a word, and the banner of unequal ones."""
    if not certificate.equal:
        keys = ", ".join(dict.fromkeys(difference.key for difference in certificate.differences))
        banner = f"UNEQUAL SETTINGS: rows of this table differ in more than the model ({keys}). Do not compare them."
        return "Certificate: refused; see the warning.", "settings unequal", banner
    tables = certificate.content["settings_hash"]
    shown = {table: value[:12] if isinstance(value, str) else "of each model" for table, value in tables.items()}
    hashes = "; ".join(f"{value}{f' ({table})' if len(tables) > 1 else ''}" for table, value in shown.items())
    own = " and, on track own, its recipe" if experiment.track == "own" else ""
    proof = f"Certificate: everything but the model{own} is equal for all rows, settings {hashes}."
    if unverified := len(certificate.faults):
        proof += f" The settings of {unverified} of {len(results.runs)} runs are known by the recorded hash alone."
    return proof, f"settings {hashes}" if len(tables) == 1 else "settings certified", ""


def _marks(summary: Summary, experiment: Experiment) -> str:
    """What the marks that are there mean, or why there are none."""
    if summary.pairs.empty:
        return "No marks: they need two models with 3 seeds each, and seeds that do not differ too much for the test."
    words = {
        "different": "; †: differs from the reference",
        "equivalent": f"; ≡: equivalent to it within ±{100 * experiment.equivalence_margin:g} points",
    }
    shown = "".join(text for state, text in words.items() if (summary.cells["state"] == state).any())
    return f"Bold: the best at a budget and all that do not differ from it{shown} (Holm-adjusted, p < .05)."


def _pool(runs: pd.DataFrame) -> str:
    """How much of their images two seeds train on in common, empty for one seed.

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
        "a new pool of images."
    )


def _writers(experiment: Experiment) -> str:
    """That digits cut at random are no new handwriting; empty for other data."""
    titles = [data.title for data in experiment.data.values() if data.source == "digits" and data.test_cut == "random"]
    return f"{' and '.join(titles)}: test and training images are by the same writers." if titles else ""


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
    """Test images that are training images too; empty where none is known."""
    leaks = {described.title: described.leak for described in results.descriptions.values() if described.leak}
    many = len(results.descriptions) > 1
    return " ".join(f"{f'{title}: ' if many else ''}{leak}." for title, leak in leaks.items())


def _parts(micro_batches: list[int]) -> str:
    """What gradient accumulation means for the costs; empty where every batch was trained whole."""
    if micro_batches == [1]:
        return ""
    return (
        f"Batches of some runs were trained in parts (up to {micro_batches[-1]}), with results equal up to rounding; this "
        "changes their times and memory."
    )


def _budget(results: Results) -> str:
    """That runs are equally many epochs long and not steps, where they are."""
    frame = results.runs
    by_epochs = frame.groupby(["data", "setting", "model"])["samples_seen"].nunique().gt(1).any() if len(frame) else False
    return "Budget: equal epochs, so that fewer images take fewer steps." if by_epochs else ""


def _track(experiment: Experiment) -> tuple[str, str]:
    """Whether all models share one recipe or each has its own: in a sentence, and in a word."""
    if experiment.track == "identical":
        return "Track: identical, one recipe for all.", "identical recipe for all"
    if experiment.track == "random":
        return "Track: random; the other tables are of the shared recipe, one for all.", "identical recipe for all"
    if experiment.track == "own":
        seen = "equally many images seen" if experiment.equal_images else "images seen as each recipe says"
        own = f"Tracks in blocks: identical, one recipe for all; own, the recipe of each family's authors, {seen}."
        return own, "identical and own recipes in blocks"
    tuned = (
        f"Tracks in blocks: identical, one recipe for all; tuned, for each model and fraction the best of "
        f"{experiment.tuning.trials} trials of one space, chosen on validation with a seed of its own, their cost charged."
    )
    return tuned, "identical and tuned recipes in blocks"


def _starts(experiment: Experiment) -> str:
    """What the endings of titles mean; empty where every model starts from scratch."""
    labels = {model.init_label for model in experiment.models.values()}
    weights = {model.weights for model in experiment.models.values() if model.weights}
    runs = sorted({name.removeprefix("run:").partition("/")[0] for name in weights if name.startswith("run:")})
    charged = f"Runs of {' and '.join(runs)} count as published; their cost is charged to all that start from them. "
    sentences = {
        "pretrained": f"'{INIT_TITLES['pretrained']}': started from published weights, then trained in full. ",
        "linear_probe": f"'{INIT_TITLES['linear_probe']}': published weights, only a new linear head trained. ",
        "random_features": f"'{INIT_TITLES['random_features']}': random weights, only the head trained. ",
    }
    said = "".join(sentence for label, sentence in sentences.items() if label in labels)
    frozen = labels & {"linear_probe", "random_features"}
    cost = "With frozen features the FLOPs are 1 × forward. " if frozen else ""
    if not said:
        return ""
    return (
        f"Not all models start from scratch; their titles say which do not. {said}{charged if runs else ''}{cost}".rstrip()
    )


class Text(NamedTuple):
    """What one table says of itself, with the words of a report in braces."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    """Two sentences at most."""
    method: str = ""
    """How its numbers came to be; it stands once in a report."""


ACCURACY = Text(
    "accuracy",
    "Accuracy",
    "Top-1 accuracy (%) by share of the training images, mean ± std over seeds; below, the difference to {reference} in "
    "points. {marks}",
)
SETTINGS = Text(
    "settings",
    "Settings",
    "Test accuracy (%) under each setting, mean ± std over seeds, and below it accuracy on validation, whose highest is "
    "bold for each model. The highest test accuracy of a model would be chosen on the test set, and too high.",
    "Validation chooses by its mean over seeds, of the last checkpoints, among settings all of whose seeds ended. Equal "
    "ones are all bold. No test image is seen in choosing, but the runs that are tested are those that chose, so that new "
    "seeds may do a little worse. With few images for validation the choice is near to chance.",
)
SETTINGS_OF_DATA = Text(
    "settings",
    "Settings",
    "Test accuracy (%) under each setting, mean ± std over seeds. Settings change the data, so that none is the best of "
    "them.",
)
METRICS = Text(
    "metrics",
    "All metrics",
    "Accuracy, calibration and size of every model at every share of the training images. {marks}",
    "{legend}",
)
DATA_EFFICIENCY = Text(
    "data_efficiency",
    "Data efficiency",
    "Data efficiency against {reference}: area under the learning curve (AULC), and how many times as many or as few images "
    "a model needs.",
    "AULC: area under accuracy over ln n, divided by ln(n max / n min), in per cent; Δ paired. Direct bound: the fewest "
    "images with which the model that is ahead at full data still is, against the other with all of them, and their "
    "difference in points; tested from full data down, nothing interpolated. Images needed: how many times more or "
    "fewer images than all the model ahead needs for the other's accuracy at full data, by monotone interpolation of "
    "log error in log n; no direction where the interval holds 1; < and > where a limit lies outside the measured "
    "budgets, not bounded where both do. Crossover: from which number of images the named model is ahead, where "
    "differences of opposite sign are marked on both sides.",
)
BUDGETS = Text(
    "budgets",
    "Across budgets",
    "Across budgets: accuracy of each model with its images minus that of {reference} with the share of the column, in "
    "points. Nothing is interpolated.",
)
RECIPES = Text(
    "recipes",
    "Random recipes",
    "Random recipes: the best validation accuracy of k recipes, and how often a model is ahead of {reference} under the "
    "same one. No test image was seen.",
    "All models were trained with the same recipes, drawn once from one space. Best of k: mean over all choices of k "
    "recipes of the best validation accuracy among them (Dodge et al. 2019). Ahead: share of recipes under which the "
    "model's validation accuracy is above the reference's; a tie is not. Intervals are over recipes, of one seed and "
    "one split each.",
)
INTERACTIONS = Text(
    "interactions",
    "Changes of the difference",
    "How the difference to {reference} changes from one budget, setting or lab to another, in points.",
    "{labs}A change is the difference of the two differences, paired over seeds and test images.",
)
COMPUTE = Text(
    "compute",
    "Compute",
    "Compute of one training with {amount}, mean over seeds, and its accuracy. Bold as in the accuracy table.",
    "{legend}{target}",
)
TARGET = (
    " Time to target: training seconds to the validation accuracy that was fixed in advance, median, with the share of runs "
    "that reached it; ≤ where the first evaluation met it."
)
DATASETS = Text(
    "datasets",
    "Models × datasets",
    "Top-1 accuracy (%) by dataset, mean ± standard deviation, and what holds across datasets. {marks}",
    "Average rank: 1 is the most accurate, among models measured on every dataset. Δ across datasets: mean paired "
    "difference to {reference} in points over datasets taken as a random sample, each counting once; random "
    "effects with the variance between datasets after Paule and Mandel, t intervals after Hartung and Knapp with one "
    "degree of freedom fewer than datasets. 95% PI: where the true Δ on a further such dataset is expected. Two or "
    "three datasets tell little about how datasets differ, so both intervals are then wide, and the prediction interval "
    "covers less than 95% where standard errors differ much (.88 at least in simulation). {friedman}",
)


def labs(summary: Summary) -> str:
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
    least = pd.Series(holm(of_labs["p"])).min()  # NaN where no row has an interval
    shown = f"{'is' if least < 0.05 else 'is not'} shown (smallest p, adjusted over all their rows, {least:.3f})"
    return f"{'; '.join(ran)}. Between labs heterogeneity {shown if least >= 0 else 'takes two seeds of each to test'}. "
