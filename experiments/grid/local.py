"""Run a function over cells: in this process, or in worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.machine import free_memory, usable_cores
from experiments.grid import worker
from experiments.grid.worker import Outcome
from experiments.training import torchrun

DIED = (
    "its worker process died twice, most likely killed for memory; "
    "use fewer JOBS or a smaller recipe.batch_size, then run with FLAGS=--retry-failed"
)


WORKER_BYTES = 750 * 2**20
"""Resident memory of a worker process with torch, torchvision and timm imported, before it loads any data (measured)."""


def gpu_count() -> int:
    """GPUs that the driver reports, without importing torch; none where ``CUDA_VISIBLE_DEVICES`` hides them all."""
    import pynvml

    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def requested_jobs(jobs: str) -> int | None:
    """`JOBS` as a number; None where it is ``auto``.

    Raises
    ------
    ConfigError
        If it is neither ``auto`` nor a whole number from 1.
    """
    if jobs == "auto":
        return None
    if not (jobs.isascii() and jobs.isdigit()) or int(jobs) < 1:
        raise ConfigError([f"JOBS: must be `auto` or a whole number from 1, got {jobs!r}."])
    return int(jobs)


def resolve_jobs(jobs: str, cells: int, threads: int) -> int:
    """``JOBS=auto|n`` → worker processes.

    On CPUs `auto` is one process for every `threads` cores: for cells of `vit_small_data` on two cores two single-threaded
    processes do more images per second than one with two threads (`make bench` measures it). On a GPU it is one.

    Raises
    ------
    ConfigError
        If `jobs` is neither ``auto`` nor a whole number from 1, `threads` is more than the machine has cores, or the
        workers would not fit into memory.
    """
    cores = max(usable_cores(), os.cpu_count() or 1)
    if threads > cores:
        raise ConfigError([f"`threads`: must be at most {cores}, the cores of this machine, got {threads}."])
    if torchrun.place().size > 1:
        if jobs not in ("auto", "1"):
            raise ConfigError([f"JOBS: must be 1 under torchrun, whose processes share each cell, got {jobs!r}."])
        return 1
    wanted = requested_jobs(jobs)
    room = max(1, free_memory() // WORKER_BYTES)
    if wanted is not None:
        jobs_at_once = min(wanted, max(1, cells))
        if jobs_at_once > room:
            raise ConfigError(
                [
                    f"JOBS: {jobs_at_once} worker processes need {jobs_at_once * WORKER_BYTES / 2**30:.1f} GiB before any "
                    f"data, {free_memory() / 2**30:.1f} GiB are free. Use JOBS={room} or JOBS=auto."
                ]
            )
        return jobs_at_once
    on_gpu = os.environ.get("DEVICE", "auto") != "cpu" and gpu_count() > 0
    return 1 if on_gpu else max(1, min(usable_cores() // threads, cells, room))


class Observer:
    """What a display is told. The base class says nothing."""

    def checked(self) -> None:
        """Nothing was found to be wrong; what follows is work."""

    def started(self, cell: Cell) -> None:
        """A cell begins."""

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """A cell ended in this way."""

    def says(self, sentence: str) -> None:
        """Something about the work as a whole."""


def execute(
    cells: list[Cell], folder: Path, *, jobs: int, observer: Observer, on_checked: Callable[[], None] = lambda: None
) -> dict[str | None, Outcome]:
    """Run cells that are not done, `jobs` at a time. One failed cell never stops the others.

    Parameters
    ----------
    cells : list of Cell
    folder : Path
        Folder of the experiment's runs.
    jobs : int
        1 runs in this process, more in as many worker processes.
    observer : Observer
    on_checked : callable
        Called once device, precision and models were found to be there, before the first cell.

    Returns
    -------
    dict
        Outcomes by run id; a stop leaves the cells that had not begun out.

    Raises
    ------
    ConfigError
        If a model, the device or the precision cannot be had; nothing has run then.
    """
    outcomes: dict[str | None, Outcome] = {}

    def ended(cell: Cell, outcome: Outcome) -> None:
        outcomes[cell.run_id] = outcome
        observer.ended(cell, outcome)

    run = _in_this_process if jobs == 1 else _in_workers
    run(cells, folder, jobs, on_checked, observer.started, ended)
    return outcomes


Checked = Callable[[], None]
Started = Callable[[Cell], None]
Ended = Callable[[Cell, Outcome], None]


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ConfigError(faults)


def _in_this_process(
    cells: list[Cell], folder: Path, jobs: int, on_checked: Checked, started: Started, ended: Ended
) -> None:
    with worker.stop_signals_caught():
        _refuse(worker.check(cells))
        on_checked()
        for cell in cells:
            if worker.stop_requested():
                return
            started(cell)
            ended(cell, worker.work(cell, folder))


def _in_workers(cells: list[Cell], folder: Path, jobs: int, on_checked: Checked, started: Started, ended: Ended) -> None:
    context = multiprocessing.get_context("spawn")  # torch and CUDA do not survive a fork
    stop = context.Event()
    waiting, checked = deque(cells), False

    def pool_of(size: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(size, context, worker.initialise, (stop, cells[0].execution.threads))

    with worker.stop_signals_caught(stop.set):
        while waiting and not stop.is_set():
            with pool_of(jobs) as pool:
                if not checked:
                    # A pool starts a process for a task: one for each worker lets all of them import torch at once.
                    check, *_ = [pool.submit(worker.check, cells), *(pool.submit(worker.warm_up) for _ in range(jobs - 1))]
                    _refuse(check.result())
                    checked = True
                    on_checked()
                lost = _until_broken(pool, waiting, folder, jobs, started, ended, stop.is_set)
            # When a worker dies, all cells in the pool are lost with it; alone, a second death has one culprit.
            for cell in lost:
                if stop.is_set():
                    ended(cell, Outcome("interrupted"))
                    continue
                with pool_of(1) as alone:
                    try:
                        outcome = alone.submit(worker.work, cell, folder).result()
                    except BrokenProcessPool:
                        outcome = worker.record_death(cell, folder, DIED)
                ended(cell, outcome)


def _until_broken(
    pool: ProcessPoolExecutor,
    waiting: deque[Cell],
    folder: Path,
    jobs: int,
    started: Started,
    ended: Ended,
    stopping: Callable[[], bool],
) -> list[Cell]:
    """Feed a pool, one cell a worker, until nothing waits. Returns the cells that were in a worker when one died."""
    running: dict[Future[Outcome], Cell] = {}
    lost: list[Cell] = []
    while running or (waiting and not stopping() and not lost):
        while waiting and len(running) < jobs and not stopping() and not lost:
            cell = waiting.popleft()
            started(cell)
            try:
                running[pool.submit(worker.work, cell, folder)] = cell
            except BrokenProcessPool:
                lost.append(cell)
        for future in wait(running, timeout=0.2, return_when=FIRST_COMPLETED).done:
            cell = running.pop(future)
            try:
                ended(cell, future.result())
            except BrokenProcessPool:
                lost.append(cell)
    return lost
