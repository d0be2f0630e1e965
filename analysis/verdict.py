"""The result in plain words, built from the figures alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis import decided
from analysis.columns import accuracy_places, percent_places
from analysis.groups import Group
from analysis.load import select
from analysis.power import Spread
from analysis.statistics.intervals import MIN_SEEDS_FOR_MARKS
from analysis.statistics.learning_curves import bound_text
from analysis.summary import Summary
from analysis.text import known, number, percent
from experiments.config.schema import Experiment
from experiments.config.text import listed

EFFECT = 0.005
"""The difference of accuracies, half a point, of which the text says how many seeds it would take to see it."""

MANY_CHANGES = 3
"""Settings beside the first, and budgets, beyond which those that show no change share a sentence."""


def answer(summary: Summary) -> str:
    """The answer in one sentence, which page, terminal and W&B put first: the project's own model beside the reference.

    Without a model of the project's own it is the best of the others. Several datasets or settings share the sentence.
    """
    experiment = summary.groups[0].experiment
    present = summary.cells[summary.cells["n_seeds"] > 0]
    rivals = present[present["model"].isin(_protagonists(experiment)) & present["delta"].notna()]
    if rivals.empty:
        top = _row(present, present[present["train_fraction"] == present["train_fraction"].max()]["mean"].idxmax())
        return f"{top.model_title} reaches {_accuracy(top)}; there is no other model yet to compare with the reference."
    full = rivals[rivals["train_fraction"] == rivals["train_fraction"].max()]
    model = _row(rivals, (full if len(full) else rivals)["mean"].idxmax()).model
    places = [(group.title, select(group.here(rivals), model=model)) for group in summary.groups]
    places = [(title, cells.sort_values("train_fraction")) for title, cells in places if len(cells)]
    if len(places) == 1:
        return _standing(places[0][1], present, experiment)
    last = [(title, _row(cells, cells.index[-1])) for title, cells in places]
    told = []
    for state in dict.fromkeys(_state(row) for _, row in last):
        alike = [(title, row.delta) for title, row in last if _state(row) == state]
        found = [f"{title} ({number(100 * delta, 1, signed=True)} points)" for title, delta in alike]
        told.append(f"{state} on {_several(found)}")
    title, reference = last[0][1].model_title, experiment.models[experiment.reference].title
    return f"With the most images, {title} beside {reference} is {'; '.join(told)}."


def _state(row: Any) -> str:
    """How a model stands to the reference at one budget, in words."""
    side = "ahead" if row.delta > 0 else "behind"
    return {"different": side, "equivalent": "equivalent", "inconclusive": "not told apart"}.get(row.state, "untested")


def _standing(cells: pd.DataFrame, present: pd.DataFrame, experiment: Experiment) -> str:
    """One model beside the reference at the most images, then at every budget; `cells` run from few images to many."""
    row = _row(cells, cells.index[-1])
    other = _row(at := select(present, model=experiment.reference, train_fraction=row.train_fraction, data=row.data,
                              setting=row.setting), at.index[0])  # fmt: skip
    where = f"With {row.n:,.0f} images" if known(row.n) else f"With {percent(row.train_fraction)} of the training data"
    places = percent_places(50 * (row.delta_high - row.delta_low))
    if row.delta_low * row.delta_high > 0:
        low, high = (number(100 * limit, places) for limit in sorted(map(abs, (row.delta_low, row.delta_high))))
        gap = f"{number(100 * abs(row.delta), places)} points {'more' if row.delta > 0 else 'less'} (95% CI {low} to {high})"
    else:
        gap = f"a difference of {_points(row.delta, row.delta_low, row.delta_high)}"
    first, second = (f"{number(100 * each.mean, accuracy_places(each))}%" for each in (other, row))
    return f"{where} {other.model_title} reaches {first} and {row.model_title} {second}, {gap}; {_over_budgets(cells)}."


def _over_budgets(cells: pd.DataFrame) -> str:
    """At which budgets a model keeps up with the reference."""
    states: dict[str, list[str]] = {}
    for row in cells.itertuples():
        states.setdefault(_state(row), []).append(percent(row.train_fraction))
    many = f"the {len(cells)} measured budgets" if len(cells) > 1 else "this budget"
    if len(states) > 1:
        told = [f"{state} at {' and '.join(filter(None, [', '.join(at[:-1]), at[-1]]))}" for state, at in states.items()]
        return f"{', '.join(told)} of the training data"
    lacks = f"which takes {MIN_SEEDS_FOR_MARKS} seeds"
    if cells["n_paired"].min() >= MIN_SEEDS_FOR_MARKS:
        lacks = "as seeds differ too much"
    return {
        "behind": f"at none of {many} does it keep up" if len(cells) > 1 else "it does not keep up",
        "ahead": f"it is ahead at each of {many}" if len(cells) > 1 else "it is ahead",
        "equivalent": f"the two are equivalent at {many}",
        "not told apart": f"the two cannot be told apart at {'any of ' * (len(cells) > 1)}{many}",
    }.get(next(iter(states)), f"that this is more than chance is not tested, {lacks}")


def sentences(summary: Summary) -> list[str]:
    """The answer; then who leads with all and with the fewest images, what the lead is worth in images, how it changes.

    Plain sentences, dataset by dataset, with what seeds can tell.
    """
    first = summary.groups[0]
    said: dict[str, list[str]] = {}  # in order, with the tables of which each is true
    for group in summary.groups:
        cells, curves = group.here(summary.cells), group.here(summary.efficiency)
        smallest, largest = group.fractions[0], group.fractions[-1]
        texts = [_leader(select(cells, train_fraction=largest)), _guessing(select(cells, train_fraction=largest))]
        if smallest < largest:
            texts.append(_leader(select(cells, train_fraction=smallest)))
        at_full = select(cells, train_fraction=largest)
        for model in _protagonists(group.experiment):
            curve = select(curves, model=model)
            texts += [_bound(curve, group.experiment), _images(curve, at_full, group.experiment)]
            texts += _changes(group, summary.interactions, model)
            texts += _under_random_recipes(group, summary.recipes, model)
        if group.comparisons and not group.comparisons.regular:
            texts.append(
                "Seeds of some models differ so much, as where some of them fail to learn, that no test over these seeds "
                "can be trusted: where they do there are no marks, and no intervals of accuracies."
            )
        for text in filter(None, texts):
            said.setdefault(text, []).append(group.title)
    said |= {text: titles for model in _protagonists(first.experiment) for text, titles in _noise(summary.groups, model)}
    found = [answer(summary), *decided.sentences(first.results.decision, first.experiment)]
    return found + [_told(text, titles, len(summary.groups)) for text, titles in said.items()]


def _told(text: str, titles: list[str], of: int) -> str:
    """A sentence, after the names of the tables of which it is true where these are not all."""
    places = list(dict.fromkeys(titles))
    return text if len(places) == of else f"{_several(places)}: {text}"


def _several(names: Sequence[str]) -> str:
    """Names in a row, the first four of more than six."""
    return listed(names, 4 if len(names) > 6 else 6)


def _under_random_recipes(group: Group, recipes: pd.DataFrame, model: str) -> list[str]:
    """How often a model is ahead of the reference when both have the same random recipe."""
    found = []
    reference = group.experiment.models[group.experiment.reference].title
    for row in select(group.here(recipes), model=model).itertuples() if len(recipes) else ():
        if known(getattr(row, "ahead", math.nan)):
            interval = f"95% CI {100 * row.low:.0f} to {100 * row.high:.0f}%"
            found.append(
                f"With {percent(row.train_fraction)} of the training data and the same random recipe, {row.model_title} is "
                f"ahead of {reference} on validation in {100 * row.ahead:.0f}% of {row.trials} recipes ({interval})."
            )
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
        lacks = f"which takes {MIN_SEEDS_FOR_MARKS} seeds of at least two models"
        if (present["n_seeds"] >= MIN_SEEDS_FOR_MARKS).sum() > 1:
            lacks = "as seeds differ too much"
        highest = f"{where}, {top.model_title} has the highest mean accuracy, {_accuracy(top)}"
        return f"{highest}; that it leads is not tested, {lacks}."
    best = _row(present, present["best"].idxmax())
    tied = present[present["bold"] & ~present["best"]]["model_title"].tolist()
    untested = present[~present["tested"]]["model_title"].tolist()
    rest = (
        f"; not distinguishable from it: {', '.join(tied)}"
        if tied
        else "; every other tested model is significantly below it"
    )
    left_out = f"; too few seeds, or too unlike ones, to be tested: {', '.join(untested)}" if untested else ""
    absent = block[block["n_seeds"] == 0]["model_title"].tolist()
    left_out += f"; no run of {', '.join(absent)}" if absent else ""
    return f"{where}, {best.model_title} is best at {_accuracy(best)}{rest}{left_out}."


def _guessing(block: pd.DataFrame) -> str:
    """That no model is shown to do more than guess, and what then helps; empty where one does, or nothing is known."""
    if block["low"].isna().all() or (block["low"] > 1 / block["n_classes"]).any():
        return ""
    return (
        f"No model is told apart from guessing one of {block['n_classes'].max():.0f} classes. Where images are few, and not "
        "steps, weights that were trained on more may help, as in the experiment vit_pizza_pretrained."
    )


def _row(frame: pd.DataFrame, index: Any) -> Any:
    """One row with its columns as attributes, as the tables read it."""
    return next(frame.loc[[index]].itertuples())


def _accuracy(cell: Any) -> str:
    places = accuracy_places(cell)
    low, high = number(100 * cell.low, places), number(min(100 * cell.high, 100), places)
    interval = f" (95% CI {low} to {high})" if known(cell.low) else ""
    return f"{number(100 * cell.mean, places)}%{interval}"


def _bound(curve: pd.DataFrame, experiment: Experiment) -> str:
    """The direct comparison across budgets, which interpolates nothing."""
    if curve.empty or not known(curve["bound"].iloc[0]) or curve["bound"].iloc[0] <= 1:
        return ""
    row = _row(curve, curve.index[0])
    behind = experiment.reference if row.bound_ahead == row.model else row.model
    return (
        f"{experiment.models[row.bound_ahead].title} with {row.bound_n_ahead:,.0f} images is ahead of "
        f"{experiment.models[behind].title} with {row.bound_n_behind:,.0f}, by "
        f"{_points(row.bound_delta, row.bound_low, row.bound_high)}: at least {bound_text(row.bound)}× fewer."
    )


def _points(value: float, low: float, high: float) -> str:
    """A difference in points with its interval; alone where that is unknown."""
    places = percent_places(50 * (high - low))
    interval = " to ".join(number(100 * limit, places, signed=True) for limit in (low, high))
    return f"{number(100 * value, places, signed=True)} points" + (f" (95% CI {interval})" if known(low) else "")


def _images(curve: pd.DataFrame, at_full: pd.DataFrame, experiment: Experiment) -> str:
    """What the lead is worth in images."""
    if curve.empty or not curve["multiplier_text"].iloc[0]:
        return ""
    row = _row(curve, curve.index[0])
    ahead = row.multiplier_ahead
    behind = experiment.reference if ahead == row.model else row.model
    first, second = experiment.models[ahead].title, experiment.models[behind].title
    measured = number(100 * select(at_full, model=behind)["mean"].iloc[0], 1)
    level = number(100 * row.multiplier_target, 1)
    target = f"{second}'s accuracy at full data ({level}%)"
    if level != measured:  # more images did worse, which the monotone curve takes for chance
        target = f"{level}%, where {second}'s monotone curve ends (measured at full data: {measured}%)"
    factor, _, interval = row.multiplier_text.partition(" [")
    if interval and not row.multiplier_directed:
        return f"Whether {first} or {second} needs fewer images to reach {target} cannot be told."
    factor = factor.replace("> ", "more than ")
    text = f"To reach {target}, {first} needs {factor} fewer images"
    if not known(row.multiplier_low):
        return f"{text}, by one seed: that this is more than chance is not tested."
    text += f" (95% CI {interval.rstrip(']').replace(',', ' to')}, interpolated)" if interval else ""
    return f"{text}."


def _changes(group: Group, interactions: pd.DataFrame, model: str) -> list[str]:
    """How the gap to the reference changes from the fewest to all images, and from the first setting to this one."""
    if interactions.empty:
        return []
    ends, settings = (group.fractions[0], group.fractions[-1]), select(interactions, changed="setting")["after"].nunique()
    texts = []
    for row in select(group.here(interactions), model=model).itertuples():
        if row.changed == "train_fraction" and (row.before, row.after) == ends:
            where = f"from {percent(ends[0])} to {percent(ends[1])} of the data"
        elif row.changed == "setting" and row.train_fraction == ends[1]:
            where = f"from {row.before} to {row.after}, at {percent(ends[1])} of the data"
        else:
            continue
        titles = f"{row.model_title} to {group.experiment.models[group.experiment.reference].title}"
        told = row.low > 0 or row.high < 0
        if not told and row.changed == "setting" and settings > MANY_CHANGES:  # one sentence for all
            budget = f"{percent(ends[1])} of the data"
            texts.append(f"That the difference of {titles} at {budget} is another than under {row.before} is not shown.")
            continue
        change = f"changes by {_points(row.change, row.low, row.high)}"
        doubt = "" if told else "; that it changes at all is not shown"
        texts.append(f"The difference of {titles} {change} {where}{doubt}.")
    return texts


def _noise(groups: Sequence[Group], model: str) -> Iterator[tuple[str, list[str]]]:
    """What the seeds and test images at hand can tell between a model and the reference, and of which tables it is true."""
    experiment, names = groups[0].experiment, (model, groups[0].experiment.reference)
    alike: dict[tuple[int, int, int, bool], list[tuple[str, float, float, float]]] = {}
    for group in groups if model != experiment.reference else ():
        cells = [(group.setting, name, group.fractions[-1]) for name in names]
        if (comparisons := group.compared(*cells)) is None:
            continue
        n_seeds, n_images = min(map(comparisons.n_seeds, cells)), comparisons.layout.n_images
        size, floor, low, high = 0, math.nan, math.inf, math.inf
        if n_seeds > 1:
            found = comparisons.gap(cells[0], cells[1])
            floor, (low, _, high) = (
                100 * found.half_width[0],
                Spread.of(found, n_seeds, n_images).seeds(EFFECT, n_images)[:, 0],
            )
            size = round(math.log(max(floor, 0.01), 1.2))  # one sentence for floors that differ by a fifth at most
        alike.setdefault((n_seeds, n_images, size, math.isinf(low)), []).append((group.title, floor, low, high))
    titles = " and ".join(experiment.models[name].title for name in names)
    for (n_seeds, n_images, _, never), rows in alike.items():
        places, floors, lows, highs = zip(*rows, strict=True)
        least, most = (number(pick(floors), 1) for pick in (min, max))
        more = "no number of seeds is enough on this test set, it takes more test images" if never else (
            f"it would take {_span(f'{min(lows):,.0f}', f'{max(highs):,.0f}')} seeds"
        )  # fmt: skip
        text = f"one seed of {titles} cannot tell a difference from chance; run at least {MIN_SEEDS_FOR_MARKS}"
        if n_seeds > 1:
            text = (
                f"with {n_seeds} seeds and {n_images} test images, a difference between {titles} below {_span(least, most)} "
                f"points cannot be told from chance; to see {100 * EFFECT:g} points {more}"
            )
        yield f"Noise: {text}.", list(places)


def _span(low: str, high: str) -> str:
    """A range in words; one value where both are the same."""
    return low if low == high else f"{low} to {high}"
