"""Run what is missing of an experiment: plan, skip, execute, wait for others."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from experiments import engine, worker
from experiments.config import ConfigError, Experiment, runs_dir
from experiments.grid import Cell, cell_status, compute_splits, expand, read_splits
from experiments.record import RECORD_FILE
from experiments.tuning import trials_of

WAIT_SECONDS = 2.0


def experiment_folder(experiment: Experiment) -> Path:
    """Folder of the experiment's runs."""
    return runs_dir() / experiment.name


def plan(experiment: Experiment) -> list[Cell]:
    """All cells with their run ids; loads the data, and finds what is wrong with it.

    Where every cell has ended and the data cannot change, as published sets cannot, no data is loaded.
    """
    folder = experiment_folder(experiment)
    known = expand(experiment, read_splits(folder))
    published = all(data.source != "image_folder" for data in experiment.data.values())
    if published and all(cell_status(cell, folder)[0] in ("done", "failed") for cell in known):
        return known
    try:
        return expand(experiment, compute_splits(experiment, folder))
    except OSError as error:
        raise ConfigError([f"RUNS_DIR: {folder} cannot be written ({error.strerror}). Choose another folder."]) from error


def trials_for(cells: list[Cell]) -> list[Cell]:
    """The tuning trials that the cells' recipes are chosen from, each once."""
    return list({trial.run_id: trial for cell in cells for trial in trials_of(cell)}.values())


def forget_failures(cells: list[Cell], folder: Path) -> int:
    """Delete the records of failed cells, so that they run again from the start. Returns their number."""
    failed = [cell for cell in cells if cell_status(cell, folder)[0] == "failed"]
    for cell in failed:
        shutil.rmtree(folder / str(cell.run_id))
    return len(failed)


def launch(cells: list[Cell], folder: Path, *, jobs: str, observer: engine.Observer, retry_failed: bool = False) -> None:
    """Run the cells that have no record; those that another process runs are waited for.

    Parameters
    ----------
    cells : list of Cell
        As `plan` gives them.
    folder : Path
        Folder of the experiment's runs.
    jobs : str
        ``auto`` or a number of worker processes.
    observer : engine.Observer
    retry_failed : bool
        Run failed cells again.

    Raises
    ------
    ConfigError
        If something is found to be wrong before any cell ran.
    """
    threads = cells[0].threads
    engine.resolve_jobs(jobs, len(cells), threads)  # a wrong value is told even when nothing is left to do
    if retry_failed:
        forget_failures(cells, folder)
    settled: set[str | None] = set()
    while not worker.stop_requested():
        missing = [c for c in cells if c.run_id not in settled and not (folder / str(c.run_id) / RECORD_FILE).exists()]
        if not missing:
            return
        free = [cell for cell in missing if cell_status(cell, folder)[0] != "running"]
        if not free:
            time.sleep(WAIT_SECONDS)
            continue
        workers = engine.resolve_jobs(jobs, len(free), threads)
        outcomes = engine.execute(free, folder, jobs=workers, observer=observer)
        settled |= {run_id for run_id, outcome in outcomes.items() if outcome.status != "busy"}
