"""One run folder, read and checked: its record, its place in the grid, its numbers, its predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis import calibration, claims
from experiments.config.errors import UserError
from experiments.config.schema import Experiment
from experiments.records.record import METRICS_FILE, PREDICTIONS_FILE, RECORD_FILE, Record, RecordError, read_record
from experiments.records.state import StateError, read_evaluations

COMPUTE_COLUMNS = (
    "n_params",
    "forward_gmacs",
    "train_pflops",
    "images_per_second",
    "train_seconds",
    "device_hours",
    "peak_memory_bytes",
    "mfu",
    "energy_joules",
    "seconds_to_target",
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


@dataclass(frozen=True)
class Outcome:
    """What one run answered per test image, small enough to keep for every run.

    Attributes
    ----------
    correct : ndarray of bool, shape (n_test,)
    predicted : ndarray of uint16, shape (n_test,)
    nll : ndarray of float32, shape (n_test,)
        Negative log-likelihood in nats.
    """

    correct: np.ndarray
    predicted: np.ndarray
    nll: np.ndarray


@dataclass(frozen=True)
class Loaded:
    """A run that passed every check.

    Attributes
    ----------
    row : dict
        One row of `analysis.load.Results.runs`.
    record : Record
    outcome : Outcome
    labels : ndarray of shape (n_test,)
    class_names : tuple of str
    curve : list of dict
        Rows of ``metrics.jsonl``.
    faults : list of str
        What could not be read and was not needed for the row.
    """

    row: dict[str, Any]
    record: Record
    outcome: Outcome
    labels: np.ndarray
    class_names: tuple[str, ...]
    curve: list[dict[str, Any]]
    faults: list[str]


def setting_label(varied: Mapping[str, Any]) -> str:
    """The values of an experiment's ``vary`` keys as text: ``recipe.learning_rate=0.001``; empty where nothing varies."""
    return ", ".join(f"{key}={value}" for key, value in varied.items())


def devices(record: Record) -> list[str]:
    """Every device that a run was worked on, over all attempts."""
    return sorted({str(record.environment.get("device")), *(attempt.device for attempt in record.attempts)})


def load_run(cell: Mapping[str, Any], folder: Path, experiment: Experiment, trials: Sequence[Record] = ()) -> Loaded:
    """Read one run folder and check it against the cell that it should be.

    Parameters
    ----------
    cell : mapping
        An entry of the ledger.
    folder : Path
        The run folder.
    experiment : Experiment
    trials : sequence of Record
        On track B all trials of the run's recipe, if all are there.

    Raises
    ------
    Refused
        If the record or the predictions are missing, truncated, foreign, of another schema, hold a number that is none, or
        do not match each other.
    """
    try:
        record = read_record(folder / RECORD_FILE)
    except RecordError as error:
        raise Refused(str(error)) from error
    _check_record(record, cell, folder / RECORD_FILE, experiment)
    predictions = read_predictions(folder / PREDICTIONS_FILE)
    outcome = _outcome(predictions, record, folder / PREDICTIONS_FILE)
    faults: list[str] = []
    curve = _read_curve(folder / METRICS_FILE, faults)
    if curve and curve[-1]["step"] != record.steps:
        faults.append(
            f"{folder / METRICS_FILE}: ends at step {curve[-1]['step']}, its record at {record.steps}: "
            "evaluations are lost, this run's training curve is left out."
        )
        curve = []
    for sentence in claims.false_tuning(record, trials):
        raise _untrue(sentence, folder / RECORD_FILE)
    row = _row(record, experiment)
    for sentence in claims.false_best(record, curve):
        faults.append(
            f"{folder / METRICS_FILE}: does not match its record: {sentence}. This run's training curve and best evaluation "
            "are left out; restore the file, or delete the run's folder and run the experiment again."
        )
        row |= dict.fromkeys(("val_best/top1", "val_best/nll"))
        curve = []
        break
    row |= calibration.summarise(predictions)
    row["test_digest"] = _test_digest(predictions)
    names = tuple(str(name) for name in predictions["class_names"])
    return Loaded(row, record, outcome, predictions["labels"], names, curve, faults)


def _check_record(record: Record, cell: Mapping[str, Any], path: Path, experiment: Experiment) -> None:
    """Refuse a record that is not the cell's, has not ended, or holds a number that is none."""
    model, varied = experiment.models[cell["model"]], cell["varied"] or {}
    expected = {key: cell[key] for key in ("run_id", "model", "data", "train_fraction", "seed")}
    expected |= {"experiment": experiment.name, "varied": varied, "trial": None, "init": model.init_label}
    expected |= {"family": model.family, "source": model.source, "track": varied.get("track", "identical")}
    for key, wanted in expected.items():
        found = getattr(record, key)
        if found != wanted:
            raise Refused(f"{path}: foreign record: `{key}` is {found!r}, this cell has {wanted!r}. {_ADVICE}")
    if record.status != "done":
        raise Refused(f"{path}: `status` is {record.status!r}, not 'done'. {_ADVICE}")
    numbers: dict[str, Any] = {f"metrics.{key}": value for key, value in record.metrics.items()}
    numbers |= {f"compute.{key}": value for key, value in record.compute.model_dump().items()}
    numbers |= {"steps": record.steps, "samples_seen": record.samples_seen}
    for key, value in numbers.items():
        if isinstance(value, int | float) and not abs(value) < LARGEST:
            shown = f"{value}" if isinstance(value, float) else "a number of too many digits"
            raise Refused(f"{path}: `{key}` is {shown}, not a number that can be meant. {_ADVICE}")
    for key in ("test/top1", "test/nll"):
        if record.metrics.get(key) is None:
            raise Refused(f"{path}: `metrics.{key}` is missing. {_ADVICE}")


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
        raise Refused(f"{path}: missing. {_ADVICE}") from error
    except KeyError as error:
        raise Refused(f"{path}: has no array {error.args[0]!r}; it is foreign or of an older version. {_ADVICE}") from error
    except Exception as error:  # a damaged archive raises nearly anything
        raise Refused(f"{path}: cannot be read, truncated or foreign ({error}). {_ADVICE}") from error
    for part in ("", "val_"):
        _check_arrays(arrays, part, path)
    order = np.argsort(arrays["sample_ids"], kind="stable")
    for name in ("logits", "labels", "sample_ids"):
        arrays[name] = arrays[name][order]
    if (arrays["sample_ids"][1:] == arrays["sample_ids"][:-1]).any():
        raise Refused(f"{path}: `sample_ids` names a test image twice. {_ADVICE}")
    return arrays


def _check_arrays(arrays: Arrays, part: str, path: Path) -> None:
    """Check one set's logits, labels and ids; `part` is the prefix of their names."""
    shapes = {name: arrays[part + name].shape for name in ("logits", "labels", "sample_ids")}
    n_images = shapes["logits"][:1]
    if len(shapes["logits"]) != 2 or shapes["labels"] != n_images or shapes["sample_ids"] != n_images:
        raise Refused(f"{path}: arrays do not belong together: {part}logits, labels and sample_ids have {shapes}. {_ADVICE}")
    logits, labels = arrays[f"{part}logits"], arrays[f"{part}labels"]
    if logits.dtype.kind != "f" or not np.isfinite(logits).all():
        raise Refused(f"{path}: `{part}logits` holds a value that is not a number. {_ADVICE}")
    n_classes = shapes["logits"][1]
    if arrays["class_names"].shape != (n_classes,):
        raise Refused(
            f"{path}: `class_names` must name {n_classes} classes, its shape is {arrays['class_names'].shape}. {_ADVICE}"
        )
    if labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() < n_classes):
        raise Refused(f"{path}: class indices in `{part}labels` must lie in [0, {n_classes}). {_ADVICE}")


def _outcome(predictions: Arrays, record: Record, path: Path) -> Outcome:
    """Answers per image, after the recorded accuracy has been found in the logits again."""
    logits, labels = predictions["logits"], predictions["labels"]
    if logits.shape != (record.n_test, record.n_classes) or not logits.size:
        raise Refused(
            f"{path}: does not match its record: logits are {logits.shape}, the record has {record.n_test} test images of "
            f"{record.n_classes} classes. {_ADVICE}"
        )
    values = logits.astype(np.float32, copy=False)
    predicted = values.argmax(axis=1)
    top = values.max(axis=1)
    shifted = values - top[:, None]
    nll = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    correct = predicted == labels
    # Rounding to half precision is monotone: it can tie the two largest logits but never swap them.
    ties = int(((values == top[:, None]).sum(axis=1) > 1).sum()) if logits.dtype == np.float16 else 0
    recorded = float(record.metrics["test/top1"] or 0.0)
    if abs(correct.mean() - recorded) > ties / len(labels) + 1e-6:
        raise Refused(
            f"{path}: does not match its record: top-1 accuracy from the logits is {correct.mean():.6f}, "
            f"`metrics.test/top1` is {recorded:.6f}. {_ADVICE}"
        )
    for sentence in claims.false(record, predictions, float(nll.mean())):
        raise _untrue(sentence, path.with_name(RECORD_FILE))
    return Outcome(correct, predicted.astype(np.uint16), nll.astype(np.float32))


def _untrue(sentence: str, path: Path) -> Refused:
    return Refused(f"{path}: does not match what it describes: {sentence}. {_ADVICE}")


def _test_digest(predictions: Arrays) -> str:
    """Hash of the test set: ids in order, with their labels."""
    ids = predictions["sample_ids"]
    digest = hashlib.sha256((ids.astype(np.int64) if ids.dtype.kind in "iu" else ids).tobytes())
    digest.update(predictions["labels"].astype(np.int64).tobytes())
    return digest.hexdigest()


def _read_curve(path: Path, faults: list[str]) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``; a fault is named and costs the training curve only."""
    try:
        rows = read_evaluations(path, whole=True)
        if any(value is not None and not abs(value) < LARGEST for row in rows for value in row.values()):
            raise StateError(path, "foreign (a value that is no number)")
    except FileNotFoundError as error:
        faults.append(f"{path}: cannot be read ({error.strerror}); this run's training curve is left out.")
        return []
    except StateError as error:
        faults.append(f"{error}; this run's training curve is left out.")
        return []
    return rows


def _row(record: Record, experiment: Experiment) -> dict[str, Any]:
    """One row of `analysis.load.Results.runs`."""
    row = {key: getattr(record, key) for key in _RECORD_COLUMNS}
    row |= {
        "data_title": experiment.data[record.data].title,
        "setting": setting_label(record.varied),
        "model_title": experiment.models[record.model].title,
        "n": (record.n_train or 0) + (record.n_val or 0),
        "precision": record.environment.get("precision"),
        "device": " + ".join(devices(record)),
        **{name: value for name, value in record.metrics.items() if "/" in name},
    }
    compute = record.compute.model_dump()
    # The trials that a recipe was chosen from are part of what its result cost.
    for own, tuning in (("train_pflops", "tuning_pflops"), ("device_hours", "tuning_device_hours")):
        if compute[own] is not None:
            compute[own] += compute[tuning] or 0
    return row | {key: compute[key] for key in COMPUTE_COLUMNS}
