"""What an experiment's file expected before the run, checked against what came out, by intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.columns import COLUMNS
from analysis.groups import Group
from analysis.load import select
from analysis.statistics.comparisons import Cell, Comparisons
from analysis.text import known
from experiments.config.schema import Expectation, Experiment

_PERCENT = {"top1", *(column.source.rpartition("/")[2] for column in COLUMNS if column.factor == 100)}
Outcome = Literal["held", "not contradicted", "failed", "cannot be told"]
_WORST_FIRST: tuple[Outcome, ...] = ("failed", "cannot be told", "not contradicted", "held")


class Expected(NamedTuple):
    """One claim and its outcome."""

    claim: str
    outcome: Outcome
    """Whether the 95% interval lies inside the bounds, reaches across one, or lies outside; ``cannot be told`` where there
    is no run or one seed, which has no interval."""
    observed: str
    """What was seen, model by model."""


def check(groups: Sequence[Group], experiment: Experiment) -> list[Expected]:
    """Check each expectation on every dataset and setting; the worst outcome of them all is the claim's."""
    checked = []
    for expectation in experiment.expect:
        found = [(group.title, *_observe(group, expectation, model)) for group in groups for model in expectation.models]
        worst = min((outcome for _, outcome, _ in found), key=_WORST_FIRST.index)
        texts = (f"{text} ({place})" if place else text for place, _, text in found)
        checked.append(Expected(expectation.claim, worst, "; ".join(texts)))
    return checked


def _observe(group: Group, expectation: Expectation, model: str) -> tuple[Outcome, str]:
    """The outcome for one model at one dataset and setting, with the value and its interval as text."""
    metric, experiment = expectation.metric, group.experiment
    names = [model, *filter(None, [expectation.against])]
    title = " − ".join(experiment.models[name].title for name in names)
    at = select(group.runs, train_fraction=expectation.train_fraction)
    runs = [select(at, model=name).set_index("seed") for name in names]
    for name, own in zip(names, runs, strict=True):
        if own.empty or metric not in own or own[metric].isna().any():
            return "cannot be told", f"{experiment.models[name].title}: no run with {metric}"
    cells = [(group.setting, name, expectation.train_fraction) for name in names]
    value = float(runs[0][metric].mean() - (runs[1][metric].mean() if expectation.against else 0))
    if metric == "test/top1" and (comparisons := group.compared(*cells)):
        low, high = _of_accuracy(comparisons, cells)
    else:
        low, high = _over_seeds([own[metric] for own in runs])
    shown = _shown(value, metric, signed=len(names) > 1)
    short = "" if len(runs[0]) == len(experiment.seeds) else f", {len(runs[0])} of {len(experiment.seeds)} seeds"
    if not known(low):
        reason = "one seed has no interval" if len(runs[0]) < 2 else "seeds differ too much for an interval"
        return "cannot be told", f"{title}: {shown}{short}, {reason}"
    limits = [_shown(limit, metric, signed=len(names) > 1, bare=True) for limit in (low, high)]
    at_least = -math.inf if expectation.at_least is None else expectation.at_least
    at_most = math.inf if expectation.at_most is None else expectation.at_most
    outcome: Outcome = "not contradicted"
    if at_least <= low and high <= at_most:
        outcome = "held"
    elif high < at_least or low > at_most:
        outcome = "failed"
    return outcome, f"{title}: {shown} [{', '.join(limits)}]{short}"


def _of_accuracy(comparisons: Comparisons, cells: list[Cell]) -> tuple[float, float]:
    """Limits of an accuracy or of a difference of two, for new seeds and new test images."""
    found = comparisons.accuracy(cells[0]) if len(cells) == 1 else comparisons.gap(cells[0], cells[1])
    return float(found.low[0]), float(found.high[0])


def _over_seeds(values: list[pd.Series]) -> tuple[float, float]:
    """Limits of a mean, or of the mean difference over common seeds, for new seeds on these images."""
    difference = (values[0] - values[1]).dropna() if len(values) > 1 else values[0]
    if len(difference) < 2:
        return math.nan, math.nan
    half = special.stdtrit(len(difference) - 1, 0.975) * difference.std() / np.sqrt(len(difference))
    return float(difference.mean() - half), float(difference.mean() + half)


def _shown(value: float, metric: str, *, signed: bool = False, bare: bool = False) -> str:
    sign = "+" if signed else ""
    if metric.rpartition("/")[2] not in _PERCENT:
        return f"{value:{sign}.4g}".replace("-", "−")
    return f"{100 * value:{sign}.1f}".replace("-", "−") + ("" if bare else " points" if signed else "%")
