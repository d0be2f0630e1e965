"""What an experiment's file expected before the run, checked against what came out."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from analysis.load import Results
from experiments.config import Expectation, Experiment

_PERCENT = ("top1", "top5", "macro_f1", "ece")


class Expected(NamedTuple):
    """One claim and its outcome.

    Attributes
    ----------
    claim : str
    held : bool or None
        None where the runs that it speaks of are not there.
    observed : str
        What was seen, model by model.
    """

    claim: str
    held: bool | None
    observed: str


def check(results: Results, experiment: Experiment) -> list[Expected]:
    """Check each expectation on every dataset and setting; it held if it held on all of them.

    Means over the seeds at hand are compared with the bounds; the text says over how many seeds where some are missing.
    """
    return [_check(results, experiment, expectation) for expectation in experiment.expect]


def _check(results: Results, experiment: Experiment, expectation: Expectation) -> Expected:
    outcomes: list[bool | None] = []
    texts = []
    for data, setting in results.groups:
        runs = results.runs
        at = runs[
            (runs["data"] == data) & (runs["setting"] == setting) & (runs["train_fraction"] == expectation.train_fraction)
        ]
        place = ", ".join(filter(None, [experiment.data[data].title if len(experiment.data) > 1 else "", setting]))
        for model in expectation.models:
            value, text = _observe(at, experiment, expectation, model)
            outcomes.append(None if value is None else _within(value, expectation))
            texts.append(f"{text} ({place})" if place else text)
    held = False if False in outcomes else None if None in outcomes else True
    return Expected(expectation.claim, held, "; ".join(texts))


def _within(value: float, expectation: Expectation) -> bool:
    above = expectation.at_least is None or value >= expectation.at_least
    return above and (expectation.at_most is None or value <= expectation.at_most)


def _observe(at: pd.DataFrame, experiment: Experiment, expectation: Expectation, model: str) -> tuple[float | None, str]:
    """The value that the bounds speak of, or None, and a text."""
    title = experiment.models[model].title
    own, seeds = _mean(at, model, expectation.metric)
    if own is None:
        return None, f"{title}: no run with {expectation.metric}"
    short = "" if seeds == len(experiment.seeds) else f", {seeds} of {len(experiment.seeds)} seeds"
    if expectation.against is None:
        return own, f"{title} {_shown(own, expectation.metric)}{short}"
    other, _ = _mean(at, expectation.against, expectation.metric)
    against = experiment.models[expectation.against].title
    if other is None:
        return None, f"{title} {_shown(own, expectation.metric)}{short}, {against}: no run"
    return own - other, f"{title} − {against}: {_shown(own - other, expectation.metric, signed=True)}{short}"


def _mean(at: pd.DataFrame, model: str, metric: str) -> tuple[float | None, int]:
    own = at[at["model"] == model]
    if own.empty or metric not in own or own[metric].isna().any():
        return None, len(own)
    return float(own[metric].mean()), len(own)


def _shown(value: float, metric: str, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if metric.rpartition("/")[2] not in _PERCENT:
        return f"{value:{sign}.4g}".replace("-", "−")
    return f"{100 * value:{sign}.1f}".replace("-", "−") + (" points" if signed else "%")
