"""One run folder, read and checked: its record, its place in the grid, its numbers, its predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.fairness import checks
from analysis.statistics import calibration
from experiments.config.cells import setting_label
from experiments.config.errors import UserError
from experiments.config.schema import Experiment
from experiments.metrics import nll_per_image
from experiments.records.record import METRICS_FILE, PREDICTIONS_FILE, RECORD_FILE, Record, read_record
from experiments.records.state import StateError, read_evaluations

COMPUTE_COLUMNS = (
    *("n_params", "forward_gmacs", "train_pflops", "images_per_second", "train_seconds", "device_hours"),
    *("peak_memory_bytes", "mfu", "energy_joules", "seconds_to_target"),
)
"""Fields of a record's ``compute`` that become columns."""
_RECORD_COLUMNS = (
    *("run_id", "model", "data", "family", "source", "track", "init", "seed", "train_fraction"),
    *("n_train", "n_val", "n_test", "n_classes", "settings_hash", "split_hash", "protocol", "steps", "samples_seen"),
)
LARGEST = 1e18
"""No count or cost of a run comes near it."""
_ADVICE = "The run is left out; delete its folder and run the experiment again, or restore the file."
_ARRAYS = ("logits", "labels", "sample_ids", "val_logits", "val_labels", "val_sample_ids", "class_names")

Arrays = dict[str, np.ndarray]


class Refused(UserError):
    """A run that cannot be used. The message names the file, what is wrong with it, and what to do."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{path}: {fault}. {_ADVICE}")


@dataclass(frozen=True)
class PerImage:
    """What one run answered per test image: arrays of shape (n_test,), small enough to keep for every run."""

    correct: np.ndarray
    predicted: np.ndarray
    nll: np.ndarray
    """Negative log-likelihood in nats."""


@dataclass(frozen=True)
class Loaded:
    """A run that passed every check."""

    row: dict[str, Any]
    """One row of `analysis.load.Results.runs`."""
    record: Record
    per_image: PerImage
    labels: np.ndarray
    class_names: tuple[str, ...]
    curve: list[dict[str, Any]]
    """Rows of ``metrics.jsonl``."""
    faults: list[str]
    """What could not be read and was not needed for the row."""
    answers: str
    """Hash of the test logits."""
    val_ids: str
    """Hash of the ids of the validation images, whatever their order."""


def devices(record: Record) -> list[str]:
    """Every device that a run was worked on, over all attempts."""
    return sorted({str(record.environment.get("device")), *(attempt.device for attempt in record.attempts)})


def load_run(cell: Mapping[str, Any], folder: Path, experiment: Experiment, trials: Sequence[Record] = ()) -> Loaded:
    """Read one run folder and check it against the cell of the ledger that it should be.

    `trials` are, on the track `tuned`, all trials of the run's recipe, if all are there.

    Raises
    ------
    RecordError, Refused
        If the record or the predictions are missing, damaged, of another run or schema, or contradict each other.
    """
    path, predictions_path = folder / RECORD_FILE, folder / PREDICTIONS_FILE
    record = read_record(path)
    _check_record(record, cell, path, experiment)
    predictions = read_predictions(predictions_path)
    logits, labels = predictions["logits"], predictions["labels"]
    if logits.shape != (record.n_test, record.n_classes) or not logits.size:
        wanted = f"{record.n_test} test images of {record.n_classes} classes"
        raise Refused(predictions_path, f"does not match its record: logits are {logits.shape}, the record has {wanted}")
    for claim in checks.wrong_claims(record, predictions):
        raise Refused(predictions_path, f"does not match its record: {claim}")
    for claim in checks.wrong_tuning(record, trials):
        raise Refused(path, f"does not match its trials: {claim}")
    predicted, faults = logits.argmax(axis=1), list[str]()
    per_image = PerImage(predicted == labels, predicted.astype(np.uint16), nll_per_image(logits, labels).astype(np.float32))
    row = _row(record, experiment) | calibration.summarise(predictions) | {"test_digest": _test_digest(predictions)}
    curve = read_curve(folder / METRICS_FILE, record.steps, faults)
    if fault := checks.wrong_best(record, curve):
        faults.append(
            f"{folder / METRICS_FILE}: does not match its record: {fault}. This run's training curve and best evaluation "
            "are left out; restore the file, or delete the run's folder and run the experiment again."
        )
        row |= dict.fromkeys(("val_best/top1", "val_best/nll"))
        curve = []
    answers = hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()
    val_ids = hashlib.sha256(np.sort(predictions["val_sample_ids"]).tobytes()).hexdigest()
    names = tuple(str(name) for name in predictions["class_names"])
    return Loaded(row, record, per_image, labels, names, curve, faults, answers, val_ids)


def _check_record(record: Record, cell: Mapping[str, Any], path: Path, experiment: Experiment) -> None:
    """Refuse a record that is another cell's, has not ended, or holds a number that no run can have."""
    model, varied = experiment.models[cell["model"]], cell["varied"] or {}
    expected = {key: cell[key] for key in ("run_id", "model", "data", "train_fraction", "seed")}
    expected |= {"experiment": experiment.name, "varied": varied, "trial": None, "init": model.init_label}
    expected |= {"family": model.family, "source": model.source, "track": varied.get("track", "identical")}
    for key, wanted in expected.items():
        if (found := getattr(record, key)) != wanted:
            raise Refused(path, f"foreign record: `{key}` is {found!r}, this cell has {wanted!r}")
    if record.status != "done":
        raise Refused(path, f"`status` is {record.status!r}, not 'done'")
    numbers: dict[str, Any] = {f"metrics.{key}": value for key, value in record.metrics.items()}
    numbers |= {f"compute.{key}": value for key, value in record.compute.model_dump().items()}
    numbers |= {"steps": record.steps, "samples_seen": record.samples_seen}
    for key, value in numbers.items():
        if isinstance(value, int | float) and not abs(value) < LARGEST:
            shown = f"{value}" if isinstance(value, float) else "a number of too many digits"
            raise Refused(path, f"`{key}` is {shown}, which no run can have")
    for key in ("test/top1", "test/nll"):
        if record.metrics.get(key) is None:
            raise Refused(path, f"`metrics.{key}` is missing")


def read_predictions(path: Path) -> Arrays:
    """Read ``predictions.npz`` and bring its test images into the order of their ids.

    Raises
    ------
    Refused
        If the file or an array is missing, unreadable, or the arrays do not belong together.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS}
    except FileNotFoundError as error:
        raise Refused(path, "missing") from error
    except KeyError as error:
        raise Refused(path, f"has no array {error.args[0]!r}; it is foreign or of an older version") from error
    except Exception as error:  # a damaged archive raises nearly anything
        raise Refused(path, f"cannot be read, truncated or foreign ({error})") from error
    for part in ("", "val_"):
        if fault := _wrong_arrays(arrays, part):
            raise Refused(path, fault)
    order = np.argsort(arrays["sample_ids"], kind="stable")
    for name in ("logits", "labels", "sample_ids"):
        arrays[name] = arrays[name][order]
    if (arrays["sample_ids"][1:] == arrays["sample_ids"][:-1]).any():
        raise Refused(path, "`sample_ids` names a test image twice")
    return arrays


def _wrong_arrays(arrays: Arrays, part: str) -> str:
    """What is wrong with one set's logits, labels and ids, whose names begin with `part`; empty where nothing is."""
    shapes = {name: arrays[part + name].shape for name in ("logits", "labels", "sample_ids")}
    n_images = shapes["logits"][:1]
    if len(shapes["logits"]) != 2 or shapes["labels"] != n_images or shapes["sample_ids"] != n_images:
        return f"arrays do not belong together: {part}logits, labels and sample_ids have {shapes}"
    logits, labels, n_classes = arrays[f"{part}logits"], arrays[f"{part}labels"], shapes["logits"][1]
    if logits.dtype.kind != "f" or not np.isfinite(logits).all():
        return f"`{part}logits` holds a value that is not a number"
    if arrays["class_names"].shape != (n_classes,):
        return f"`class_names` must name {n_classes} classes, its shape is {arrays['class_names'].shape}"
    if labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() < n_classes):
        return f"class indices in `{part}labels` must lie in [0, {n_classes})"
    return ""


def _test_digest(predictions: Arrays) -> str:
    """Hash of the test set: ids in order, with their labels."""
    ids = predictions["sample_ids"]
    digest = hashlib.sha256((ids.astype(np.int64) if ids.dtype.kind in "iu" else ids).tobytes())
    digest.update(predictions["labels"].astype(np.int64).tobytes())
    return digest.hexdigest()


def read_curve(path: Path, steps: int, faults: list[str]) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl`` up to `steps`; a fault is named and costs the training curve only."""
    try:
        rows = read_evaluations(path, whole=True)
        if any(value is not None and not abs(value) < LARGEST for row in rows for value in row.values()):
            raise StateError(path, "foreign (a value that is not a number)")
        if rows and rows[-1]["step"] != steps:
            raise StateError(path, f"ends at step {rows[-1]['step']}, its record at {steps}: evaluations are lost")
    except FileNotFoundError as error:
        faults.append(f"{path}: cannot be read ({error.strerror}); this run's training curve is left out.")
        return []
    except StateError as error:
        faults.append(f"{error}; this run's training curve is left out.")
        return []
    return rows


def _row(record: Record, experiment: Experiment) -> dict[str, Any]:
    """One row of `analysis.load.Results.runs`, without what follows from the predictions."""
    compute = record.compute.model_dump()
    # The trials that a recipe was chosen from, and the run that it started from, are part of what a result cost.
    for own, kind in (("train_pflops", "pflops"), ("device_hours", "device_hours")):
        if compute[own] is not None:
            compute[own] += sum(compute[f"{before}_{kind}"] or 0 for before in ("tuning", "pretraining"))
    return {
        **{key: getattr(record, key) for key in _RECORD_COLUMNS},
        "data_title": experiment.data[record.data].title,
        "setting": setting_label(record.varied),
        "model_title": experiment.models[record.model].title,
        "n": (record.n_train or 0) + (record.n_val or 0),
        "precision": record.environment.get("precision"),
        "device": " + ".join(devices(record)),
        **{name: value for name, value in record.metrics.items() if "/" in name},
        **{key: compute[key] for key in COMPUTE_COLUMNS},
    }
