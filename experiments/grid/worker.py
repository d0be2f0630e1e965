"""One cell in one process: takes its lock, runs it, and turns whatever happens into an outcome. Never raises."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError, UserError
from experiments.records.progress import Busy, ended_attempts, locked, read_progress
from experiments.records.record import (
    METRICS_FILE,
    RECORD_FILE,
    Failure,
    Record,
    RecordError,
    read_record,
    read_rows,
    write_record,
)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, a terminal that closes, and what batch systems send before a time limit."""

PARENT_POLL_SECONDS = 0.5
"""How often a process looks whether the one that feeds it lives."""

ORPHAN_SECONDS = 60.0
"""How long a process that was left behind may take for its checkpoint."""

at_work = threading.RLock()
"""Held while this process must not simply end."""

_stop_asked = threading.Event()
_stop_shared: Callable[[], bool] = _stop_asked.is_set
_watcher: threading.Thread | None = None


class Outcome(NamedTuple):
    """What became of a cell in this process."""

    status: Literal["done", "failed", "busy", "interrupted"]
    message: str = ""
    seconds: float | None = None
    """Of this process; None where it did nothing."""
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

    before = {number: signal.signal(number, ask) for number in _caught()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _caught() -> list[signal.Signals]:
    """The stop signals, without a hang-up that was ignored at the start, as under nohup."""
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]


def initialise(stop_shared: Any, threads: int) -> None:
    """Set up a worker process before torch is imported in it."""
    global _stop_shared
    _stop_shared = stop_shared.is_set
    os.environ["OMP_NUM_THREADS"] = str(threads)
    for number in _caught():
        signal.signal(number, lambda *_: _stop_asked.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent decides
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end soon after the one that feeds it, however that died; a cell writes its checkpoint first.

    For workers and the processes of ``torchrun``: the command itself outlives the shell that started it.
    """
    global _watcher
    if _watcher is None:
        parent = multiprocessing.parent_process()  # known even where it died before this line
        feeds = os.getppid() if parent is None or parent.pid is None else parent.pid
        _watcher = threading.Thread(target=_watch, args=(feeds,), name="end-with-parent", daemon=True)
        _watcher.start()


def _watch(parent: int) -> None:
    """In a thread, as an idle process blocks in a queue: wait until the parent is gone, then for the cell in progress."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    _stop_asked.set()
    at_work.acquire(timeout=ORPHAN_SECONDS)
    os._exit(1)


def stop_requested() -> bool:
    """Whether this process should end its run: asked to, told by the command that feeds it, or left behind by it."""
    return _stop_asked.is_set() or _stop_shared()


def warm_up() -> None:
    """Import what a cell needs, while another worker checks the grid."""
    import experiments.training.run  # noqa: F401


def check(cells: list[Cell]) -> list[str]:
    """Faults that only torch and timm can tell, before any cell runs: device, precision, models that cannot learn."""
    from experiments.training.device import check_precision, resolve_device
    from experiments.training.distributed import current
    from experiments.training.memory import parts_for
    from experiments.training.models import check as check_model
    from experiments.training.optim import faults as recipe_faults

    faults: list[str] = []
    processes = current().size
    for size in sorted({cell.recipe.batch_size for cell in cells}):
        if size % processes:
            faults.append(
                f"`recipe.batch_size`: {size} images do not divide among {processes} processes; set it to a multiple of "
                f"{processes}, as in {size - size % processes + processes}, or change --nproc-per-node."
            )
    try:
        device = resolve_device()
        for precision in {cell.recipe.precision for cell in cells}:
            check_precision(precision, device)
    except ConfigError as error:
        faults += error.faults
    for cell in {id(cell.recipe): cell for cell in cells}.values():
        faults += [fault for fault in recipe_faults(cell.recipe_name, cell.recipe) if fault not in faults]
    first_of_each = {(cell.model_name, cell.data.image_size, cell.data.channels): cell for cell in cells}
    for cell in first_of_each.values():
        try:
            sizes = {"image_size": cell.data.image_size, "in_channels": cell.data.channels}
            checked = check_model(cell.model_name, cell.model, **sizes)
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
            continue
        largest = max(other.recipe.batch_size for other in cells if other.model_name == cell.model_name)
        if parts_for(largest, cell.execution.micro_batch_size) > 1 and checked.batch_statistics:
            faults.append(
                f"`micro_batch_size`: {cell.model_name} normalises by the statistics of its batch (BatchNorm), which "
                f"parts of {cell.execution.micro_batch_size} images would change. Leave it out, or choose other models."
            )
    return faults


def work(cell: Cell, experiment_folder: Path) -> Outcome:
    """Run a cell to its end, unless it has ended already or another process is on it."""
    with at_work:
        return _work(cell, experiment_folder)


def _work(cell: Cell, experiment_folder: Path) -> Outcome:
    folder = experiment_folder / str(cell.run_id)
    began, says = time.monotonic(), list[str]()
    if stop_requested():  # a worker that was still importing when the command was told to stop
        return Outcome("interrupted")
    try:
        with contextlib.suppress(FileExistsError):  # a file in its place: its lock says so
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as without_locks:
            says += [str(without_locks)] if without_locks else []
            if (folder / RECORD_FILE).exists():
                return _ended_before(read_record(folder / RECORD_FILE))
            for left_over in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                left_over.unlink(missing_ok=True)
            return _run(cell, folder, began, says)
    except Busy:
        return Outcome("busy")
    except Exception as error:  # a fault of the folder itself: nothing could be written
        return Outcome("failed", _sentence(error), time.monotonic() - began, says=tuple(says))


def _ended_before(record: Record) -> Outcome:
    """What another process made of a cell."""
    message = record.failure.message if record.failure else ""
    return Outcome(record.status, message, None, record.compute.images_per_second, record.metrics.get("val/top1"))


def _run(cell: Cell, folder: Path, began: float, says: list[str]) -> Outcome:
    from experiments.training.device import resolve_device
    from experiments.training.fit import Interrupted
    from experiments.training.memory import is_out_of_memory
    from experiments.training.run import run

    try:
        record = run(cell, folder, device=resolve_device(), say=says.append, stop_requested=stop_requested)
    except Interrupted as stopped:
        return Outcome("interrupted", str(stopped), time.monotonic() - began, says=tuple(says))
    except OSError as error:  # a full disk or a lost folder: the cell is not to blame, and is run again next time
        return Outcome("failed", f"{_sentence(error)} Make space or mend the folder, then run the command again.")
    except Exception as error:
        (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        if is_out_of_memory(error):
            error = OutOfMemory(cell, error)
        _record_failure(cell, folder, error, _facts(cell))
        return Outcome("failed", _sentence(error), time.monotonic() - began, says=tuple(says))
    return Outcome(
        "done",
        "",
        time.monotonic() - began,
        record.compute.images_per_second,
        record.metrics["val/top1"],
        tuple(says),
    )


class OutOfMemory(UserError):
    """A batch that the device has no room for, with the size that was tried and what to lower."""

    def __init__(self, cell: Cell, error: Exception) -> None:
        size, parts, hint = cell.data.image_size, getattr(error, "parts", 1), getattr(error, "hint", "")
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        super().__init__(
            f"{cell.model_name}: out of memory with batches of {cell.recipe.batch_size} images of {size} × {size} pixels"
            f"{f' in {parts} parts' if parts > 1 else ''} ({reason}){f'; {hint}' if hint else ''}; "
            f"lower `recipe.batch_size`, `data.image_size` or JOBS, then run with FLAGS=--retry-failed"
        )


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _facts(cell: Cell) -> dict[str, Any]:
    """The machine and the resolved settings, for the record of a failure; nothing where even they cannot be had."""
    from experiments.training.device import resolve_device
    from experiments.training.run import facts_of

    with contextlib.suppress(Exception):
        return facts_of(cell, resolve_device())
    return {}


def _record_failure(cell: Cell, folder: Path, error: Exception, environment: dict[str, Any] | None = None) -> None:
    """A failed cell ends with a record too: it stays failed until it is asked for again."""
    from experiments.training.artifacts import failed_record, read_resolved

    progress, resolved = read_progress(folder), read_resolved(folder)
    geometry = resolved.pop("geometry", {})
    rows = list[dict[str, Any]]()
    with contextlib.suppress(RecordError, OSError):  # damaged rows are often why the run failed
        rows = read_rows(folder / METRICS_FILE)
    failure = Failure(
        kind=type(error).__name__,
        message=_sentence(error),
        step=getattr(error, "step", progress.get("step")),
        last_metrics=rows[-1] if rows else None,
    )
    record = failed_record(
        cell,
        failure,
        attempts=ended_attempts(progress),
        environment=environment or resolved,
        geometry=geometry,
        started=progress.get("started"),
    )
    write_record(folder, record)


def record_death(cell: Cell, experiment_folder: Path, message: str) -> Outcome:
    """Mark a cell failed whose process died more than once."""
    folder = experiment_folder / str(cell.run_id)
    _record_failure(cell, folder, RuntimeError(message))
    return Outcome("failed", message)
