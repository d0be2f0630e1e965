"""Tests that give p-values: sign flips over seeds, rank tests over datasets, and Holm's adjustment."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

MIN_DATASETS = 6
"""Rank tests over fewer datasets cannot reach .05."""
MAX_SEEDS_SIGN_FLIP = 40


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's step-down adjustment of the p-values of one table.

    Parameters
    ----------
    p_values : array of shape (K,)
        Unadjusted p-values. NaN, a comparison that could not be made, stays NaN and does not count.

    Returns
    -------
    array of shape (K,)
        Adjusted p-values, at most 1, in the order given.

    Raises
    ------
    ValueError
        If a p-value lies outside [0, 1].

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2): 65–70.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or np.any((p < 0) | (p > 1)):
        raise ValueError(f"`p_values` must be a list of numbers in [0, 1], got {p_values!r}.")
    # The k-th smallest of K counts K − k + 1 times, and none counts less than a smaller one; NaN sorts last.
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    times = np.arange(order.size, 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * times), 1)
    return adjusted


def sign_flip_p(differences: npt.ArrayLike) -> float:
    """Exact two-sided sign-flip test that one difference per seed is symmetric about 0.

    The share, among all 2^S choices of signs, of means at least as far from 0 as the observed one. A check without any
    assumption on the distribution, but blind below 6 seeds: see `smallest_sign_flip_p`.

    Parameters
    ----------
    differences : array of shape (S,)
        Paired differences, one per seed, 1 ≤ S ≤ 40.

    Raises
    ------
    ValueError
        If there is no difference, more than 40, or one is NaN or infinite.

    References
    ----------
    Fisher (1935), The Design of Experiments, section 21.
    """
    array = _values("differences", differences)
    if array.size > MAX_SEEDS_SIGN_FLIP:
        raise ValueError(f"`differences` must hold at most {MAX_SEEDS_SIGN_FLIP} seeds for an exact test, got {array.size}.")
    # Every sum is one of the first half plus one of the second: two lists of 2^(S/2) instead of one of 2^S.
    half = array.size // 2
    left, right = _signed_sums(array[:half]), np.sort(_signed_sums(array[half:]))
    bound = abs(array.sum()) - 1e-12 * np.abs(array).sum()
    below = np.searchsorted(right, -bound - left, side="right")
    above = right.size - np.searchsorted(right, bound - left, side="left")
    extreme = below.sum() + above.sum() if bound > 0 else left.size * right.size
    return float(extreme / (left.size * right.size))


def _signed_sums(values: Floats) -> Floats:
    """The 2^k sums ±v₁ ± v₂ … ± v_k."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums + value, sums - value))
    return sums


def smallest_sign_flip_p(n_seeds: int) -> float:
    """Smallest p-value that `sign_flip_p` can give: 2 / 2^S, above .05 for fewer than 6 seeds."""
    if n_seeds < 1:
        raise ValueError(f"`n_seeds` must be at least 1, got {n_seeds}.")
    return 2.0 ** (1 - n_seeds)


def friedman(table: npt.ArrayLike) -> float:
    """p-value of the hypothesis that methods rank equally over datasets.

    Parameters
    ----------
    table : array of shape (datasets, methods)
        One score per dataset and method; at least 6 datasets and 3 methods.

    Returns
    -------
    float
        From the χ² approximation; 1 where all methods tie on all datasets.

    Raises
    ------
    ValueError
        Below 6 datasets or 3 methods, or if a score is missing.

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7: 1–30, section 3.2.2.
    """
    array = _table(table)
    if array.shape[1] < 3:
        raise ValueError(f"`table` must have at least 3 methods, got {array.shape[1]}. Use `wilcoxon_holm` for a pair.")
    if (array == array[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*array.T).pvalue)


def wilcoxon_holm(table: npt.ArrayLike) -> Floats:
    """Holm-adjusted p-values of Wilcoxon's signed-rank test over datasets, for every pair of methods.

    Parameters
    ----------
    table : array of shape (datasets, methods)
        One score per dataset and method; at least 6 datasets and 2 methods.

    Returns
    -------
    array of shape (methods, methods)
        Symmetric, NaN on the diagonal. 1 for a pair that ties on all datasets.

    Raises
    ------
    ValueError
        Below 6 datasets, where .05 is out of reach, below 2 methods, or if a score is missing.

    References
    ----------
    Demšar (2006), JMLR 7: 1–30, section 3.1.3; Benavoli, Corani and Mangili (2016), Should we really use post-hoc tests
    based on mean-ranks?, JMLR 17: 1–10, for the signed-rank test as the post-hoc test.
    """
    array = _table(table)
    n_methods = array.shape[1]
    if n_methods < 2:
        raise ValueError(f"`table` must have at least 2 methods, got {n_methods}.")
    pairs = list(combinations(range(n_methods), 2))
    differences = [array[:, i] - array[:, j] for i, j in pairs]
    adjusted = holm([float(stats.wilcoxon(d).pvalue) if d.any() else 1.0 for d in differences])
    result = np.full((n_methods, n_methods), np.nan)
    for (i, j), p in zip(pairs, adjusted, strict=True):
        result[i, j] = result[j, i] = p
    return result


def _table(table: npt.ArrayLike) -> Floats:
    """Check a datasets × methods table."""
    array = np.asarray(table, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError("`table` must be datasets × methods without a missing score.")
    if array.shape[0] < MIN_DATASETS:
        raise ValueError(
            f"`table` must have at least {MIN_DATASETS} datasets, got {array.shape[0]}. "
            "Compare the methods on each dataset by itself."
        )
    return array


def _values(name: str, values: npt.ArrayLike) -> Floats:
    """Check a list of numbers, one per seed."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be a non-empty list of finite numbers, one per seed, got {values!r}.")
    return array
