"""Figures of a report: vector files for a paper and the same specification for an interactive page.

Figures carry no title inside the picture, as in a paper: the report sets title and caption beside it. The same frames give
the same bytes in every file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.figures import cost, curves, errors, files, forest, style

if TYPE_CHECKING:
    from analysis.load import Results
    from analysis.summary import Summary
    from experiments.config import Experiment

TITLES = {
    "learning_curves": "Learning curves",
    "accuracy_vs_pflops": "Accuracy against training compute",
    "accuracy_vs_device_hours": "Accuracy against device-hours",
    "forest": "Differences to the reference",
    "training_curves": "Training curves",
    "calibration": "Calibration",
    "confusion": "Confusions",
}
"""Every figure there can be, in the order of a report."""


@dataclass(frozen=True)
class Figure:
    """One figure that was drawn.

    Attributes
    ----------
    name : str
        Stem of its files.
    title, caption : str
        Plain text.
    spec : dict
        Vega-Lite specification with its data inside.
    """

    name: str
    title: str
    caption: str
    spec: dict[str, Any]


def draw(results: Results, summary: Summary, experiment: Experiment, folder: Path) -> list[Figure]:
    """Draw every figure that the results allow and save each as ``.svg``, ``.pdf`` and ``.png`` (at twice its size).

    Parameters
    ----------
    results : analysis.load.Results
        Runs, predictions and training curves.
    summary : analysis.summary.Summary
        Means, intervals and paired differences.
    experiment : experiments.config.Experiment
        Names the reference.
    folder : Path
        Made where absent. Files of a figure that can no longer be drawn are removed, so that none stays from older results.

    Returns
    -------
    list of Figure
        In the order of `TITLES`. A figure is left out where its numbers are unknown, or where there is one fraction only
        (learning curves).
    """
    summary = replace(summary, cells=summary.cells[summary.cells["n_seeds"] > 0])
    looks = style.styles(summary.cells)
    charts = {
        "learning_curves": curves.learning_curves(results, summary, experiment, looks),
        "accuracy_vs_pflops": cost.accuracy_against("train_pflops", results, summary, looks),
        "accuracy_vs_device_hours": cost.accuracy_against("device_hours", results, summary, looks),
        "forest": forest.forest(summary, experiment, looks),
        "training_curves": curves.training_curves(results, summary, experiment, looks),
        "calibration": errors.calibration(results, summary, looks),
        "confusion": errors.confusion(results, summary, experiment, looks),
    }
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for name, title in TITLES.items():
        drawn = charts[name]
        if drawn is None:
            files.remove(folder / name)
            continue
        chart, caption = drawn
        spec = style.specification(chart, title)
        files.save(spec, folder / name)
        figures.append(Figure(name, title, caption, spec))
    return figures
