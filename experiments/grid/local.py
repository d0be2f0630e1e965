"""The engine ``local``: cells in this process, or in worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.machine import free_memory, usable_cores
from experiments.grid import worker
from experiments.training import torchrun
from experiments.training.outcome import Outcome

WORKER_BYTES = 750 * 2**20
"""Resident memory of a worker process with torch, torchvision and timm imported, before it loads any data (measured)."""

MOST_ON_GPU = 8
"""Processes that `auto` lets share one GPU at most."""
WORTH_MEASURING = 8
"""Cells from which on `auto` measures how many of them share a GPU best; it takes as long as a small cell or two."""
GPU_WORKER_BYTES = 2**30
"""Memory of a GPU that a process takes before it trains anything: a bound on its context and kernels (assumed)."""
GAIN = 1.1
"""Twice as many processes must be faster together by this factor."""


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


def free_on_gpu() -> int:
    """Free memory of the first GPU, in bytes."""
    import pynvml

    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).free)


def on_gpu() -> bool:
    """Whether cells go to a GPU."""
    return os.environ.get("DEVICE", "auto") != "cpu" and gpu_count() > 0


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
        raise ConfigError(f"JOBS: must be `auto` or a whole number from 1, got {jobs!r}.")
    return int(jobs)


def resolve_jobs(jobs: str, cells: int, threads: int) -> int:
    """``JOBS=auto|n`` → worker processes.

    On CPUs `auto` is one process for every `threads` cores: for cells of `vit_small_data` on two cores two single-threaded
    processes do more images per second than one with two threads (`make bench` measures it). On a GPU it is one, or what
    `Processes.check` finds fastest.

    Raises
    ------
    ConfigError
        If `jobs` is neither ``auto`` nor a whole number from 1, `threads` is more than the machine has cores, or the
        workers would not fit into memory.
    """
    cores = max(usable_cores(), os.cpu_count() or 1)
    if threads > cores:
        raise ConfigError(f"`threads`: must be at most {cores}, the cores of this machine, got {threads}.")
    if torchrun.place().size > 1:
        if jobs not in ("auto", "1"):
            raise ConfigError(f"JOBS: must be 1 under torchrun, whose processes share each cell, got {jobs!r}.")
        return 1
    wanted = requested_jobs(jobs)
    room = max(1, free_memory() // WORKER_BYTES)
    if wanted is not None:
        jobs_at_once = min(wanted, max(1, cells))
        if jobs_at_once > room:
            raise ConfigError(
                f"JOBS: {jobs_at_once} worker processes need {jobs_at_once * WORKER_BYTES / 2**30:.1f} GiB before any "
                f"data, {free_memory() / 2**30:.1f} GiB are free. Use JOBS={room} or JOBS=auto."
            )
        if on_gpu() and jobs_at_once > 1 and jobs_at_once * GPU_WORKER_BYTES > (free := free_on_gpu()):
            raise ConfigError(
                f"JOBS: the GPU has {free / 2**30:.1f} GiB free, and {jobs_at_once} processes on it need 1 GiB each "
                f"before any batch. Use JOBS={max(1, free // GPU_WORKER_BYTES)} or JOBS=auto."
            )
        return jobs_at_once
    return 1 if on_gpu() else max(1, min(usable_cores() // threads, cells, room))


def fastest(rates: Mapping[int, float]) -> int:
    """How many processes should share a GPU, from their steps per second together: more only where it gains by `GAIN`."""
    jobs = 1
    while rates.get(2 * jobs, 0) > GAIN * rates.get(jobs, 0):
        jobs *= 2
    return jobs


class InProcess:
    """Cells one after another in this process."""

    slots, note = 1, ""

    def __init__(self, cells: list[Cell], folder: Path) -> None:
        self.cells, self.folder = cells, folder
        self._submitted: list[Cell] = []

    @property
    def running(self) -> int:
        return len(self._submitted)

    def check(self) -> list[str]:
        return worker.check(self.cells)

    def submit(self, cell: Cell) -> None:
        self._submitted.append(cell)

    def collect(self) -> Iterable[tuple[Cell, Outcome]]:
        from experiments.training.run import run

        cells, self._submitted = self._submitted, []
        return zip(cells, map(run, cells, repeat(self.folder)), strict=False)  # lazily: the driver's next takes the step

    def stop(self) -> None:
        pass  # the signal reached this process

    def close(self) -> None:
        pass


class Processes:
    """Cells in worker processes of this machine.

    When a worker dies, all cells in the pool are lost with it. Each of them is run again alone: a second death has one
    culprit. With `measure`, as many as are fastest together are at work at a time, `jobs` at most.
    """

    note = ""

    def __init__(self, cells: list[Cell], folder: Path, jobs: int, *, measure: bool = False) -> None:
        self.cells, self.folder, self.jobs, self.measure = cells, folder, jobs, measure
        self._context = multiprocessing.get_context("spawn")  # torch and CUDA do not survive a fork
        self._stop = self._context.Event()
        self._running: dict[Future[Outcome], Cell] = {}
        self._suspects: list[Cell] = []
        self._alone = False
        self._pool = self._start(jobs)

    def _start(self, size: int) -> ProcessPoolExecutor:
        threads = self.cells[0].execution.threads
        return ProcessPoolExecutor(size, self._context, worker.initialise, (self._stop.is_set, threads))

    @property
    def running(self) -> int:
        return len(self._running) + len(self._suspects)

    @property
    def slots(self) -> int:
        return self.jobs if not (self._suspects or self._alone) else 0

    def check(self) -> list[str]:
        # A pool starts a process for a task: one for each worker lets all of them import torch at once.
        checked = self._pool.submit(worker.check, self.cells)
        for _ in range(0 if self.measure else self.jobs - 1):
            self._pool.submit(worker.warm_up)
        try:
            faults = checked.result()
        except BrokenProcessPool:
            return ["JOBS: a worker process died before any cell ran, most likely killed for memory. Use fewer JOBS."]
        if self.measure and not faults:
            rates = self._rates()
            self.jobs = fastest(rates)
            shown = ", ".join(f"{jobs}: {rate:.3g}" for jobs, rate in rates.items())
            self.note = f"JOBS=auto: {self.jobs} at a time share the GPU (steps/s together, by processes: {shown})."
        return faults

    def _rates(self) -> dict[int, float]:
        """Steps per second of 1, 2, 4, … processes together, as long as more are faster and the GPU has room for them."""
        rates, jobs = dict[int, float](), 1
        try:
            while jobs <= self.jobs and fastest(rates) >= jobs // 2:
                for _ in range(2):  # the first time processes start
                    rate = sum(self._pool.map(worker.steps_per_second, [self.cells[0]] * jobs))
                rates[jobs], jobs = rate, 2 * jobs
        except RuntimeError:  # out of memory, at times with the death of a process
            self._pool.shutdown()
            self._pool = self._start(self.jobs)
        return rates

    def submit(self, cell: Cell) -> None:
        try:
            self._running[self._pool.submit(worker.work, cell, self.folder)] = cell
        except BrokenProcessPool:
            self._suspects.append(cell)

    def collect(self) -> Iterable[tuple[Cell, Outcome]]:
        ended, alone = list[tuple[Cell, Outcome]](), self._alone
        for future in wait(self._running, timeout=0.2, return_when=FIRST_COMPLETED).done:
            cell = self._running.pop(future)
            try:
                ended.append((cell, future.result()))
            except BrokenProcessPool:
                if alone:
                    ended.append((cell, worker.record_death(cell, self.folder, "worker process")))
                else:
                    self._suspects.append(cell)
        if not self._running and (self._suspects or self._alone):
            ended += self._next_alone()
        return ended

    def _next_alone(self) -> list[tuple[Cell, Outcome]]:
        """A new pool, of one worker for the next suspect or of all where none is left; at a stop, the suspects' outcomes."""
        self._pool.shutdown()
        if self._stop.is_set():
            stopped, self._suspects = self._suspects, []
            return [(cell, Outcome("interrupted")) for cell in stopped]
        self._alone = bool(self._suspects)
        self._pool = self._start(1 if self._alone else self.jobs)
        if self._alone:
            self.submit(self._suspects.pop(0))
        return []

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._pool.shutdown()


def start(cells: list[Cell], folder: Path, jobs: str) -> InProcess | Processes:
    """The engine ``local``: this process for one cell at a time, worker processes for more."""
    at_once = resolve_jobs(jobs, len(cells), cells[0].execution.threads)
    if jobs == "auto" and on_gpu() and torchrun.place().size == 1 and len(cells) >= WORTH_MEASURING:
        room = min(MOST_ON_GPU, free_memory() // WORKER_BYTES, free_on_gpu() // GPU_WORKER_BYTES)
        return Processes(cells, folder, max(1, room), measure=True)
    return InProcess(cells, folder) if at_once == 1 else Processes(cells, folder, at_once)
