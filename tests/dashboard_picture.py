"""Draws ``docs/dashboard.svg``: the views that ``make dashboard`` lays out in W&B, from their specification.

``python -m tests.dashboard_picture`` writes it, for the published runs of ``vit_small_data``; a test holds it equal.
"""

from __future__ import annotations

from html import escape
from textwrap import wrap
from typing import Any

from analysis.workspace import Board, known_metrics, views
from experiments.config.loading import load_experiment
from experiments.config.paths import ROOT
from experiments.records.record import read_record

PICTURE = ROOT / "docs" / "dashboard.svg"
WIDTH, COLUMNS, PANEL, GAP = 960, 4, (222, 64), 12
KINDS = {
    "BarPlot": "bars by model", "LinePlot": "a line per model", "ScatterPlot": "a point per run", "CustomChart": "a chart",
    "ParallelCoordinatesPlot": "a line per run", "WeavePanelSummaryTable": "a table",
}  # fmt: skip


def board() -> Board:
    """The published runs, as if they lay in W&B."""
    name = "vit_small_data"
    records = [read_record(path) for path in sorted((ROOT / "results" / name).glob("*/record.json"))]
    return Board(load_experiment(name), "team", "vit-bench", known_metrics(records))


def _text(x: float, y: float, words: str, size: int, colour: str = "#1a1a1a") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}">{escape(words)}</text>'


def _panel(panel: Any, x: int, y: int) -> list[str]:
    kind = KINDS[type(panel).__name__]
    title = getattr(panel, "title", None) or ("Confusion matrix" if kind == "a chart" else "predictions")
    lines = wrap(title, 34)[:2]
    parts = [f'<rect x="{x}" y="{y}" width="{PANEL[0]}" height="{PANEL[1]}" rx="4" fill="#fff" stroke="#c9ced6"/>']
    parts += [_text(x + 10, y + 20 + 15 * number, line, 12) for number, line in enumerate(lines)]
    return [*parts, _text(x + 10, y + PANEL[1] - 9, kind, 11, "#5b6470")]


def picture() -> str:
    """The three views, one below the other: their sections, and in each its panels."""
    parts, y = list[str](), 30
    for view in views(board()).values():
        parts.append(_text(GAP, y, view.name, 17))
        by = ", ".join(str(group.name).removesuffix(".value") for group in view.runset_settings.groupby)
        parts.append(_text(GAP, y + 18, f"runs grouped by {by}, best accuracy first", 12, "#5b6470"))
        y += 34
        for section in view.sections:
            parts.append(_text(GAP, y + 10, section.name, 13, "#1a1a1a"))
            for number, panel in enumerate(section.panels):
                row, column = divmod(number, COLUMNS)
                parts += _panel(panel, GAP + column * (PANEL[0] + GAP), y + 20 + row * (PANEL[1] + GAP))
            y += 26 + -(-len(section.panels) // COLUMNS) * (PANEL[1] + GAP)
        y += 34
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="Arial, Helvetica, sans-serif">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y}" fill="#f4f6f8"/>', *parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
