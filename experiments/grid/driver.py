"""Run what is missing of an experiment: plan, skip, execute, wait for others."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from experiments.config.cells import Cell, expand
from experiments.config.errors import ConfigError
from experiments.config.paths import runs_dir
from experiments.config.schema import Experiment
from experiments.grid import local, ray, worker
from experiments.grid.ledger import cell_status, compute_splits, lost_caches, read_splits
from experiments.records.progress import LOCK_FILE, Busy, locked, owner
from experiments.records.record import RECORD_FILE
from experiments.training import torchrun
from experiments.training.tuning import trials_of

WAIT_SECONDS = 2.0

SAY_WAITING_SECONDS = 300.0
"""How often is said again what is waited for."""

MAX_NAMED = 3
"""Cells that are named of those."""


def experiment_folder(experiment: Experiment) -> Path:
    """Folder of the experiment's runs."""
    return runs_dir() / experiment.name


def plan(experiment: Experiment) -> list[Cell]:
    """All cells with their run ids; loads the data, and finds what is wrong with it.

    Where every cell has ended and the data cannot change, as published sets cannot, no data is loaded, unless a cache is
    damaged.
    """
    from experiments.data.datasets import is_published

    folder = experiment_folder(experiment)
    known = expand(experiment, read_splits(folder))
    fixed = all(is_published(cell.data) for cell in known) and not lost_caches(folder)
    if fixed and all(cell_status(cell, folder)[0] in ("done", "failed") for cell in known):
        return known
    return expand(experiment, compute_splits(experiment, folder))


def together(lead: Callable[[], None]) -> None:
    """Under ``torchrun``: the first process carries out the command, the others take part in its cells.

    Raises
    ------
    ConfigError
        If there are fewer GPUs than processes. All processes find that, the first tells it.
    """
    from experiments.training import distributed
    from experiments.training.run import follow

    try:
        worker.end_with_parent()
        group = distributed.join()
    except ConfigError:
        if torchrun.place().rank == 0:
            raise
        return
    with worker.at_work:  # what is left behind by torchrun stops together, after a checkpoint that all have part in
        try:
            if group.leads:
                try:
                    lead()
                finally:
                    group.told(None)
            else:
                with worker.stop_signals_caught():
                    follow(worker.stop_requested)
        finally:
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


ENGINES = {"local": local, "ray": ray}
"""Where cells run: each has `resolve_jobs` and `execute`."""


def launch(
    cells: list[Cell],
    folder: Path,
    *,
    jobs: str,
    observer: local.Observer,
    retry_failed: bool = False,
    engine_name: str = "local",
) -> None:
    """Run the cells that have no record; those that another process runs are waited for.

    Parameters
    ----------
    cells : list of Cell
        As `plan` gives them.
    folder : Path
        Folder of the experiment's runs.
    jobs : str
        ``auto`` or a number of worker processes.
    observer : local.Observer
    retry_failed : bool
        Run failed cells again.
    engine_name : {"local", "ray"}

    Raises
    ------
    ConfigError
        If something is found to be wrong before any cell ran.
    """
    threads, room = cells[0].execution.threads, ENGINES[engine_name]
    # A wrong value is told even when nothing is left to do; no cluster is needed for that.
    local.requested_jobs(jobs) if room is ray else local.resolve_jobs(jobs, len(cells), threads)
    again = {cell.run_id: cell for cell in cells if retry_failed and cell_status(cell, folder)[0] == "failed"}
    begun = False

    def begin() -> None:
        """Nothing was found wrong: from here on files change."""
        nonlocal begun
        if not begun:
            begun = True
            observer.checked()
            forget_failures(list(again.values()), folder)
            again.clear()

    def is_missing(cell: Cell) -> bool:
        return cell.run_id in again or not (folder / str(cell.run_id) / RECORD_FILE).exists()

    settled, say_at = set[str | None](), 0.0
    while not worker.stop_requested():
        missing = [cell for cell in cells if cell.run_id not in settled and is_missing(cell)]
        free = [cell for cell in missing if cell_status(cell, folder)[0] != "running"]
        if not free:
            begin()
            if not missing:
                return
            if time.monotonic() >= say_at:
                observer.says(_waiting(missing, folder))
                say_at = time.monotonic() + SAY_WAITING_SECONDS
            time.sleep(WAIT_SECONDS)
            continue
        workers = room.resolve_jobs(jobs, len(free), threads)
        outcomes = room.execute(free, folder, jobs=workers, observer=observer, on_checked=begin)
        settled |= {run_id for run_id, outcome in outcomes.items() if outcome.status != "busy"}


def _waiting(cells: list[Cell], folder: Path) -> str:
    """What is waited for, and whose it is."""
    named = [f"{cell.run_id} ({owner(folder / str(cell.run_id)) or 'process unknown'})" for cell in cells[:MAX_NAMED]]
    more = f" and {len(cells) - MAX_NAMED} more" if len(cells) > MAX_NAMED else ""
    kind = "a cell" if len(cells) == 1 else f"{len(cells)} cells"
    return f"Waiting for {kind} that another command runs: {', '.join(named)}{more}. Ctrl-C stops this command alone."
