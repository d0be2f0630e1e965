"""SIGKILL, SIGTERM and a second command, at seeded random moments of real grids."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from experiments.records.progress import read_progress
from tests.chaos import commands, grids


def stuck_locks(place: Path, seconds: float = 5.0) -> list[str]:
    """Locks that are still held some time after every owner was killed."""
    end = time.monotonic() + seconds
    while (held := grids.locked_runs(place)) and time.monotonic() < end:
        time.sleep(0.05)
    return held


def undisturbed(place: Path, overrides: tuple[str, ...], **how: Any) -> None:
    """Run a grid to its end, in peace; `how` is passed to `commands.start`."""
    if any(commands.start(place, overrides, **how).wait()):
        raise RuntimeError((place / "printed.txt").read_text(encoding="utf-8"))


def kill_and_resume(
    place: Path,
    whole: Path,
    overrides: tuple[str, ...],
    *,
    kills: int,
    seed: int,
    longest: float = 2.0,
    after: tuple[str, ...] = ("start", "beat", "beat", "checkpoint", "checkpoint"),
    **how: Any,
) -> dict[str, Any]:
    """Start a grid, kill it at a random moment, start it again …, let it end, and compare; anew until killed so often.

    Parameters
    ----------
    place, whole : Path
        Where the disturbed grids are made, and where the undisturbed one lies.
    longest : float
        Seconds to the latest kill …
    after : tuple of {"start", "beat", "checkpoint"}
        … from one of these, drawn for every kill: the start of the command, its first heartbeat, its first checkpoint.
    **how
        Passed to `commands.start`.
    """
    draws, counts, held, grid = random.Random(seed), dict.fromkeys(("start", "beat", "checkpoint"), 0), 0, 0
    differences: list[grids.Difference] = []
    while sum(counts.values()) < kills or not differences:
        here = place / f"grid{grid}"
        while sum(counts.values()) < kills:
            moment, delay = draws.choice(after), draws.uniform(0, longest)
            before = grids.signs(here, moment)
            command = commands.start(here, overrides, **how)
            if not command.wait_until(lambda: moment == "start" or grids.signs(here, moment) != before):  # noqa: B023
                break  # the grid ended
            end = time.monotonic() + delay
            if not command.wait_until(lambda: time.monotonic() >= end):  # noqa: B023 - called at once
                break
            command.kill()
            counts[moment] += 1
            held += len(stuck_locks(here))
        undisturbed(here, overrides, **how)
        differences.append(grids.compare(here, whole))
        grid += 1
    attempts = [attempt for found in differences for record in found.records for attempt in record.attempts]
    return {
        "kills": sum(counts.values()),
        "kills_after_a_beat": counts["beat"],
        "kills_after_a_checkpoint": counts["checkpoint"],
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


def stop_times(
    place: Path,
    overrides: tuple[str, ...],
    *,
    repeats: int,
    seed: int,
    number: signal.Signals = signal.SIGTERM,
    **how: Any,
) -> dict[str, Any]:
    """Seconds from a stop signal in training to the end of the command, which says how to go on."""
    draws, seconds, codes, told = random.Random(seed), [], [], 0
    for attempt in range(repeats):
        here = place / f"stop{attempt}"
        command = commands.start(here, overrides, **how)
        if not command.wait_until(lambda: any(step > 5 for step, _ in grids.beats(here).values())):  # noqa: B023
            raise RuntimeError((here / "printed.txt").read_text(encoding="utf-8"))
        time.sleep(draws.uniform(0, 0.5))
        began = time.monotonic()
        command.send(number)
        codes += command.wait()
        seconds.append(round(time.monotonic() - began, 2))
        told += "goes on from here" in (here / "printed.txt").read_text(encoding="utf-8")
    return how | {
        "signal": number.name,
        "seconds": seconds,
        "longest_seconds": max(seconds),
        "exit_codes": codes,
        "told_how_to_go_on": told,
    }


def orphans(place: Path, overrides: tuple[str, ...], *, seconds: float = 60.0) -> dict[str, Any]:
    """SIGKILL of a command alone, while its workers train: none of them stays, and their work is kept."""
    command = commands.start(place, overrides, jobs=2, fresh=True)
    if not command.wait_until(lambda: any(step > 5 for step, _ in grids.beats(place).values())):
        raise RuntimeError((place / "printed.txt").read_text(encoding="utf-8"))
    below = psutil.Process(command.pids[0]).children(recursive=True)
    os.kill(command.pids[0], signal.SIGKILL)
    command.wait()
    began = time.monotonic()
    _, left = psutil.wait_procs(below, timeout=seconds)
    command.send(signal.SIGKILL)
    begun = [read_progress(folder) for folder in grids.run_folders(place)]
    reasons = [beat["attempt"]["reason"] for beat in begun if beat]
    return {
        "processes": len(below),
        "orphans_left": len(left),
        "seconds_to_the_last_end": round(time.monotonic() - began, 2),
        "ends_without_a_checkpoint": sum(reason == "running" for reason in reasons),
    }


def two_commands(place: Path, whole: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The same command twice at the same time: every cell exactly once."""
    codes = commands.start(place, overrides, processes=2).wait()
    found = grids.compare(place, whole)
    once = sum(len(record.attempts) == 1 for record in found.records)
    return {
        "exit_codes": codes,
        "cells": len(found.records),
        "cells_not_run_once": len(found.records) - once,
        "lost_runs": found.lost_runs,
        "differing_files": found.differing_bits,
    }
