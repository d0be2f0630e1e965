"""What the analysis says of simulated tables, counted as the product counts: its own priors, one Holm family a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
from scipy import special

from analysis.statistics import intervals
from analysis.statistics.comparisons import Comparisons, Term
from analysis.statistics.contrasts import Layout
from analysis.statistics.intervals import Estimates, Floats
from tests.coverage.tables import World, cell

Counts = dict[str, list[int]]
"""Hits and how many could have been, by name."""


def count(counts: Counts, name: str, hits: Floats | bool) -> None:
    """Add hits to what was counted under a name."""
    values = np.atleast_1d(hits)
    entry = counts.setdefault(name, [0, 0])
    entry[0] += int(values.sum())
    entry[1] += values.size


def builders(budgets: int) -> dict[str, Callable[[str, str], Term]]:
    """Contrasts of two models beside Δ whose coverage is counted, by name."""
    if budgets == 1:
        return {}
    last = budgets - 1
    trapezoid = np.array([0.5, *[1.0] * (budgets - 2), 0.5]) / last  # budgets at equal steps of ln n

    def area(a: str, b: str) -> Term:
        return {cell(int(m), f): sign * trapezoid[f] for m, sign in ((a, 1), (b, -1)) for f in range(budgets)}

    def across(a: str, b: str) -> Term:
        return {cell(int(a), 0): 1.0, cell(int(b), last): -1.0}

    def of_differences(a: str, b: str) -> Term:
        return {cell(int(m), f): float(sign) for m, f, sign in ((a, last, 1), (b, last, -1), (a, 0, -1), (b, 0, 1))}

    return {"ΔAULC": area, "across budgets": across, "of differences": of_differences}


def terms(world: World) -> dict[str, list[Term]]:
    """All contrasts whose coverage is counted, by name; Δ in the order of `Comparisons.pairs`."""
    models, budgets = world.shape
    names = [str(model) for model in range(models)]
    cells = [cell(m, f) for m in range(models) for f in range(budgets)]
    found: dict[str, list[Term]] = {"Δ": [{a: 1.0, b: -1.0} for a, b in combinations(cells, 2) if a[2] == b[2]]}
    for name, build in builders(budgets).items():
        twos = permutations(names, 2) if name == "across budgets" else combinations(names, 2)
        found[name] = [build(a, b) for a, b in twos]
    return found


def simulate(world: World, repetitions: int, seed: int, margin: float = 0.005) -> Counts:
    """Draw tables and count.

    ``accuracy``, of the first model, ``Δ`` and so on: 95% intervals that hold the truth. ``accuracy f`` and ``Δ f``: those
    at budget f alone. ``Δ of the first``: those of the first model against others.
    ``wrong †``: tables in which an equal pair is marked different. ``no mark``: pairs whose seeds vary too much for marks.
    ``found`` and ``t``: different pairs that are marked, by the product and by t tests with S − 1 degrees of freedom under
    the same Holm family. ``wrong ≡`` and ``right ≡``: pairs called equivalent that differ by more than the margin, or less.
    """
    generator = np.random.default_rng(seed)
    contrasts = terms(world)
    names = [name for name, group in contrasts.items() for _ in group]
    flat = [term for group in contrasts.values() for term in group]
    true = np.array([sum(weight * world.truth(of) for of, weight in term.items()) for term in flat])
    pairs = len(contrasts["Δ"])
    budget = [next(iter(term))[2] for term in contrasts["Δ"]]
    firsts = ["Δ of the first" if cell(0, int(f)) in term else "Δ of others" for f, term in zip(budget, flat, strict=False)]
    groups = (names, [f"Δ {f:.0f}" for f in budget], firsts)
    equal, beyond = true[:pairs] == 0, np.abs(true[:pairs]) > margin
    counts: Counts = {}
    levels: list[Estimates] = []
    for _ in range(repetitions):
        comparisons = Comparisons.of(world.draw(generator))
        found = comparisons.layout.estimates(comparisons.layout.weights(*flat), prior_of_each(comparisons, contrasts))
        # The interval of the estimate holds the truth where the test of the truth does not reject.
        p = replace(found, centre=found.centre - true).p
        for group in groups:
            for name, value in zip(group, p, strict=False):
                if not np.isnan(value):
                    count(counts, name, value >= intervals.ALPHA)
        levels.append(accuracies(world, comparisons))
        first = found[:pairs]
        tested, different = marked(comparisons, first)
        same = tested & ~different & (intervals.holm(np.where(tested, first.p_beyond(margin), np.nan)) < intervals.ALPHA)
        count(counts, "no mark", ~comparisons.trusted)
        if equal.any():
            count(counts, "wrong †", bool((different & equal).any()))
        if not equal.all():
            weights = comparisons.layout.weights(*contrasts["Δ"])
            count(counts, "found", different[~equal])
            count(counts, "t", intervals.holm(t_test(comparisons.layout, first, weights))[~equal] < intervals.ALPHA)
        if beyond.any():
            count(counts, "wrong ≡", same[beyond])
        if not beyond.all():
            count(counts, "right ≡", same[~beyond])
    if levels:
        count_accuracies(counts, world, levels)
    return counts


def accuracies(world: World, comparisons: Comparisons) -> Estimates:
    """Those of the first model."""
    layout = comparisons.layout
    own = [cell(0, f) for f in range(world.shape[1])]
    at = [layout.index[one] for one in own]
    return layout.estimates(layout.weights(*({one: 1.0} for one in own)), comparisons.of_accuracies[at])


def count_accuracies(counts: Counts, world: World, drawn: list[Estimates]) -> None:
    """Count which accuracies of the first model lie in their intervals, of all tables at once."""
    names = [name for name in Estimates.__dataclass_fields__ if name != "share"]
    every = Estimates(*(np.concatenate([getattr(one, name) for one in drawn]) for name in names))
    held = holds(every, np.tile(world.accuracy[0], len(drawn))).reshape(len(drawn), -1)
    known = ~np.isnan(every.posterior[:, 0]).reshape(held.shape)
    for budget in range(held.shape[1]):
        for name in ("accuracy", f"accuracy {budget}"):
            count(counts, name, held[known[:, budget], budget])


def marked(comparisons: Comparisons, gaps: Estimates) -> tuple[Floats, Floats]:
    """Which pairs are tested, and which are marked different."""
    counts = [min(map(comparisons.n_seeds, pair)) for pair in comparisons.pairs]
    tested = comparisons.trusted & (np.array(counts) >= intervals.MIN_SEEDS_FOR_MARKS)
    return tested, tested & (intervals.holm(np.where(tested, gaps.p, np.nan)) < intervals.ALPHA)


def prior_of_each(comparisons: Comparisons, contrasts: dict[str, list[Term]]) -> Floats:
    """Pairs have priors of their kinds; other contrasts learn from those of their own sort."""
    learned = [comparisons.of_pairs]
    for name, build in builders(len({at[2] for at in comparisons.layout.index})).items():
        learned.append(np.tile(comparisons.prior("", build), (len(contrasts[name]), 1)))
    return np.concatenate(learned)


def holds(found: Estimates, truth: Floats) -> Floats:
    """Whether each interval holds the truth; of its two limits only the nearer is worked out."""
    held = np.zeros(truth.size, dtype=bool)
    for below, name in ((True, "low"), (False, "high")):
        side = np.flatnonzero((truth < found.centre) == below)
        if side.size:
            limit = getattr(found[side], name)
            held[side] = limit <= truth[side] if below else limit >= truth[side]
    return held


def t_test(layout: Layout, found: Estimates, weights: Floats) -> Floats:
    """p-values that take the variance over seeds at its word, with S − 1 degrees of freedom: what † is compared with."""
    seeds = np.einsum("gk,km,gm->g", weights, layout.over_seeds, weights)
    variance = np.maximum(seeds, found.residual) + found.rest - found.residual
    return np.asarray(2 * special.stdtr(layout.n_seeds(weights) - 1.0, -np.abs(found.estimate) / np.sqrt(variance)))
