"""A small form of every attack of ``make chaos``."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.config.paths import ROOT
from tests.chaos import __main__ as chaos
from tests.chaos import grids, inputs

PUBLISHED = next((ROOT / "results" / "vit_small_data").glob("*/record.json"))


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """What the small attacks on grids gave. A process of its own, since commands are forked from it."""
    command = [sys.executable, "-m", "tests.chaos", "--small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return dict(json.loads(done.stdout))


def test_no_promise_is_broken(figures: dict[str, Any]) -> None:
    assert figures["broken"] == [], figures


def test_killed_runs_went_on_from_their_checkpoints(figures: dict[str, Any]) -> None:
    assert figures["sigkill"]["kills"] == 3
    assert figures["sigkill"]["attempts_from_a_checkpoint"] > 0
    assert figures["two_commands"]["cells"] == 2


def test_a_full_disk_was_tried(figures: dict[str, Any]) -> None:
    if "skipped" in figures["full_disk"]:
        pytest.skip(figures["full_disk"]["skipped"])
    assert figures["full_disk"]["told"] == 1


def test_what_differs_is_seen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name / "runs_dir" / "smoke" / "vit-s0-x"
        folder.mkdir(parents=True)
        lines = [json.dumps({"step": step, "val/top1": 0.5, "train_seconds": random.random()}) for step in (1, 2, 3)]
        if name == "a":
            lines[1] = lines[0]
        (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / "model.safetensors").write_bytes(name.encode())
        np.savez(folder / "predictions.npz", logits=np.zeros(3) if name == "a" else np.zeros(3) + 1e-7)
        shutil.copy(PUBLISHED, folder / "record.json")
    assert not grids.compare(tmp_path / "b", tmp_path / "b").any
    found = grids.compare(tmp_path / "a", tmp_path / "b")
    assert (found.lost_evaluations, found.doubled_evaluations, found.lost_runs) == (1, 1, 0)
    assert [name.rpartition("/")[2] for name in found.differing_bits] == [
        "metrics.jsonl",
        "model.safetensors",
        "predictions.npz",
    ]
    shutil.rmtree(tmp_path / "a" / "runs_dir" / "smoke" / "vit-s0-x")
    assert grids.compare(tmp_path / "a", tmp_path / "b").lost_runs == 1


@pytest.mark.parametrize(("attack", "examples"), [("configs", 60), ("images", 40), ("idx_archives", 12), ("zips", 60)])
def test_malformed_input_is_refused(tmp_path: Path, attack: str, examples: int) -> None:
    found = getattr(inputs, attack)(tmp_path / "place", examples)
    assert not [key for key in chaos.PROMISED_ZERO & set(found) if found[key]], found
    assert found["refused"] >= examples / 3
