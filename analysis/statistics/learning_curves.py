"""Data efficiency: area under the learning curve, images needed, crossover, and the bound that needs no curve.

Limits are found by inverting contrasts: a number of images belongs to an interval where the 95% interval of the difference
at that number holds 0. So they cover new seeds and new test images as the differences do, and nothing is left to a
bootstrap's luck. Nothing is extrapolated: a limit outside the measured budgets is printed as ``>`` or ``<``.

Alphabet: ``F`` data budgets ``n`` (images for training and validation), ``P`` points between them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from analysis.statistics.comparisons import Cell, Comparisons
from analysis.statistics.intervals import Estimates, Floats

POINTS = 64
"""Points between two budgets at which a difference is estimated."""


@dataclass(frozen=True)
class Multiplier:
    """How many times more images the model behind was given than the model ahead needs for its accuracy."""

    estimate: float
    """NaN where the budgets only bound it; `text` says how."""
    low: float
    high: float
    """95% limits: NaN and infinity where a limit lies outside the measured budgets; both NaN with one seed."""
    target: float
    """The accuracy, of the model behind at full data."""
    text: str
    """Such as ``4.2× [3.1, 5.6]`` or ``> 10×``."""

    @property
    def directed(self) -> bool:
        """Whether the interval tells which model needs fewer images."""
        return self.low > 1


@dataclass(frozen=True)
class Crossover:
    """The number of images at which the lead changes, with its 95% limits, and the model that leads beyond it."""

    n: float
    low: float
    high: float
    leader: str

    @property
    def text(self) -> str:
        return f"{self.n:,.0f} [{self.low:,.0f}, {self.high:,.0f}]"


@dataclass(frozen=True)
class Bound:
    """A direct comparison across budgets: the model ahead with `n_ahead` images against the other with `n_behind`."""

    n_ahead: float
    n_behind: float
    delta: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        """At least so many times fewer images."""
        return self.n_behind / self.n_ahead


def aulc_weights(n: Floats) -> Floats:
    """Share of each of F ≥ 2 budgets in the area under the learning curve.

    The area is the trapezoid of accuracy over ln n, divided by ln(n_max / n_min): the mean accuracy over budgets on a
    logarithmic axis.
    """
    steps = np.diff(np.log(n))
    return np.asarray((np.append(steps, 0) + np.insert(steps, 0, 0)) / (2 * steps.sum()))


def multiplier(comparisons: Comparisons, n: Floats, ahead: Sequence[Cell], behind: Sequence[Cell]) -> Multiplier:
    """How many times fewer images than all does the model ahead need for the other's accuracy at full data?

    Both curves are made monotone by isotonic regression; the target is the last value of one fit, and the other is read by
    linear interpolation of log error in log n, with errors of half an image at least.

    Parameters
    ----------
    n : array of shape (F,)
        Data budgets, strictly increasing, at least 2.
    ahead, behind : sequences of F cells
        Learning curves; the one ahead ends at a higher accuracy.

    References
    ----------
    Hestness et al. (2017), Deep learning scaling is predictable, empirically, arXiv:1712.00409, for straight learning curves
    in log error and log n; Fieller (1954), Some problems in interval estimation, JRSS B 16: 175–185, for limits by
    inversion.
    """
    layout = comparisons.layout
    floor = 0.5 / layout.n_images
    (curve, pool), (last, last_pool) = (_monotone(_accuracies(comparisons, cells)) for cells in (ahead, behind))
    errors, target = np.maximum(1 - curve, floor), max(1 - last[-1], floor)
    grid, shares = _between(n)
    error = np.exp((shares * np.log(errors)).sum(axis=1))
    slopes = shares * error[:, None] / errors
    weights = _weights(comparisons, ahead, slopes @ pool) - _weights(comparisons, behind, last_pool[-1:])
    found = layout.estimates(weights, _across(comparisons, ahead), target - error)

    tolerance = 1e-9
    reached = error <= target * (1 + tolerance)
    first = int(reached.argmax()) if reached.any() else grid.size - 1
    if np.array_equal(curve, last):  # nobody is ahead
        n_ahead = n[-1]
    elif first == 0:
        n_ahead = n[0] if error[0] >= target * (1 - tolerance) else math.nan
    else:
        rise = np.log(error[first - 1]) - np.log(error[first])
        part = (np.log(error[first - 1]) - np.log(target)) / rise if rise > 0 else 1.0
        n_ahead = _on_log(grid, first - 1, min(part, 1.0))
    ratio, most = n[-1] / min(n_ahead, n[-1]), n[-1] / n[0]
    shown = f"{ratio_text(ratio)}×" if math.isfinite(ratio) else f"> {bound_text(most)}×"
    low, high = _limits(found)
    if np.isnan(found.low).all():
        return Multiplier(ratio, math.nan, math.nan, last[-1], shown)
    if (low > 0).all():
        return Multiplier(ratio, most, math.inf, last[-1], f"> {bound_text(most)}×")
    fewest, largest = _zero_held(grid, low, high)
    limits = math.nan if largest is None else n[-1] / largest, math.inf if fewest is None else n[-1] / fewest
    low_text = "< 1.0" if math.isnan(limits[0]) else ratio_text(limits[0])
    high_text = f"> {bound_text(most)}" if math.isinf(limits[1]) else ratio_text(limits[1])
    bracket = "not bounded" if largest is None and fewest is None else f"{low_text}, {high_text}"
    return Multiplier(ratio, *limits, last[-1], f"{shown} [{bracket}]")


def crossover(
    comparisons: Comparisons, n: Floats, first: Sequence[Cell], second: Sequence[Cell], signs: Sequence[int]
) -> Crossover | None:
    """Where one learning curve passes the other, in log error over log n; None unless marks on either side say that it does.

    `signs`, F of them, are those of `first` − `second` where that difference is significant, else 0.
    """
    marked = [at for at, sign in enumerate(signs) if sign]
    opposite = [at for at in marked if signs[at] == -signs[marked[-1]]]
    if not opposite:
        return None
    start, end = opposite[-1], next(at for at in marked if at > opposite[-1])
    grid, shares = _between(n[start : end + 1])
    weights, estimate = np.zeros((grid.size, len(comparisons.layout.index))), np.zeros(grid.size)
    for curve, sign in ((first[start : end + 1], signs[end]), (second[start : end + 1], -signs[end])):
        errors = np.maximum(1 - _accuracies(comparisons, curve), 0.5 / comparisons.layout.n_images)
        weights += _weights(comparisons, curve, sign * shares / errors)
        estimate -= sign * shares @ np.log(errors)
    found = comparisons.layout.estimates(weights, comparisons.of_differences, estimate)
    last = int(np.flatnonzero(found.estimate < 0)[-1])
    part = found.estimate[last] / (found.estimate[last] - found.estimate[last + 1])
    low, high = _zero_held(grid, *_limits(found))
    leader = (first if signs[end] > 0 else second)[0][1]
    return Crossover(_on_log(grid, last, part), low or float(grid[0]), high or float(grid[-1]), leader)


def bound(comparisons: Comparisons, n: Floats, ahead: Sequence[Cell], behind: Sequence[Cell]) -> Bound | None:
    """The fewest images with which one model is still ahead of the other with all; nothing is interpolated.

    For models that differ at full data. The budgets of the model ahead are tested from the largest down until the first
    whose 95% interval holds 0: a fixed sequence of tests, which needs no adjustment among themselves.

    References
    ----------
    Maurer, Hothorn and Lehmacher (1995), Multiple comparisons in drug clinical trials and preclinical assays: a-priori
    ordered hypotheses; Wiens (2003), A fixed sequence Bonferroni procedure, Pharmaceutical Statistics 2: 211–215.
    """
    found = comparisons.differences(_across(comparisons, ahead), *({cell: 1.0, behind[-1]: -1.0} for cell in ahead[::-1]))
    still = np.cumprod(found.low > 0).sum()
    if not still:
        return None
    at = int(still) - 1
    return Bound(n[::-1][at], n[-1], *(float(values[at]) for values in (found.estimate, found.low, found.high)))


def across_budgets(comparisons: Comparisons, setting: str, fractions: Collection[float]) -> Floats:
    """What differences of models with unlike budgets show about seeds: one with the fewest images, one with all."""
    ends = min(fractions), max(fractions)
    return comparisons.prior(setting, lambda a, b: {(setting, a, ends[0]): 1.0, (setting, b, ends[1]): -1.0})


def _across(comparisons: Comparisons, curve: Sequence[Cell]) -> Floats:
    """The same for the budgets of a learning curve."""
    return across_budgets(comparisons, curve[0][0], [cell[2] for cell in curve])


def _accuracies(comparisons: Comparisons, cells: Sequence[Cell]) -> Floats:
    return comparisons.layout.mean[[comparisons.layout.index[cell] for cell in cells]]


def _monotone(accuracy: Floats) -> tuple[Floats, Floats]:
    """Isotonic regression of a curve, and the (F, F) matrix that averages within its blocks."""
    fit = optimize.isotonic_regression(accuracy)
    pool = np.zeros((accuracy.size, accuracy.size))
    for start, end in zip(fit.blocks[:-1], fit.blocks[1:], strict=True):
        pool[start:end, start:end] = 1 / (end - start)
    return fit.x, pool


def _between(n: Floats) -> tuple[Floats, Floats]:
    """Points from the first to the last budget: their n, and the share that each budget has in them, (P, F)."""
    at = np.arange((n.size - 1) * POINTS + 1) / POINTS
    shares = np.maximum(1 - np.abs(at[:, None] - np.arange(n.size)), 0)
    return np.exp((shares * np.log(n)).sum(axis=1)), shares


def _weights(comparisons: Comparisons, cells: Sequence[Cell], values: Floats) -> Floats:
    """Weights of all cells of the layout, from those of a curve's, (P, F) → (P, K)."""
    rows = np.zeros((len(values), len(comparisons.layout.index)))
    rows[:, [comparisons.layout.index[cell] for cell in cells]] = values
    return rows


def _limits(found: Estimates) -> tuple[Floats, Floats]:
    """Limits of differences; one that a single seed does not tell may be anything."""
    return np.nan_to_num(found.low, nan=-np.inf), np.nan_to_num(found.high, nan=np.inf)


def _zero_held(grid: Floats, low: Floats, high: Floats) -> tuple[float | None, float | None]:
    """From where to where the intervals of a rising difference hold 0; None where that begins or ends outside the grid."""
    begin, end = int((high >= 0).argmax()), int(np.flatnonzero(low <= 0)[-1])
    fewest = None if begin == 0 else _on_log(grid, begin - 1, _part(high[begin - 1], high[begin]))
    largest = None if end == grid.size - 1 else _on_log(grid, end, _part(low[end], low[end + 1]))
    return fewest, largest


def _part(before: float, after: float) -> float:
    """Where between two points a limit passes 0; at the outer one where the inner is not known."""
    return float(before / (before - after)) if np.isfinite(before - after) else float(np.isinf(before))


def _on_log(grid: Floats, at: int, part: float) -> float:
    """The point that lies `part` of the way from one point of a grid to the next, in ln n."""
    return float(np.exp((1 - part) * np.log(grid[at]) + part * np.log(grid[at + 1])))


def ratio_text(ratio: float) -> str:
    """Two digits from 1 to 10 and below 1, whole numbers from 10."""
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2g}"


def bound_text(ratio: float) -> str:
    """A ratio from 1 as `ratio_text` has it, rounded down: "at least" and "more than" stay true."""
    scale = 1 if ratio >= 10 else 10
    return ratio_text(math.floor(ratio * scale + 1e-9) / scale)
