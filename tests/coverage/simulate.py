"""What the analysis says of simulated tables, counted as the product counts: one prior and one Holm family a table."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis import stats
from analysis.contrasts import Layout
from analysis.stats import Estimates, Floats
from tests.coverage.tables import World

Counts = dict[str, list[int]]
"""Hits and how many could have been, by name."""
Kinds = tuple[npt.NDArray[np.intp], ...]
Term = dict[tuple[int, int], float]


def terms(world: World) -> dict[str, list[Term]]:
    """Contrasts whose coverage is counted, by name."""
    models, budgets = world.shape
    last = budgets - 1
    found: dict[str, list[Term]] = {
        "Δ": [{(a, f): 1.0, (b, f): -1.0} for f in range(budgets) for a, b in combinations(range(models), 2)]
    }
    if budgets > 1:
        pairs = list(combinations(range(models), 2))
        trapezoid = np.array([0.5, *[1.0] * (budgets - 2), 0.5]) / last  # budgets at equal steps of ln n
        found["ΔAULC"] = [
            {(m, f): sign * trapezoid[f] for f in range(budgets) for m, sign in ((a, 1), (b, -1))} for a, b in pairs
        ]
        found["across budgets"] = [{(a, 0): 1.0, (b, last): -1.0} for a, b in permutations(range(models), 2)]
        found["of differences"] = [{(a, last): 1.0, (b, last): -1.0, (a, 0): -1.0, (b, 0): 1.0} for a, b in pairs]
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
    truth = np.array(world.accuracy)
    models, budgets = world.shape
    contrasts = terms(world)
    names = [name for name, group in contrasts.items() for _ in group]
    flat = [term for group in contrasts.values() for term in group]
    true = np.array([sum(weight * truth[cell] for cell, weight in term.items()) for term in flat])
    pairs = len(contrasts["Δ"])
    budget = [next(iter(term))[1] for term in contrasts["Δ"]]
    firsts = ["Δ of the first" if (0, f) in term else "Δ of others" for f, term in zip(budget, flat, strict=False)]
    groups = (names, [f"Δ {f}" for f in budget], firsts)
    equal, beyond = true[:pairs] == 0, np.abs(true[:pairs]) > margin
    levels = [(0, f) for f in range(budgets)]
    counts: Counts = {}

    def count(name: str, hits: Floats | bool) -> None:
        values = np.atleast_1d(hits)
        entry = counts.setdefault(name, [0, 0])
        entry[0] += int(values.sum())
        entry[1] += values.size

    kinds = (np.array(budget), np.arange(pairs) % (pairs // budgets))
    by_cell = (np.arange(models * budgets) % budgets, np.arange(models * budgets) // budgets)
    own = [m * budgets + f for m, f in levels]

    for _ in range(repetitions):
        layout = world.draw(generator)
        weights = layout.weights(*flat)
        priors = prior_of_each(layout, weights, names, kinds, 2 / models)
        found = layout.estimates(weights, priors)
        # The interval of the estimate holds the truth where the test of the truth does not reject.
        p = replace(found, centre=found.centre - true).p
        for group in groups:
            for name, value in zip(group, p, strict=False):
                if not np.isnan(value):
                    count(name, value >= stats.ALPHA)
        every = np.eye(models * budgets)
        of_cells = layout.prior(every, kinds=by_cell)
        accuracies = layout.estimates(every[own], of_cells[own])
        for cell, hit in zip(levels, holds(accuracies, np.array([truth[cell] for cell in levels])), strict=True):
            if len(layout.seeds[layout.index[cell]]) > 1:
                count("accuracy", hit)
                count(f"accuracy {cell[1]}", hit)

        marks = stats.typical_kappa(priors[:pairs]) <= stats.MAX_KAPPA_FOR_MARKS
        tested = marks & (layout.n_seeds(weights[:pairs]) >= stats.MIN_SEEDS_FOR_MARKS)
        first = found[:pairs]
        different = tested & (stats.holm(np.where(tested, first.p, np.nan)) < stats.ALPHA)
        same = tested & ~different & (stats.holm(np.where(tested, first.p_beyond(margin), np.nan)) < stats.ALPHA)
        count("no mark", ~marks)
        if equal.any():
            count("wrong †", bool((different & equal).any()))
        if not equal.all():
            count("found", different[~equal])
            count("t", stats.holm(t_test(layout, first, weights[:pairs]))[~equal] < stats.ALPHA)
        if beyond.any():
            count("wrong ≡", same[beyond])
        if not beyond.all():
            count("right ≡", same[~beyond])
    return counts


def prior_of_each(layout: Layout, weights: Floats, names: list[str], kinds: Kinds, weight: float) -> Floats:
    """Pairs learn together, sorted by budget and by models; other contrasts learn from those of their own sort."""
    pairs = names.count("Δ")
    learned = [layout.prior(weights[:pairs], weight, kinds)]
    for name in dict.fromkeys(names[pairs:]):
        own = weights[[other == name for other in names]]
        learned.append(np.tile(layout.prior(own, weight), (len(own), 1)))
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
