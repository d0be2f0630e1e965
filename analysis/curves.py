"""Learning curves as numbers: seed variance along a curve, redrawn mean curves, monotone fits, and where a level is reached.

Alphabet: ``S`` seeds, ``F`` data budgets (images for training and validation), ``B`` bootstrap draws. Sizes that lie
outside the measured budgets are not guessed: `Known` carries the bounds between which a number must lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

Floats = npt.NDArray[np.float64]

_TOLERANCE = 1e-12
"""Relative difference of errors that is rounding, not a difference."""


@dataclass(frozen=True)
class Known:
    """Positive numbers, each known to lie in [low, high]; low = high where it is measured.

    Attributes
    ----------
    low, high : arrays of equal shape
        0 and infinity stand for an open side.
    """

    low: Floats
    high: Floats

    def over(self, other: Known) -> Known:
        """The ratio of two numbers, as far as it is known."""
        with np.errstate(divide="ignore"):
            return Known(self.low / other.high, self.high / other.low)

    def limits(self, confidence: float) -> tuple[Known, Known]:
        """Percentile interval of draws; a limit that falls on draws out of range is known only as far as they are."""
        tail = (1 - confidence) / 2
        last = self.low.size - 1
        ranks = int(np.floor(tail * last)), int(np.ceil((1 - tail) * last))
        low, high = np.sort(self.low), np.sort(self.high)
        below, above = (Known(np.asarray(low[rank]), np.asarray(high[rank])) for rank in ranks)
        return below, above


def checked_curve(name: str, n: Floats, values: npt.ArrayLike) -> Floats:
    """A seeds × budgets array of finite numbers.

    Raises
    ------
    ValueError
        If the shape does not match or a value is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] != n.size:
        raise ValueError(f"`{name}` must be seeds × {n.size} data budgets, got shape {array.shape}.")
    if not np.isfinite(array).all():
        seed, budget = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(
            f"`{name}` must be finite: row {seed} (seed), column {budget} (n = {n[budget]:g}) is {array[seed, budget]}. "
            "Leave out seeds or budgets that are incomplete."
        )
    return array


def checked_budgets(n: npt.ArrayLike, at_least: int = 1) -> Floats:
    """Data budgets: positive and strictly increasing.

    Raises
    ------
    ValueError
        If they are not, or there are fewer than `at_least`.
    """
    array = np.asarray(n, dtype=np.float64)
    if array.ndim != 1 or array.size < at_least:
        raise ValueError(f"`n` must list at least {at_least} data budgets, got {n!r}.")
    if not (np.isfinite(array).all() and array[0] > 0 and (np.diff(array) > 0).all()):
        raise ValueError(f"`n` must be positive and strictly increasing, got {array.tolist()}.")
    return array


def seed_variance(n: Floats, values: Floats) -> tuple[Floats, float]:
    """Variance between seeds at each budget, pooled along the curve as v₀ + v₁/n, and its degrees of freedom.

    A maximum-likelihood fit of v₀, v₁ ≥ 0 to the sample variances (each a scaled χ² with S − 1 degrees of freedom), by
    iteratively reweighted non-negative least squares, so that budgets of small variance weigh as much as the others. Two
    numbers share the F·(S − 1) degrees of freedom of the samples, which leaves F·(S − 1)/2 to each on average.

    Parameters
    ----------
    n : array of shape (F,)
    values : array of shape (S, F), S ≥ 2

    Returns
    -------
    variance : array of shape (F,)
    df : float
    """
    n_seeds = values.shape[0]
    observed = values.var(axis=0, ddof=1)
    design = np.column_stack((np.ones_like(n), n[0] / n))
    fitted = np.full_like(observed, observed.mean())
    if observed.mean() > 0:
        for _ in range(50):
            weights = 1 / np.maximum(fitted, 1e-6 * observed.mean())
            coefficients, _ = optimize.nnls(design * weights[:, None], observed * weights)
            previous, fitted = fitted, design @ coefficients
            if np.allclose(fitted, previous, rtol=1e-6, atol=0):
                break
    return fitted, max(n.size / 2, 1.0) * (n_seeds - 1)


def draw_means(n: Floats, values: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Redraw a mean curve: the means plus t-distributed errors of the pooled seed variance.

    Parameters
    ----------
    n : array of shape (F,)
    values : array of shape (S, F), S ≥ 2
    draws : int
    generator : numpy.random.Generator

    Returns
    -------
    array of shape (draws, F)
    """
    variance, df = seed_variance(n, values)
    noise = generator.standard_normal((draws, n.size))
    # One scale per draw: the variance is one estimate for the whole curve, so the errors are jointly t-distributed.
    scale = np.sqrt(df / generator.chisquare(df, size=(draws, 1)))
    return np.asarray(values.mean(axis=0) + noise * scale * np.sqrt(variance / values.shape[0]))


def isotonic_decreasing(values: Floats) -> Floats:
    """Least-squares fit that never rises along the last axis.

    Uses the max–min formula, which is quadratic in F but runs over all draws at once.

    References
    ----------
    Barlow, Bartholomew, Bremner and Brunk (1972), Statistical Inference under Order Restrictions, section 1.2.
    """
    size = values.shape[-1]
    sums = np.concatenate((np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)), axis=-1)
    fitted = np.empty_like(values)
    # highest[j] is the largest mean of values[j..k] over k ≥ i, for the current i, from the last backwards.
    highest = np.full(values.shape, -np.inf)
    for i in range(size - 1, -1, -1):
        lengths = np.arange(i + 1, 0, -1)
        means = (sums[..., i + 1 : i + 2] - sums[..., : i + 1]) / lengths
        means[..., -1] = values[..., i]  # exactly, without the rounding of a difference of sums
        highest[..., : i + 1] = np.maximum(highest[..., : i + 1], means)
        fitted[..., i] = highest[..., : i + 1].min(axis=-1)
    return fitted


def size_at(n: Floats, errors: Floats, target: Floats) -> Known:
    """Smallest data budget at which a mean error curve comes down to a target: log error interpolated in log n.

    Parameters
    ----------
    n : array of shape (F,)
    errors : array of shape (..., F)
        Positive, never rising along the last axis.
    target : array of shape (...)
        Positive.

    Returns
    -------
    Known
        Of shape (...). Between 0 and n[0] where the curve begins below the target, between n[-1] and infinity where it does
        not come down to it.
    """
    reached = errors <= target[..., None] * (1 + _TOLERANCE)
    after = np.where(reached.any(axis=-1), reached.argmax(axis=-1), n.size - 1)
    before = np.maximum(after - 1, 0)

    def at(index: npt.NDArray[np.intp]) -> Floats:
        return np.log(np.take_along_axis(errors, index[..., None], axis=-1)[..., 0])

    drop = at(before) - at(after)
    share = np.clip((at(before) - np.log(target)) / np.where(drop > 0, drop, 1.0), 0.0, 1.0)
    inside = np.exp((1 - share) * np.log(n)[before] + share * np.log(n)[after])
    # The ends exactly, not through a logarithm and back.
    inside = np.where((after == 0) | (share == 1), n[after], inside)
    below = errors[..., 0] < target * (1 - _TOLERANCE)
    above = ~reached[..., -1]
    return Known(
        low=np.where(below, 0.0, np.where(above, n[-1], inside)),
        high=np.where(below, n[0], np.where(above, np.inf, inside)),
    )
