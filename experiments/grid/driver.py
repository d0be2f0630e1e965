"""Run what is missing of an experiment: plan, skip, execute, wait for others."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from experiments.config.cells import Cell, expand
from experiments.config.errors import ConfigError
from experiments.config.paths import runs_dir
from experiments.config.schema import Experiment
from experiments.config.text import listed
from experiments.grid import local, ray
from experiments.grid.ledger import cell_status, compute_splits, left_to_run, lost_caches, read_splits
from experiments.records.progress import LOCK_FILE, Busy, locked, owner
from experiments.records.record import RECORD_FILE
from experiments.training import stop, torchrun
from experiments.training.outcome import Outcome
from experiments.training.tuning import trials_of

WAIT_SECONDS = 2.0

SAY_WAITING_SECONDS = 300.0
"""How often is said again what is waited for."""

MAX_NAMED = 3
"""Cells that are named of those."""


def plan(experiment: Experiment) -> list[Cell]:
    """All cells with their run ids; loads the data, and finds what is wrong with it.

    Where every cell has ended and the data cannot change, as published sets cannot, no data is loaded, unless a cache is
    damaged.
    """
    from experiments.data.datasets import is_published

    folder = runs_dir() / experiment.name
    known = expand(experiment, read_splits(folder))
    fixed = all(is_published(cell.data) for cell in known) and not lost_caches(folder)
    if fixed and all(cell_status(cell, folder)[0] in ("done", "failed") for cell in known):
        return known
    return expand(experiment, compute_splits(experiment, folder))


@contextlib.contextmanager
def leading() -> Iterator[bool]:
    """Whether this process carries out the command. Under ``torchrun`` all but the first follow it through its cells.

    Raises
    ------
    ConfigError
        If there are fewer GPUs than processes. All processes find that, the first tells it.
    """
    if torchrun.place().size == 1:
        yield True
        return
    from experiments.training import distributed
    from experiments.training.run import follow

    try:
        stop.end_with_parent()
        group = distributed.join()
    except ConfigError:
        if torchrun.place().rank == 0:
            raise
        yield False
        return
    with stop.at_work:  # what is left behind by torchrun stops together, after a checkpoint that all have part in
        try:
            if not group.leads:
                with stop.signals_caught():
                    follow()
            yield group.leads
        finally:
            if group.leads:
                group.told(None)
            distributed.leave()


def trials_for(cells: list[Cell]) -> list[Cell]:
    """The tuning trials that the cells' recipes are chosen from, each once."""
    return list({trial.run_id: trial for cell in cells for trial in trials_of(cell)}.values())


def forget_failures(failed: list[Cell], folder: Path) -> None:
    """Empty the folders of failed cells, so that they run again from the start. One that another process has is left."""
    for cell in failed:
        run_folder = folder / str(cell.run_id)
        with contextlib.suppress(Busy), locked(run_folder):
            if cell_status(cell, folder)[0] != "failed":
                continue
            for path in run_folder.iterdir():
                if path.name in (LOCK_FILE, RECORD_FILE):
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            (run_folder / RECORD_FILE).unlink()  # last: killed before it, the cell is still known as failed


class GridObserver:
    """Who follows a grid. The base class says nothing."""

    def checked(self) -> None:
        """Nothing was found to be wrong; what follows is work."""

    def started(self, cell: Cell) -> None:
        """A cell begins."""

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """A cell ended in this way."""

    def says(self, sentence: str) -> None:
        """Something about the work as a whole."""


class Engine(Protocol):
    """Where cells run. It is made with the cells, the experiment's folder and ``JOBS``, and closed in the end."""

    @property
    def slots(self) -> int:
        """Cells that it takes at a time, as things stand."""

    @property
    def running(self) -> int:
        """Cells that were submitted and not collected."""

    @property
    def note(self) -> str:
        """What it decided when it was checked, as a sentence; empty for most."""

    def check(self) -> list[str]:
        """Faults that only a process with torch can tell; asked before the first cell."""

    def submit(self, cell: Cell) -> None:
        """Take a cell."""

    def collect(self) -> Iterable[tuple[Cell, Outcome]]:
        """Cells that ended, after a short wait at most. A dead worker is the engine's to deal with."""

    def stop(self) -> None:
        """Let every cell write a checkpoint and end."""

    def close(self) -> None:
        """Free what is held."""


ENGINES: dict[str, Callable[[list[Cell], Path, str], Engine]] = {"local": local.start, "ray": ray.Cluster}


def launch(
    cells: list[Cell], folder: Path, *, jobs: str, observer: GridObserver, retry_failed: bool = False, engine: str = "local"
) -> None:
    """Run the cells that have no record; those that another process runs are waited for.

    `folder` is that of the experiment's runs, `jobs` is ``auto`` or a number of cells at a time, `engine` one of `ENGINES`.

    Raises
    ------
    ConfigError
        If something is found to be wrong before any cell ran.
    """
    local.requested_jobs(jobs)  # a wrong value is refused even where nothing is left to do
    queue = _Queue(cells, folder, observer, retry_failed)
    while free := queue.free():
        with contextlib.closing(ENGINES[engine](free, folder, jobs)) as room, stop.signals_caught(room.stop):
            if faults := room.check():
                raise ConfigError(*faults)
            queue.begin()
            if room.note:
                observer.says(room.note)
            while queue.feeds(room):
                for cell, outcome in room.collect():
                    queue.ended(cell, outcome)


class _Queue:
    """Which cells are left, which wait for an engine, and which were settled here."""

    def __init__(self, cells: list[Cell], folder: Path, observer: GridObserver, retry_failed: bool) -> None:
        self.cells, self.folder, self.observer = cells, folder, observer
        self._again = {cell.run_id: cell for cell in cells if retry_failed and cell_status(cell, folder)[0] == "failed"}
        self._settled, self._waiting = set[str | None](), deque[Cell]()
        self._begun, self._say_at = False, 0.0

    def free(self) -> list[Cell]:
        """The cells that nobody runs; waits where others run all that are left. None where all ended, or at a stop."""
        while not stop.requested():
            left = {*self._again, *(cell.run_id for cell in left_to_run(self.cells, self.folder))} - self._settled
            missing = [cell for cell in self.cells if cell.run_id in left]
            free = [cell for cell in missing if cell_status(cell, self.folder)[0] != "running"]
            if free:
                self._waiting = deque(free)
                return free
            self.begin()
            if not missing:
                break
            if time.monotonic() >= self._say_at:
                self.observer.says(_waiting(missing, self.folder))
                self._say_at = time.monotonic() + SAY_WAITING_SECONDS
            time.sleep(WAIT_SECONDS)
        return []

    def begin(self) -> None:
        """Nothing was found wrong: from here on files change."""
        if not self._begun:
            self._begun = True
            self.observer.checked()
            forget_failures(list(self._again.values()), self.folder)
            self._again.clear()

    def feeds(self, engine: Engine) -> bool:
        """Give an engine as many cells as it takes. Whether it has any."""
        while self._waiting and engine.running < engine.slots and not stop.requested():
            cell = self._waiting.popleft()
            self.observer.started(cell)
            engine.submit(cell)
        return engine.running > 0

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """A cell came back."""
        if outcome.status != "busy":
            self._settled.add(cell.run_id)
        self.observer.ended(cell, outcome)


def _waiting(cells: list[Cell], folder: Path) -> str:
    """What is waited for, and whose it is."""
    named = listed([f"{cell.run_id} ({owner(folder / str(cell.run_id)) or 'process unknown'})" for cell in cells], MAX_NAMED)
    kind = "a cell" if len(cells) == 1 else f"{len(cells)} cells"
    return f"Waiting for {kind} that another command runs: {named}. Ctrl-C stops this command alone."
