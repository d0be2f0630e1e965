"""Simulated grids that grow look by look, as ``make decide`` has them: wrong decisions, and the runs that they take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from analysis.statistics.comparisons import Cell, Comparisons
from analysis.statistics.contrasts import Answers, Layout
from analysis.statistics.sequential import LOOKS, outcomes
from tests.coverage.simulate import Counts, count
from tests.coverage.tables import World, cell

ERROR_RATE = 0.05
Pairs = list[tuple[Cell, Cell]]


def simulate_looks(world: World, repetitions: int, seed: int, margin: float = 0.01) -> Counts:
    """Draw grids of as many seeds as the last look has, and decide the pairs of each model with the first.

    ``wrong``: grids with one wrong decision or more: an equal pair, or the worse of two, called better; a pair that differs
    by the margin or more called equivalent. ``better`` and ``equivalent``: pairs that differ by the margin or more, or less,
    and are rightly called so. ``open``: pairs that are not decided. ``runs``: of all that the last look would have.
    ``fixed S``: pairs that differ by the margin or more and are found by a grid of S seeds for every cell, tested once.
    """
    generator, counts = np.random.default_rng(seed), Counts()
    models, budgets = world.shape
    pairs = [(cell(m, f), cell(0, f)) for f in range(budgets) for m in range(1, models)]
    true = [world.truth(a) - world.truth(b) for a, b in pairs]
    for _ in range(repetitions):
        answers = world.answers(generator)
        found, runs = grow(answers, pairs, margin)
        wrong = False
        for outcome, delta in zip(found, true, strict=True):
            beyond = abs(delta) >= margin - 1e-12
            wrong |= (outcome == "first" and delta <= 0) or (outcome == "second" and delta >= 0)
            wrong |= outcome == "equivalent" and beyond
            count(counts, "better" if beyond else "equivalent", outcome == ("first" if delta > 0 else "second") if beyond
                  else outcome == "equivalent")  # fmt: skip
            count(counts, "open", outcome == "open")
        count(counts, "wrong", wrong)
        count(counts, "runs", np.arange(len(answers) * LOOKS[-1]) < runs)
        if any(abs(delta) >= margin - 1e-12 for delta in true):
            for seeds in LOOKS:
                compared = of_seeds(answers, dict.fromkeys(answers, seeds))
                once = [compared.gap(a, b).p[0] < ERROR_RATE / len(pairs) for a, b in pairs]
                for hit, delta in zip(once, true, strict=True):
                    if abs(delta) >= margin - 1e-12:
                        count(counts, f"fixed {seeds}", hit)
    return counts


def of_seeds(answers: dict[Cell, Answers], seeds: dict[Cell, int]) -> Comparisons:
    """The first seeds of each cell."""
    return Comparisons.of(Layout.of({at: (own[: seeds[at]], right[: seeds[at]]) for at, (own, right) in answers.items()}))


def grow(answers: dict[Cell, Answers], pairs: Pairs, margin: float) -> tuple[list[str], int]:
    """Outcomes of pairs, and the runs that they took, of a grid to which seeds are added only for pairs that are open."""
    found, seeds = ["open"] * len(pairs), dict.fromkeys(answers, 0)
    for look in LOOKS:
        still = [at for at, outcome in enumerate(found) if outcome == "open"]
        if not still:
            break
        seeds |= {one: look for at in still for one in pairs[at]}
        told = outcomes(of_seeds(answers, seeds), [pairs[at] for at in still], margin, ERROR_RATE, len(pairs))
        for at, outcome in zip(still, told, strict=True):
            found[at] = outcome
    return found, sum(seeds.values())


def saved(counts: Counts) -> float:
    """Share of runs saved against a grid of so many fixed seeds that it finds as many differences, interpolated in ln S."""
    found, of = counts["better"]
    shares = np.maximum.accumulate([np.divide(*counts[f"fixed {seeds}"]) for seeds in LOOKS])
    hits, every = counts["runs"]
    power = found / of
    if power <= shares[0]:
        seeds = float(LOOKS[0])
    elif power >= shares[-1]:
        seeds = float(LOOKS[-1])
    else:
        seeds = float(np.exp(np.interp(power, shares, np.log(LOOKS))))
    return 1 - hits / every * LOOKS[-1] / seeds


def regimes() -> Iterable[tuple[str, int, float]]:
    """How seeds act, test images and seed share, as the tables of `studies.WORLDS` have them."""
    yield from (("alike", 364, share) for share in (0.0, 0.005, 0.02, 0.1, 0.3))
    yield from (("alike", 75, 0.02), ("alike", 4000, 0.003), ("alike", 4000, 0.1))
    for kind in ("one family", "small budgets", "heavy", "along curves"):
        yield from ((kind, 364, 0.02), (kind, 364, 0.2), (kind, 2000, 0.05))
