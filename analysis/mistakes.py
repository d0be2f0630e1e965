"""Error analysis from saved predictions: which classes are missed, and whether models miss the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.groups import Group, paired, scores
from analysis.load import Results, select


@dataclass(frozen=True)
class Mistakes:
    """Errors of one (data, setting) at the largest train fraction."""

    data_title: str
    setting: str
    train_fraction: float
    per_class: pd.DataFrame
    """One row per class, one column per model title: accuracy as a fraction, mean over seeds."""
    agreement: pd.DataFrame
    """One row per pair of models ``a`` and ``b``, with the shares of `agreement` over their common seeds."""


def analyse(groups: Sequence[Group]) -> list[Mistakes]:
    """Per-class accuracy of every model and agreement of every pair, where the test images are the same."""
    found = []
    for group in groups:
        results, fraction = group.results, group.fractions[-1]
        at = select(group.runs, train_fraction=fraction)
        models = [model for model in group.models if (at["model"] == model).any()]
        if not models:
            continue
        own = {group.experiment.models[model].title: select(at, model=model) for model in models}
        names = results.class_names[group.data]
        per_class = {title: _per_class(results, runs, len(names)) for title, runs in own.items()}
        frame = pd.DataFrame(per_class, index=pd.Index(names, name="class"))
        pairs = [{"a": a, "b": b, **_agreement(results, own[a], own[b])} for a, b in combinations(own, 2)]
        title = group.experiment.data[group.data].title
        found.append(Mistakes(title, group.setting, fraction, frame, pd.DataFrame(pairs)))
    return found


def _per_class(results: Results, runs: pd.DataFrame, n_classes: int) -> np.ndarray:
    """Accuracy per class, mean over seeds; NaN for a class without test images or where test images differ between seeds."""
    correct = scores(results, runs)
    if correct is None:
        return np.full(n_classes, math.nan)
    labels = results.labels[runs["test_digest"].iloc[0]]
    images = np.bincount(labels, minlength=n_classes).astype(float)
    right = np.bincount(labels, weights=correct.mean(axis=0), minlength=n_classes)
    return np.divide(right, images, out=np.full(n_classes, math.nan), where=images > 0)


def _agreement(results: Results, a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float]:
    pair = paired(results, a, b, "predicted")
    if pair is None:
        return {"same_prediction": math.nan, "both_wrong": math.nan}
    return agreement(*pair, results.labels[a["test_digest"].iloc[0]])


def agreement(predictions_a: npt.ArrayLike, predictions_b: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float]:
    """Shares of answers that two models give alike (``same_prediction``) and that both get wrong (``both_wrong``).

    Parameters
    ----------
    predictions_a, predictions_b : int arrays of shape (N,) or (S, N)
        Predicted class indices; with seeds, row s of both belongs to one seed and shares are over seeds and images.
    labels : int array of shape (N,)

    Raises
    ------
    ValueError
        If the shapes do not match or are empty.
    """
    a, b, truth = np.asarray(predictions_a), np.asarray(predictions_b), np.asarray(labels)
    if a.shape != b.shape or a.size == 0 or truth.shape != a.shape[-1:]:
        raise ValueError(
            f"`predictions_a`, `predictions_b` and `labels` must be of the same images, got shapes {a.shape}, {b.shape} "
            f"and {truth.shape}."
        )
    return {
        "same_prediction": float((a == b).mean()),
        "both_wrong": float(((a != truth) & (b != truth)).mean()),
    }
