"""Accuracy against what training cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.columns import COLUMNS, Column
from analysis.figures import style
from analysis.figures.curves import ACCURACY_AXIS
from analysis.figures.style import Style
from analysis.load import select
from analysis.summary import Summary

GAP = 11
"""Pixels between the symbols of models that cost the same."""
CONVENTIONS = {
    "train_pflops": "Training compute is 3 × forward FLOPs × images seen.",
    "device_hours": "Device time is training time × devices, net of evaluation, over all attempts.",
}


def accuracy_against(column: str, summary: Summary, looks: Mapping[str, Style]) -> tuple[Any, str] | None:
    """Top-1 accuracy at full data against a cost, a column of the summary's cells in `CONVENTIONS`, with the Pareto step.

    None where the cost of every model is unknown. A model of unknown cost is left out and named in the caption.
    """
    split, left_out = [], []
    for title, group in style.panels(summary.cells):
        cells = style.full_data(group)
        known = cells[pd.to_numeric(cells[column]).fillna(0) > 0]
        left_out += [str(name) for name in cells.loc[~cells.index.isin(known.index), "model_title"]]
        if len(known):
            split.append((title, known))
    if not split:
        return None
    cells = pd.concat([cells for _, cells in split])
    unit = next(each for each in COLUMNS if each.key == column).in_unit(cells[column])
    charts = [(title, _panel(unit, summary.pairs, cells, looks, style.width(len(split)))) for title, cells in split]
    caption = (
        "Top-1 accuracy on the sealed test set after training on the largest fraction, against its cost. "
        f"{CONVENTIONS[column]} Bars are 95% two-way random-effects intervals. The dashed step joins the most accurate "
        "models at each cost. An open symbol is a model that another one dominates: no more costly and significantly more "
        "accurate, as marked in the tables. Symbols of equal cost stand side by side. "
        f"{style.seeds_sentence(cells)}"
    )
    if left_out:
        caption += f" Left out, cost unknown: {', '.join(dict.fromkeys(left_out))}."
    return style.arrange(charts), caption


def _panel(unit: Column, pairs: pd.DataFrame, cells: pd.DataFrame, looks: Mapping[str, Style], width: int) -> Any:
    column, title = unit.key, unit.title.removesuffix(" ↓")
    beaten = dominated(pairs, cells, column)
    cells = cells.assign(**{column: unit.factor * cells[column]})
    low, high = cells[column].min() / 1.35, cells[column].max() * 1.35
    places = style.side_by_side(cells[column], cells["mean"], (high / low) ** (GAP / width))
    rows = [
        {
            **style.shared(cell, looks),
            "cost": cell[column],
            "place": place,
            "mean": 100 * cell["mean"],
            # An accuracy cannot leave 0 to 100; the interval can. The limits of one seed are unknown and stay so.
            "low": 100 * np.clip(cell["low"], 0, 1),
            "high": 100 * np.clip(cell["high"], 0, 1),
            "interval": style.interval(cell["low"], cell["high"]),
            "state": "dominated" if cell["model"] in beaten else "not dominated",
            "size": 110 if cell["source"] == "scratch" else 65,
        }
        for (_, cell), place in zip(cells.iterrows(), places, strict=True)
    ]
    x = alt.X(
        "cost:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=style.log_ticks(low, high), format="~g", grid=False, labelOverlap="greedy"),
    )
    y = style.accuracy_axis(ACCURACY_AXIS)
    step = (
        alt.Chart(style.inline(pareto_step(cells, column, high)))
        .mark_line(interpolate="step-after", color="#999999", strokeWidth=1, strokeDash=[3, 2])
        .encode(x=x, y=y)
    )
    known = [row for row in rows if np.isfinite(row["low"])]
    bars = (
        alt.Chart(style.inline(known))
        .mark_rule(strokeWidth=1.3)
        .encode(x="place:Q", y=alt.Y("low:Q", title=ACCURACY_AXIS), y2="high:Q", color=style.colour(looks))
    )
    tip = style.tooltip(
        model="Model", n=("Images", ",d"), seeds=("Seeds", "d"), mean=("Top-1 (%)", ".2f"), interval="95% interval (%)",
        cost=(title, ".3~g"), state="Pareto", runs="Runs",
    )  # fmt: skip
    marks = (
        alt.Chart(style.inline(rows))
        .mark_point(opacity=1, strokeWidth=1.6)
        .encode(
            x="place:Q",
            y=y,
            color=style.colour(looks),
            fill=style.fill(looks, "datum.state == 'dominated'"),
            shape=style.shape(looks),
            size=alt.Size("size:Q", scale=None, legend=None),
            tooltip=tip,
        )
    )
    return alt.layer(step, bars, marks).properties(width=width, height=style.HEIGHT)


def pareto_step(cells: pd.DataFrame, column: str, end: float) -> list[dict[str, float]]:
    """Corners of the staircase of the best mean accuracy at each cost, drawn on to the right edge."""
    corners: list[dict[str, float]] = []
    for _, cell in cells.sort_values([column, "mean"], ascending=[True, False]).iterrows():
        if not corners or 100 * cell["mean"] > corners[-1]["mean"]:
            corners.append({"cost": cell[column], "mean": 100 * cell["mean"]})
    return [*corners, {"cost": end, "mean": corners[-1]["mean"]}]


def dominated(pairs: pd.DataFrame, cells: pd.DataFrame, column: str) -> set[str]:
    """Models of one panel, a row each, that another beats at no greater cost (`column`), by the marks of the tables."""
    place = cells.iloc[0]
    budget = {key: place[key] for key in ("data", "setting", "train_fraction")}
    marked = select(pairs, state="different", **budget)
    differ = {frozenset(pair) for pair in zip(marked["a"], marked["b"], strict=True)}
    found = set()
    for _, cell in cells.iterrows():
        rivals = cells[(cells[column] <= cell[column]) & (cells["mean"] > cell["mean"])]
        if any(frozenset((rival, cell["model"])) in differ for rival in rivals["model"]):
            found.add(cell["model"])
    return found
