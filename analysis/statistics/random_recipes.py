"""What a random recipe gives: the best of k tries, and which of two models is ahead under the same one.

The recipes of the track `random` are drawn once from one space and are the same for all models, so that models are compared
without anybody's choice of a recipe. Accuracies are of validation: no trial sees the test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from analysis.statistics.intervals import ALPHA

DRAWS = 2000
"""Resamples of the recipes."""


def expected_best(values: npt.ArrayLike, k: int) -> float:
    """Mean over all choices of k of the K tries of the best of them; values (..., K) and k from 1 to K.

    References
    ----------
    Dodge et al. (2019), Show your work, arXiv:1909.03004, section 3; without replacement, and so without bias, as Tang et
    al. (2020), arXiv:2004.13705, Eq. 4, have it.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    count = ordered.shape[-1]
    ranks = np.arange(1, count + 1)
    weights = special.comb(ranks - 1, k - 1) / special.comb(count, k)
    return np.asarray(ordered @ weights)  # type: ignore[return-value]


def best_of(values: Sequence[float], k: int) -> tuple[float, float, float]:
    """`expected_best` with the percentile interval over resampled recipes."""
    tries = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).choice(tries, (DRAWS, len(tries)))
    low, high = np.quantile(expected_best(drawn, k), [ALPHA / 2, 1 - ALPHA / 2])
    return float(expected_best(tries, k)), float(low), float(high)


class Ahead(NamedTuple):
    """How often one model is ahead of another under the same recipe."""

    share: float
    low: float
    high: float
    """Wilson's 95% interval over recipes."""
    ties: int


def ahead(a: Sequence[float], b: Sequence[float]) -> Ahead:
    """How often a is ahead of b, recipe by recipe; a tie is not ahead."""
    wins, ties = int(np.greater(a, b).sum()), int(np.equal(a, b).sum())
    interval = stats.binomtest(wins, len(a)).proportion_ci(1 - ALPHA, method="wilson")
    return Ahead(wins / len(a), float(interval.low), float(interval.high), ties)
