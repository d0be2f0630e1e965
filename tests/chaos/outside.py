"""Faults of the world outside: a service that answers 500, hangs or is met by a killed run, and a disk that fills."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.config.paths import ROOT
from experiments.records.record import METRICS_FILE, RECORD_FILE, RecordError, read_record
from experiments.tracking.mirror import load_mirror
from tests.chaos import commands, grids
from tests.standins.wandb_service import WandbService

KEY = "0123456789abcdef0123456789abcdef01234567"
DISK_BYTES = 20 * 2**20
NEW_MOUNTS = 0x00020000
"""Linux's CLONE_NEWNS."""


QUICK = {
    "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "1",
}
"""A client that meets the service between any two evaluations, where it else sends every 15 s; it takes whole seconds."""


def online(service: WandbService, place: Path) -> dict[str, str]:
    """Variables of a user who is logged in to the stand-in."""
    more = {"WANDB_MODE": "online", "WANDB_BASE_URL": service.url, "WANDB_API_KEY": KEY}
    return more | {"HOME": str(place), "NETRC": str(place / ".netrc")}


def service_fault(place: Path, whole: Path, overrides: tuple[str, ...], fault: str) -> dict[str, Any]:
    """A grid that logs online, with a fault after its first evaluation; afterwards a sync, and a look at what W&B holds.

    Parameters
    ----------
    fault : {"500", "hang", "killed"}
        What the service does from then on; or the command is killed and started again.
    """
    with WandbService() as service:
        more = online(service, place)
        command = commands.start(place, overrides, fresh=True, **more)

        def evaluated() -> bool:
            return any((folder / METRICS_FILE).is_file() and grids.rows(folder) for folder in grids.run_folders(place))

        if not command.wait_until(evaluated):
            raise RuntimeError((place / "printed.txt").read_text(encoding="utf-8"))
        if fault == "killed":
            command.kill()
            command = commands.start(place, overrides, fresh=True, **more)
        else:
            service.fail = fault  # type: ignore[assignment]
        (code,) = command.wait()
        service.fail = None
        counts = _synced(place, service, more)
    found = grids.compare(place, whole)
    counts |= {"runs": len(found.records), "differing_files": found.differing_bits, "lost_runs": found.lost_runs}
    return {"fault": fault, "exit_code": code} | counts


def _synced(place: Path, service: WandbService, more: dict[str, str]) -> dict[str, Any]:
    """Send the rest, and compare what the service holds with the run folders."""
    sync = [sys.executable, "-m", "experiments", "sync", "smoke"]
    synced = subprocess.run(sync, cwd=ROOT, env=grids.environment(place, **more), capture_output=True, text=True)
    lost = doubled = 0
    for folder in grids.run_folders(place):
        mirror = load_mirror(folder)
        held = [entry["_step"] for entry in service.history(mirror.id)] if mirror else []
        wanted = [row["step"] for row in grids.rows(folder)]
        lost, doubled = lost + len(set(wanted) - set(held)), doubled + len(held) - len(set(held))
    codes = {"sync_exit_code": synced.returncode}
    return codes | {"lost_evaluations_in_wandb": lost, "doubled_evaluations_in_wandb": doubled}


def outages(place: Path, overrides: tuple[str, ...], *, evaluations: int) -> dict[str, Any]:
    """One running cell whose service answers, fails with 500, answers, hangs, answers and closes connections, by turns.

    Faults begin and end between two evaluations, and the cell ends in one. How much an outage slows the training is the
    median time between two evaluations in each outage over that in the stretch before it; each row of ``metrics.jsonl``
    tells its moment by the time of the file. Two halves of the stretches without a fault tell how much of that is noise.

    Parameters
    ----------
    evaluations : int
        Of the one cell that `overrides` leave.
    """
    turns = (None, "500", None, "hang", None, "closed") * 2
    metrics, moments, arrived = list[Path](), list[tuple[int, int, int]](), set[int]()
    with WandbService() as service:
        more = online(service, place)
        command = commands.start(place, overrides, fresh=True, **more, **QUICK)

        def look() -> bool:
            """Note a new row and its moment, and turn the service accordingly."""
            metrics[:] = metrics or [folder / METRICS_FILE for folder in grids.run_folders(place)]
            if not metrics or not metrics[0].is_file():
                return False
            moment, rows = metrics[0].stat().st_mtime_ns, metrics[0].read_bytes().count(b"\n")
            turn = min(rows * len(turns) // evaluations, len(turns) - 1)
            if rows and (not moments or rows > moments[-1][0]):
                service.fail = turns[turn]  # type: ignore[assignment]
                moments.append((rows, turn, moment))
            held = next((len(run.history) for run in service.runs.values()), 0)
            if held * len(turns) // evaluations == turn:
                arrived.add(turn)
            return False

        command.wait_until(look)
        (code,) = command.wait()
        service.fail = None
        counts = _synced(place, service, more)
        states = [run.state for run in service.runs.values() if run.settings["jobType"] == "train"]
    records = [read_record(folder / RECORD_FILE) for folder in grids.run_folders(place)]
    seconds: list[list[float]] = [[] for _ in turns]
    for (row, turn, before), (next_row, next_turn, after) in itertools.pairwise(moments):
        if next_row == row + 1 and turn == next_turn:
            seconds[turn].append((after - before) / 1e9)
    medians = [statistics.median(some) for some in seconds]
    slowed = [100 * (outage / up - 1) for up, outage in zip(medians[::2], medians[1::2], strict=True)]
    halves = [100 * (statistics.median(up[1::2]) / statistics.median(up[::2]) - 1) for up in seconds[::2]]
    return counts | {
        "exit_code": code,
        "runs_not_done": sum(record.status != "done" for record in records),
        "runs_not_finished_in_wandb": sum(state != "finished" for state in states),
        "evaluations": len(grids.rows(grids.run_folders(place)[0])),
        "outages": len(slowed),
        "stretches_without_news": len(set(range(0, len(turns), 2)) - arrived),
        "requests_refused_or_held": service.refused + service.held,
        "seconds_between_evaluations": round(statistics.median(medians[::2]), 4),
        "slowed_by_percent": round(statistics.median(slowed), 2),
        "slowed_by_percent_in_each_outage": [round(value, 2) for value in slowed],
        "noise_percent": round(statistics.median(map(abs, halves)), 2),
        "told": (place / "printed.txt").read_text(encoding="utf-8").count("sends the rest"),
    }


def without_locks(place: Path, whole: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """A file system without ``flock``, as Lustre may be mounted: the command works, and says what to mind."""
    shim = place / "shim"
    shim.mkdir(parents=True)
    lines = ("import errno, fcntl, os", "def flock(*_):", "    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))")
    (shim / "sitecustomize.py").write_text("\n".join([*lines, "fcntl.flock = flock", ""]), encoding="utf-8")
    command = commands.start(place, overrides, fresh=True, PYTHONPATH=str(shim))
    (code,) = command.wait()
    printed = (place / "printed.txt").read_text(encoding="utf-8")
    found = grids.compare(place, whole)
    return {
        "exit_code": code,
        "told": printed.count("this file system has no file locks"),
        "tracebacks": printed.count("Traceback"),
        "lost_runs": found.lost_runs,
        "differing_files": found.differing_bits,
    }


def full_disk(place: Path, whole: Path, overrides: tuple[str, ...], free_bytes: list[int]) -> dict[str, Any]:
    """A disk of 20 MB that is almost full, then has space again. Needs the right to mount; says why where it is absent."""
    place.mkdir(parents=True)
    answer = place / "figures.json"
    child = os.fork()  # a mount namespace is left by ending its process
    if child == 0:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)
            found = _on_small_disks(place, whole, overrides, free_bytes)
        except (OSError, subprocess.CalledProcessError) as error:
            found = {"skipped": f"no small disk could be mounted here ({error})"}
        except BaseException as error:
            found = {"tracebacks": 1, "reason": repr(error)}
        answer.write_text(json.dumps(found), encoding="utf-8")
        os._exit(0)
    os.waitpid(child, 0)
    return dict(json.loads(answer.read_text(encoding="utf-8")))


def _on_small_disks(place: Path, whole: Path, overrides: tuple[str, ...], free_bytes: list[int]) -> dict[str, Any]:
    """Mount, fill, run, make space, run again."""
    counts = {"fillings": 0, "told": 0, "half_records": 0, "tracebacks": 0, "not_resumed": 0, "differing_files": 0}
    for number, free in enumerate(free_bytes):
        here = place / f"disk{number}"
        runs = here / "runs_dir"
        runs.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(runs)]
        subprocess.run(mount, check=True, capture_output=True)
        filler = runs / "filler"
        filler.write_bytes(bytes(DISK_BYTES - free))
        (first,) = commands.start(here, overrides).wait()
        printed = (here / "printed.txt").read_text(encoding="utf-8")
        counts["fillings"] += 1
        counts["told"] += first in (1, 2) and ("No space left" in printed or "disk is probably full" in printed)
        counts["tracebacks"] += "Traceback" in printed
        for record in runs.glob(f"*/*/{RECORD_FILE}"):
            try:
                counts["half_records"] += read_record(record).status != "done"
            except RecordError:
                counts["half_records"] += 1
        filler.unlink()
        counts["not_resumed"] += commands.start(here, overrides).wait() != [0]
        found = grids.compare(here, whole)
        counts["differing_files"] += len(found.differing_bits) + found.lost_runs
        subprocess.run(["umount", str(runs)], check=True)
    return counts


def broken_locks(place: Path, overrides: tuple[str, ...], seconds: float = 120.0) -> dict[str, Any]:
    """A lock that is a folder, one that is a loop of links, and a run folder that is a file: told, and never waited for."""
    place.mkdir(parents=True)
    (code,) = commands.start(place, overrides).wait()  # to learn the names of the runs
    counts = {"broken_locks": 0, "told_with_the_path": 0, "waited_without_end": 0, "tracebacks": int(code != 0)}
    run = grids.run_folders(place)[0]
    for kind in ("folder", "loop", "file"):
        shutil.rmtree(run)
        if kind == "file":
            run.write_text("", encoding="utf-8")
        else:
            run.mkdir()
            lock = run / "run.lock"
            lock.mkdir() if kind == "folder" else lock.symlink_to(lock.name)
        command = commands.start(place, overrides)
        end = time.monotonic() + seconds
        if command.wait_until(lambda: time.monotonic() > end):  # noqa: B023 - called at once
            counts["waited_without_end"] += 1
            command.kill()
        printed = (place / "printed.txt").read_text(encoding="utf-8")
        counts["broken_locks"] += 1
        counts["told_with_the_path"] += f"{run if kind == 'file' else run / 'run.lock'}: the run's lock" in printed
        counts["tracebacks"] += "Traceback" in printed
    return counts
