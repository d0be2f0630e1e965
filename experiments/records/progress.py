"""Who works on a run, and how far it is: a lock and a heartbeat in the run folder, seen by every process and engine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from experiments.config.errors import UserError
from experiments.records.record import Attempt, Count, put_in_place
from experiments.records.state import read_cache

LOCK_FILE = "run.lock"
PROGRESS_FILE = "progress.json"
BEAT_SECONDS = 1.0


class Progress(BaseModel):
    """``progress.json``."""

    model_config = ConfigDict(allow_inf_nan=False)

    step: Count = 0
    steps: Count = 0
    val_top1: float | None = None
    images_per_second: float | None = None
    attempt: Attempt
    started: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT[\d:+.Z-]+$")] | None = None
    earlier: list[Attempt] = []


def now() -> str:
    """The time, in ISO 8601 with seconds, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Busy(Exception):
    """Another process works on this run."""


class LockError(UserError):
    """The lock does not say whether a process works on a run. The message names the path and the fix."""


class NoLocks(LockError):
    """The file system has no file locks. The message is equal for all runs of an experiment."""


_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN)
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def locked(folder: Path) -> Iterator[NoLocks | None]:
    """Hold a run's lock, which says who holds it. The kernel frees it when its owner dies, however it dies.

    A file system without locks holds nobody up: what the user must know about it is handed over. Raises Busy if another
    process holds the lock, LockError if it cannot be taken for another reason.
    """
    with _opened(folder, "a") as file:
        without = None
        try:
            _lock(file, folder, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):  # on a full disk the lock holds and does not say whose it is
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except NoLocks as error:
            without = error
        yield without


def is_running(folder: Path) -> bool:
    """Whether some process holds the run's lock; raises LockError if the lock does not say."""
    try:
        with _opened(folder, "r") as file:
            _lock(file, folder, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except Busy:
        return True
    return False


def owner(folder: Path) -> str:
    """Who holds, or held last, the run's lock, as ``process 12 on host``; empty where it does not say."""
    try:
        return (folder / LOCK_FILE).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _opened(folder: Path, mode: str) -> IO[str]:
    try:
        return open(folder / LOCK_FILE, mode, encoding="utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refusal(folder, error) from error


def _lock(file: IO[str], folder: Path, how: int) -> None:
    """Lock a file at once, or say why not."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise Busy(folder.name) from error
        if error.errno in _WITHOUT_LOCKS:
            raise NoLocks(
                f"{folder.parent}: this file system has no file locks ({error.strerror}), so that two commands may run the "
                f"same cell. Give one command at a time, or set RUNS_DIR to another file system."
            ) from error
        raise _refusal(folder, error) from error


def _refusal(folder: Path, error: OSError) -> LockError:
    path = folder if error.errno == errno.ENOTDIR else folder / LOCK_FILE
    return LockError(
        f"{path}: the run's lock cannot be used ({error.strerror}). Move this file or folder away, or fix its permissions "
        f"or the disk, then run the command again."
    )


def read_progress(folder: Path) -> dict[str, Any]:
    """The last heartbeat of a run; empty where the file is missing or damaged."""
    progress = read_cache(folder / PROGRESS_FILE, Progress)
    return progress.model_dump() if progress else {}


def ended_attempts(progress: Mapping[str, Any], kept: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """All attempts of a run that nobody works on; one that never said how it ended was killed.

    A progress file is newer than the checkpoint by up to the time between checkpoints, but may have been lost: of each
    attempt the account counts that saw more of it.
    """
    told = [*progress["earlier"], progress["attempt"]] if progress else []  # the last one as it stood at its last beat
    both = zip_longest(told, kept or [])
    attempts = [max((seen for seen in same if seen), key=lambda seen: seen["seconds"]) for same in both]
    return [{**attempt, "reason": "killed"} if attempt["reason"] == "running" else attempt for attempt in attempts]


class Heartbeat:
    """Writes how far a run is, at most once a second, and remembers the attempts before this one.

    `device` names the hardware and `devices` counts the processes that share every batch, each with a device of its own.
    The attempt begins at `start_step`. `kept` is what `ledger` gave to the checkpoint that the run goes on from: it stands
    in for a progress file that was lost.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        steps: int,
        batch_size: int,
        start_step: int,
        kept: Mapping[str, Any] | None = None,
        devices: int = 1,
    ) -> None:
        self.folder, self.device, self.steps, self.batch_size = folder, device, steps, batch_size
        self.devices = devices
        self.start_step = self.step = start_step
        self.val_top1: float | None = None
        self._seconds = 0.0
        self._working_since: float | None = None
        before, kept = read_progress(folder), kept or {}
        self.started: str = before.get("started") or kept.get("started") or now()
        """When the first attempt began."""
        self.earlier = ended_attempts(before, kept.get("attempts", []))
        self._write("running")

    def work_begins(self) -> None:
        """A stretch of training begins; evaluations and checkpoints lie between stretches."""
        self._working_since = time.monotonic()

    def work_ends(self, step: int) -> None:
        """A stretch of training ended before `step`."""
        self.step = step
        self._seconds = self._worked()
        self._working_since = None

    def beat(self, step: int) -> None:
        """Called at every step; cheap unless a second has passed."""
        self.step = step
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._write("running")

    def ledger(self) -> dict[str, Any]:
        """What a checkpoint keeps: when the run began, and all attempts, this one as it stands."""
        return {"started": self.started, "attempts": [*self.earlier, self._attempt("running")]}

    def end(self, reason: str) -> list[dict[str, Any]]:
        """The attempt ends. Returns all attempts, this one last."""
        return [*self.earlier, self._write(reason)]

    def _attempt(self, reason: str) -> dict[str, Any]:
        return {
            "start_step": self.start_step,
            "end_step": self.step,
            "device": self.device,
            "devices": self.devices,
            "seconds": self._worked(),
            "reason": reason,
        }

    def _worked(self) -> float:
        since = self._working_since
        return self._seconds + (time.monotonic() - since if since is not None else 0.0)

    def _write(self, reason: str) -> dict[str, Any]:
        self._beaten = time.monotonic()
        attempt = self._attempt(reason)
        seconds = attempt["seconds"]
        values = {
            "step": self.step,
            "steps": self.steps,
            "val_top1": self.val_top1,
            "images_per_second": (self.step - self.start_step) * self.batch_size / seconds if seconds > 0 else None,
            "attempt": attempt,
            "started": self.started,
            "earlier": self.earlier,
        }
        temporary = self.folder / f".{PROGRESS_FILE}.{os.getpid()}.tmp"
        with contextlib.suppress(OSError):  # a full disk must not end the run that a heartbeat only reports on
            temporary.write_text(json.dumps(values), encoding="utf-8")
            put_in_place(temporary, self.folder / PROGRESS_FILE)
        return attempt
