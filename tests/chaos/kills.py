"""SIGKILL, SIGTERM and a second command, at seeded random moments of real grids."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import grids

PATIENCE_SECONDS = 600.0


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> bool:
    """Wait for a condition; false if the process ended before it came true."""
    end = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None:
        if condition():
            return True
        if time.monotonic() > end:
            kill(process)
            raise TimeoutError(f"a command did nothing for {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.02)
    return False


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the whole process group, workers included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stuck_locks(place: Path, seconds: float = 5.0) -> list[str]:
    """Locks that are still held some time after every owner was killed."""
    end = time.monotonic() + seconds
    while (held := grids.locked_runs(place)) and time.monotonic() < end:
        time.sleep(0.05)
    return held


def undisturbed(place: Path, overrides: tuple[str, ...], jobs: int) -> None:
    """Run a grid to its end, in peace."""
    if grids.start(place, overrides, jobs).wait() != 0:
        raise RuntimeError((place / "printed.txt").read_text(encoding="utf-8"))


def kill_and_resume(
    place: Path,
    whole: Path,
    overrides: tuple[str, ...],
    *,
    jobs: int,
    kills: int,
    seed: int,
    longest: float = 2.0,
    early: float = 0.2,
) -> dict[str, Any]:
    """Start a grid, kill it at a random moment, start it again …, let it end, and compare; anew until killed so often.

    Parameters
    ----------
    place, whole : Path
        Where the disturbed grids are made, and where the undisturbed one lies.
    longest : float
        Seconds from the first heartbeat of a command to the latest kill.
    early : float
        Share of the kills that come at any moment of the start instead.
    """
    draws, counts, held, grid = random.Random(seed), {"training": 0, "starting": 0}, 0, 0
    differences: list[grids.Difference] = []
    while sum(counts.values()) < kills or not differences:
        here = place / f"grid{grid}"
        while sum(counts.values()) < kills:
            before = grids.beats(here)
            process = grids.start(here, overrides, jobs)
            is_early, delay = draws.random() < early, draws.uniform(0, longest)
            if not is_early and not wait_until(process, lambda: grids.beats(here) != before):  # noqa: B023 - called at once
                break  # the grid ended
            end = time.monotonic() + (2 * delay if is_early else delay)
            if not wait_until(process, lambda: time.monotonic() >= end):  # noqa: B023 - called at once
                break
            kill(process)
            counts["starting" if is_early else "training"] += 1
            held += len(stuck_locks(here))
        undisturbed(here, overrides, jobs)
        differences.append(grids.compare(here, whole))
        grid += 1
    attempts = [attempt for found in differences for record in found.records for attempt in record.attempts]
    return {
        "kills": sum(counts.values()),
        "kills_while_training": counts["training"],
        "grids": grid,
        "runs": sum(len(found.records) for found in differences),
        "attempts": len(attempts),
        "attempts_from_a_checkpoint": sum(attempt.start_step > 0 for attempt in attempts),
        "lost_runs": sum(found.lost_runs for found in differences),
        "lost_evaluations": sum(found.lost_evaluations for found in differences),
        "doubled_evaluations": sum(found.doubled_evaluations for found in differences),
        "differing_files": sorted(name for found in differences for name in found.differing_bits),
        "left_over_files": sum(found.left_over_files for found in differences),
        "stuck_locks": held,
    }


def stop_times(place: Path, overrides: tuple[str, ...], *, jobs: int, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds from SIGTERM in training to the end of the command, which says how to go on."""
    draws, seconds, codes, told = random.Random(seed), [], [], 0
    for number in range(repeats):
        here = place / f"stop{number}"
        process = grids.start(here, overrides, jobs)
        if not wait_until(process, lambda: any(step > 5 for step, _ in grids.beats(here).values())):  # noqa: B023
            raise RuntimeError((here / "printed.txt").read_text(encoding="utf-8"))
        time.sleep(draws.uniform(0, 0.5))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait())
        seconds.append(round(time.monotonic() - began, 2))
        told += "goes on from here" in (here / "printed.txt").read_text(encoding="utf-8")
    return {
        "jobs": jobs,
        "seconds": seconds,
        "longest_seconds": max(seconds),
        "exit_codes": codes,
        "told_how_to_go_on": told,
    }


def two_commands(place: Path, whole: Path, overrides: tuple[str, ...], *, jobs: int) -> dict[str, Any]:
    """The same command twice at the same time: every cell exactly once."""
    both = [grids.start(place, overrides, jobs) for _ in range(2)]
    codes = [process.wait() for process in both]
    found = grids.compare(place, whole)
    once = sum(len(record.attempts) == 1 for record in found.records)
    return {"exit_codes": codes, "cells": len(found.records), "cells_run_once": once, "differs": found.any}
