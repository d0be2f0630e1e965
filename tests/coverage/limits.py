"""Images needed and crossovers of simulated tables, counted as the product counts: from its marks and its own priors."""

from __future__ import annotations

import math

import numpy as np

from analysis.statistics import learning_curves
from analysis.statistics.comparisons import Comparisons
from analysis.statistics.intervals import Floats
from tests.coverage.simulate import Counts, count, marked
from tests.coverage.tables import World, cell


def simulate_limits(world: World, repetitions: int, seed: int) -> Counts:
    """Draw tables and compare the first model's learning curve with each other one.

    ``images needed`` and ``crossover``: printed intervals that hold the truth. ``bounded`` and ``crossed``: comparisons that
    print one. ``not refuted``: intervals of images needed that hold the truth, as "not bounded" does. ``wrong direction``:
    comparisons that say that a model needs fewer images and err. ``wrong crossover``: those that print one where curves do
    not cross, or with the wrong leader.
    """
    generator = np.random.default_rng(seed)
    models, budgets = world.shape
    n = 50.0 * 3.0 ** np.arange(budgets)
    curves = [[cell(m, f) for f in range(budgets)] for m in range(models)]
    errors = 1 - np.array(world.accuracy)
    counts: Counts = {}
    for _ in range(repetitions):
        comparisons = Comparisons.of(world.draw(generator))
        layout = comparisons.layout
        gaps = layout.estimates(layout.weights(*({a: 1.0, b: -1.0} for a, b in comparisons.pairs)), comparisons.of_pairs)
        signs = dict(zip(comparisons.pairs, np.sign(gaps.estimate) * marked(comparisons, gaps)[1], strict=True))
        for other in range(1, models):
            ends = [layout.mean[layout.index[curves[m][-1]]] for m in (0, other)]
            ahead, behind = (0, other) if ends[0] > ends[1] else (other, 0)
            ratio = learning_curves.multiplier(comparisons, n, curves[ahead], curves[behind])
            count(counts, "wrong direction", ratio.directed and errors[ahead, -1] >= errors[behind, -1])
            bounded = not (math.isnan(ratio.low) and math.isinf(ratio.high))
            count(counts, "bounded", bounded)
            held = np.nan_to_num(ratio.low) <= true_ratio(n, errors[ahead], errors[behind, -1]) <= ratio.high
            count(counts, "not refuted", held)
            if bounded:
                count(counts, "images needed", held)
            pair = [signs[a, b] for a, b in zip(curves[0], curves[other], strict=True)]
            crossing = learning_curves.crossover(comparisons, n, curves[0], curves[other], [int(sign) for sign in pair])
            place, leader = true_crossover(n, errors[0], errors[other])
            count(counts, "crossed", crossing is not None)
            count(counts, "wrong crossover", crossing is not None and crossing.leader != {0: "0", 1: str(other)}.get(leader))
            if crossing and leader >= 0:
                count(counts, "crossover", crossing.low <= place <= crossing.high)
    return counts


def true_ratio(n: Floats, errors: Floats, target: float) -> float:
    """n_max over the images at which an error falls to a target; 0 where it does not, infinite where it begins below."""
    if target < errors[-1] * (1 - 1e-9):
        return 0.0
    if target > errors[0]:
        return math.inf
    return float(n[-1] / np.exp(np.interp(-np.log(target), -np.log(errors), np.log(n))))


def true_crossover(n: Floats, first: Floats, second: Floats) -> tuple[float, int]:
    """Where the log errors of two curves, straight in ln n, are equal, and which leads beyond, 0 or 1; −1 if neither."""
    gap = np.log(first) - np.log(second)
    passed = np.flatnonzero(gap[:-1] * gap[1:] < 0)
    if not passed.size:
        return math.nan, -1
    at = passed[0]
    part = gap[at] / (gap[at] - gap[at + 1])
    return float(n[at] * (n[at + 1] / n[at]) ** part), int(gap[-1] > 0)
