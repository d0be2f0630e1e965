"""What a user sees in the terminal: live progress, plain lines where there is no terminal, the grid, lists."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.config import ConfigError, fraction_label
from experiments.engine import Observer
from experiments.grid import Cell
from experiments.progress import read_progress
from experiments.worker import Outcome

MARKS = {"done": "[green]●[/]", "failed": "[red]✗[/]", "running": "[yellow]◐[/]", "missing": "[dim]·[/]"}


def show_faults(console: Console, error: ConfigError) -> None:
    """All faults of bad input, one line each."""
    for fault in error.faults:
        console.print(Text.assemble(("error: ", "bold red"), fault), soft_wrap=True)


def duration(seconds: float) -> str:
    """A time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Progress(Observer):
    """Live progress on a terminal; one plain line for each cell that ends elsewhere.

    Parameters
    ----------
    console : Console
    folder : Path
        Folder of the experiment's runs, where heartbeats are read.
    total, done : int
        Cells of the grid, and those that had ended before.
    headline : sequence of str
        Lines for the moment when everything was found fit to run.
    """

    def __init__(self, console: Console, folder: Path, *, total: int, done: int, headline: Sequence[str] = ()) -> None:
        self.console, self.folder, self.total, self.ended_cells = console, folder, total, done
        self._at_start, self._begun, self._headline = done, time.monotonic(), headline
        self._active: dict[str, Cell] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def checked(self) -> None:
        """Nothing was found to be wrong: say what is done."""
        for line in self._headline:
            self.console.print(line, soft_wrap=True)

    def started(self, cell: Cell) -> None:
        """A cell begins."""
        with self._lock:
            self._active[str(cell.run_id)] = cell

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """A cell ended: a line that stays."""
        with self._lock:
            self._active.pop(str(cell.run_id), None)
            self.ended_cells += outcome.status in ("done", "failed")
        for sentence in outcome.says:
            if sentence not in self._said:
                self._said.add(sentence)
                self.console.print(Text(sentence, "yellow"), soft_wrap=True)
        if outcome.status == "busy":
            return
        line = Text(f"[{self.ended_cells:>{len(str(self.total))}}/{self.total}] ", "dim")
        line.append(outcome.status, {"done": "green", "failed": "bold red"}.get(outcome.status, "yellow"))
        line.append(f" {cell.describe()}")
        if outcome.status == "done":
            line.append(
                f"  val top-1 {100 * (outcome.val_top1 or 0):.1f}%  {outcome.images_per_second or 0:,.0f} images/s  "
                f"{duration(outcome.seconds)}{self._left()}"
            )
        elif outcome.message:
            line.append(f": {outcome.message}")
        self.console.print(line, soft_wrap=True)

    def _left(self) -> str:
        """Time left, from the pace of the cells that ended and the progress of those that run."""
        steps = [read_progress(self.folder / run_id) for run_id in list(self._active)]
        partial = sum(beat["step"] / beat["steps"] for beat in steps if beat.get("steps"))
        worked = self.ended_cells - self._at_start + partial
        left = self.total - self.ended_cells - partial
        if worked <= 0 or left <= 0:
            return ""
        return f"  about {duration((time.monotonic() - self._begun) / worked * left)} left"

    def _render(self) -> RenderableType:
        with self._lock:
            active = dict(self._active)
        table = Table.grid(padding=(0, 2))
        overall = ProgressBar(total=self.total, completed=self.ended_cells, width=24)
        table.add_row(Text("cells"), overall, f"{self.ended_cells} / {self.total}", self._left().strip())
        for run_id, cell in active.items():
            beat = read_progress(self.folder / run_id)
            steps = beat.get("steps") or cell.recipe.steps
            accuracy, rate = beat.get("val_top1"), beat.get("images_per_second")
            table.add_row(
                cell.describe(),
                ProgressBar(total=steps, completed=beat.get("step", 0), width=24),
                f"step {beat.get('step', 0)} / {steps}",
                f"{'val top-1 –' if accuracy is None else f'val top-1 {100 * accuracy:.1f}%'}  "
                f"{'' if not rate else f'{rate:,.0f} images/s'}",
            )
        return Group(Text(), table)


def ledger_table(ledger: dict[str, Any]) -> RenderableType:
    """The grid as a map: models down, data and fractions across, one mark per seed."""
    cells = ledger["cells"]
    columns = sorted({(cell["data"], cell["train_fraction"]) for cell in cells})
    several = len({data for data, _ in columns}) > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model")
    for data, fraction in columns:
        table.add_column(f"{data} {fraction_label(fraction)}" if several else fraction_label(fraction), justify="center")
    for model in dict.fromkeys(cell["model"] for cell in cells):
        row = [
            "".join(
                MARKS[cell["status"]]
                for cell in cells
                if (cell["model"], cell["data"], cell["train_fraction"]) == (model, *at)
            )
            for at in columns
        ]
        table.add_row(model, *row)
    counts = ledger["counts"]
    legend = "  ".join(f"{MARKS[name]} {counts[name]} {name}" for name in MARKS)
    parts: list[RenderableType] = [table, Text.from_markup(f"\n{counts['expected']} expected: {legend}")]
    parts += [
        Text.assemble(("failed ", "red"), f"{cell['run_id']}: {cell['reason']}")
        for cell in cells
        if cell["status"] == "failed"
    ]
    if ledger["other"]:
        parts.append(Text(f"{len(ledger['other'])} records here are of other settings and not part of this grid.", "dim"))
    return Group(*parts)


def profile_table(row: dict[str, Any]) -> RenderableType:
    """A model's cost, one figure a line; a dash where it is not known on this device."""
    low, high = row["bare_images_per_second_quartiles"]
    figures = {
        "parameters": f"{row['n_params']:,}",
        "forward GMACs": f"{row['forward_gmacs']:.4g}",
        "training GFLOPs an image": f"{row['train_gflops_per_image']:.4g}",
        "bare step": f"{row['bare_images_per_second']:,.0f} images/s (quartiles {low:,.0f} to {high:,.0f})",
        "MFU": "–" if row["mfu"] is None else f"{100 * row['mfu']:.1f}%",
        "peak memory": f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
        "geometry": ", ".join(f"{key} {value}" for key, value in row["geometry"].items()) or "as published",
        "on": f"{row['device']}, {row['precision']}, batch {row['batch_size']}, {row['image_size']} px",
    }
    return name_table(row["model"], figures.items())


def name_table(title: str, rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Names with a line each."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    for name, line in rows:
        table.add_row(f"  {name}", Text(line, overflow="ellipsis", no_wrap=True))
    return table
