"""Models at one number of images against the reference at another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.style import Style
from analysis.summary import Summary
from analysis.text import bracket, number

ROOM = 140
"""Pixels for the squares of one model where two stand side by side."""
SIDES = (28, 36)
"""Smallest and largest side of a square: room for a difference in points."""


def budgets(summary: Summary, looks: Mapping[str, Style]) -> tuple[Any, str] | None:
    """Difference in top-1 accuracy to the reference for every pair of numbers of images, a square each.

    None where nothing could be compared, or there is one number of images only.
    """
    if summary.budgets.empty:  # without a column
        return None
    frame = summary.budgets.dropna(subset=["n", "reference_n", "delta"])
    if frame[["fraction", "reference_fraction"]].stack().nunique() < 2:
        return None
    most = max(100 * frame["delta"].abs().max(), 1.0)
    panels = []
    for title, group in style.panels(frame):
        models = list(group.groupby("model", sort=False))
        sizes = sorted({*group["n"], *group["reference_n"]})
        columns = min(len(models), 2 if len(sizes) * SIDES[0] <= ROOM else 1)
        room = ROOM if columns == 2 else 2 * ROOM
        side = float(np.clip(room // len(sizes), *SIDES))
        charts = [
            _squares(own, looks[model].label, sizes, most, side, first=index % columns == 0)
            for index, (model, own) in enumerate(models)
        ]
        panel = alt.concat(*charts, columns=columns, spacing=8)
        panels.append(panel.properties(title=title) if title else panel)
    reference = frame["reference_title"].iloc[0]
    caption = (
        f"Each square compares a model trained on one number of images (its row) with {reference} trained on another (its "
        "column): the difference in top-1 accuracy in points, blue where the model is ahead, orange where the reference is, "
        "square-root colour scale. A strong border: the unadjusted 95% interval excludes 0. On the rising diagonal the two "
        f"numbers are equal; they count images for training and validation. {style.seeds_sentence(summary.cells)}"
    )
    return panels[0] if len(panels) == 1 else alt.vconcat(*panels), caption


def _squares(group: pd.DataFrame, label: str, sizes: list[float], most: float, side: float, first: bool) -> Any:
    """The squares of one model; the left one of a row carries the numbers of the model's images."""
    rows = [
        {
            "model": label,
            "n": pair["n"],
            "reference": pair["reference_title"],
            "reference_n": pair["reference_n"],
            "delta": 100 * pair["delta"],
            "text": number(100 * pair["delta"], 1, signed=True),
            "interval": bracket(100 * pair["low"], 100 * pair["high"], 2, signed=True),
            "clear": bool(pair["low"] > 0 or pair["high"] < 0),
        }
        for _, pair in group.iterrows()
    ]
    axis: dict[str, Any] = style.BARE_AXIS | {"labelFontSize": 9, "labelExpr": "format(datum.value, '.3~s')"}
    scale: dict[str, Any] = {"paddingInner": 0.07, "paddingOuter": 0.035}
    base = alt.Chart(style.inline(rows)).encode(
        x=alt.X(
            "reference_n:O",
            title=f"Images for {group['reference_title'].iloc[0]}",
            scale=alt.Scale(domain=sizes, **scale),
            axis=alt.Axis(labelAngle=0, **axis),
        ),
        y=alt.Y(
            "n:O",
            title="Images for the model" if first else None,
            scale=alt.Scale(domain=sizes[::-1], **scale),
            axis=alt.Axis(labels=first, **axis),
        ),
        tooltip=style.tooltip(
            model="Model", n=("Its images", ",d"), reference="Reference", reference_n=("Its images ", ",d"),
            delta=("Δ (points)", "+.2f"), interval="95% interval",
        ),
    )  # fmt: skip
    squares = base.mark_rect().encode(
        color=alt.Color(
            "delta:Q",
            title="Δ top-1 (points)",
            scale=alt.Scale(type="sqrt", domain=[-most, 0, most], range=list(style.DIVERGING), interpolate="rgb"),
            legend=alt.Legend(**style.GRADIENT),
        ),
        stroke=alt.condition("datum.clear", alt.value(style.INK), alt.value("#CCCCCC")),
        strokeWidth=alt.condition("datum.clear", alt.value(1.4), alt.value(0.5)),
    )
    text = base.mark_text(fontSize=9, color="black").encode(text="text:N")
    return alt.layer(squares, text).properties(width=side * len(sizes), height=side * len(sizes), title=label)
