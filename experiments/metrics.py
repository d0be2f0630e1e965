"""Quality of predictions from logits alone: one home for the harness, which records it, and the analysis, which checks it.

Alphabet: ``N`` images, ``C`` classes, ``M`` bins. Logits are of shape (N, C), labels are class indices of shape (N,). All
sums are done in float64 whatever the type of the saved logits. Confidence is the probability of the predicted class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]

TOP5_FROM_CLASSES = 100
"""Top-5 says little below this number of classes and is null there."""


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
    """Whether each image's label is among its k largest logits, of shape (N,).

    Among equal logits the lower class index ranks first, as for `numpy.argmax`: a model that gives every class the same
    logit is right on class 0 alone.

    Raises
    ------
    ValueError
        If k does not lie between 1 and C, or for the reasons of `checked`.
    """
    scores, indices = checked(logits, labels)
    n_classes = scores.shape[1]
    if not 1 <= k <= n_classes:
        raise ValueError(f"`k` must lie between 1 and the number of classes, {n_classes}, got {k}.")
    if k == 1:
        return scores.argmax(axis=1) == indices
    own = np.take_along_axis(scores, indices[:, None], axis=1)
    earlier = np.arange(n_classes) < indices[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return np.asarray(ahead.sum(axis=1) < k)


def nll_per_image(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Negative log-likelihood −ln p(label), in nats, of shape (N,)."""
    scores, indices = checked(logits, labels)
    shifted = scores - scores.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, indices[:, None], axis=1)[:, 0]
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


def macro_f1(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean over classes of F1 = 2·TP / (2·TP + FP + FN).

    A class that occurs neither among the labels nor among the predictions has no F1 and is left out; one that occurs in
    either counts, with 0 if it is never right. These are the conventions of ``sklearn.metrics.f1_score(average="macro")``.
    """
    counts = confusion_matrix(logits, labels)
    occurrences = counts.sum(axis=0) + counts.sum(axis=1)
    return float((2 * counts.diagonal()[occurrences > 0] / occurrences[occurrences > 0]).mean())


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: M equal-width bins of confidence, each closed on the right."""

    edges: Floats
    """Of shape (M + 1,), from 0 to 1; all others are of shape (M,)."""
    count: npt.NDArray[np.int64]
    """Images per bin."""
    confidence: Floats
    accuracy: Floats
    """Means over the bin's images; NaN in an empty bin."""

    @property
    def error(self) -> float:
        """Mean over images of their bin's ``|accuracy − confidence|``."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(gaps @ self.count / self.count.sum())


def reliability(logits: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, temperature: float = 1.0) -> Reliability:
    """Accuracy against confidence, in M = `bins` bins of equal width, of logits that are divided by `temperature` first.

    Raises
    ------
    ValueError
        If `bins` or `temperature` is not positive, or for the reasons of `checked`.
    """
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}.")
    if not 0 < temperature < np.inf:
        raise ValueError(f"`temperature` must be positive and finite, got {temperature}.")
    scores, indices = checked(logits, labels)
    predicted = scores.argmax(axis=1)
    # The largest probability of a softmax is 1 / Σ exp(z − max z).
    shifted = (scores - scores.max(axis=1, keepdims=True)) / temperature
    confidence = 1 / np.exp(shifted, out=shifted).sum(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    # Bin m holds edges[m] < confidence ≤ edges[m + 1].
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return Reliability(
        edges=edges,
        count=count.astype(np.int64),
        confidence=np.bincount(bin_of, weights=confidence, minlength=bins) / filled,
        accuracy=np.bincount(bin_of, weights=predicted == indices, minlength=bins) / filled,
    )


def expected_calibration_error(
    logits: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, temperature: float = 1.0
) -> float:
    """Expected calibration error: mean over images of their bin's |accuracy − confidence|, from 0 to 1.

    A secondary measure: it is biased upwards on few images, depends on the bins, and mixup or label smoothing move it. The
    bins and the temperature are those of `reliability`.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, arXiv:1706.04599, section 2, Eq. 3.
    """
    return reliability(logits, labels, bins, temperature).error


METRICS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], float | None]] = {
    "top1": lambda logits, labels: float(top_k(logits, labels, 1).mean()),
    "top5": lambda logits, labels: (
        float(top_k(logits, labels, 5).mean()) if np.shape(logits)[1] >= TOP5_FROM_CLASSES else None
    ),
    "nll": lambda logits, labels: float(nll_per_image(logits, labels).mean()),
    "brier": lambda logits, labels: float(brier_per_image(logits, labels).mean()),
    "macro_f1": macro_f1,
    "ece": expected_calibration_error,
}
"""What a record says about a set of predictions, by name; None where it has no meaning for so few classes."""


def classification_metrics(logits: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, float | None]:
    """Every metric of `METRICS`: ``nll`` in nats per image, ``brier`` as a sum over classes, the others as fractions."""
    return {name: metric(logits, labels) for name, metric in METRICS.items()}
