"""One cell in one process: takes its lock, runs it, and turns whatever happens into an outcome. Never raises."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.config import ConfigError
from experiments.grid import Cell
from experiments.progress import Busy, locked, read_progress
from experiments.record import METRICS_FILE, RECORD_FILE, Failure, read_record, read_rows, write_record

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, and what batch systems send before a time limit."""

_stop_asked = threading.Event()
_stop_shared: Callable[[], bool] = _stop_asked.is_set
_parent = os.getppid()


class Outcome(NamedTuple):
    """What became of a cell in this process."""

    status: Literal["done", "failed", "busy", "interrupted"]
    message: str = ""
    seconds: float = 0.0
    images_per_second: float | None = None
    val_top1: float | None = None
    says: tuple[str, ...] = ()
    """Sentences for the user, the same from many cells: show each once."""


@contextmanager
def stop_signals_caught(on_signal: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let the stop signals ask for an orderly end: the run in progress writes a checkpoint."""

    def ask(number: int, frame: Any) -> None:
        _stop_asked.set()
        on_signal()

    before = {number: signal.signal(number, ask) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def initialise(stop_shared: Any, threads: int) -> None:
    """Set up a worker process before torch is imported in it."""
    global _stop_shared, _parent
    _stop_shared, _parent = stop_shared.is_set, os.getppid()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: _stop_asked.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent decides


def stop_requested() -> bool:
    """Whether this process should end its run: asked to, told by its parent, or left behind by it."""
    return _stop_asked.is_set() or _stop_shared() or os.getppid() != _parent


def warm_up() -> None:
    """Import what a cell needs, while another worker checks the grid."""
    import experiments.run  # noqa: F401


def check(cells: list[Cell]) -> list[str]:
    """Faults that only torch and timm can tell, before any cell runs: device, precision, models."""
    from experiments.run import build_model, check_precision, resolve_device

    faults: list[str] = []
    try:
        device = resolve_device()
        for precision in {cell.recipe.precision for cell in cells}:
            check_precision(precision, device)
    except ConfigError as error:
        faults += error.faults
    first_of_each = {(cell.model_name, cell.data.image_size, cell.data.channels): cell for cell in cells}
    for cell in first_of_each.values():
        try:
            build_model(cell, n_classes=10)
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    return faults


def work(cell: Cell, experiment_folder: Path) -> Outcome:
    """Run a cell to its end, unless it has ended already or another process is on it."""
    folder = experiment_folder / str(cell.run_id)
    began, says = time.monotonic(), list[str]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if (folder / RECORD_FILE).exists():
                return Outcome(read_record(folder / RECORD_FILE).status)
            for left_over in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                left_over.unlink(missing_ok=True)
            return _run(cell, folder, began, says)
    except Busy:
        return Outcome("busy")
    except Exception as error:  # a fault of the folder itself: nothing could be written
        return Outcome("failed", _sentence(error), time.monotonic() - began, says=tuple(says))


def _run(cell: Cell, folder: Path, began: float, says: list[str]) -> Outcome:
    from experiments.fit import Interrupted
    from experiments.run import resolve_device, run

    try:
        record = run(cell, folder, device=resolve_device(), say=says.append, stop_requested=stop_requested)
    except Interrupted as stopped:
        return Outcome("interrupted", str(stopped), time.monotonic() - began, says=tuple(says))
    except OSError as error:  # a full disk or a lost folder: the cell is not to blame, and is run again next time
        return Outcome("failed", f"{_sentence(error)} Make space or mend the folder, then run the command again.")
    except Exception as error:
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        if _is_out_of_memory(error):
            error = OutOfMemory(cell, error)
        _record_failure(cell, folder, error)
        return Outcome("failed", _sentence(error), time.monotonic() - began, says=tuple(says))
    return Outcome(
        "done",
        "",
        time.monotonic() - began,
        record.compute.images_per_second,
        record.metrics["val/top1"],
        tuple(says),
    )


class OutOfMemory(Exception):
    """A batch that the device has no room for, with the size that was tried and what to lower."""

    def __init__(self, cell: Cell, error: Exception) -> None:
        size = cell.data.image_size
        super().__init__(
            f"out of memory with batches of {cell.recipe.batch_size} images of {size} × {size} pixels "
            f"({str(error).splitlines()[0].rstrip('.')}); lower `recipe.batch_size`, `data.image_size` or JOBS, "
            f"then run with FLAGS=--retry-failed"
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether host or device ran out; on the host torch has no type of its own for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "not enough memory" in str(error))
    )


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if type(error).__module__.startswith("experiments.") else f"{type(error).__name__}: {text}"


def _record_failure(cell: Cell, folder: Path, error: Exception) -> None:
    """A failed cell ends with a record too: it stays failed until it is asked for again."""
    from experiments.artifacts import failed_record

    progress = read_progress(folder)
    attempt = progress.get("attempt")
    attempts = [*progress.get("earlier", []), *([attempt] if attempt else [])]
    step = getattr(error, "step", progress.get("step"))
    rows = read_rows(folder / METRICS_FILE)
    failure = Failure(
        kind=type(error).__name__, message=_sentence(error), step=step, last_metrics=rows[-1] if rows else None
    )
    write_record(folder, failed_record(cell, failure, attempts, {}))


def record_death(cell: Cell, experiment_folder: Path, message: str) -> Outcome:
    """Mark a cell failed whose process died more than once."""
    folder = experiment_folder / str(cell.run_id)
    _record_failure(cell, folder, RuntimeError(message))
    return Outcome("failed", message)
