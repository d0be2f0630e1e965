"""Error analysis from saved predictions: which classes are missed, and whether models miss the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.load import Results, table_order
from analysis.pairing import paired, scores
from experiments.config.schema import Experiment


@dataclass(frozen=True)
class Agreement:
    """How alike two models' predictions are.

    Attributes
    ----------
    same_prediction : float
        Share of test images on which both name the same class, right or wrong.
    both_wrong : float
        Share of test images on which both are wrong, in the same way or not.
    """

    same_prediction: float
    both_wrong: float


@dataclass(frozen=True)
class Mistakes:
    """Errors of one (data, setting) at the largest train fraction.

    Attributes
    ----------
    data_title, setting : str
    train_fraction : float
    per_class : DataFrame
        One row per class, one column per model title: accuracy as a fraction, mean over seeds.
    agreement : DataFrame
        One row per pair of models: ``a``, ``b``, and as fractions over their common seeds ``same_prediction`` and
        ``both_wrong``.
    """

    data_title: str
    setting: str
    train_fraction: float
    per_class: pd.DataFrame
    agreement: pd.DataFrame


def analyse(results: Results, experiment: Experiment) -> list[Mistakes]:
    """Per-class accuracy of every model and agreement of every pair, where the test images are the same."""
    found = []
    fraction = max(experiment.train_fractions)
    for data, setting in results.groups:
        runs = results.runs
        at = runs[(runs["data"] == data) & (runs["setting"] == setting) & (runs["train_fraction"] == fraction)]
        own = {model: at[at["model"] == model] for model in table_order(experiment.models)}
        own = {model: part for model, part in own.items() if len(part)}
        if not own:
            continue
        titles = {model: experiment.models[model].title for model in own}
        per_class = {titles[model]: _per_class(results, part, len(results.class_names[data])) for model, part in own.items()}
        frame = pd.DataFrame(per_class, index=pd.Index(results.class_names[data], name="class"))
        models = list(own)
        pairs = [(a, b) for i, a in enumerate(models) for b in models[i + 1 :]]
        agreement = [{"a": titles[a], "b": titles[b], **_agreement(results, own[a], own[b])} for a, b in pairs]
        found.append(Mistakes(experiment.data[data].title, setting, fraction, frame, pd.DataFrame(agreement)))
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
    shares = agreement(*pair, results.labels[a["test_digest"].iloc[0]])
    return {"same_prediction": shares.same_prediction, "both_wrong": shares.both_wrong}


def agreement(predictions_a: npt.ArrayLike, predictions_b: npt.ArrayLike, labels: npt.ArrayLike) -> Agreement:
    """Compare the classes that two models predict for the same images.

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
    return Agreement(
        same_prediction=float((a == b).mean()),
        both_wrong=float(((a != truth) & (b != truth)).mean()),
    )
