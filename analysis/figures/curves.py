"""Accuracy that grows: with the number of labelled images, and with training steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.style import Style
from analysis.load import Results, select
from analysis.summary import Summary
from analysis.text import percent
from experiments.config.schema import Experiment

ACCURACY_AXIS, VALIDATION_AXIS = "Top-1 accuracy (%)", "Validation top-1 accuracy (%)"
GAP = 7
"""Pixels from one mean to the next where they would cover each other."""
NEAR = 0.04
"""Share of a panel's range of means within which they do."""


def learning_curves(
    results: Results, summary: Summary, experiment: Experiment, looks: Mapping[str, Style]
) -> tuple[Any, str] | None:
    """Top-1 accuracy against labelled images: mean, 95% interval, a dot per seed, the data multiplier as an arrow.

    None where no panel has two fractions.
    """
    cells = summary.cells[summary.cells["n"].notna()]
    split = [(title, group) for title, group in style.panels(cells) if group["train_fraction"].nunique() > 1]
    if not split:
        return None
    charts, arrows = [], []
    for title, group in split:
        runs = select(results.runs, data=group["data"].iloc[0], setting=group["setting"].iloc[0])
        band, line, means = _curve_layers(group, looks)
        layers = [band, line, _seed_dots(runs, looks), means]
        arrow = _multiplier(group, summary.efficiency, experiment)
        if arrow:
            layers += _arrow_layers(arrow)
            arrows.append(f"Arrow{f' ({title})' if title else ''}: {arrow['sentence']}")
        charts.append((title, alt.layer(*layers).properties(width=style.width(len(split)), height=style.HEIGHT)))
    caption = (
        "Top-1 accuracy on the sealed test set against the number of labelled images, training and validation together. "
        "Lines pass through the means and are straight in log error against log images; bands are 95% two-way "
        f"random-effects intervals; each dot is one seed; means that would "
        f"cover each other stand side by side. {style.seeds_sentence(cells)}"
    )
    figure = style.arrange(charts)
    if len(charts) > 1 and cells["data"].nunique() == 1:  # settings of one dataset are small multiples
        figure = figure.resolve_scale(y="shared")
    return figure, " ".join([caption, *arrows])


def _curve_layers(group: pd.DataFrame, looks: Mapping[str, Style]) -> tuple[Any, Any, Any]:
    """Band, line and means of the models of one panel; means that would cover each other stand side by side."""
    reach = (group["n"].max() / group["n"].min()) ** (GAP / style.WIDTH)
    places = style.side_by_side(group["n"], group["mean"], reach, NEAR * max(float(np.ptp(group["mean"])), 0.01))
    rows = [
        {
            **style.shared(cell, looks),
            "place": place,
            "mean": 100 * cell["mean"],
            "interval": style.interval(cell["low"], cell["high"]),
        }
        for place, (_, cell) in zip(places, group.iterrows(), strict=True)
    ]
    lines = [row for model, cells in group.groupby("model", sort=False) for row in curve_points(cells, looks[str(model)])]
    tip = style.tooltip(
        model="Model", n=("Images", ",d"), seeds=("Seeds", "d"), mean=("Top-1 (%)", ".2f"), interval="95% interval (%)",
        runs="Runs",
    )  # fmt: skip
    band, line = _ribbons(lines, _images_axis(group), ACCURACY_AXIS, looks)
    return band, line, _dots(rows, "place:Q", ACCURACY_AXIS, looks, tip, 36)


def _images_axis(group: pd.DataFrame) -> alt.X:
    """Logarithmic axis with a tick at each number of images, labelled by the number and the fraction."""
    sizes = group[["n", "train_fraction"]].drop_duplicates("n").sort_values("n")
    fractions = ", ".join(
        f"'{n:.0f}': '{percent(fraction)}'" for n, fraction in zip(sizes["n"], sizes["train_fraction"], strict=True)
    )
    return alt.X(
        "n:Q",
        title="Labelled images for training and validation",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(
            values=[int(n) for n in sizes["n"]],
            grid=False,
            labelExpr=f"[format(datum.value, ','), {{{fractions}}}[toString(datum.value)]]",
            labelOverlap="greedy",
        ),
    )


def curve_points(cells: pd.DataFrame, look: Style, steps: int = 12) -> list[dict[str, Any]]:
    """One model's mean and interval, straight in log error against log n between the fractions.

    The data multiplier is read from such a curve, so the arrow ends on it. Errors are floored at half a test image.
    """
    cells = cells.sort_values("n")
    n = cells["n"].to_numpy(float)
    between = [np.geomspace(start, end, steps)[:-1] for start, end in pairwise(n)]
    # The means themselves keep their exact place: `geomspace` begins each stretch with one.
    grid = np.concatenate([*between, n[-1:]])
    floor = np.nan_to_num(0.5 / cells["n_test"].to_numpy(float))
    curves = {
        name: 100 * (1 - np.exp(np.interp(np.log(grid), np.log(n), np.log(np.clip(1 - cells[name], floor, 1)))))
        for name in ("mean", "low", "high")
    }
    return [
        {**look.line, "n": at, "mean": mean, "low": low, "high": high}
        for at, mean, low, high in zip(grid, *curves.values(), strict=True)
    ]


def _seed_dots(runs: pd.DataFrame, looks: Mapping[str, Style]) -> Any:
    """One small dot per run."""
    rows = [
        {"model": looks[run["model"]].label, "n": run["n"], "mean": 100 * run["test/top1"], "seed": run["seed"],
         "run": run["run_id"]}
        for _, run in runs.iterrows()
    ]  # fmt: skip
    tip = style.tooltip(model="Model", n=("Images", ",d"), seed=("Seed", "d"), mean=("Top-1 (%)", ".2f"), run="Run")
    dots = alt.Chart(style.inline(rows)).mark_circle(size=9, opacity=0.65)
    return dots.encode(x="n:Q", y="mean:Q", color=style.colour(looks), tooltip=tip)


def _multiplier(group: pd.DataFrame, efficiency: pd.DataFrame, experiment: Experiment) -> dict[str, Any] | None:
    """The arrow between the scratch ViT, or else the best ViT, and the reference; None where the multiplier is unknown.

    The model that is behind at full data sets the level; the arrow runs left from its last point to the curve of the model
    ahead, which reaches that level with fewer images by the factor of the multiplier.
    """
    last = style.full_data(group)
    rivals = last[last["model"] != experiment.reference]
    own = rivals[rivals["source"] == "scratch"]
    candidates = own if len(own) else rivals[rivals["family"] == "ViT"]
    if candidates.empty:
        return None
    vit = candidates.sort_values("mean", kind="stable").iloc[-1]
    row = select(efficiency, data=vit["data"], setting=vit["setting"], model=vit["model"]).iloc[0]
    if not np.isfinite(row["multiplier"]) or row["multiplier"] <= 1:
        return None
    titles = {name: model.title for name, model in experiment.models.items()}
    behind = vit["model"] if row["multiplier_ahead"] == experiment.reference else experiment.reference
    factor, _, bounds = row["multiplier_text"].partition(" ")
    return {
        "start": vit["n"],
        "end": vit["n"] / row["multiplier"],
        "level": 100 * row["multiplier_target"],
        "text": factor,
        "multiplier": row["multiplier_text"],
        "sentence": (
            f"{titles[behind]} needs {factor} the images that {titles[row['multiplier_ahead']]} needs to reach the "
            f"former's full-data accuracy (95% interval: {bounds or 'unknown'})."
        ),
    }


def _arrow_layers(arrow: Mapping[str, Any]) -> list[Any]:
    """Shaft, head and label of the data multiplier; the label stands beside the axes, where no curve is."""
    base = alt.Chart(style.inline([{key: value for key, value in arrow.items() if key != "sentence"}]))
    tip = style.tooltip(multiplier="Data multiplier, 95% interval")
    return [
        base.mark_rule(color=style.INK, strokeWidth=1.4).encode(x="start:Q", x2="end:Q", y="level:Q", tooltip=tip),
        base.mark_point(shape="triangle-left", filled=True, color=style.INK, size=50, opacity=1, xOffset=4).encode(
            x="end:Q", y="level:Q"
        ),
        base.mark_text(align="left", dx=8, fontSize=10, color=style.INK).encode(
            x=alt.value("width"), y="level:Q", text="text:N"
        ),
    ]


def training_curves(results: Results, summary: Summary, looks: Mapping[str, Style]) -> tuple[Any, str] | None:
    """Validation accuracy against the optimiser step at full data: mean over seeds, band from the lowest to the highest.

    None where no run logged validation accuracy.
    """
    split = []
    for title, group in style.panels(summary.cells):
        rows = [row for _, cell in style.full_data(group).iterrows() for row in _training_rows(results, cell, looks)]
        if rows:
            split.append((title, rows))
    if not split:
        return None
    scale, axis = alt.Scale(nice=False, domainMin=0), alt.Axis(tickCount=5, grid=False)
    x = alt.X("step:Q", title="Optimiser step", scale=scale, axis=axis)
    tip = style.tooltip(
        model="Model", step=("Step", ",d"), seeds=("Seeds", "d"), mean=("Validation top-1 (%)", ".2f"),
        spread="Lowest to highest (%)", runs="Runs",
    )  # fmt: skip
    charts = []
    for title, rows in split:
        layers = *_ribbons(rows, x, VALIDATION_AXIS, looks), _dots(rows, x, VALIDATION_AXIS, looks, tip, 22)
        charts.append((title, alt.layer(*layers).properties(width=style.width(len(split)), height=style.HEIGHT)))
    cells = pd.concat([style.full_data(group) for _, group in style.panels(summary.cells)])
    caption = (
        f"Validation accuracy during training on {_amount(cells)}: mean over seeds; the band spans the lowest to the "
        f"highest seed. {style.seeds_sentence(cells)}"
    )
    return style.arrange(charts), caption


def _ribbons(rows: list[dict[str, Any]], x: alt.X, axis: str, looks: Mapping[str, Style]) -> tuple[Any, Any]:
    """Each model's band from ``low`` to ``high``, where they are known, and its ``mean`` as a line."""
    banded = alt.Chart(style.inline(row for row in rows if np.isfinite(row["low"])))
    band = banded.mark_area(opacity=0.14).encode(
        x=x, y=alt.Y("low:Q", title=axis), y2="high:Q", color=style.colour(looks)
    )  # fmt: skip
    line = alt.Chart(style.inline(rows)).mark_line()
    return band, line.encode(x=x, y=style.accuracy_axis(axis), color=style.colour(looks), **style.stroke())


def _dots(
    rows: list[dict[str, Any]], x: alt.X | str, axis: str, looks: Mapping[str, Style], tip: list[alt.Tooltip], size: int
) -> Any:
    """Each model's ``mean`` as dots of its shape."""
    dots = alt.Chart(style.inline(rows)).mark_point(filled=True, size=size, opacity=1)
    return dots.encode(x=x, y=style.accuracy_axis(axis), color=style.colour(looks), shape=style.shape(looks), tooltip=tip)


def _amount(cells: pd.DataFrame) -> str:
    """The fraction that stands for full data, in words."""
    fractions = cells["train_fraction"].unique()
    return "all training data" if set(fractions) == {1.0} else f"{percent(max(fractions))} of the training data"


def _training_rows(results: Results, cell: pd.Series, looks: Mapping[str, Style]) -> list[dict[str, Any]]:
    """Mean, lowest and highest validation accuracy of one cell at each step that was evaluated."""
    logged = []
    for run_id in cell["run_ids"]:
        curve = results.curves(run_id)
        if "val/top1" in curve:
            logged.append(curve[["step", "val/top1"]].dropna())
    if not logged:
        return []
    steps = pd.concat(logged).groupby("step")["val/top1"].agg(["mean", "min", "max", "count"])
    return [
        {
            **looks[cell["model"]].line,
            "step": step,
            "mean": 100 * row["mean"],
            "low": 100 * row["min"],
            "high": 100 * row["max"],
            "spread": f"{100 * row['min']:.1f} to {100 * row['max']:.1f}",
            "seeds": int(row["count"]),
            "runs": ", ".join(cell["run_ids"]),
        }
        for step, row in steps.iterrows()
    ]


def random_recipes(summary: Summary, looks: Mapping[str, Style]) -> tuple[Any, str] | None:
    """Expected validation accuracy of the best of k random recipes against k; None where no recipes were drawn.

    Dodge et al. (2019), Show your work, arXiv:1909.03004, figure 1.
    """
    tried = summary.recipes
    if tried.empty:
        return None
    panels = list(tried.groupby(["data", "train_fraction"], sort=False))
    several, charts, axis = tried["data"].nunique() > 1, [], f"{VALIDATION_AXIS} of the best"
    for (data, fraction), group in panels:
        rows = [
            {**looks[row.model].line, "k": k, "mean": 100 * mean, "low": 100 * low, "high": 100 * high,
             "interval": style.interval(low, high), "trials": row.trials}
            for row in group.itertuples() for k, mean, low, high in row.best
        ]  # fmt: skip
        ks = sorted({k for best in group["best"] for k, *_ in best})
        x = alt.X(
            "k:Q", title="Random recipes tried (k)", scale=alt.Scale(type="log", nice=False, padding=12),
            axis=alt.Axis(values=ks, grid=False, format="d"),
        )  # fmt: skip
        tip = style.tooltip(
            model="Model", k=("Recipes tried", "d"), trials=("Recipes in all", "d"), mean=("Best (%)", ".2f"),
            interval="95% interval (%)",
        )  # fmt: skip
        layers = *_ribbons(rows, x, axis, looks), _dots(rows, x, axis, looks, tip, 30)
        title = f"{data}, {percent(fraction)}" if several else f"{percent(fraction)} of the training data"
        charts.append((title, alt.layer(*layers).properties(width=style.width(len(panels)), height=style.HEIGHT)))
    caption = (
        "Expected validation accuracy of the best of k recipes that were drawn at random from one space and are the same "
        "for all models, against k. Bands are 95% intervals over resampled recipes; no trial saw the test set."
    )
    return style.arrange(charts), caption
