"""Error analysis from saved predictions: which classes are missed, and whether models miss the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.groups import Group, paired, scores
from analysis.load import Results, select
from analysis.render import Block, Entry, Row, Table
from analysis.text import number, percent


def tables(groups: Sequence[Group]) -> list[Table]:
    """Per-class accuracy of every model and agreement of every pair at the largest train fraction, for the page."""
    found = []
    for group in groups:
        at = select(group.runs, train_fraction=group.fractions[-1])
        own = {model: select(at, model=model) for model in group.models if (at["model"] == model).any()}
        if not own:
            continue
        titles = {model: group.experiment.models[model].title for model in own}
        amount = f"{percent(group.fractions[-1])} of the training data"
        place = ", ".join(filter(None, [group.experiment.data[group.data].title, group.setting, amount]))
        names = group.results.class_names[group.data]
        accuracies = zip(*(_per_class(group.results, runs, len(names)) for runs in own.values()), strict=True)
        rows = [Row("", [Entry(name, value=name), *_shares(each)]) for name, each in zip(names, accuracies, strict=True)]
        caption = "Share of each class's test images that is classified correctly (%), mean over seeds."
        found.append(Table("per_class", "Accuracy by class", caption, ["Class", *titles.values()], [Block(place, rows)]))
        pairs = [
            Row("", [Entry(f"{titles[a]} · {titles[b]}", value=f"{titles[a]} {titles[b]}"),
                     *_shares(_agreement(group.results, own[a], own[b]))])
            for a, b in combinations(own, 2)
        ]  # fmt: skip
        if pairs:
            caption = (
                "Share of test images that two models put in the same class, and that both get wrong (%), over common seeds."
            )
            columns = ["Models", "Same answer (%)", "Both wrong (%)"]
            found.append(Table("agreement", "Agreement of models", caption, columns, [Block(place, pairs)]))
    return found


def _shares(values: Iterable[float]) -> list[Entry]:
    return [Entry(number(100 * value, 1), value=float(value)) for value in values]


def _per_class(results: Results, runs: pd.DataFrame, n_classes: int) -> np.ndarray:
    """Accuracy per class, mean over seeds; NaN for a class without test images or where test images differ between seeds."""
    correct = scores(results, runs)
    if correct is None:
        return np.full(n_classes, math.nan)
    labels = results.labels[runs["test_digest"].iloc[0]]
    images = np.bincount(labels, minlength=n_classes).astype(float)
    right = np.bincount(labels, weights=correct.mean(axis=0), minlength=n_classes)
    return np.divide(right, images, out=np.full(n_classes, math.nan), where=images > 0)


def _agreement(results: Results, a: pd.DataFrame, b: pd.DataFrame) -> tuple[float, float]:
    pair = paired(results, a, b, "predicted")
    return agreement(*pair, results.labels[a["test_digest"].iloc[0]]) if pair else (math.nan, math.nan)


def agreement(predictions_a: npt.ArrayLike, predictions_b: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """Shares of answers that two models give alike, and that both get wrong, over images and seeds.

    Predictions are class indices of shape (N,) or (S, N), where row s of both belongs to one seed; labels are (N,).
    """
    a, b, truth = np.asarray(predictions_a), np.asarray(predictions_b), np.asarray(labels)
    return float((a == b).mean()), float(((a != truth) & (b != truth)).mean())
