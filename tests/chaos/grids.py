"""A small real grid, and what an undisturbed run of it leaves, to compare with."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.records.progress import is_running, read_progress
from experiments.records.record import CHECKPOINT_FILE, METRICS_FILE, PREDICTIONS_FILE, WEIGHTS_FILE, Record, read_record

TIMED = {"train_seconds", "evaluation_seconds", "images_per_second"}
"""Columns of ``metrics.jsonl`` that no two runs share."""

FULL = (
    *("recipe.steps=240", "recipe.evaluations=8", "seeds=[0,1]", "train_fractions=[0.3]"),
    *("checkpoint_every_steps=15", "recipe.augmentation.crop_padding=1"),
)
SMALL = ("recipe.steps=160", "recipe.evaluations=4", "seeds=[0]", "train_fractions=[0.3]", "checkpoint_every_steps=10")

ONE = ("models=[vit_micro_p2]", "reference=vit_micro_p2", "expect=[]")
"""What leaves one cell of it."""
LONG_EVALUATIONS = 240
LONG = (
    *("recipe.steps=4800", f"recipe.evaluations={LONG_EVALUATIONS}", "seeds=[0]", "train_fractions=[0.3]"),
    *ONE,
)
"""One cell of many evaluations."""


def environment(place: Path, **more: str) -> dict[str, str]:
    """The user's environment with places of its own below `place`, on the CPU, without W&B."""
    places = {name: str(place / name.lower()) for name in ("RUNS_DIR", "REPORTS_DIR", "DATA_DIR")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | places | {"DEVICE": "cpu", "WANDB_MODE": "disabled"} | more


def run_folders(place: Path) -> list[Path]:
    """Folders of the grid's runs."""
    return sorted(path for path in (place / "runs_dir" / "smoke").glob("*-s*") if path.is_dir())


def beats(place: Path) -> dict[str, tuple[int, int]]:
    """How far each run is: step and attempts."""
    found = {folder.name: read_progress(folder) for folder in run_folders(place)}
    return {name: (beat.get("step", 0), 1 + len(beat.get("earlier", []))) for name, beat in found.items() if beat}


def signs(place: Path, of: str) -> dict[str, Any]:
    """What changes when a command works: its heartbeats, or the checkpoints that it writes (of = ``checkpoint``)."""
    if of != "checkpoint":
        return beats(place)
    found = {}
    for folder in run_folders(place):
        with contextlib.suppress(FileNotFoundError):
            found[folder.name] = (folder / CHECKPOINT_FILE).stat().st_mtime_ns
    return found


def locked_runs(place: Path) -> list[str]:
    """Runs whose lock somebody holds."""
    return [folder.name for folder in run_folders(place) if is_running(folder)]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl`` without the columns of time."""
    lines = (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMED} for line in lines]


@dataclass
class Difference:
    """How a disturbed grid differs from an undisturbed one; all zero and empty if it does not."""

    lost_runs: int = 0
    lost_evaluations: int = 0
    doubled_evaluations: int = 0
    differing_bits: list[str] = field(default_factory=list)
    """Run and file."""
    left_over_files: int = 0
    records: list[Record] = field(default_factory=list, repr=False)

    @property
    def any(self) -> bool:
        """Whether anything differs."""
        return bool(
            self.lost_runs
            or self.lost_evaluations
            or self.doubled_evaluations
            or self.differing_bits
            or self.left_over_files
        )


def compare(place: Path, undisturbed: Path) -> Difference:
    """Every run of an undisturbed grid against the same run of a disturbed one."""
    found = Difference()
    for whole in run_folders(undisturbed):
        folder = place / "runs_dir" / "smoke" / whole.name
        if not (folder / "record.json").is_file() or read_record(folder / "record.json").status != "done":
            found.lost_runs += 1
            continue
        found.records.append(read_record(folder / "record.json"))
        mine, theirs = rows(folder), rows(whole)
        steps, wanted = [row["step"] for row in mine], [row["step"] for row in theirs]
        found.lost_evaluations += len(set(wanted) - set(steps))
        found.doubled_evaluations += len(steps) - len(set(steps))
        if mine != theirs:
            found.differing_bits.append(f"{whole.name}/{METRICS_FILE}")
        if (folder / WEIGHTS_FILE).read_bytes() != (whole / WEIGHTS_FILE).read_bytes():
            found.differing_bits.append(f"{whole.name}/{WEIGHTS_FILE}")
        with np.load(folder / PREDICTIONS_FILE) as a, np.load(whole / PREDICTIONS_FILE) as b:
            if set(a) != set(b) or any(a[name].tobytes() != b[name].tobytes() for name in b):
                found.differing_bits.append(f"{whole.name}/{PREDICTIONS_FILE}")
        left = [path for path in folder.iterdir() if path.name.endswith((".tmp", ".new"))]
        found.left_over_files += len(left)
    return found
