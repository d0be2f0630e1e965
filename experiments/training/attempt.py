"""An attempt at a cell in this process: its lock, and what becomes of it."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from experiments.config.cells import Cell
from experiments.config.errors import UserError
from experiments.records.progress import Busy, ended_attempts, locked, now, read_progress
from experiments.records.record import (
    METRICS_FILE,
    RECORD_FILE,
    SCHEMA,
    Compute,
    Failure,
    Record,
    RecordError,
    read_record,
    read_rows,
    write_record,
)
from experiments.training import artifacts, distributed, memory, stop
from experiments.training.artifacts import Facts
from experiments.training.device import resolve_device
from experiments.training.fit import Interrupted
from experiments.training.outcome import Outcome
from experiments.training.provenance import facts_of
from experiments.training.state import Training
from experiments.training.watch import Watch


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


class Attempt:
    """One attempt at a cell, in its run folder, which is made where it is missing; without `outcome` there is work to do."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell, self.folder = cell, folder
        self.outcome: Outcome | None = None
        self._began, self._sentences = time.monotonic(), list[str]()
        self._watch: Watch | None = None

    @property
    def ended(self) -> Outcome:
        """What became of the cell."""
        if self.outcome is None:
            raise RuntimeError("this attempt has not ended")
        return self.outcome

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the cell's lock, and turn whatever happens meanwhile into `outcome`."""
        with stop.at_work, ExitStack() as held:
            try:
                self._claim(held)
            except Busy:
                self.outcome = Outcome("busy")
            except Exception as error:  # a fault of the folder itself: nothing could be written
                self._ends("failed", error)
            try:
                yield
            except (Interrupted, KeyboardInterrupt) as stopped:
                if self._watch:
                    self._watch.interrupted()
                self._ends("interrupted", stopped)
                if isinstance(stopped, KeyboardInterrupt):
                    raise
            except Exception as error:
                if not distributed.current().leads and not isinstance(error, UserError):
                    raise  # what is wrong with a cell meets the leader too; another fault must end the group
                self._fail(error)

    def _claim(self, held: ExitStack) -> None:
        """Take the lock, unless the cell has ended or this process was told to stop while it was still importing."""
        if stop.requested():
            self.outcome = Outcome("interrupted")
            return
        with contextlib.suppress(FileExistsError):  # a file in its place: its lock says so
            self.folder.mkdir(parents=True, exist_ok=True)
        if without_locks := held.enter_context(locked(self.folder)):
            self.says(str(without_locks))
        if (self.folder / RECORD_FILE).exists():
            record = read_record(self.folder / RECORD_FILE)
            message = record.failure.message if record.failure else ""
            self.outcome = Outcome(
                record.status, message, None, record.compute.images_per_second, record.metrics.get("val/top1")
            )
            return
        for left_over in self.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            left_over.unlink(missing_ok=True)

    def says(self, sentence: str | None) -> None:
        """A sentence for the user, where there is one."""
        if sentence:
            self._sentences.append(sentence)

    def watch(self, training: Training, facts: Facts) -> Watch:
        """Write ``config.yaml``, and follow the training from here on."""
        artifacts.write_config(self.cell, self.folder, facts)
        self._watch = Watch(self.cell, self.folder, training, facts, self.says)
        return self._watch

    def done(self, record: Record) -> None:
        """The run has its result: write the record, last of all files."""
        write_record(self.folder, record)
        if self._watch:
            self._watch.finished(record)
        seconds, rate = time.monotonic() - self._began, record.compute.images_per_second
        self.outcome = Outcome("done", "", seconds, rate, record.metrics["val/top1"], tuple(self._sentences))

    def _fail(self, error: Exception) -> None:
        """A failed cell ends with a record too, unless it is not to blame."""
        try:
            if self._watch:
                self._watch.failed(error)
            if isinstance(error, OSError):  # a full disk or a lost folder: the cell is run again next time
                message = f"{_sentence(error)} Free space or repair the folder, then run the command again."
                self.outcome = Outcome("failed", message)
                return
            (self.folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
            if memory.is_out_of_memory(error):
                error = OutOfMemory(self.cell, error)
            known = dict[str, Any]()
            with contextlib.suppress(Exception):  # a fault of the machine itself may be why
                known = facts_of(self.cell, resolve_device())
            record_failure(self.cell, self.folder, error, known)
        except Exception as second:  # a fault of the folder itself: nothing could be written
            error = second
        self._ends("failed", error)

    def _ends(self, status: Literal["failed", "interrupted"], error: BaseException) -> None:
        message = _sentence(error) if status == "failed" else str(error)
        self.outcome = Outcome(status, message, time.monotonic() - self._began, says=tuple(self._sentences))


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def record_failure(cell: Cell, folder: Path, error: Exception, environment: dict[str, Any] | None = None) -> None:
    """Write the record of a cell that failed, which stays failed until it is asked for again, from what its folder tells.

    It has no metrics, so that it can enter no mean.
    """
    progress, resolved = read_progress(folder), artifacts.read_resolved(folder)
    geometry, attempts = resolved.pop("geometry", {}), ended_attempts(progress)
    rows = list[dict[str, Any]]()
    with contextlib.suppress(RecordError, OSError):  # damaged rows are often why the run failed
        rows = read_rows(folder / METRICS_FILE)
    failure = Failure(
        kind=type(error).__name__,
        message=_sentence(error),
        step=getattr(error, "step", progress.get("step")),
        last_metrics=rows[-1] if rows else None,
    )
    record = Record(
        schema_=SCHEMA,
        **artifacts.identity(cell),
        status="failed",
        steps=failure.step or 0,
        samples_seen=(failure.step or 0) * cell.recipe.batch_size,
        metrics={},
        compute=Compute(device_hours=artifacts.device_hours(attempts) if attempts else None),
        environment=environment or resolved,
        geometry=geometry,
        attempts=attempts,
        started=progress.get("started"),
        finished=now(),
        failure=failure,
    )
    write_record(folder, record)
