"""The tables of a report: what stands in which row and column, and what the caption says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from analysis import captions
from analysis.captions import Facts, Text
from analysis.columns import Column, accuracy_places, csv_columns, in_table, legend, percent_places
from analysis.load import select
from analysis.render import Block, Entry, Notes, Row, Table
from analysis.statistics import across_datasets
from analysis.statistics.intervals import MIN_DATASETS, friedman
from analysis.statistics.learning_curves import bound_text
from analysis.summary import Summary
from analysis.text import UNKNOWN, bracket, known, number, percent, plus_minus, significant
from experiments.config.schema import Experiment

OPTIONAL = ("settings", "datasets", "budgets", "interactions", "recipes")
"""Tables that not every experiment has."""
MANY_SETTINGS = 4
"""Settings that stand in columns; more stand in rows, unless there are more models."""
MARKS = {"different": "†", "equivalent": "≡"}


def all_tables(summary: Summary, experiment: Experiment, facts: Facts) -> list[Table]:
    """Every table of a report; contrasts where there are several budgets or settings, settings and datasets likewise.

    Columns without a value are left out.
    """
    tables = [accuracy(summary, facts), data_efficiency(summary, experiment, facts), compute(summary, facts)]
    if summary.cells["setting"].nunique() > 1:
        tables.insert(1, settings(summary, facts))
    if len(summary.budgets) and len(experiment.train_fractions) > 1:
        tables.append(budgets(summary, facts))
    if len(summary.interactions):
        tables.append(interactions(summary, facts))
    if len(summary.recipes):
        tables.append(recipes(summary, facts))
    if len(experiment.data) > 1:
        tables.append(datasets(summary, facts))
    return [table.without_empty() for table in [*tables, metrics(summary, facts)]]


def _groups(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Parts of a frame by data and setting, each with a heading that names what varies."""
    many = frame["data"].nunique() > 1
    for (_, setting), part in frame.groupby(["data", "setting"], sort=False):
        yield ", ".join(filter(None, [part["data_title"].iloc[0] if many else "", str(setting)])), part


def _by_fraction(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The same by train fraction too."""
    for heading, group in _groups(frame):
        for fraction, part in group.groupby("train_fraction", sort=False):
            yield f"{heading}{': ' if heading else ''}{percent(float(str(fraction)))} of the training data", part


def _name(row: Any, note: str = "") -> Entry:
    return Entry(row.model_title, value=row.model_title, note=note)


def _csv(frame: pd.DataFrame, table: str, banner: str) -> pd.DataFrame:
    """Columns of a ``.csv``: identity, numbers in full precision, run ids separated by blanks; the banner first."""
    chosen = frame[[name for name in csv_columns(table) if name in frame.columns]].copy()
    for name in ("seeds", "run_ids") if "run_ids" in frame else ():
        chosen[name] = [" ".join(map(str, values)) for values in frame[name]]
    if banner:
        chosen.insert(0, "WARNING", banner)
    return chosen


# -------------------------------------------------------------------------------------------------------------- accuracy
def accuracy_text(row: Any) -> str:
    """Mean ± standard deviation in per cent."""
    return plus_minus(100 * row.mean, 100 * row.std, accuracy_places(row))


def _top1(row: Any, note: str = "") -> Entry:
    return Entry(accuracy_text(row), bool(row.bold), row.mean, note)


def _delta(row: Any) -> Entry:
    """Paired difference to the reference in points, with interval and mark."""
    mark = f" {MARKS[row.state]}" if row.state in MARKS else ""
    return Entry(f"{_points(row.delta, row.delta_low, row.delta_high)}{mark}", value=row.delta)


def _full_data(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the largest train fraction, and that fraction in words."""
    fraction = frame["train_fraction"].max()
    return select(frame, train_fraction=fraction), f"{percent(float(fraction))} of the training data"


def _shares(cells: pd.DataFrame) -> dict[float, str]:
    """Train fractions from few images to many, with their headings: the number of images too, where it is one for all."""
    found = {}
    for fraction, part in cells.groupby("train_fraction"):
        sizes = part["n"].dropna().unique()
        n = f" (n = {int(sizes[0])})" if len(sizes) == 1 else ""
        found[float(str(fraction))] = f"{percent(float(str(fraction)))}{n}"
    return found


def accuracy(summary: Summary, facts: Facts) -> Table:
    """Models in rows, train fractions in columns: top-1 accuracy, and below it the difference to the reference."""
    notes, cells, blocks = Notes(), summary.cells, list[Block]()
    shares = _shares(cells)
    for heading, group in _groups(cells):
        rows = []
        for _, own in group.groupby("model", sort=False):
            at = {r.train_fraction: r for r in own.itertuples()}
            entries = [_top1(at[share], notes.mark(at[share].note)) for share in shares]
            below = [f"\n{_delta(at[share]).text}" if known(at[share].delta) else "" for share in shares]
            entries = [replace(entry, text=entry.text + line) for entry, line in zip(entries, below, strict=True)]
            rows.append(Row(at[max(shares)].family, [_name(at[max(shares)]), *entries]))
        blocks.append(Block(heading, rows))
    return _table(captions.ACCURACY, ["Model", *shares.values()], blocks, facts, notes, cells)


def _table(
    text: Text, columns: list[str], blocks: list[Block], facts: Facts, notes: Notes | None = None,
    frame: pd.DataFrame | None = None, narrow: tuple[str, ...] = (), **words: str,
) -> Table:  # fmt: skip
    """A table with what all tables of a report share; `words` are those that its text has beside them."""
    csv = None if frame is None else _csv(frame, text.name, facts.banner)
    footnotes = notes.texts() if notes else {}
    caption, method = (
        part.format(reference=facts.reference, marks=facts.marks, **words) for part in (text.caption, text.method)
    )
    return Table(text.name, text.title, caption, columns, blocks, footnotes, csv, facts.banner, facts.short, method, narrow)


def _metric_columns(cells: pd.DataFrame, notes: Notes) -> list[tuple[str, Callable[[Any], Entry]]]:
    """Headings and how each is filled."""
    most = cells["n_classes"].fillna(0).max()
    shown = [column.in_unit(cells[column.key]) for column in in_table("accuracy") if column.from_classes <= most]
    return [
        ("Top-1 (%) ↑", _top1),
        ("95% CI", lambda r: Entry(bracket(100 * r.low, min(100 * r.high, 100.0), accuracy_places(r)), value=r.low)),
        ("Δ [95% CI] ↑", _delta),
        *((column.title, partial(_filled, column, notes=notes)) for column in shown),
        ("Seeds", lambda r: Entry(str(r.n_seeds), value=r.n_seeds)),
    ]


def _filled(column: Column, row: Any, *, notes: Notes) -> Entry:
    """The cell of a row in a column of `COLUMNS`."""
    note = notes.mark(getattr(row, f"{column.key}_note", ""))
    return Entry(column.shown(row), value=getattr(row, column.key), note=note)


def metrics(summary: Summary, facts: Facts) -> Table:
    """Accuracy, calibration and size, a block per train fraction, full data first."""
    notes, cells, blocks = Notes(), summary.cells, list[Block]()
    columns = _metric_columns(cells, notes)
    for heading, part in _by_fraction(cells):
        size = f" (n = {int(part['n'].iloc[0])})" if known(part["n"].iloc[0]) else ""
        rows = [Row(r.family, [_name(r, notes.mark(r.note)), *(fill(r) for _, fill in columns)]) for r in part.itertuples()]
        blocks.append(Block(f"{heading}{size}", rows))
    headings = ["Model", *(heading for heading, _ in columns)]
    return _table(captions.METRICS, headings, blocks, facts, notes, legend=legend("accuracy"))


def overview(summary: Summary, facts: Facts) -> Table:
    """The accuracy table as a terminal has room for it: a column per train fraction, and Δ at the largest."""
    notes, cells, blocks = Notes(), summary.cells, list[Block]()
    fractions = sorted(cells["train_fraction"].unique(), reverse=True)
    for heading, group in _groups(cells):
        rows = []
        for _, own in group.groupby("model", sort=False):
            points = {r.train_fraction: r for r in own.itertuples()}
            full = points[fractions[0]]
            entries = [_top1(points[f], notes.mark(points[f].note)) for f in fractions]
            rows.append(Row(full.family, [_name(full), *entries, _delta(full)]))
        blocks.append(Block(f"Top-1 accuracy (%), mean ± std over seeds{f': {heading}' if heading else ''}", rows))
    delta = f"Δ vs {facts.reference} at {percent(fractions[0])} [95% CI]"
    columns = ["Model", *map(percent, fractions), delta]
    return Table("overview", "Accuracy", "", columns, blocks, notes.texts(), None, facts.banner)


# -------------------------------------------------------------------------------------------------------------- settings
def settings(summary: Summary, facts: Facts) -> Table:
    """Models × settings, a block per dataset and train fraction, bold what validation chose for each model.

    Settings that change the data are other questions, of which none is chosen.
    """
    varied = {group.setting: group.varied for group in summary.groups}
    short = {
        name: ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in own.items()) for name, own in varied.items()
    }
    notes, choose = Notes(), not any(key.startswith("data.") for own in varied.values() for key in own)
    whole = summary.cells["n_seeds"] == summary.cells["n_expected"]  # the mean of other seeds is no fair rival
    val = summary.cells["val_top1"].round(9).where(whole)
    rivals = val.groupby([summary.cells[key] for key in ("data", "model", "train_fraction")])
    highest = (val == rivals.transform("max")) & (rivals.transform("count") > 1)
    cells = summary.cells.assign(chosen=highest & choose)
    in_rows = len(short) > max(MANY_SETTINGS, cells["model"].nunique())
    across, down = ("model", "setting") if in_rows else ("setting", "model")
    blocks = []
    for heading, part in _groups(cells.assign(setting="")):
        for fraction, own in part.assign(setting=cells["setting"]).groupby("train_fraction", sort=False):
            rows = []
            for name, line in own.groupby(down, sort=False):
                entries = []
                for r in line.itertuples():
                    below = f"\nval {number(100 * r.val_top1, 1)}" if choose and known(r.val_top1) else ""
                    entries.append(Entry(accuracy_text(r) + below, bool(r.chosen), r.mean, notes.mark(r.note)))
                first = Entry(short[name], value=short[name]) if in_rows else _name(line.iloc[0])
                rows.append(Row("" if in_rows else line["family"].iloc[0], [first, *entries]))
            blocks.append(
                Block(", ".join(filter(None, [heading, f"{percent(float(str(fraction)))} of the training data"])), rows)
            )
    titles = short if across == "setting" else dict(zip(cells["model"], cells["model_title"], strict=True))
    columns = ["Setting" if in_rows else "Model", *(titles[name] for name in cells[across].unique())]
    return _table(captions.SETTINGS if choose else captions.SETTINGS_OF_DATA, columns, blocks, facts, notes, cells)


# ------------------------------------------------------------------------------------------------------- data efficiency
def images_needed(row: Any) -> str:
    """Images needed with the direction, where the interval tells one: ``4.2× [3.1, 5.6] more`` than the reference."""
    if not row.multiplier_text:
        return UNKNOWN
    if "[" not in row.multiplier_text and math.isnan(row.multiplier_low):
        return f"{row.multiplier_text} (one seed)"
    direction = " fewer" if row.multiplier_ahead == row.model else " more"
    return f"{row.multiplier_text}{direction if row.multiplier_directed else ''}"


def _bound(row: Any) -> str:
    """The direct comparison: ``≥ 100× more``, ``60,000 against 600``, ``−5.8 [−8.2, −3.5]``, own images first."""
    if not known(row.bound) or row.bound <= 1:
        return UNKNOWN
    ahead = row.bound_ahead == row.model
    own, other = (row.bound_n_ahead, row.bound_n_behind) if ahead else (row.bound_n_behind, row.bound_n_ahead)
    values = (
        (row.bound_delta, row.bound_low, row.bound_high) if ahead else (-row.bound_delta, -row.bound_high, -row.bound_low)
    )
    direction = "fewer" if ahead else "more"
    return f"≥ {bound_text(row.bound)}× {direction}\n{own:,.0f} against {other:,.0f}\n{_points(*values)}"


def _points(value: float, low: float, high: float) -> str:
    """A difference in points with its interval; alone where that is unknown."""
    places = percent_places(50 * (high - low))
    interval = f" {bracket(100 * low, 100 * high, places, signed=True)}" if known(low) else ""
    return f"{number(100 * value, places, signed=True)}{interval}"


def data_efficiency(summary: Summary, experiment: Experiment, facts: Facts) -> Table:
    """Learning curves: area, images needed and crossover."""
    notes, blocks = Notes(), list[Block]()
    for heading, group in _groups(summary.efficiency):
        rows = []
        for r in group.itertuples():
            cells = select(summary.cells, data=r.data, setting=r.setting, model=r.model)
            lacking = (f"at {percent(c.train_fraction)} {c.note}" for c in cells.itertuples() if c.note)
            note = "; ".join(dict.fromkeys(filter(None, [r.note, *lacking])))
            places = percent_places(50 * (r.aulc_high - r.aulc_low))
            delta = _points(r.aulc_delta, r.aulc_delta_low, r.aulc_delta_high)
            leader = f"{experiment.models[r.crossover_leader].title} ahead" if r.crossover_text else ""
            entries = [
                Entry(plus_minus(100 * r.aulc, 100 * r.aulc_std, places), value=r.aulc),
                Entry(delta, value=r.aulc_delta),
                Entry(_bound(r), value=r.bound if r.bound_ahead != r.model else 1 / r.bound),
                Entry(images_needed(r), value=r.multiplier if r.multiplier_ahead != r.model else 1 / r.multiplier),
                Entry(f"{r.crossover_text}, {leader}" if leader else UNKNOWN, value=r.crossover),
            ]
            rows.append(Row(r.family, [_name(r, notes.mark(note)), *entries]))
        blocks.append(Block(heading, rows))
    narrow = ("AULC (%) ↑", "Δ AULC [95% CI] ↑", "Images needed [95% CI]", "Crossover (images)")
    columns = ["Model", *narrow[:2], "Direct bound on images", *narrow[2:]]
    return _table(captions.DATA_EFFICIENCY, columns, blocks, facts, notes, summary.efficiency, narrow)


# ------------------------------------------------------------------------------------------------------------- contrasts
def budgets(summary: Summary, facts: Facts) -> Table:
    """Each model at each budget, in rows, against the reference at each budget, in columns."""
    frame = summary.budgets
    fractions = sorted(frame["reference_fraction"].unique())
    blocks = []
    for heading, group in _groups(frame):
        rows = []
        for _, own in group.groupby(["model", "fraction"], sort=False):
            at = {r.reference_fraction: r for r in own.itertuples()}
            first = next(iter(at.values()))
            entries = [
                Entry(_points(at[f].delta, at[f].low, at[f].high), value=at[f].delta) if f in at else Entry(UNKNOWN)
                for f in fractions
            ]
            rows.append(Row(first.family, [Entry(f"{first.model_title}, {first.n:,.0f}"), *entries]))
        blocks.append(Block(heading, rows))
    columns = ["Model, images", *(f"{facts.reference}, {percent(fraction)}" for fraction in fractions)]
    return _table(captions.BUDGETS, columns, blocks, facts, frame=frame)


def interactions(summary: Summary, facts: Facts) -> Table:
    """How each model's difference to the reference changes between budgets and between settings."""
    blocks = []
    for heading, group in _groups(summary.interactions):
        rows = []
        for r in group.itertuples():
            by_name = r.changed != "train_fraction"  # a setting or a lab
            change = f"{r.before} → {r.after}, {percent(r.train_fraction)}" if by_name else (
                f"{percent(r.before)} → {percent(r.after)}"
            )  # fmt: skip
            gaps = [Entry(number(100 * gap, 1, signed=True), value=gap) for gap in (r.gap_before, r.gap_after)]
            rows.append(
                Row(r.family, [_name(r), Entry(change), *gaps, Entry(_points(r.change, r.low, r.high), value=r.change)])
            )
        blocks.append(Block(heading, rows))
    columns = ["Model", "From → to", "Δ before", "Δ after", "Change [95% CI]"]
    frame, labs = summary.interactions, captions.labs(summary)
    return _table(captions.INTERACTIONS, columns, blocks, facts, frame=frame, labs=labs)


# --------------------------------------------------------------------------------------------------------------- recipes
def recipes(summary: Summary, facts: Facts) -> Table:
    """The best of k random recipes by validation, and how often a model is ahead of the reference under the same one."""
    frame = summary.recipes
    ks = sorted({k for best in frame["best"] for k, *_ in best})
    blocks = []
    for heading, part in _by_fraction(frame):
        rows = []
        for r in part.itertuples():
            best = {k: f"{number(100 * mean, 1)} {bracket(100 * low, 100 * high, 1)}" for k, mean, low, high in r.best}
            share = UNKNOWN
            if known(r.ahead):
                ties = f", {r.ties:.0f} ties" if r.ties else ""
                share = f"{number(100 * r.ahead, 0)} {bracket(100 * r.low, 100 * r.high, 0)}{ties}"
            rows.append(Row(r.family, [_name(r), *(Entry(best.get(k, UNKNOWN)) for k in ks), Entry(share, value=r.ahead)]))
        blocks.append(Block(heading, rows))
    columns = ["Model", *(f"Best of {k} (%) [95% CI] ↑" for k in ks), f"Ahead of {facts.reference} (%) [95% CI]"]
    tries = pd.DataFrame(
        {**{key: getattr(r, key) for key in ("data", "model", "train_fraction", "trials", "ahead", "low", "high", "ties")},
         "k": k, "best": mean, "best_low": low, "best_high": high}
        for r in frame.itertuples() for k, mean, low, high in r.best
    )  # fmt: skip
    return _table(captions.RECIPES, columns, blocks, facts, frame=tries)


# --------------------------------------------------------------------------------------------------------------- compute
def compute(summary: Summary, facts: Facts) -> Table:
    """Cost of one run at the largest train fraction."""
    notes, cells, blocks = Notes(), summary.cells, list[Block]()
    largest, amount = _full_data(cells)
    with_target = bool(largest["reached_target"].notna().any())
    shown = [column.in_unit(largest[column.key]) for column in in_table("compute")]
    for heading, group in _groups(largest):
        rows, mixed = [], ""
        if devices := summary.mixed_devices.get((str(group["data"].iloc[0]), str(group["setting"].iloc[0]))):
            several = f"runs come from several devices ({', '.join(devices)})"
            mixed = notes.mark(f"{several}: time, memory and energy do not compare and are left out")
        for r in group.itertuples():
            entries = [_filled(column, r, notes=notes) for column in shown]
            if with_target:
                entries.append(Entry(target_text(r), value=r.seconds_to_target))
            entries.append(_top1(r))
            marks = ", ".join(filter(None, [notes.mark(r.note), mixed]))
            rows.append(Row(r.family, [_name(r, marks), *entries]))
        blocks.append(Block(heading, rows))
    columns = ["Model", *(column.title for column in shown), *["Time to target (s) ↓"] * with_target, "Top-1 (%) ↑"]
    brief = ("n_params", "forward_gmacs", "train_pflops", "device_hours")
    narrow = (*(column.title for column in shown if column.key in brief), columns[-1])
    said = {"amount": amount, "legend": legend("compute"), "target": captions.TARGET * with_target}
    return _table(captions.COMPUTE, columns, blocks, facts, notes, cells, narrow, **said)


def target_text(row: Any) -> str:
    """Median seconds to the validation target, or a bound of them, with the share of runs that reached it."""
    if math.isnan(row.reached_target):
        return UNKNOWN
    bound = "≤ " if row.target_is_bound and known(row.seconds_to_target) else ""
    return f"{bound}{significant(row.seconds_to_target)} ({100 * row.reached_target:.0f}%)"


# -------------------------------------------------------------------------------------------------------------- datasets
def datasets(summary: Summary, facts: Facts) -> Table:
    """Models × datasets at the largest train fraction, a block per setting, and what holds across datasets."""
    notes = Notes()
    largest, amount = _full_data(summary.cells)
    largest = across_datasets.with_columns(largest)
    titles = dict(zip(largest["data"], largest["data_title"], strict=True))
    blocks = []
    for setting, group in largest.groupby("setting", sort=False):
        rows = []
        for _, own in group.groupby("model", sort=False):
            by_data = {r.data: r for r in own.itertuples()}
            first = next(iter(by_data.values()))
            note = [f"{titles[data]}: {r.note}" for data, r in by_data.items() if r.note]
            if 0 < first.across_n < len(titles):
                note.append(f"Δ across {first.across_n} of {len(titles)} datasets")
            entries = [_top1(by_data[data]) for data in titles]
            rows.append(Row(first.family, [_name(first, notes.mark("; ".join(note))), *entries, *_across(first)]))
        blocks.append(Block(str(setting) or amount, rows))
    across = ("Average rank ↓", "Δ across datasets [95% CI] ↑", "for a new dataset [95% PI]")
    columns = ["Model", *(f"{title} ↑" for title in titles.values()), *across]
    return _table(captions.DATASETS, columns, blocks, facts, notes, largest, friedman=friedman_sentences(largest))


def _across(row: Any) -> list[Entry]:
    """Average rank, pooled difference and prediction interval, in points."""
    delta = _points(row.across_delta, row.across_low, row.across_high)
    low, high = 100 * row.prediction_low, 100 * row.prediction_high
    ahead = bracket(low, high, percent_places((high - low) / 2), signed=True)
    return [Entry(number(row.rank, 1), value=row.rank), Entry(delta, value=row.across_delta), Entry(ahead, value=low)]


def friedman_sentences(largest: pd.DataFrame) -> str:
    """The Friedman test over datasets, a sentence per setting, from 6 datasets and 3 models on, where no cell is empty."""
    sentences = []
    for setting, block in largest.groupby("setting", sort=False):
        table = block.pivot(index="data", columns="model", values="mean")
        if len(table) >= MIN_DATASETS and table.shape[1] >= 3 and not table.isna().any(axis=None):
            where = f"{len(table)} datasets{f' ({setting})' if setting else ''}"
            sentences.append(f"Friedman test of equal ranks over {where}: p = {friedman(table.to_numpy()):.2g}. ")
    return "".join(sentences)
