"""Faults of the world outside: a service that answers 500, hangs or is met by a killed run, and a disk that fills."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.config import ROOT
from experiments.record import METRICS_FILE, RECORD_FILE, RecordError, read_record
from tests.chaos import commands, grids
from tests.standins.wandb_service import WandbService

KEY = "0123456789abcdef0123456789abcdef01234567"
DISK_BYTES = 20 * 2**20


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
            held = [entry["_step"] for entry in service.history(folder.name)]
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
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    script = "from tests.chaos import outside; outside._on_a_small_disk()"
    words = json.dumps([str(place), str(whole), list(overrides), free_bytes])
    if shutil.which("unshare") is None:
        return {"skipped": "there is no unshare(1) here, with which a small disk could be mounted"}
    done = subprocess.run([*namespace, sys.executable, "-c", script, words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return {"skipped": f"no small disk could be mounted here ({reason})"}
    return dict(json.loads(done.stdout))


def _on_a_small_disk() -> None:
    """In a mount namespace of its own: mount, fill, run, make space, run again; prints the counts."""
    commands.import_everything()
    place, whole, overrides, free_bytes = json.loads(sys.argv[1])
    counts = {"fillings": 0, "told": 0, "half_records": 0, "tracebacks": 0, "not_resumed": 0, "differing_files": 0}
    for number, free in enumerate(free_bytes):
        here = Path(place) / f"disk{number}"
        runs = here / "runs_dir"
        runs.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(runs)]
        subprocess.run(mount, check=True)
        filler = runs / "filler"
        filler.write_bytes(bytes(DISK_BYTES - free))
        (first,) = commands.start(here, tuple(overrides)).wait()
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
        counts["not_resumed"] += commands.start(here, tuple(overrides)).wait() != [0]
        found = grids.compare(here, Path(whole))
        counts["differing_files"] += len(found.differing_bits) + found.lost_runs
        subprocess.run(["umount", str(runs)], check=True)
    print(json.dumps(counts))
