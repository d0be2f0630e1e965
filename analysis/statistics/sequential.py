"""Seeds in looks: which pairs are decided, at a level that holds over all looks together.

At each look every open pair is tested as a report tests it, for a difference and for equivalence, by the same two-way
statistics. A pair cannot be equal and differ by more than the margin: of its two null hypotheses one at most is true, and
m pairs share the error rate as m hypotheses do (Shaffer 1986, Modified sequentially rejective multiple test procedures,
JASA 81: 826–831). Looks share it by `SHARE`, which simulation found (``docs/looks.md``): normal theory would not do, since
with three seeds no interval is normal, and all looks share the test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from analysis.statistics.comparisons import Cell, Comparisons
from analysis.statistics.intervals import MIN_SEEDS_FOR_MARKS

LOOKS = (3, 5, 8, 12, 17, 23, 30)
"""Seeds at which pairs are looked at; after the last one a pair stays open."""
SHARE = 0.3
"""Of the error rate of a pair, what one look may spend: the same at each, so that a budget may end the looks at any."""
Outcome = Literal["first", "second", "equivalent", "open"]
"""Which of two models is better."""


def level(error_rate: float, pairs: int) -> float:
    """Significance level of one test of one pair at one look."""
    return SHARE * error_rate / pairs


def outcomes(
    comparisons: Comparisons, pairs: Sequence[tuple[Cell, Cell]], margin: float, error_rate: float, family: int
) -> list[Outcome]:
    """What a look says of pairs that are still open.

    Parameters
    ----------
    comparisons : Comparisons
        Of all runs so far.
    pairs : sequence of pairs of cells
        Those still open.
    margin : float
        Differences below it do not matter.
    error_rate : float
        Probability of one wrong decision or more, over all pairs and looks.
    family : int
        Pairs that were open at first.

    Returns
    -------
    list
        ``open`` too where seeds vary so much that no test is trusted, or there are fewer than three.
    """
    limit, found = level(error_rate, family), list[Outcome]()
    for first, second in pairs:
        gap = replace(comparisons.gap(first, second), share=1.0)
        enough = min(comparisons.n_seeds(first), comparisons.n_seeds(second)) >= MIN_SEEDS_FOR_MARKS
        if not (enough and comparisons.is_trusted(first, second)):
            found.append("open")
        elif gap.p[0] < limit:
            found.append("first" if gap.centre[0] > 0 else "second")
        else:
            found.append("equivalent" if gap.p_beyond(margin)[0] < limit else "open")
    return found


def wanted(pairs: Sequence[tuple[Cell, Cell]], open_: Sequence[bool]) -> set[Cell]:
    """The cells that open pairs need more seeds of."""
    return {cell for pair, still in zip(pairs, open_, strict=True) if still for cell in pair}
