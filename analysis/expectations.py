"""What an experiment's file expected before the run, checked against what came out, by intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import pandas as pd
from scipy import special

from analysis.columns import COLUMNS
from analysis.groups import Group
from analysis.load import select
from analysis.run_folder import setting_label
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
    """Check each expectation on every dataset and setting that it speaks of; the worst outcome of them is the claim's."""
    checked = []
    for expectation in experiment.expect:
        chosen = [group for group in groups if _speaks_of(expectation, group)]
        found = [(group.title, *_observe(group, expectation, model)) for group in chosen for model in expectation.models]
        worst: Outcome = min((outcome for _, outcome, _ in found), key=_WORST_FIRST.index, default="cannot be told")
        texts = (f"{text} ({place})" if place else text for place, _, text in found)
        checked.append(Expected(expectation.claim, worst, "; ".join(texts) or "no run of it"))
    return checked


def _speaks_of(expectation: Expectation, group: Group) -> bool:
    """Whether a claim is about this dataset and setting."""
    values = dict(expectation.where)
    return values.pop("data", group.data) == group.data and values.items() <= group.varied.items()


def _weights(group: Group, expectation: Expectation, first: str, second: str | None) -> dict[Cell, float]:
    """The cells whose weighted sum is spoken of, for one model and the one it is against."""
    places = {group.setting: 1.0}
    if expectation.minus:
        places[setting_label(group.varied | expectation.minus)] = -1.0
    models = {first: 1.0, second: -1.0} if second else {first: 1.0}
    return {
        (place, model, expectation.train_fraction): side * sign
        for place, side in places.items()
        for model, sign in models.items()
    }


def _observe(group: Group, expectation: Expectation, model: str) -> tuple[Outcome, str]:
    """The outcome for one model at one dataset and setting, with the value and its interval as text."""
    metric, experiment = expectation.metric, group.experiment
    weights = _weights(group, expectation, model, expectation.against)
    names = [model, *filter(None, [expectation.against])]
    title = " − ".join(experiment.models[name].title for name in names)
    if expectation.minus:
        title = f"{title}, minus that at {setting_label(expectation.minus)}"
    everything = select(group.results.runs, data=group.data, train_fraction=expectation.train_fraction)
    runs = [select(everything, setting=place, model=name).set_index("seed") for place, name, _ in weights]
    for own, (_, name, _) in zip(runs, weights, strict=True):
        if own.empty or metric not in own or own[metric].isna().any():
            return "cannot be told", f"{experiment.models[name].title}: no run with {metric}"
    signed = [sign * own[metric] for own, sign in zip(runs, weights.values(), strict=True)]
    if metric == "test/top1" and (comparisons := group.compared(*weights)):
        n_seeds, value = min(map(len, runs)), float(sum(own.mean() for own in signed))
        low, high = _of_accuracy(comparisons, group, expectation, weights)
    else:
        common = pd.concat(signed, axis=1).dropna().sum(axis=1)
        n_seeds, value = len(common), common.mean()
        low, high = _over_seeds(common)
    if not n_seeds:
        return "cannot be told", f"{title}: no seed in common"
    short = "" if n_seeds == len(experiment.seeds) else f", {n_seeds} of {len(experiment.seeds)} seeds"
    shown = _shown(value, metric, signed=len(weights) > 1)
    if not known(low):
        reason = "one seed has no interval" if n_seeds < 2 else "seeds differ too much for an interval"
        return "cannot be told", f"{title}: {shown}{short}, {reason}"
    limits = [_shown(limit, metric, signed=len(weights) > 1, bare=True) for limit in (low, high)]
    return _outcome(expectation, low, high), f"{title}: {shown} [{', '.join(limits)}]{short}"


def _outcome(expectation: Expectation, low: float, high: float) -> Outcome:
    """Where an interval lies beside the bounds of a claim."""
    at_least = -math.inf if expectation.at_least is None else expectation.at_least
    at_most = math.inf if expectation.at_most is None else expectation.at_most
    if at_least <= low and high <= at_most:
        return "held"
    return "failed" if high < at_least or low > at_most else "not contradicted"


def _of_accuracy(
    comparisons: Comparisons, group: Group, expectation: Expectation, weights: Mapping[Cell, float]
) -> tuple[float, float]:
    """Limits of an accuracy, a difference of two or a difference of differences, for new seeds and new test images."""
    cells = list(weights)
    if expectation.minus:
        second = expectation.against is not None
        prior = comparisons.prior(group.setting, lambda a, b: _weights(group, expectation, a, b if second else None))
        found = comparisons.differences(prior, weights)
    else:
        found = comparisons.accuracy(cells[0]) if len(cells) == 1 else comparisons.gap(cells[0], cells[1])
    return float(found.low[0]), float(found.high[0])


def _over_seeds(values: pd.Series) -> tuple[float, float]:
    """Limits of a mean of one value per seed, for new seeds on these images; NaN for one seed."""
    half = special.stdtrit(len(values) - 1, 0.975) * values.sem()
    return float(values.mean() - half), float(values.mean() + half)


def _shown(value: float, metric: str, *, signed: bool = False, bare: bool = False) -> str:
    sign = "+" if signed else ""
    if metric.rpartition("/")[2] not in _PERCENT:
        return f"{value:{sign}.4g}".replace("-", "−")
    return f"{100 * value:{sign}.1f}".replace("-", "−") + ("" if bare else " points" if signed else "%")
