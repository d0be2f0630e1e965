"""Screens that stay: the grid as a heat map, one run, lists, faults; no colour codes in a pipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from experiments.config.cells import short_settings
from experiments.config.errors import ConfigError
from experiments.config.text import printable
from experiments.records.dataset import DataDescription, test_split_title
from experiments.records.intended import Plan, Range
from experiments.records.record import CONFIG_FILE, Record

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
"""Results and what a program may read go to `out`; faults and progress to `err`. rich leaves colours out where there is no
terminal, and where NO_COLOR is set."""

MARKS = {
    "done": "[green]●[/]",
    "failed": "[red]✗[/]",
    "running": "[yellow]◐[/]",
    "missing": "[dim]·[/]",
    "unknown": "[yellow]?[/]",
}

HEAT = {
    "failed": "on dark_red",
    "unknown": "on dark_goldenrod",
    "running": "on dark_goldenrod",
    "missing": "",
    "done": "on dark_green",
}
"""Colours by status, first what needs attention first."""

MAX_MARKS = 10
"""Seeds that are shown one by one; more are counted."""


def warn(sentence: str) -> None:
    """A sentence that the user should read, in yellow."""
    err.print(printable(sentence), style="yellow", markup=False, soft_wrap=True)


def show_faults(console: Console, error: ConfigError) -> None:
    """All faults of bad input, one line each."""
    for fault in error.faults:
        console.print(Text.assemble(("error: ", "bold red"), printable(fault, keep="\n")), soft_wrap=True)


def duration(seconds: float) -> str:
    """A time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def ledger_table(ledger: dict[str, Any], folder: Path) -> RenderableType:
    """The grid as a heat map: settings and models down, data and fractions across, a mark per seed on the worst colour.

    Below it is said which commands made the runs of other settings in `folder`.
    """
    cells = ledger["cells"]
    columns = sorted({(cell["data"], cell["train_fraction"]): None for cell in cells}, key=lambda column: column[1])
    several = len({data for data, _ in columns}) > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", overflow="fold")
    for data, fraction in columns:
        table.add_column(f"{data if several else ''} {100 * fraction:.4g}%".strip(), justify="center", overflow="fold")
    for setting in dict.fromkeys(map(_setting, cells)):
        if setting:
            table.add_row(Text(setting, "italic"))
        of_setting = [cell for cell in cells if _setting(cell) == setting]
        for model in dict.fromkeys(cell["model"] for cell in of_setting):
            own = [cell for cell in of_setting if cell["model"] == model]
            marks = [[cell["status"] for cell in own if (cell["data"], cell["train_fraction"]) == at] for at in columns]
            table.add_row(model, *map(_heat, marks))
    counts = ledger["counts"]
    legend = "  ".join(f"{MARKS[name]} {counts[name]} {name}" for name in MARKS if name in counts)
    parts: list[RenderableType] = [table, Text.from_markup(f"\n{counts['expected']} expected: {legend}")]
    parts += [
        Text.assemble(("failed ", "red"), f"{cell['run_id']}: {printable(cell['reason'], keep=chr(10))}")
        for cell in cells
        if cell["status"] == "failed"
    ]
    unknown = dict.fromkeys(cell["reason"] for cell in cells if cell["status"] == "unknown")
    parts += [Text.assemble(("unknown ", "yellow"), printable(reason)) for reason in unknown]
    parts += [Text(printable(line), "dim") for line in other_settings(ledger, folder)]
    return Group(*parts)


def _setting(cell: Mapping[str, Any]) -> str:
    return ", ".join(short_settings(cell["varied"]))


def _heat(statuses: list[str]) -> Text:
    """One cell of the map: marks of the seeds, or their count, on the colour of what needs attention first."""
    worst = next((name for name in HEAT if name in statuses), "missing")
    if len(statuses) > MAX_MARKS:
        return Text(f" {statuses.count('done')}/{len(statuses)} ", HEAT[worst])
    shown = Text.from_markup("".join(MARKS[status] for status in statuses))
    shown.stylize(HEAT[worst])
    return shown


def other_settings(ledger: Mapping[str, Any], folder: Path) -> list[str]:
    """What else lies in the folder, and three of the commands that made it."""
    others = ledger["other"]
    if not others:
        return []
    commands = Counter(filter(None, (command_of(folder / run_id) for run_id in others))).most_common()
    named, more = commands[:3], len(commands[3:])
    return [
        f"{len(others)} more runs here are of other settings; they do not belong to this grid.",
        *(f"  {number} by: {command}" for command, number in named),
        *([f"  and others by {more} more commands, which their {CONFIG_FILE} name"] if more else []),
    ]


def command_of(run_folder: Path) -> str | None:
    """The command that made a run, from the first lines of its ``config.yaml``; older runs do not say."""
    try:
        with open(run_folder / CONFIG_FILE, encoding="utf-8") as file:
            head = takewhile(lambda line: line.rstrip() != "cell:", file)
            return str(yaml.safe_load("".join(head))["command"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def data_lines(descriptions: Iterable[DataDescription]) -> list[str]:
    """What an experiment runs on, as lines of markup; what a reader of the results must know in yellow."""
    lines = []
    for described in descriptions:
        title, first, *more = (escape(printable(line)) for line in (described.title, *described.summary))
        lines += [f"[bold]{title}[/]: {first}", *(f"  {line}" for line in more)]
        lines += [f"  [yellow]warning:[/] {escape(printable(warning))}" for warning in described.warnings]
    return list(dict.fromkeys(lines))


def record_table(record: Record, folder: Path) -> RenderableType:
    """One run for people: what it was, what came out, what it cost, how it went; a dash for what is unknown."""

    def value(number: float | None, form: str = "{:,.4g}") -> str:
        return "–" if number is None else form.format(number)

    cost, metrics = record.compute, record.metrics
    test_split = f" (test split: {test_split_title(record.test_split)})" if record.test_split else ""
    rows = [
        ("status", record.status if record.failure is None else f"failed: {record.failure.message}"),
        ("model", f"{record.model} ({record.source}, {record.family}), {record.init.replace('_', ' ')}"),
        ("data", f"{record.data}, {100 * record.train_fraction:.4g}% = {record.n_train} train + {record.n_val} val"),
        ("settings", f"{record.recipe}, track {record.track}, seed {record.seed}, {record.settings_hash[:12]}"),
        ("steps", f"{record.steps:,} ({record.samples_seen:,} images seen)"),
        ("test", f"top-1 {value(metrics.get('test/top1'), '{:.2%}')} of {record.n_test} images{test_split}, "
                 f"NLL {value(metrics.get('test/nll'))}, ECE {value(metrics.get('test/ece'), '{:.2%}')}"),
        ("validation", f"top-1 {value(metrics.get('val/top1'), '{:.2%}')} last, "
                       f"{value(metrics.get('val_best/top1'), '{:.2%}')} best"),
        ("cost", f"{value(cost.train_pflops)} PFLOPs, {value(cost.device_hours, '{:.3g}')} device-hours, "
                 f"{value(cost.images_per_second, '{:,.0f}')} images/s"),
        ("memory", "–" if cost.peak_memory_bytes is None else f"{cost.peak_memory_bytes / 2**30:.2f} GiB at its peak"),
        ("model size", f"{cost.n_params:,} parameters, {value(cost.forward_gmacs)} GMACs"),
        ("on", f"{record.environment.get('device', '–')}, {record.environment.get('precision', '–')}"),
        *(("attempt", f"step {a.start_step} to {a.end_step} in {duration(a.seconds)}, {a.reason}") for a in record.attempts),
        ("finished", record.finished),
        ("folder", str(folder)),
    ]  # fmt: skip
    table = Table(title=record.run_id, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, Text(printable(text, keep="\n")))
    return table


def profile_table(row: dict[str, Any]) -> RenderableType:
    """A model's cost, one figure a line; a dash where it is not known on this device."""
    low, high = row["bare_images_per_second_quartiles"]
    figures = {
        "parameters": f"{row['n_params']:,}",
        "forward GMACs": f"{row['forward_gmacs']:.4g}",
        "training GFLOPs an image": f"{row['train_gflops_per_image']:.4g}",
        "bare step": f"{row['bare_images_per_second']:,.0f} images/s (quartiles {low:,.0f} to {high:,.0f})",
        "MFU": "–" if row["mfu"] is None else f"{100 * row['mfu']:.1f}%",
        "peak memory": "–" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
        "geometry": ", ".join(f"{key} {value}" for key, value in row["geometry"].items()) or "as published",
        "on": f"{row['device']}, {row['precision']}, batch {row['batch_size']}, {row['image_size']} px",
    }
    return name_table(row["model"], figures.items())


def plan_table(plan: Plan) -> RenderableType:
    """What a grid costs and can tell, one figure a line."""
    costs = plan.costs
    memory = "not measured" if costs.memory_bytes is None else f"{costs.memory_bytes / 2**30:.1f} GiB"
    figures = {
        "cells": f"{costs.cells:,}" + (f", and {costs.trials:,} tuning trials" if costs.trials else ""),
        "images trained on": f"{costs.images:,}, {costs.pflops:,.4g} PFLOPs",
        "device hours": f"{hours_range(costs.device_hours)} on {costs.device}",
        "by the clock": f"{hours_range(costs.hours)} with {costs.jobs} cell{'s' * (costs.jobs > 1)} at a time",
        "disk": f"{costs.disk_bytes / 2**30:.2f} GiB of {costs.disk_free_bytes / 2**30:,.0f} GiB free",
        "memory": f"{memory} of {costs.memory_free_bytes / 2**30:,.1f} GiB free",
    }
    for rate in costs.rates:
        pace = f"{1 / rate.seconds_per_image[1]:,.0f} images/s"
        figures[f"pace of {rate.model}"] = f"{pace} on {rate.data}: {rate.source}"
    effect = f"{100 * plan.effect:g} points"
    table = Table(title="What it can tell", title_justify="left", title_style="bold", box=None, header_style="bold")
    for heading in ("data", "seeds × images", "told (points)", f"seeds for {effect}", "hours", "test images"):
        table.add_column(heading, overflow="fold")
    for row in plan.power:
        seeds = [None if value is None else f"{value:,.0f}" for value in row.seeds]
        table.add_row(
            f"{row.data} {100 * row.train_fraction:.4g}%",
            f"{row.n_seeds} × {row.n_test:,}",
            "{1:.1f} ({0:.1f} to {2:.1f})".format(*(100 * value for value in row.told)),
            f"{seeds[1]} ({seeds[0]} to {seeds[2] or 'no number'})" if seeds[1] else "no number",
            "–" if row.seed_hours is None else f"{row.seed_hours:.3g}",
            "enough" if row.n_test >= row.test_images else f"at least {row.test_images:,}",
        )
    sources = dict.fromkeys(row.source for row in plan.power)
    lines = [f"Told: found in 80% of such grids by a pair's own 95% interval; of the pairs the median, least and most. "
             f"Seeds: of the median pair, with the 5% and 95% points of what its few past seeds leave open. "
             f"Variances from {'; '.join(sources)}."] if plan.power else []  # fmt: skip
    shown: list[RenderableType] = [name_table(f"Plan of {plan.experiment}", figures.items())]
    shown += [Text(), table] if plan.power else []
    return Group(*shown, *(Text(printable(line), "dim") for line in lines))


def hours_range(hours: Range) -> str:
    """Hours as people say them, with their range."""
    low, likely, high = (duration(3600 * value) for value in hours)
    return f"{likely} ({low} to {high})"


def name_table(title: str, rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Names with a line each, folded to the width of the terminal."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    for name, line in rows:
        table.add_row(f"  {name}", Text(line))
    return table


def name_lines(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """The same as plain lines of whatever length, for a pipe."""
    listed = list(rows)
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {line}" for name, line in listed)])


def verification_lines(found: Mapping[str, Any]) -> list[str]:
    """What became of published runs that were trained again, as ``verification.json`` has it."""
    lines = []
    for cell in found["cells"]:
        line = (
            f"{cell['verdict']:<16} {cell['model']} {cell['data']} {100 * cell['train_fraction']:.4g}% seed {cell['seed']}"
        )
        if "bound" in cell:
            line += f"  {cell['other_class']} of {cell['images']} images in another class; distance {cell['distance']:.2g}"
            line += f", rounding up to {cell['bound']:.2g}"
            line += f", other seeds from {cell['other_seeds']:.2g}" if cell["other_seeds"] is not None else ""
        lines.append(f"{line}  {cell['reason']}".rstrip())
    made = [f"{cell['published']['device']} → {cell['again']['device']}" for cell in found["cells"] if "again" in cell]
    lines += [f"Published on → trained again on: {', '.join(dict.fromkeys(made))}."] if made else []
    return lines + ([found["how"]] if any("bound" in cell for cell in found["cells"]) else [])
