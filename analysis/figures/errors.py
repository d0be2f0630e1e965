"""Where models err at full data: calibration and confusion, from saved predictions alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.style import Style
from analysis.load import Results
from analysis.summary import Summary
from experiments.config.schema import Experiment
from experiments.metrics import reliability

BINS = 15
"""Bins of confidence, as in the expected calibration error of the tables."""
FEWEST = 30
"""Predictions that a bin of confidence needs to be drawn."""
MOST_CLASSES = 20
"""Classes up to which a confusion matrix is legible in a column."""
PAIRS = 15
"""Confused pairs that are shown where there are more classes."""


def calibration(results: Results, summary: Summary, looks: Mapping[str, Style]) -> tuple[Any, str]:
    """Reliability diagram of every model at full data."""
    split, charts, errors = style.panels(summary.cells), [], []
    scale = alt.Scale(domain=[0, 100], nice=False)
    x = alt.X("confidence:Q", title="Mean confidence (%)", scale=scale, axis=alt.Axis(tickCount=5))
    y = alt.Y("accuracy:Q", title="Share correct (%)", scale=scale, axis=alt.Axis(tickCount=5))
    ends = style.inline([{"confidence": 0, "accuracy": 0}, {"confidence": 100, "accuracy": 100}])
    diagonal = alt.Chart(ends).mark_line(color="#999999", strokeWidth=1, strokeDash=[3, 2]).encode(x=x, y=y)
    tip = style.tooltip(
        model="Model", range="Confidence (%)", images=("Predictions", ",d"), confidence=("Mean confidence (%)", ".1f"),
        accuracy=("Correct (%)", ".1f"), seeds=("Seeds", "d"),
    )  # fmt: skip
    for title, group in split:
        rows = []
        for _, cell in style.full_data(group).iterrows():
            look = looks[cell["model"]]
            bins = pooled_bins(results, cell["run_ids"])
            rows += _bin_rows(bins, look, cell["n_seeds"])
            error = (bins["images"] * (bins["accuracy"] - bins["confidence"]).abs()).sum() / bins["images"].sum()
            errors.append(f"{look.label} {100 * error:.1f}%")
        base = alt.Chart(style.inline(rows)).encode(x=x, y=y, color=style.colour(looks))
        line = base.mark_line().encode(**style.stroke())
        dots = base.mark_point(filled=True, size=38, opacity=1).encode(shape=style.shape(looks), tooltip=tip)
        side = 200 if len(split) == 1 else 180
        charts.append((title, alt.layer(diagonal, line, dots).properties(width=side, height=side)))
    caption = (
        "Calibration on the sealed test set after training on the largest fraction, predictions pooled over seeds, "
        f"{BINS} bins of equal width; bins with fewer than {FEWEST} predictions are not drawn. On the dashed diagonal "
        "confidence equals accuracy; below it a model is overconfident."
    )
    if len(split) == 1:
        caption += f" Expected calibration error of the pooled predictions: {'; '.join(errors)}."
    return style.arrange(charts), caption


def pooled_bins(results: Results, run_ids: Sequence[str]) -> pd.DataFrame:
    """Reliability of several runs as if all their predictions were of one: columns images, confidence, accuracy."""
    images, confidence, accuracy = np.zeros((3, BINS))
    for run_id in run_ids:
        predictions = results.predictions(run_id)
        one = reliability(predictions["logits"], predictions["labels"], BINS)
        images += one.count
        confidence += np.nan_to_num(one.confidence) * one.count
        accuracy += np.nan_to_num(one.accuracy) * one.count
    filled = np.maximum(images, 1)
    return pd.DataFrame({"images": images, "confidence": confidence / filled, "accuracy": accuracy / filled})


def _bin_rows(bins: pd.DataFrame, look: Style, seeds: int) -> list[dict[str, Any]]:
    drawn = bins[bins["images"] >= FEWEST]
    return [
        {
            **look.line,
            "range": f"{100 * index / BINS:.0f} to {100 * (index + 1) / BINS:.0f}",
            "confidence": 100 * row["confidence"],
            "accuracy": 100 * row["accuracy"],
            "images": int(row["images"]),
            "seeds": seeds,
        }
        for index, (_, row) in zip(drawn.index, drawn.iterrows(), strict=True)
    ]


@dataclass(frozen=True)
class _Confusion:
    """Counts of one model over its seeds: rows are true classes, columns predicted ones."""

    counts: np.ndarray
    class_names: tuple[str, ...]
    seeds: int

    @cached_property
    def shares(self) -> np.ndarray:
        """Counts over the images of the true class; NaN for a class without test images."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.where(totals > 0, self.counts / np.maximum(totals, 1), np.nan)

    def row(self, i: int, j: int) -> dict[str, Any]:
        """How often class i was called class j, as data of a chart."""
        return {"share": 100 * self.shares[i, j], "images": self.counts[i, j], "seeds": self.seeds}


def _confusion(results: Results, cell: pd.Series) -> _Confusion:
    names = results.class_names[cell["data"]]
    digests = results.runs.set_index("run_id")["test_digest"]
    counts = np.zeros(len(names) ** 2, dtype=np.int64)
    for run_id in cell["run_ids"]:
        truth = results.labels[digests[run_id]].astype(np.int64)
        counts += np.bincount(truth * len(names) + results.per_image[run_id].predicted, minlength=counts.size)
    return _Confusion(counts.reshape(len(names), len(names)), names, len(cell["run_ids"]))


def confusion(
    results: Results, summary: Summary, experiment: Experiment, looks: Mapping[str, Style]
) -> tuple[Any, str] | None:
    """Confusions of the project's own model beside those of the reference, at full data.

    Up to `MOST_CLASSES` classes: two row-normalised matrices. Above: the `PAIRS` most confused pairs as bars.

    None where neither model has a run.
    """
    rows, kinds = [], set()
    for title, group in style.panels(summary.cells):
        cells = style.full_data(group)
        own = cells[cells["source"] == "scratch"].head(1)
        pair = pd.concat([own, cells[cells["model"] == experiment.reference]]).drop_duplicates("model")
        found = {cell["model"]: _confusion(results, cell) for _, cell in pair.iterrows()}
        if not found:
            continue
        if cells["data"].map(lambda data: len(results.class_names[data])).max() <= MOST_CLASSES:
            kinds.add("matrices")
            charts = [_matrix(one, looks[model], first=not index) for index, (model, one) in enumerate(found.items())]
            row = alt.hconcat(*charts, spacing=10)
            rows.append(row.properties(title=title) if title else row)
        else:
            kinds.add("bars")
            rows.append(_pair_bars(found, looks, title))
    if not rows:
        return None
    caption = "Errors on the sealed test set after training on the largest fraction, pooled over seeds."
    if "matrices" in kinds:
        caption += " Cells: share of a true class's images (row) predicted as each class (column), square-root colour scale."
    if "bars" in kinds:
        caption += (
            f" Bars: the {PAIRS} ordered pairs of classes confused most often, as the share of the true class's images."
        )
    return rows[0] if len(rows) == 1 else alt.vconcat(*rows), caption


def _matrix(found: _Confusion, look: Style, first: bool) -> Any:
    """One confusion matrix; the left one of a row carries the names of the true classes."""
    names = found.class_names
    cells = [
        {"model": look.label, "true": names[i], "predicted": names[j], **found.row(i, j)}
        for i, j in np.ndindex(found.counts.shape)
    ]
    side = max(130, 8 * len(names))
    long = max(map(len, names)) > 3
    small: dict[str, Any] = style.BARE_AXIS | {"labelFontSize": 9 if len(names) <= 12 else 7.5, "labelLimit": 70}
    return (
        alt.Chart(style.inline(cells))
        .mark_rect(stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X(
                "predicted:N", sort=list(names), title="Predicted class",
                axis=alt.Axis(labelAngle=-60 if long else 0, **small),
            ),
            y=alt.Y(
                "true:N", sort=list(names), title="True class" if first else None, axis=alt.Axis(labels=first, **small)
            ),
            color=alt.Color(
                "share:Q",
                title="Share of the true class (%)",
                scale=alt.Scale(type="sqrt", domain=[0, 100], range=["#F3F6FA", "#9CC3E0", "#0072B2", "#00284A"]),
                legend=alt.Legend(values=[0, 1, 5, 20, 50, 100], **style.GRADIENT),
            ),
            tooltip=style.tooltip(
                model="Model", true="True class", predicted="Predicted class", share=("Share (%)", ".2f"),
                images=("Predictions", ",d"), seeds=("Seeds", "d"),
            ),
        )
        .properties(width=side, height=side, title=look.label)
    )  # fmt: skip


def _pair_bars(found: Mapping[str, _Confusion], looks: Mapping[str, Style], panel: str) -> Any:
    """The ordered pairs that the models together confuse most, one bar per model."""
    names = next(iter(found.values())).class_names
    total = np.nansum([each.shares for each in found.values()], axis=0)
    np.fill_diagonal(total, 0)
    ranked = np.argsort(-total, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(index) // len(names), int(index) % len(names)) for index in ranked if total.flat[index] > 0]
    order = [f"{names[i]} → {names[j]}" for i, j in pairs]
    rows = [
        {"model": looks[model].label, "pair": label, **each.row(i, j)}
        for label, (i, j) in zip(order, pairs, strict=True)
        for model, each in found.items()
    ]
    shown = {model: looks[model] for model in found}
    chart = (
        alt.Chart(style.inline(rows))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="Share of the true class (%)", axis=alt.Axis(tickCount=5)),
            y=alt.Y("pair:N", sort=order, title="True class → predicted class", axis=alt.Axis(labelLimit=170, ticks=False)),
            yOffset=alt.YOffset("model:N", sort=[look.label for look in shown.values()]),
            color=style.colour(shown),
            tooltip=style.tooltip(
                model="Model", pair="True → predicted", share=("Share (%)", ".2f"), images=("Predictions", ",d"),
                seeds=("Seeds", "d"),
            ),
        )
        .properties(width=170, height=20 * len(order))
    )  # fmt: skip
    return chart.properties(title=panel) if panel else chart
