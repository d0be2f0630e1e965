"""Temperature scaling: the one number that best mends a model's confidence, found on validation images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import optimize

from experiments.metrics import checked

TEMPERATURE_RANGE = (0.05, 20.0)


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
