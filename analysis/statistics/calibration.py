"""Calibration: the error that chance alone gives, and temperature scaling, found on validation images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from experiments.metrics import Reliability, checked, expected_calibration_error, reliability

TEMPERATURE_RANGE = (0.05, 20.0)
MIN_VAL_IMAGES = 100
"""Fewer do not determine a temperature."""


def null_error(diagram: Reliability) -> tuple[float, float]:
    """The expected calibration error that a perfectly calibrated model with these confidences would have.

    The right answers of a bin are then binomial, and the mean absolute deviation of a binomial has a closed form. That a
    bin's confidences differ is left out, which raised the mean by 0.5% at most (15 bins; simulated for 75 and 364 images of
    nearly uniform to nearly certain confidences, where the normal approximation erred by −7% to +52%).

    The limit stands in for an interval of the error itself. The error is a sum of absolute values, biased upwards by about
    this null; a bootstrap of it carries the bias twice and covers nothing of interest.

    Returns
    -------
    mean : float
        What chance alone gives on average.
    high : float
        What chance alone exceeds once in twenty, by a gamma distribution of equal mean and variance; simulated: in 4% to 6%
        of draws, in up to 11% where a single mistake is expected or fewer. The mean over runs is a cautious limit of
        their mean.

    References
    ----------
    Diaconis and Zabell (1991), Closed form summation for classical distributions: variations on a theme of de Moivre,
    Statistical Science 6(3): 284–302, section 1.
    """
    n = diagram.count[diagram.count > 0]
    miss = np.clip(1 - diagram.confidence[diagram.count > 0], 0, 1)  # probability of a wrong answer
    k = np.floor(n * miss) + 1
    log_ways = special.gammaln(n + 1) - special.gammaln(k) - special.gammaln(n - k + 1)
    deviations = 2 * np.exp(log_ways + special.xlogy(k, miss) + special.xlogy(n - k + 1, 1 - miss))
    mean = float(deviations.sum() / n.sum())
    variance = float((n * miss * (1 - miss) - deviations**2).sum() / n.sum() ** 2)
    if mean == 0 or variance <= 0:
        return mean, mean
    return mean, float(special.gammaincinv(mean**2 / variance, 0.95) * variance / mean)


def summarise(predictions: Mapping[str, Any]) -> dict[str, Any]:
    """One run's calibration on test, as it is and after temperature scaling on validation; arrays of ``predictions.npz``.

    ``ece``; ``ece_null`` and ``ece_null_high`` of `null_error`; ``ece_scaled``, NaN where ``ece_scaled_note`` gives a
    reason: fewer than 100 validation images, or a temperature at a bound, where validation does not determine it.
    """
    logits, labels = predictions["logits"], predictions["labels"]
    diagram = reliability(logits, labels)
    mean, high = null_error(diagram)
    row = {"ece": diagram.error, "ece_null": mean, "ece_null_high": high, "ece_scaled": math.nan, "ece_scaled_note": ""}
    if len(predictions["val_labels"]) < MIN_VAL_IMAGES:
        return row | {"ece_scaled_note": f"not scaled: fewer than {MIN_VAL_IMAGES} validation images"}
    temperature = fit_temperature(predictions["val_logits"], predictions["val_labels"])
    if temperature in TEMPERATURE_RANGE:
        return row | {"ece_scaled_note": f"not scaled: a run's temperature lands at the bound {temperature:g}"}
    return row | {"ece_scaled": expected_calibration_error(logits, labels, temperature=temperature)}


def fit_temperature(val_logits: npt.ArrayLike, val_labels: npt.ArrayLike) -> float:
    """The temperature T that minimises the mean NLL of ``logits / T`` on the validation set; logits (N, C), labels (N,).

    The NLL is convex in 1/T, so its slope changes sign at most once inside [0.05, 20]; a bound is returned where it does
    not, as for a validation set without a wrong answer, whose NLL keeps falling with T. Never fit it on test
    images. It is above 1 for an over-confident model, below 1 for an under-confident one.

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
