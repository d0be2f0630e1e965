"""Faults of the world outside: a service that answers 500, hangs or is met by a killed run, and a disk that fills."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
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


def service_fault(place: Path, whole: Path, overrides: tuple[str, ...], fault: str) -> dict[str, Any]:
    """A grid that logs online, with a fault after its first evaluation; afterwards a sync, and a look at what W&B holds.

    Parameters
    ----------
    fault : {"500", "hang", "killed"}
        What the service does from then on; or the command is killed and started again.
    """
    with WandbService() as service:
        more = {"WANDB_MODE": "online", "WANDB_BASE_URL": service.url, "WANDB_API_KEY": KEY}
        more |= {"HOME": str(place), "NETRC": str(place / ".netrc")}
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
        sync = [sys.executable, "-m", "experiments", "sync", "smoke"]
        synced = subprocess.run(sync, cwd=ROOT, env=grids.environment(place, **more), capture_output=True, text=True)
        lost = doubled = 0
        for folder in grids.run_folders(place):
            mirror = load_mirror(folder)
            held = [entry["_step"] for entry in service.history(mirror.id)] if mirror else []
            wanted = [row["step"] for row in grids.rows(folder)]
            lost, doubled = lost + len(set(wanted) - set(held)), doubled + len(held) - len(set(held))
    found = grids.compare(place, whole)
    return {
        "fault": fault,
        "exit_code": code,
        "sync_exit_code": synced.returncode,
        "runs": len(found.records),
        "lost_evaluations_in_wandb": lost,
        "doubled_evaluations_in_wandb": doubled,
        "differing_files": found.differing_bits,
        "lost_runs": found.lost_runs,
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
