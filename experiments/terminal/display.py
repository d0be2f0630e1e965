"""What a user sees while cells run: live progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.config.cells import Cell, data_key
from experiments.config.schema import Experiment
from experiments.config.text import printable
from experiments.grid.driver import GridObserver
from experiments.grid.ledger import ledger, left_to_run
from experiments.records.dataset import read_descriptions
from experiments.records.paces import training_seconds
from experiments.records.progress import read_progress
from experiments.records.record import CHECKPOINT_FILE, RECORD_FILE
from experiments.terminal.screens import data_lines, duration, out
from experiments.tracking.client import LONG_WAIT, SAID_AFTER_SECONDS
from experiments.training.outcome import Outcome

MIN_SHARE = 0.1
"""Part of a first cell that must be done before its pace tells anything."""

FEW_PHOTOS = 500
"""Photos of a folder below which a model from scratch is said to have little to learn from."""
PRETRAINED = 'ARGS="models=[vit_base_p16_probe,resnet50_probe] data.image_size=224"'


class Display(GridObserver):
    """Live progress on a terminal; one plain line for each cell that ends elsewhere.

    Heartbeats are read in `folder`, that of the experiment's runs. Of `total` cells `done` had ended before; those `left`
    give a first estimate from earlier runs of the device. The `headline` is for when everything was found fit to run.
    """

    def __init__(
        self,
        console: Console,
        folder: Path,
        *,
        total: int,
        done: int,
        headline: Sequence[str] = (),
        left: Sequence[Cell] = (),
    ) -> None:
        self.console, self.folder, self.total, self.ended_cells = console, folder, total, done
        self._to_run, self._seconds = left, dict[str, dict[str, float] | None]()
        self._at_start, self._headline = done, headline
        self._begun: float | None = None
        self._checked = False
        self._active: dict[str, Cell] = {}
        self._said: set[str] = set()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        threading.Thread(target=self._say_waits, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self.console.is_terminal:
            self._live.stop()

    def checked(self) -> None:
        """Nothing was found to be wrong: say what is done."""
        self._checked = True
        for line in self._headline:
            self.console.print(line, soft_wrap=True)

    def started(self, cell: Cell) -> None:
        """A cell begins; with the first the clock starts, since the imports before it say nothing about the pace."""
        with self._lock:
            self._begun = self._begun or time.monotonic()
            self._active[str(cell.run_id)] = cell

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """A cell ended: a line that stays."""
        with self._lock:
            self._active.pop(str(cell.run_id), None)
            self.ended_cells += outcome.status in ("done", "failed")
        for sentence in outcome.says:
            self._say_once(sentence)
        if outcome.status == "busy":
            return
        line = Text(f"[{self.ended_cells:>{len(str(self.total))}}/{self.total}] ", "dim")
        line.append(outcome.status, {"done": "green", "failed": "bold red"}.get(outcome.status, "yellow"))
        line.append(f" {cell.describe()}")
        if outcome.status == "done":
            if start := read_progress(self.folder / str(cell.run_id)).get("attempt", {}).get("start_step"):
                line.append(f"  went on from step {start}")
            top1, rate, seconds = outcome.val_top1, outcome.images_per_second, outcome.seconds
            line.append("  val –" if top1 is None else f"  val {100 * top1:.1f}%")
            line.append("  – images/s" if rate is None else f"  {rate:,.0f} images/s")
            line.append("  –" if seconds is None else f"  {duration(seconds)}")
            line.append("" if self.console.is_terminal else self._left())  # which the live display shows
        elif outcome.message:
            line.append(f": {printable(outcome.message, keep=chr(10))}")
        self.console.print(line, soft_wrap=True)

    def says(self, sentence: str) -> None:
        """A line about the work as a whole."""
        self.console.print(Text(printable(sentence), "yellow"), soft_wrap=True)

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self.says(sentence)

    def _say_waits(self) -> None:
        """In a thread: a cell that has its record and does not end waits for W&B."""
        since = dict[str, float]()
        while not self._over.wait(1.0):
            with self._lock:
                recorded = [run_id for run_id in self._active if (self.folder / run_id / RECORD_FILE).exists()]
            now = time.monotonic()
            if any(now - since.setdefault(run_id, now) >= SAID_AFTER_SECONDS for run_id in recorded):
                self._say_once(LONG_WAIT)

    def _left(self) -> str:
        """Time left, from the pace of the cells that ended and the progress of those that run; empty until it can be known.

        What earlier attempts did is no work of this one. Until there is enough of it, earlier runs of the device are asked.
        """
        with self._lock:
            running = list(self._active)
        beats = [beat for beat in (read_progress(self.folder / run_id) for run_id in running) if beat.get("steps")]
        ended = self.ended_cells - self._at_start
        worked = ended + sum((beat["step"] - beat["attempt"]["start_step"]) / beat["steps"] for beat in beats)
        left = self.total - self.ended_cells - sum(beat["step"] / beat["steps"] for beat in beats)
        if self._begun is None or left <= 0:
            return ""
        if ended == 0 and worked < MIN_SHARE:
            return self._expected(beats[0]["attempt"]["device"], len(running)) if beats else ""
        return f"  about {duration((time.monotonic() - self._begun) / worked * left)} left"

    def _expected(self, device: str, at_once: int) -> str:
        """Time left, from what earlier runs of this device took; empty where there are too few."""
        if device not in self._seconds:
            folders = [path for path in self.folder.parent.iterdir() if path.is_dir()]
            self._seconds[device] = training_seconds(self._to_run, folders, device)
        seconds = self._seconds[device]
        return f"  about {duration(sum(seconds.values()) / at_once)} left, by earlier runs" if seconds else ""

    def _state(self) -> str:
        return self._left().strip() if self._checked else "importing torch, checking the models"

    def _render(self) -> RenderableType:
        with self._lock:
            active = dict(self._active)
        table = Table.grid(padding=(0, 1))
        table.add_column(overflow="ellipsis", no_wrap=True, max_width=34)
        for _ in range(3):
            table.add_column(no_wrap=True)
        overall = ProgressBar(total=self.total, completed=self.ended_cells, width=12)
        table.add_row(Text("cells"), overall, f"{self.ended_cells} / {self.total}", self._state())
        for run_id, cell in active.items():
            beat = read_progress(self.folder / run_id)
            table.add_row(cell.describe(), *progress_columns(beat, cell.trained.steps))
        return Group(Text(), table)


def headline(experiment: Experiment, cells: Sequence[Cell], folder: Path) -> list[str]:
    """What runs, and on which data, as lines of markup."""
    described = read_descriptions(folder)
    keys = dict.fromkeys(data_key(cell.data) for cell in cells)
    question = f"[bold]{escape(experiment.name)}[/]: {escape(experiment.question)}"
    shown = [described[key] for key in keys if key in described]
    few = [sum(data.train.values()) for data in shown if data.files and sum(data.train.values()) < FEW_PHOTOS]
    if few and all(model.init_label == "from_scratch" for model in experiment.models.values()):
        words = f"{min(few)} photos are few to learn from scratch. Published weights need fewer, after a download:"
        return [question, *data_lines(shown), f"[yellow]Note:[/] {words} {escape(PRETRAINED)}"]
    return [question, *data_lines(shown)]


def progress(
    experiment: Experiment, batch: list[Cell], folder: Path, headline: Sequence[str], retry_failed: bool
) -> Display:
    """The display of tuning trials or cells that are about to run."""
    counts = ledger(experiment, batch, folder)["counts"]
    ended = 0 if retry_failed else counts["failed"]
    left = left_to_run(batch, folder)
    begun = sum((folder / str(cell.run_id) / CHECKPOINT_FILE).is_file() for cell in left)
    kind = ("cell" if batch[0].trial is None else "tuning trial") + ("" if len(batch) == 1 else "s")
    line = f"{len(batch)} {kind}, {counts['done']} done before, {len(batch) - counts['done'] - ended} to run."
    line += f" {begun} of them go on from a checkpoint." if begun else ""
    done = counts["done"] + ended
    return Display(out, folder, total=len(batch), done=done, headline=[*headline, line], left=left)


def progress_columns(beat: dict[str, Any], steps: int) -> tuple[RenderableType, str, str]:
    """Bar, step and state of one cell, from its heartbeat; empty for one that still imports and loads."""
    if not beat.get("steps"):
        return ProgressBar(total=1, completed=0, width=12), "", "loading"
    step, steps, start = beat["step"], beat["steps"], beat["attempt"]["start_step"]
    bar = ProgressBar(total=steps, completed=step, width=12)
    if step >= steps:
        return bar, f"{step}/{steps}", "testing, saving"
    accuracy, rate = beat.get("val_top1"), beat.get("images_per_second")
    shown = [f"goes on from step {start}" if start else "", "" if accuracy is None else f"val {100 * accuracy:.1f}%"]
    return bar, f"{step}/{steps}", "  ".join(filter(None, [*shown, "" if not rate else f"{rate:,.0f}/s"]))
