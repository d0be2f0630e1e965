"""What a run says of itself, checked against its own predictions and evaluations and its tuning trials."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from experiments.metrics import classification_metrics, confusion_matrix
from experiments.records.record import Compute, Record

ROUNDING, HALF_PRECISION = 1e-4, 2e-2
"""Relative difference between a metric and its second computation that rounding may make; with logits in half precision."""
BINS = 15
"""Of the recorded calibration error."""


def wrong_claims(record: Record, predictions: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What a record says that its predictions contradict, and costs that no run can have; one clause each."""
    for split, part in (("test", ""), ("val", "val_")):
        logits, labels = predictions[f"{part}logits"], predictions[f"{part}labels"]
        if not len(labels):
            continue
        half = logits.dtype == np.float16
        slack = _slack_of_half_precision(logits, labels) if half else {}
        for name, value in classification_metrics(logits, labels).items():
            claimed = record.metrics.get(f"{split}/{name}")
            if claimed is None:
                continue
            if value is None:
                yield f"`metrics.{split}/{name}` is {claimed:.6g}, which has no meaning for {record.n_classes} classes"
                continue
            rounding = (HALF_PRECISION if half else ROUNDING) * max(1.0, abs(value))
            tolerance = slack.get(name, 0.0) + (1e-6 if name in ("top1", "top5") else rounding)  # top-k: counts of images
            if not abs(claimed - value) <= tolerance:
                yield f"`metrics.{split}/{name}` is {claimed:.6g}, from the logits it is {value:.6g}"
    if record.n_val != len(predictions["val_labels"]):
        yield f"`n_val` is {record.n_val}, there are predictions of {len(predictions['val_labels'])} validation images"
    yield from _impossible_costs(record.compute)


def _impossible_costs(cost: Compute) -> Iterator[str]:
    for key, value in cost.model_dump().items():
        if isinstance(value, int | float) and value < 0:
            yield f"`compute.{key}` is {value:g}, below zero"
    if cost.peak_memory_bytes == 0:
        yield "`compute.peak_memory_bytes` is 0: every run needs memory"
    if cost.mfu is not None and cost.mfu > 1:
        yield f"`compute.mfu` is {cost.mfu:g}, above one"


def _slack_of_half_precision(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """By how much counts may differ: rounding ties classes but never swaps them, and moves images between bins."""
    scores, n_images = logits.astype(np.float64), len(labels)
    top = scores.max(axis=1, keepdims=True)
    own = scores[np.arange(n_images), labels]
    tied, tied_own = (int(((scores == value).sum(axis=1) > 1).sum()) for value in (top, own[:, None]))
    found = confusion_matrix(logits, labels)
    occurrences = found.sum(axis=0) + found.sum(axis=1)
    least, present = occurrences[occurrences > 0].min(), (occurrences > 0).sum()
    bins = BINS / np.exp(scores - top).sum(axis=1)  # confidence, in widths of a bin
    moved = BINS * np.abs(scores).max(axis=1) * 2.0**-11  # a probability changes by at most as much as its logits
    edge = np.rint(bins)
    crossing = int(((np.abs(bins - edge) <= moved) & (edge > 0) & (edge < BINS)).sum())
    f1 = 4 * tied / float(least * present)
    return {"top1": tied / n_images, "top5": tied_own / n_images, "macro_f1": f1, "ece": 2 * crossing / n_images}


def wrong_best(record: Record, curve: Sequence[Mapping[str, float | None]]) -> str:
    """How a record's best evaluation contradicts its evaluations, the rows of ``metrics.jsonl``; empty where it does not."""
    seen = [row for row in curve if row.get("val/top1") is not None]
    best = max(seen, key=lambda row: row["val/top1"] or 0.0, default={})  # the first of equals, as training keeps it
    for key, value in (("val_best/top1", best.get("val/top1")), ("val_best/nll", best.get("val/loss"))):
        claimed = record.metrics.get(key)
        if claimed is not None and value is not None and not math.isclose(claimed, value, rel_tol=ROUNDING):
            return f"`metrics.{key}` is {claimed:.6g}, its best evaluation has {value:.6g}"
    return ""


def wrong_tuning(record: Record, trials: Sequence[Record]) -> Iterator[str]:
    """How the cost of a run's tuning contradicts its trials, unless one ended after the run began: it was repeated later."""
    if not trials or any(trial.finished > (record.started or "") for trial in trials):
        return
    for key, own in (("tuning_pflops", "train_pflops"), ("tuning_device_hours", "device_hours")):
        claimed, cost = getattr(record.compute, key), sum(getattr(trial.compute, own) or 0 for trial in trials)
        if math.isfinite(cost) and not math.isclose(claimed or 0, cost, rel_tol=ROUNDING):
            yield f"`compute.{key}` is {claimed or 0:.6g}, its {len(trials)} trials cost {cost:.6g}"
