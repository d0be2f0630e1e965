"""Figures of a report: files for a paper and the same specification for an interactive page.

Figures carry no title inside the picture, as in a paper: the report sets title and caption beside it. The same frames give
the same bytes in every file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from altair.utils.schemapi import debug_mode

from analysis.figures import budgets, cost, curves, errors, files, forest, style
from analysis.load import Results
from analysis.summary import Summary
from experiments.config.schema import Experiment

TITLES = {
    "learning_curves": "Learning curves",
    "accuracy_vs_pflops": "Accuracy against training compute",
    "accuracy_vs_device_hours": "Accuracy against device time",
    "forest": "Differences to the reference",
    "budgets": "Different numbers of images",
    "recipes": "Random recipes",
    "training_curves": "Training curves",
    "calibration": "Calibration",
    "confusion": "Confusions",
}
"""Every figure there can be, in the order of a report."""


@dataclass(frozen=True)
class Figure:
    """One figure that was drawn."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    """Plain text, as the title."""
    spec: dict[str, Any]
    """Vega-Lite specification with its data inside."""
    files: dict[str, bytes]
    """What it is saved as: ``.svg``, ``.pdf`` and ``.png`` for a paper's single column, ``_wide.pdf`` for both."""


def draw(results: Results, summary: Summary, experiment: Experiment) -> list[Figure]:
    """Draw every figure that the results allow, in the order of `TITLES`. Nothing is written.

    A figure is left out where its numbers are unknown, or where there is one fraction only (learning curves, budgets).
    """
    summary = replace(summary, cells=summary.cells[summary.cells["n_seeds"] > 0])
    looks = style.styles(summary.cells)
    with debug_mode(False):  # Altair would check every part against its schema: the tests do that
        charts = {
            "learning_curves": curves.learning_curves(results, summary, experiment, looks),
            "accuracy_vs_pflops": cost.accuracy_against("train_pflops", summary, looks),
            "accuracy_vs_device_hours": cost.accuracy_against("device_hours", summary, looks),
            "forest": forest.forest(summary, experiment, looks),
            "budgets": budgets.budgets(summary, looks),
            "recipes": curves.random_recipes(summary, looks),
            "training_curves": curves.training_curves(results, summary, looks),
            "calibration": errors.calibration(results, summary, looks),
            "confusion": errors.confusion(results, summary, experiment, looks),
        }
        figures = []
        for name, (chart, caption) in ((name, drawn) for name, drawn in charts.items() if drawn is not None):
            spec = style.specification(chart, TITLES[name])
            figures.append(Figure(name, TITLES[name], caption, spec, files.contents(spec)))
    return figures
