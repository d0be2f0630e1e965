"""Seeds in looks: which pairs are decided, at a level that holds over all looks together.

At each look every open pair is tested as a report tests it, for a difference and for equivalence, by the same two-way
statistics. A pair cannot be equal and differ by more than the margin: of its two null hypotheses one at most is true, and
m pairs share the error rate as m hypotheses do (Shaffer 1986, Modified sequentially rejective multiple test procedures,
JASA 81: 826–831). Looks share it by `SPENDING`, which simulation found (``docs/looks.md``): normal theory would not
do, since with three seeds no interval is normal, and all looks share the test images.

The share of a pair that is decided is not passed on to the others. Calling one model better rejects that they are equal,
not that they differ by the margin, which may be true: m of the null hypotheses that are left may still be true, so that
Shaffer's procedure, too, has nothing to pass on. In simulation passing it on doubled the wrong decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from analysis.statistics.comparisons import Cell, Comparisons
from analysis.statistics.intervals import MIN_SEEDS_FOR_MARKS

LOOKS = (3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 23, 26, 30)
"""Seeds at which pairs are looked at; after the last one a pair stays open."""
SPENDING = 1 / LOOKS[-1], 1.5
"""A look at S seeds tests at (S/30)^1.5 of a pair's error rate: little at the first, all of it at the last. Looks share
seeds and test images, and yet add up: to 1.8 times that rate where seeds make all of the variance. A budget may end them."""
LEAST_FAMILY = 4
"""Pairs that at least share the error rate: fewer, whose looks add up with nothing beside them, spend as four do."""
Outcome = Literal["first", "second", "equivalent", "open"]
"""Which of two models is better, that they are equivalent, or that it is not decided."""


def outcomes(
    comparisons: Comparisons, pairs: Sequence[tuple[Cell, Cell]], margin: float, error_rate: float, family: int
) -> list[Outcome]:
    """What a look says of pairs that are still open.

    Parameters
    ----------
    comparisons : Comparisons
        Of all runs so far; its layout says what a look spends.
    pairs : sequence of pairs of cells
        Those still open.
    margin : float
        Differences below it do not matter.
    error_rate : float
        Probability of one wrong decision or more, over all pairs and looks.
    family : int
        Pairs that were open at first; fewer than `LEAST_FAMILY` count as that.

    Returns
    -------
    list of Outcome
        ``open`` too where seeds vary so much that no test is trusted, or there are fewer than three.
    """
    at = [comparisons.place(*pair) for pair in pairs]
    gaps = comparisons.differences(comparisons.of_pairs[at], *({first: 1.0, second: -1.0} for first, second in pairs))
    n_seeds = np.array([min(map(comparisons.n_seeds, pair)) for pair in pairs])
    gaps = replace(gaps, share=gaps.share / max(family, LEAST_FAMILY))
    tested = (n_seeds >= MIN_SEEDS_FOR_MARKS) & comparisons.trusted[at]
    states = np.where(gaps.p < error_rate, np.where(gaps.centre > 0, "first", "second"), "open")
    states = np.where((states == "open") & (gaps.p_beyond(margin) < error_rate), "equivalent", states)
    return np.where(tested, states, "open").tolist()
