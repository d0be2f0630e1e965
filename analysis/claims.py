"""What a record says that can be computed again: its metrics from its predictions, its costs from what it did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments.metrics import classification_metrics, confusion_matrix
from experiments.records.record import Record

ROUNDING = 1e-4
"""Relative difference between a metric and its second computation that rounding may make."""
FORWARD, FORWARD_AND_BACKWARD = 1, 3
"""Training operations in units of the forward pass: of frozen features, and of a model that is trained."""
FROZEN = ("linear_probe", "random_features")
HALF_PRECISION = 2e-2
"""The same where logits were stored in half precision."""
BINS = 15
"""Of the recorded calibration error."""


def false(record: Record, predictions: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Whatever a record says that does not follow from its predictions and attempts, one clause each.

    Parameters
    ----------
    record : Record
    predictions : mapping of str to ndarray
        As in ``predictions.npz``.
    """
    yield from _metrics(record, predictions)
    yield from _counts(record, predictions)
    yield from _costs(record)


def false_best(record: Record, curve: Sequence[Mapping[str, float | None]]) -> Iterator[str]:
    """What a record says of its best evaluation that does not follow from its evaluations, the rows of ``metrics.jsonl``."""
    seen = [row for row in curve if row.get("val/top1") is not None]
    if not seen:
        return
    best = max(seen, key=lambda row: row["val/top1"] or 0.0)  # the first of equals, as training keeps it
    for key, value in (("val_best/top1", best["val/top1"]), ("val_best/nll", best.get("val/loss"))):
        claimed = record.metrics.get(key)
        if claimed is not None and value is not None and not math.isclose(claimed, value, rel_tol=ROUNDING):
            yield f"`metrics.{key}` is {claimed:.6g}, its best evaluation has {value:.6g}"


def false_tuning(record: Record, trials: Sequence[Record]) -> Iterator[str]:
    """What a record says of the cost of its tuning that does not follow from its trials.

    Nothing where they are not known, or where one ended after the run began: it was repeated later, and charged as it was.
    """
    if not trials or any(trial.finished > (record.started or "") for trial in trials):
        return
    for key, own in (("tuning_pflops", "train_pflops"), ("tuning_device_hours", "device_hours")):
        claimed, cost = getattr(record.compute, key), sum(getattr(trial.compute, own) or 0 for trial in trials)
        if math.isfinite(cost) and not math.isclose(claimed or 0, cost, rel_tol=ROUNDING):
            yield f"`compute.{key}` is {claimed or 0:.6g}, its {len(trials)} trials cost {cost:.6g}"


def _metrics(record: Record, predictions: Mapping[str, np.ndarray]) -> Iterator[str]:
    for split, part in (("test", ""), ("val", "val_")):
        logits, labels = predictions[f"{part}logits"], predictions[f"{part}labels"]
        if not len(labels):
            continue
        half = logits.dtype == np.float16
        slack = _slack(logits, labels) if half else {}
        for name, value in classification_metrics(logits, labels).items():
            claimed = record.metrics.get(f"{split}/{name}")
            if claimed is None:
                continue
            if value is None:
                yield f"`metrics.{split}/{name}` is {claimed:.6g}, it says nothing of {record.n_classes} classes"
                continue
            tolerance = (HALF_PRECISION if half else ROUNDING) * max(1.0, abs(value)) + slack.get(name, 0.0)
            if not abs(claimed - value) <= tolerance:
                yield f"`metrics.{split}/{name}` is {claimed:.6g}, from the logits it is {value:.6g}"


def _slack(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """By how much counts may differ where logits were rounded to half precision: it ties classes, and moves images between
    the bins of confidence."""
    scores = logits.astype(np.float64)
    own = scores[np.arange(len(labels)), labels]
    tied = int(((scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())
    tied_own = int(((scores == own[:, None]).sum(axis=1) > 1).sum())
    found = confusion_matrix(logits, labels)
    occurrences = found.sum(axis=0) + found.sum(axis=1)
    least, present = occurrences[occurrences > 0].min(), (occurrences > 0).sum()
    bins = BINS / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)  # confidence, in widths of a bin
    moved = BINS * np.abs(scores).max(axis=1) * 2.0**-11  # a probability changes by at most as much as its logits
    edge = np.rint(bins)
    crossing = int(((np.abs(bins - edge) <= moved) & (edge > 0) & (edge < BINS)).sum())
    n_images = len(labels)
    return {
        "top1": tied / n_images,
        "top5": tied_own / n_images,
        "macro_f1": 4 * tied / float(least * present),
        "ece": 2 * crossing / n_images,
    }


def _counts(record: Record, predictions: Mapping[str, np.ndarray]) -> Iterator[str]:
    n_val = len(predictions["val_labels"])
    if record.n_val != n_val:
        yield f"`n_val` is {record.n_val}, there are predictions of {n_val} validation images"


def _costs(record: Record) -> Iterator[str]:
    cost = record.compute
    for key, value in cost.model_dump().items():
        if isinstance(value, int | float) and value < 0:
            yield f"`compute.{key}` is {value:g}, below zero"
    if cost.peak_memory_bytes == 0:
        yield "`compute.peak_memory_bytes` is 0, which nothing runs in"
    if cost.mfu is not None and cost.mfu > 1:
        yield f"`compute.mfu` is {cost.mfu:g}, above one"
    if cost.train_pflops is not None and cost.forward_gmacs is not None:
        passes = FORWARD if record.init in FROZEN else FORWARD_AND_BACKWARD
        operations = passes * 2 * cost.forward_gmacs * 1e-6 * record.samples_seen
        if not math.isclose(cost.train_pflops, operations, rel_tol=ROUNDING):
            yield (
                f"`compute.train_pflops` is {cost.train_pflops:.6g}, {passes} × the forward pass × {record.samples_seen} "
                f"images is {operations:.6g}"
            )
    hours = sum(attempt.seconds * attempt.devices for attempt in record.attempts) / 3600
    if cost.device_hours is not None and not math.isclose(cost.device_hours, hours, rel_tol=ROUNDING):
        yield f"`compute.device_hours` is {cost.device_hours:.6g}, the attempts took {hours:.6g}"
    if cost.images_per_second is not None and cost.train_seconds:
        rate = record.samples_seen / cost.train_seconds
        if not math.isclose(cost.images_per_second, rate, rel_tol=ROUNDING):
            yield (
                f"`compute.images_per_second` is {cost.images_per_second:.6g}, {record.samples_seen} images in "
                f"{cost.train_seconds:.6g} s are {rate:.6g}"
            )
