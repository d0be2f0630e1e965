"""A small form of every attack of ``make chaos``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos import grids, inputs, kills, outside

ONE = (*grids.SMALL, "models=[vit_micro_p2]", "reference=vit_micro_p2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed cell."""
    place = tmp_path_factory.mktemp("whole")
    kills.undisturbed(place, ONE, jobs=1)
    return place


def kept(figures: dict[str, Any]) -> bool:
    """Whether every promise of one attack held."""
    return not [key for key in chaos.PROMISED_ZERO & set(figures) if figures[key]]


def test_killed_runs_end_as_if_nothing_had_happened(whole: Path, tmp_path: Path) -> None:
    found = kills.kill_and_resume(tmp_path, whole, ONE, jobs=1, kills=2, seed=1, longest=0.4, early=0)
    assert kept(found) and found["runs"] >= 1, found
    assert found["kills"] == 2 and found["attempts_from_a_checkpoint"] > 0, found


def test_what_differs_is_seen(whole: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(whole / "runs_dir", tmp_path / "runs_dir")
    assert not grids.compare(tmp_path, whole).any
    (folder,) = grids.run_folders(tmp_path)
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], lines[0]]), encoding="utf-8")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    found = grids.compare(tmp_path, whole)
    assert found.lost_evaluations == 1 and found.doubled_evaluations == 1
    assert [name.rpartition("/")[2] for name in found.differing_bits] == ["metrics.jsonl", "model.safetensors"]


@pytest.mark.parametrize(("attack", "examples"), [("configs", 60), ("images", 40), ("idx_archives", 12)])
def test_malformed_input_is_refused(tmp_path: Path, attack: str, examples: int) -> None:
    found = getattr(inputs, attack)(tmp_path / "place", examples)
    assert kept(found), found
    assert found["refused"] >= examples / 3


def test_a_disk_that_fills_is_told_and_outlived(whole: Path, tmp_path: Path) -> None:
    found = outside.full_disk(tmp_path / "disk", whole, ONE, [50_000])
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert kept(found) and found["told"] == 1, found


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "hang", "killed"])
def test_wandb_holds_every_evaluation_once(whole: Path, tmp_path: Path, fault: str) -> None:
    found = outside.service_fault(tmp_path, whole, ONE, fault)
    assert kept(found) and found["exit_code"] == found["sync_exit_code"] == 0, found
