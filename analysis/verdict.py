"""The result in plain words, built from the figures alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import stats
from analysis.load import Results
from analysis.numbers import known, number, percent
from analysis.pairing import paired
from analysis.summary import Summary
from analysis.tables import accuracy_places
from experiments.config import Experiment

EFFECT = 0.005
"""The difference of accuracies, half a point, of which the text says how many seeds it would take to see it."""


def sentences(results: Results, summary: Summary, experiment: Experiment) -> list[str]:
    """Who leads with all and with the fewest images, what the lead is worth in images, and what the seeds can tell.

    Returns
    -------
    list of str
        Plain sentences, dataset by dataset.
    """
    found = []
    for data, setting in results.groups:
        cells = summary.cells[(summary.cells["data"] == data) & (summary.cells["setting"] == setting)]
        curves = summary.efficiency[(summary.efficiency["data"] == data) & (summary.efficiency["setting"] == setting)]
        place = [experiment.data[data].title] if len(experiment.data) > 1 else []
        place += [setting] if setting else []
        prefix = f"{', '.join(place)}: " if place else ""
        largest, smallest = max(experiment.train_fractions), min(experiment.train_fractions)
        texts = [_leader(cells[cells["train_fraction"] == largest])]
        if smallest < largest:
            texts.append(_leader(cells[cells["train_fraction"] == smallest]))
        for model in _protagonists(experiment):
            texts.append(_images(curves[curves["model"] == model], experiment))
            texts.append(_resolution(results, data, setting, model, experiment))
        found += [prefix + text for text in texts if text]
    return found


def _protagonists(experiment: Experiment) -> list[str]:
    """The project's own models; without any, all but the reference."""
    others = [model for model in experiment.models if model != experiment.reference]
    return [model for model in others if experiment.models[model].source == "scratch"] or others


def _leader(block: pd.DataFrame) -> str:
    """Who is best at one train fraction, and who is tied with it."""
    present = block[block["n_seeds"] > 0]
    fraction = percent(float(block["train_fraction"].iloc[0]))
    if present.empty:
        return f"With {fraction} of the training data there is no run yet."
    sizes = present["n"].dropna().unique()
    where = f"With {fraction} of the training data" + (f" (n = {int(sizes[0])})" if len(sizes) == 1 else "")
    if not present["best"].any():
        top = _row(present, present["mean"].idxmax())
        return (
            f"{where}, {top.model_title} has the highest mean accuracy, {_accuracy(top)}; that it leads is not tested, "
            f"which takes {stats.MIN_SEEDS_FOR_MARKS} seeds of at least two models."
        )
    best = _row(present, present["best"].idxmax())
    tied = present[present["bold"] & ~present["best"]]["model_title"].tolist()
    untested = present[~present["tested"]]["model_title"].tolist()
    rest = (
        f"; not distinguishable from it: {', '.join(tied)}"
        if tied
        else "; every other tested model is significantly below it"
    )
    left_out = f"; too few seeds in common with it to be tested: {', '.join(untested)}" if untested else ""
    absent = block[block["n_seeds"] == 0]["model_title"].tolist()
    left_out += f"; no run of {', '.join(absent)}" if absent else ""
    return f"{where}, {best.model_title} is best at {_accuracy(best)}{rest}{left_out}."


def _row(frame: pd.DataFrame, index: Any) -> Any:
    """One row with its columns as attributes, as the tables read it."""
    return next(frame.loc[[index]].itertuples())


def _accuracy(cell: Any) -> str:
    places = accuracy_places(cell)
    low, high = number(100 * cell.low, places), number(min(100 * cell.high, 100), places)
    interval = f" (95% CI {low} to {high})" if known(cell.low) else ""
    return f"{number(100 * cell.mean, places)}%{interval}"


def _images(curve: pd.DataFrame, experiment: Experiment) -> str:
    """What the lead is worth in images."""
    if curve.empty or not curve["multiplier_text"].iloc[0]:
        return ""
    row = _row(curve, curve.index[0])
    ahead = row.multiplier_ahead
    behind = experiment.reference if ahead == row.model else row.model
    first, second = experiment.models[ahead].title, experiment.models[behind].title
    target = f"{second}'s accuracy at full data ({number(100 * row.multiplier_target, 1)}%)"
    factor, _, interval = row.multiplier_text.partition(" [")
    if "×" not in factor:
        return f"How many fewer images {first} needs to reach {target} cannot be told from these fractions."
    factor = factor.replace("> ", "more than ").replace("< ", "less than ")
    text = f"To reach {target}, {first} needs {factor} fewer images"
    text += f" (95% CI {interval.rstrip(']').replace(',', ' to')})" if interval else ""
    if not known(row.multiplier_low):
        return f"{text}, by one seed: that this is more than chance is not tested."
    if known(row.multiplier_low) and row.multiplier_low <= 1 <= row.multiplier_high:
        return f"{text}; the interval does not exclude 1, so that either may need fewer."
    return f"{text}."


def _resolution(results: Results, data: str, setting: str, model: str, experiment: Experiment) -> str:
    """What the seeds and test images at hand can tell between a model and the reference."""
    runs = results.runs
    at = runs[
        (runs["data"] == data) & (runs["setting"] == setting) & (runs["train_fraction"] == max(experiment.train_fractions))
    ]
    pair = paired(results, at[at["model"] == model], at[at["model"] == experiment.reference])
    if pair is None or model == experiment.reference:
        return ""
    names = f"{experiment.models[model].title} and {experiment.models[experiment.reference].title}"
    n_seeds, n_images = pair[0].shape
    if n_seeds < 2:
        return f"Noise: one seed of {names} cannot tell a difference from chance; run at least {stats.MIN_SEEDS_FOR_MARKS}."
    difference = pair[0] - pair[1]
    floor = number(100 * stats.noise_floor(difference), 1)
    needed = stats.seeds_needed(difference, EFFECT)
    more = (
        f"to see {100 * EFFECT:g} points would take about {needed} seeds"
        if needed
        else f"to see {100 * EFFECT:g} points no number of seeds is enough on this test set, it takes more test images"
    )
    return (
        f"Noise: with {n_seeds} seeds and {n_images} test images, a difference between {names} below {floor} points cannot "
        f"be told from chance; {more}."
    )
