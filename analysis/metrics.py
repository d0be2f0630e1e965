"""Quality of predictions from saved logits alone; nothing is run again.

Alphabet: ``N`` test images, ``C`` classes. Logits are of shape (N, C), labels are class indices of shape (N,). All sums are
done in float64 whatever the type of the saved logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]


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


def checked(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Logits in float64 and labels as indices, of matching shapes.

    Raises
    ------
    ValueError
        If the shapes do not match, there is no image, a logit is NaN or infinite, or a label is not a class index.
    """
    scores, indices = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 2 or scores.size == 0 or indices.shape != scores.shape[:1]:
        raise ValueError(
            f"`logits` must be images × classes with one label per image, got shapes {scores.shape} and {indices.shape}."
        )
    if not np.isfinite(scores).all():
        rows = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        raise ValueError(
            f"`logits` must be finite: {rows.size} of {len(scores)} images hold NaN or infinity, the first is {rows[0]}."
        )
    if not np.issubdtype(indices.dtype, np.integer) or indices.min() < 0 or indices.max() >= scores.shape[1]:
        raise ValueError(
            f"`labels` must be integers from 0 to {scores.shape[1] - 1}, "
            f"got {indices.dtype} from {indices.min()} to {indices.max()}."
        )
    return scores.astype(np.float64, copy=False), indices.astype(np.intp, copy=False)


def top_k(logits: npt.ArrayLike, labels: npt.ArrayLike, k: int) -> npt.NDArray[np.bool_]:
    """Whether each image's label is among its k largest logits.

    Among equal logits the lower class index ranks first, as for `numpy.argmax`: a model that gives every class the same
    logit is right on class 0 alone.

    Parameters
    ----------
    logits : array of shape (N, C)
    labels : array of shape (N,)
    k : int
        From 1 to C.

    Returns
    -------
    bool array of shape (N,)

    Raises
    ------
    ValueError
        If k is out of range, or for the reasons of `checked`.
    """
    scores, indices = checked(logits, labels)
    n_classes = scores.shape[1]
    if not 1 <= k <= n_classes:
        raise ValueError(f"`k` must lie between 1 and the number of classes, {n_classes}, got {k}.")
    if k == 1:
        return scores.argmax(axis=1) == indices
    own = _of_label(scores, indices)[:, None]
    earlier = np.arange(n_classes) < indices[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return np.asarray(ahead.sum(axis=1) < k)


def nll_per_image(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Negative log-likelihood −ln p(label), in nats, of shape (N,)."""
    scores, indices = checked(logits, labels)
    shifted = scores - scores.max(axis=1, keepdims=True)
    own = _of_label(shifted, indices)
    return np.asarray(np.log(np.exp(shifted, out=shifted).sum(axis=1)) - own)


def brier_per_image(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Brier score Σ_c (p_c − y_c)², of shape (N,), from 0 (certain and right) to 2 (certain and wrong).

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability, Monthly Weather Review 78(1): 1–3, Eq. 2.
    """
    scores, indices = checked(logits, labels)
    errors = special.softmax(scores, axis=1)
    errors[np.arange(len(indices)), indices] -= 1
    return np.asarray(np.einsum("nc,nc->n", errors, errors))


def confusion_matrix(logits: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Number of images of class i that were taken for class j, of shape (C, C): rows are true classes."""
    scores, indices = checked(logits, labels)
    n_classes = scores.shape[1]
    pairs = indices * n_classes + scores.argmax(axis=1)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes).astype(np.int64)


def per_class_accuracy(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Share of each class's images that are classified rightly, of shape (C,); NaN for a class without images."""
    counts = confusion_matrix(logits, labels)
    images = counts.sum(axis=1)
    return np.where(images > 0, counts.diagonal() / np.maximum(images, 1), np.nan)


def macro_f1(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean over classes of F1 = 2·TP / (2·TP + FP + FN).

    A class that occurs neither among the labels nor among the predictions has no F1 and is left out; one that occurs in
    either counts, with 0 if it is never right. These are the conventions of ``sklearn.metrics.f1_score(average="macro")``.
    """
    counts = confusion_matrix(logits, labels)
    occurrences = counts.sum(axis=0) + counts.sum(axis=1)
    return float((2 * counts.diagonal()[occurrences > 0] / occurrences[occurrences > 0]).mean())


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


def _of_label(values: Floats, indices: npt.NDArray[np.intp]) -> Floats:
    """Each row's value at its label."""
    return np.asarray(values[np.arange(len(indices)), indices])
