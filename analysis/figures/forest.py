"""Paired differences to the reference, at every fraction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from analysis.columns import percent_places
from analysis.figures import style
from analysis.figures.style import Style
from analysis.summary import Summary
from analysis.text import bracket, known, number, percent
from experiments.config.schema import Experiment

ROW_HEIGHT = 15
SYMBOLS = {"different": "circle", "equivalent": "diamond", "inconclusive": "circle", "under 3 seeds": "cross"}


def forest(summary: Summary, experiment: Experiment, looks: Mapping[str, Style]) -> tuple[Any, str] | None:
    """Forest plot: difference in top-1 accuracy to the reference with its 95% interval, by fraction and model.

    None where no model could be compared with the reference.
    """
    cells = summary.cells[summary.cells["delta"].notna() & (summary.cells["model"] != experiment.reference)]
    if cells.empty:
        return None
    split = style.panels(cells)
    margin = 100 * experiment.equivalence_margin
    reference = experiment.models[experiment.reference].title
    charts = [(title, _panel(group, looks, reference, len(split), margin)) for title, group in split]
    caption = (
        f"Difference in top-1 accuracy to {reference}, paired over seeds and test images, with unadjusted 95% "
        "intervals; to the right of 0 the model is the more accurate. Filled circle: different "
        f"(Holm-adjusted p < .05); diamond: equivalent within ±{margin:g} points, the grey band (Holm-adjusted); open "
        "circle: inconclusive; cross: no mark, for fewer than 3 seeds or seeds that differ too much among themselves. "
        f"{style.seeds_sentence(cells)}"
    )
    return style.arrange(charts), caption


def _panel(group: pd.DataFrame, looks: Mapping[str, Style], reference: str, count: int, margin: float) -> Any:
    """One data set and setting: a heading per fraction, below it one line per model."""
    order, rows = [], []
    for fraction, cells in group.groupby("train_fraction"):
        n = cells["n"].iloc[0]
        order.append(f"#{fraction}|{percent(fraction)}" + (f": {int(n):,} images" if known(n) else ""))
        for _, cell in cells.iterrows():
            order.append(f"{fraction}|{looks[cell['model']].label}")
            rows.append(_row(cell, looks, order[-1]))
    y = alt.Y(
        "line:N",
        title=None,
        sort=None,
        scale=alt.Scale(domain=order),
        axis=alt.Axis(
            domain=False,
            ticks=False,
            labelLimit=150,
            labelExpr="slice(datum.label, indexof(datum.label, '|') + 1)",
            labelFontSize=alt.condition("datum.label[0] == '#'", alt.value(10), alt.value(9.5)),
            labelColor=alt.condition("datum.label[0] == '#'", alt.value("black"), alt.value("#555555")),
        ),
    )
    x = alt.X(
        "delta:Q",
        title=f"Δ top-1 to {reference} (points)",
        scale=alt.Scale(zero=True, padding=6),
        axis=alt.Axis(tickCount=4),
    )
    width = 150 if count == 1 else 120
    base = alt.Chart(style.inline(rows))
    band = (
        alt.Chart(style.inline([{"from": -margin, "to": margin}]))
        .mark_rect(color="#DDDDDD", opacity=0.7)
        .encode(x="from:Q", x2="to:Q")
    )
    zero = alt.Chart(style.inline([{"delta": 0}])).mark_rule(color=style.INK, strokeWidth=1).encode(x=x)
    bars = base.mark_rule(strokeWidth=1.4).encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=style.colour(looks, False))
    tip = style.tooltip(
        model="Model", n=("Images", ",d"), seeds=("Seeds", "d"), delta=("Δ (points)", "+.2f"), text="Δ [95% interval]",
        state="State", runs="Runs",
    )  # fmt: skip
    marks = base.mark_point(opacity=1, size=42, strokeWidth=1.4).encode(
        x=x,
        y=y,
        color=style.colour(looks, False),
        fill=style.fill(looks, "datum.state == 'inconclusive'"),
        shape=alt.Shape("state:N", scale=alt.Scale(domain=list(SYMBOLS), range=list(SYMBOLS.values())), legend=None),
        tooltip=tip,
    )
    text = base.mark_text(align="left", dx=6, fontSize=9, color=style.INK).encode(x=alt.value("width"), y=y, text="text:N")
    return alt.layer(band, zero, bars, marks, text).properties(width=width, height=ROW_HEIGHT * len(order))


def _row(cell: pd.Series, looks: Mapping[str, Style], line: str) -> dict[str, Any]:
    low, high = 100 * cell["delta_low"], 100 * cell["delta_high"]
    places = percent_places((high - low) / 2)
    text = number(100 * cell["delta"], places, signed=True)
    if known(low):
        text += f" {bracket(low, high, places, signed=True)}"
    return {
        "line": line,
        **style.shared(cell, looks),
        "delta": 100 * cell["delta"],
        "low": low,
        "high": high,
        "text": text,
        "state": str(cell["state"]) or "under 3 seeds",
    }
