"""Calibration: does a confidence of 80% mean right in 80 of 100 cases?

Alphabet: ``N`` images, ``C`` classes, ``M`` bins. Confidence is the softmax probability of the predicted class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from analysis.metrics import checked

TEMPERATURE_RANGE = (0.05, 20.0)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: M equal-width bins of confidence, each closed on the right.

    Attributes
    ----------
    edges : array of shape (M + 1,)
        From 0 to 1.
    count : array of shape (M,)
        Images per bin.
    confidence, accuracy : arrays of shape (M,)
        Means over the bin's images; NaN in an empty bin.
    """

    edges: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]


def reliability(logits: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, temperature: float = 1.0) -> Reliability:
    """Accuracy against confidence, in equal-width bins.

    Parameters
    ----------
    logits : array of shape (N, C)
    labels : array of shape (N,)
    bins : int
        Number of bins M, at least 1.
    temperature : float
        Logits are divided by it first; `fit_temperature` finds one.

    Raises
    ------
    ValueError
        If `bins` or `temperature` is not positive; for mismatched shapes, non-finite logits or foreign labels.
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

    A secondary measure: it is biased upwards on few images, depends on the bins, and mixup or label smoothing move it.

    Parameters
    ----------
    logits : array of shape (N, C)
    labels : array of shape (N,)
    bins : int
        Number of equal-width bins of confidence.
    temperature : float
        Logits are divided by it first: 1 for the model as it is, `fit_temperature`'s value for after scaling.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, arXiv:1706.04599, section 2, Eq. 3.
    """
    diagram = reliability(logits, labels, bins, temperature)
    gaps = np.nan_to_num(np.abs(diagram.accuracy - diagram.confidence))
    return float(gaps @ diagram.count / diagram.count.sum())


def fit_temperature(val_logits: npt.ArrayLike, val_labels: npt.ArrayLike) -> float:
    """The temperature T that minimises the mean NLL of ``logits / T`` on the validation set.

    The NLL is convex in 1/T, so its slope changes sign at most once inside [0.05, 20]; a bound is returned where it does
    not, as for a validation set that is classified without a fault, whose NLL falls with T for ever. Never fit it on test
    images.

    Parameters
    ----------
    val_logits : array of shape (N, C)
    val_labels : array of shape (N,)

    Returns
    -------
    float
        Above 1 for an over-confident model, below 1 for an under-confident one.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599, section 4.2, Eq. 9.
    """
    scores, indices = checked(val_logits, val_labels)

    shifted = scores - scores.max(axis=1, keepdims=True)
    own = float(shifted[np.arange(len(indices)), indices].mean())

    def slope(log_temperature: float) -> float:
        """Derivative of the mean NLL with respect to 1/T: mean logit under the softmax minus the label's."""
        weights = np.exp(shifted * np.exp(-log_temperature))
        return float((np.einsum("nc,nc->n", weights, shifted) / weights.sum(axis=1)).mean()) - own

    low, high = (float(bound) for bound in np.log(TEMPERATURE_RANGE))
    if slope(low) <= 0:
        return TEMPERATURE_RANGE[0]
    if slope(high) >= 0:
        return TEMPERATURE_RANGE[1]
    return float(np.exp(optimize.brentq(slope, low, high, xtol=1e-6)))
