"""Send to Weights & Biases what it has not seen: runs that were logged offline, and runs that lost the service.

A run is given again from its run folder (``metrics.jsonl``, ``record.json``, ``wandb/mirror.json``) to the same W&B run, and
not by uploading the fragments that W&B's client left: those of a resumed run overlap, and would double evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from experiments.records.progress import Busy, LockError, locked
from experiments.records.record import METRICS_FILE, PREDICTIONS_FILE, WEIGHTS_FILE, RecordError, read_rows
from experiments.tracking.client import (
    NO_ANSWER,
    KeyRefused,
    Unreachable,
    destination,
    long_wait_said,
    one_line,
    open_to_send,
    require_login,
    transfer_seconds,
)
from experiments.tracking.mirror import (
    MIRROR_FILE,
    Mirror,
    TrackingError,
    ended_by_record,
    load_mirror,
    mirror_again,
    ordered,
    weights_asked,
)

CONFIRM_TRIES = 5


@dataclass
class SyncReport:
    """What a sync did."""

    sent: int = 0
    """Runs that were sent, and that W&B confirmed to hold."""
    already: int = 0
    """Runs of which W&B held everything before."""
    failed: list[str] = field(default_factory=list)
    """``run_id: reason`` of each run that was not sent. They are tried again by the next sync."""
    running: list[str] = field(default_factory=list)
    """Run ids that another process works on at this moment."""


def sync(
    experiment_folder: Path,
    *,
    on_progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> SyncReport:
    """Send every run of an experiment that W&B has not seen in full. Doing it again sends nothing again.

    `on_progress` is called before each run with the number of those looked at, that of all, and its id. `say` takes
    sentences for the user: that a wait is long, and what was damaged and made again.

    Raises
    ------
    TrackingError
        If there are no runs, W&B is switched off, nobody is logged in, or the key is refused.
    """
    folders = sorted({path.parent for path in experiment_folder.glob("*/wandb") if path.is_dir()})
    if not folders:
        raise TrackingError(
            f"{experiment_folder}: no run here was logged for W&B, offline or online. Make some with "
            f"`make experiment NAME={experiment_folder.name}`, without WANDB_MODE=disabled."
        )
    require_login(experiment_folder)
    report = SyncReport()
    unreachable, say_once = False, lru_cache(say)
    for number, folder in enumerate(folders):
        if on_progress is not None:
            on_progress(number, len(folders), folder.name)
        try:
            with locked(folder), long_wait_said(say_once):
                # After an outage the runs that are up to date are still counted; the others need not wait one by one.
                if _send(folder, may_connect=not unreachable, say=say):
                    report.sent += 1
                else:
                    report.already += 1
        except Busy:
            report.running.append(folder.name)
        except Unreachable:
            unreachable = True
            report.failed.append(f"{folder.name}: {NO_ANSWER}")
        except KeyRefused:
            raise
        except (TrackingError, LockError) as error:
            report.failed.append(f"{folder.name}: {error}")
    return report


def _send(folder: Path, *, may_connect: bool, say: Callable[[str], None]) -> bool:
    """Send one run. ``False`` where W&B is known to hold it in full already."""
    mirror = _mirror_of(folder, say)
    try:
        rows = ordered(read_rows(folder / METRICS_FILE))
    except RecordError as error:
        raise TrackingError(str(error)) from error
    if mirror.is_held(mirror.progress(rows, destination())):
        return False
    if not may_connect:
        raise Unreachable(NO_ANSWER)
    sent = [folder / name for name in (METRICS_FILE, PREDICTIONS_FILE, *([WEIGHTS_FILE] if weights_asked() else []))]
    session = open_to_send(folder, mirror, finish_timeout=transfer_seconds(*sent))
    try:
        for row in rows:
            session.give(row)
        session.close()
    except TimeoutError as error:
        raise Unreachable(NO_ANSWER) from error
    except Exception as error:
        raise TrackingError(f"not sent in full ({one_line(error)}).") from error
    try:
        held = session.confirm(rows, tries=CONFIRM_TRIES)
    except Exception as error:
        raise TrackingError(f"sent, but not confirmed ({one_line(error)}). Sync again.") from error
    if not held:
        raise TrackingError("sent, but W&B does not show all of it yet. Sync again in a minute.")
    return True


def _mirror_of(folder: Path, say: Callable[[str], None]) -> Mirror:
    """A run's mirror, made again where it is lost or damaged, with the ending that its record tells."""
    try:
        mirror, damage = load_mirror(folder), f"{folder / MIRROR_FILE}: missing"
    except TrackingError as error:
        mirror, damage = None, str(error)
    if mirror is None:
        mirror = mirror_again(folder)
        say(f"{damage}; made again from the run's record.")
    if mirror.ended not in ("done", "failed") and (known := ended_by_record(folder)):
        mirror.ended, mirror.summary = known
    return mirror
