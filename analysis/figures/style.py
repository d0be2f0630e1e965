"""How figures look: one style per model, one theme, and the small helpers that every figure shares.

A colour stands for a family and comes from the palette of Okabe and Ito (jfly.uni-koeln.de/color, 2008), which readers with
any common colour-vision deficiency can tell apart. Shape and dash differ between models, so that the figures also work in
greyscale. The project's own models are drawn solid, thicker and on top.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.text import bracket, percent

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe–Ito without its yellow, which is too faint for lines on white."""
DIVERGING = ("#E8A773", "#FFFFFF", "#73B2D5")
"""Below, at and above 0: tints of the palette's vermilion and blue, light enough for text on them."""
SHAPES = ("square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES = ([6, 2], [2, 2], [8, 2, 2, 2], [4, 4], [10, 3], [1, 2], [6, 2, 1, 2, 1, 2])
INK = "#333333"

WIDTH = 270
"""Pixels of a lone panel: with axis labels about 330, which is one column (3.3 in) with letters of some 7 pt."""
PANEL_WIDTH = 220
"""Pixels of a panel that has neighbours."""
HEIGHT = 190

BARE_AXIS: dict[str, Any] = {"domain": False, "ticks": False}
"""An axis of names, beside squares or bars."""
GRADIENT: dict[str, Any] = {
    "gradientLength": 200, "gradientThickness": 8, "titleFontSize": 10, "titleFontWeight": "normal",
}  # fmt: skip
"""Legend of colours that stand for numbers."""

# One weight throughout: with two fonts in a file, the PDF writer numbers its objects in random order.
THEME: dict[str, Any] = {
    "font": "Arial, Helvetica, sans-serif",
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 10,
        "titleFontSize": 10.5,
        "titleFontWeight": "normal",
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": "#E6E6E6",
        "tickSize": 4,
        "titlePadding": 6,
        "labelFlush": False,
    },
    "legend": {
        "orient": "bottom",
        "labelFontSize": 10,
        "labelColor": INK,
        "labelLimit": 0,
        "symbolSize": 60,
        "columnPadding": 14,
        "rowPadding": 2,
        "offset": 8,
    },
    "title": {"fontSize": 11, "fontWeight": "normal", "color": "black", "anchor": "start", "offset": 6, "limit": 340},
    "concat": {"spacing": 18},
}


@dataclass(frozen=True)
class Style:
    """How one model is drawn."""

    label: str
    """Its title; followed by its name where another model has the same title."""
    colour: str
    shape: str
    dash: list[int]
    width: float

    @property
    def line(self) -> dict[str, Any]:
        """Fields of a row of data from which a line takes its model and its stroke."""
        return {"model": self.label, "dash": self.dash, "width": self.width}


def shared(cell: pd.Series, looks: Mapping[str, Style]) -> dict[str, Any]:
    """Fields that the rows of data of every figure take from a cell of the summary, for their colour and tooltips."""
    label, runs = looks[cell["model"]].label, ", ".join(cell["run_ids"])
    return {"model": label, "n": cell["n"], "seeds": cell["n_seeds"], "runs": runs}


def styles(cells: pd.DataFrame) -> dict[str, Style]:
    """Give each model its style, by name, in the order in which models appear in `cells`."""
    models = cells[["model", "model_title", "family", "source"]].drop_duplicates("model")
    ours = models["source"] == "scratch"
    families = list(dict.fromkeys([*models.loc[ours, "family"], *models["family"]]))
    twins = models["model_title"].duplicated(keep=False)
    found: dict[str, Style] = {}
    for (_, row), own, twin in zip(models.iterrows(), ours, twins, strict=True):
        others = sum(style.shape != "circle" for style in found.values())
        first = own and len(found) == others
        found[row["model"]] = Style(
            label=f"{row['model_title']} ({row['model']})" if twin else row["model_title"],
            colour=PALETTE[families.index(row["family"]) % len(PALETTE)],
            shape="circle" if first else SHAPES[others % len(SHAPES)],
            dash=[1, 0] if first else DASHES[others % len(DASHES)],
            width=2.4 if own else 1.3,
        )
    return found


def _scale(looks: Mapping[str, Style], attribute: str) -> alt.Scale:
    """Map labels of models to one attribute of their styles."""
    return alt.Scale(
        domain=[look.label for look in looks.values()], range=[getattr(look, attribute) for look in looks.values()]
    )


def _legend(looks: Mapping[str, Style]) -> alt.Legend:
    """One legend for colour and shape, in as many columns as fit a figure's width."""
    longest = max(len(look.label) for look in looks.values())
    fit = max(1, min(len(looks), 4, 56 // (longest + 5)))
    rows = -(-len(looks) // fit)
    return alt.Legend(title=None, columns=-(-len(looks) // rows), symbolOpacity=1, symbolDash=[1, 0], symbolStrokeWidth=0)


def colour(looks: Mapping[str, Style], shown: bool = True) -> alt.Color:
    """Colour channel over the field ``model``."""
    return alt.Color("model:N", scale=_scale(looks, "colour"), legend=_legend(looks) if shown else None)


def shape(looks: Mapping[str, Style]) -> alt.Shape:
    """Shape channel over the field ``model``."""
    return alt.Shape("model:N", scale=_scale(looks, "shape"), legend=_legend(looks))


def fill(looks: Mapping[str, Style], hollow: str) -> Any:
    """Fill with the model's colour, or white where the expression `hollow` holds."""
    return alt.condition(hollow, alt.value("white"), alt.Fill("model:N", scale=_scale(looks, "colour"), legend=None))


def stroke() -> dict[str, Any]:
    """Dash and width of lines, read from the fields that `Style.line` gives a row.

    They are fields of their own because Vega-Lite would merge channels over ``model`` into the legend, and dash its symbols.
    """
    return {
        "strokeDash": alt.StrokeDash("dash:N", scale=None, legend=None),
        "strokeWidth": alt.StrokeWidth("width:Q", scale=None, legend=None),
    }


def inline(rows: Iterable[Mapping[str, Any]]) -> alt.InlineData:
    """Rows as data inside the specification: plain numbers of seven significant digits, ``null`` for what is unknown.

    They are text until `specification` parses them: Altair copies data value by value at each step of building a chart.
    """
    values = [{key: _plain(value) for key, value in row.items()} for row in rows]
    return alt.InlineData(values=json.dumps(values), format=alt.DataFormat(type="json"))


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, str, list)) or value is None:
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(f"{float(value):.7g}") if np.isfinite(value) else None


def specification(chart: Any, title: str) -> dict[str, Any]:
    """A chart as a Vega-Lite specification in this project's theme, with its data as lists of rows.

    It is not checked against Vega-Lite's schema, which would take longer than the drawing; the tests check every figure.
    """
    spec: dict[str, Any] = chart.properties(description=title).configure(**THEME).to_dict(validate=False)
    if any("\\" in text for text in _titles(spec)):  # Vega-Lite pastes titles into its descriptions and escapes quotes alone
        spec["config"]["aria"] = False
    spec["datasets"] = {name: json.loads(values) for name, values in spec["datasets"].items()}
    return spec


def _titles(spec: Any) -> Iterator[str]:
    """Every title in a specification, of axes, legends and panels."""
    if isinstance(spec, dict) and isinstance(spec.get("title"), str):
        yield spec["title"]
    for inner in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from _titles(inner)


def tooltip(**titles: str | tuple[str, str]) -> list[alt.Tooltip]:
    """Tooltip lines: field to title, or to title and number format."""
    lines = []
    for field, title in titles.items():
        text, form = (title, None) if isinstance(title, str) else title
        lines.append(alt.Tooltip(f"{field}:Q", title=text, format=form) if form else alt.Tooltip(f"{field}:N", title=text))
    return lines


def panels(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split cells by data set and setting.

    In order of appearance. A title names only what differs between panels, and is empty where there is one panel.
    """
    differ = [name for name in ("data", "setting") if cells[name].nunique() > 1]
    named = {"data": "data_title", "setting": "setting"}
    return [
        (", ".join(filter(None, (str(group[named[name]].iloc[0]) for name in differ))), group)
        for _, group in cells.groupby(["data", "setting"], sort=False)
    ]


def full_data(group: pd.DataFrame) -> pd.DataFrame:
    """The cells at the largest fraction of a panel."""
    return group[group["train_fraction"] == group["train_fraction"].max()]


def side_by_side(at: pd.Series, means: pd.Series, gap: float, near: float = np.inf) -> list[float]:
    """Places along a logarithmic axis: marks of equal place and near means stand around it, a factor `gap` apart."""
    places = []
    for index, value in at.items():
        beside = list(at.index[(at == value) & ((means - means[index]).abs() < near)])
        places.append(value * gap ** (beside.index(index) - (len(beside) - 1) / 2))
    return places


def width(count: int) -> int:
    """Pixels of one of `count` panels."""
    return WIDTH if count == 1 else PANEL_WIDTH


def arrange(charts: Sequence[tuple[str, Any]]) -> Any:
    """Lay titled panels out in two columns; a lone panel stands without title."""
    if len(charts) == 1:
        return charts[0][1]
    return alt.concat(*(chart.properties(title=title) for title, chart in charts), columns=2)


def accuracy_axis(title: str) -> alt.Y:
    """The axis of mean accuracies in per cent."""
    return alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))


def interval(low: float, high: float) -> str:
    """An interval of accuracies in per cent, for a tooltip; a dash where it is unknown (one seed)."""
    return bracket(100 * low, 100 * high, 2)


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between two positive limits for a logarithmic axis: powers of ten, finer where that gives under three,
    evenly spaced where the limits are close.
    """
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [float(f"{mantissa * 10.0**exponent:.6g}") for exponent in exponents for mantissa in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    for step in (mantissa * 10.0**exponent for exponent in reversed(exponents) for mantissa in (5, 2, 1, 0.5, 0.2, 0.1)):
        ticks = [float(f"{number * step:.6g}") for number in range(int(np.ceil(low / step)), int(high / step) + 1)]
        if len(ticks) >= 3:
            return ticks
    return ticks


def seeds_sentence(cells: pd.DataFrame) -> str:
    """How many seeds stand behind the means, and every incomplete cell by name."""
    counts = sorted({int(count) for count in cells["n_seeds"]})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    sentence = f"{number} seed{'' if counts == [1] else 's'} per point."
    short = cells[cells["n_seeds"] < cells["n_expected"]]
    if len(short):
        named = "; ".join(
            f"{row['model_title']}, {row['data_title']}{', ' + row['setting'] if row['setting'] else ''} at "
            f"{percent(row['train_fraction'])}: {row['n_seeds']} of {row['n_expected']}"
            for _, row in short.iterrows()
        )
        sentence += f" Incomplete: {named}."
    return sentence
