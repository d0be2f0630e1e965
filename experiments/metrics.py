"""Metrics of predictions: plain functions of logits and labels, accumulated in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

TOP5_FROM_CLASSES = 100
"""Top-5 says little below this number of classes and is null there."""


def expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error with equal-width bins of the top probability (Guo et al., arXiv 1706.04599, Eq. 3).

    Parameters
    ----------
    probabilities : array of shape (N, C)
    labels : array of shape (N,)
    bins : int
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def classification_metrics(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, float | None]:
    """Everything that a record says about one set of predictions.

    Parameters
    ----------
    logits : array of shape (N, C)
    labels : array of shape (N,)

    Returns
    -------
    dict
        ``top1``, ``top5`` (null below 100 classes), ``nll`` in nats per image, ``brier`` (sum over classes), ``macro_f1``
        and ``ece`` (15 bins); all but ``nll`` as fractions.
    """
    from sklearn.metrics import f1_score

    logits = logits.astype(np.float64)
    log_probabilities = log_softmax(logits, axis=1)
    probabilities = np.exp(log_probabilities)
    rows, classes = np.arange(len(labels)), logits.shape[1]
    one_hot = np.zeros_like(probabilities)
    one_hot[rows, labels] = 1
    predicted = logits.argmax(axis=1)
    top5 = None
    if classes >= TOP5_FROM_CLASSES:
        top5 = float((np.argpartition(-logits, 5, axis=1)[:, :5] == labels[:, None]).any(axis=1).mean())
    return {
        "top1": float((predicted == labels).mean()),
        "top5": top5,
        "nll": float(-log_probabilities[rows, labels].mean()),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "macro_f1": float(f1_score(labels, predicted, labels=np.arange(classes), average="macro", zero_division=0)),
        "ece": expected_calibration_error(probabilities, labels),
    }
