"""What W&B holds of a run beyond its curve: names, config to group by, tables, weights; the same online and sent later."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.__main__ import main
from experiments.data.batches import Normalise
from experiments.records.record import read_rows
from experiments.tracking import content
from experiments.tracking import sync as wandb_sync
from experiments.tracking.mirror import load_mirror
from experiments.tracking.tracker import About, Tracker
from experiments.training.pretrained import FrozenFeatures
from experiments.training.run import looked
from tests.experiments.conftest import ONE
from tests.standins.wandb_service import Run, WandbService
from vit_scratch import VisionTransformer


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    return main()


def the_run(service: WandbService) -> Run:
    (run,) = [run for run in service.runs.values() if run.settings["jobType"] == "train"]
    return run


def table_of(service: WandbService, key: str) -> dict[str, Any]:
    """A table as its page shows it: out of the version that the summary refers to, with its images."""
    run = the_run(service)
    assert run.summary[key]["_type"] == "table-file" and run.summary[key]["artifact_path"]
    (version,) = [artifact for artifact in service.artifacts.values() if artifact.name == f"run-{run.name}-{key}"]
    found: dict[str, Any] = json.loads(version.files[f"{key}.table.json"])
    return found


# ------------------------------------------------------------------------------------------------------------- one run, sent
def test_a_run_has_a_name_a_command_a_flat_config_and_tables(service: WandbService, grid: Path) -> None:
    assert wandb_sync.sync(grid).sent == 1
    run = the_run(service)
    assert run.settings["displayName"] == "ResNet-micro · Digits · 10% · seed 0"
    assert run.settings["notes"] == f'Repeat it: make experiment NAME=smoke ARGS="{" ".join(ONE)}"'
    assert (run.settings["groupName"], run.settings["jobType"]) == ("smoke", "train")
    config = {key: entry["value"] for key, entry in run.config.items() if key != "_wandb"}
    wanted = {"model": "resnet_micro", "family": "ResNet", "train_fraction": 0.1, "seed": 0, "track": "identical", "n": 149,
              "recipe/steps": 4, "recipe_name": "digits"}  # fmt: skip
    assert {key: config[key] for key in wanted} == wanted
    assert "3×3" in config["geometry/stem"]
    assert not [key for key, value in config.items() if isinstance(value, dict) and value], "groupable: one level"

    record = json.loads(next(grid.glob("*/record.json")).read_text())
    known = {key: value for key, value in record["metrics"].items() if value is not None}
    assert {key: run.summary[key] for key in known} == known
    confusion = table_of(service, "confusion_matrix")
    assert confusion["columns"] == ["Actual", "Predicted", "nPredictions"]
    assert sum(row[2] for row in confusion["data"]) == record["n_test"]
    right = sum(row[2] for row in confusion["data"] if row[0] == row[1])
    assert right / record["n_test"] == pytest.approx(record["metrics"]["test/top1"])
    predictions = table_of(service, "predictions")
    assert predictions["columns"][:6] == ["id", "image", "label", "prediction", "correct", "confidence"]
    assert len(predictions["data"]) == content.MAX_EXAMPLES
    for row in predictions["data"]:
        assert row[1]["_type"] == "image-file" and (row[1]["width"], row[1]["height"]) == (8, 8)
        assert row[4] == (row[2] == row[3])
        assert sum(row[6:]) == pytest.approx(1, abs=1e-4)
    assert not [artifact for artifact in service.artifacts.values() if artifact.type == "model"], (
        "weights were not asked for"
    )


def test_weights_go_along_when_asked_and_once(service: WandbService, env: pytest.MonkeyPatch, grid: Path) -> None:
    assert wandb_sync.sync(grid).sent == 1
    before = len(service.artifacts)
    env.setenv("WANDB_LOG_MODEL", "end")
    assert wandb_sync.sync(grid).sent == 1
    (weights,) = [artifact for artifact in service.artifacts.values() if artifact.type == "model"]
    assert weights.files["model.safetensors"] == next(grid.glob("*/model.safetensors")).read_bytes()
    assert len(service.artifacts) == before + 1, "tables of the same content make no new version"
    assert len(the_run(service).history) == 2
    assert wandb_sync.sync(grid).already == 1
    env.delenv("WANDB_LOG_MODEL")
    assert wandb_sync.sync(grid).already == 1, "weights that are there already are no reason to send a run again"


def test_a_run_that_was_online_shows_what_a_run_that_is_sent_later_shows(
    service: WandbService, grid: Path, tmp_path: Path
) -> None:
    assert wandb_sync.sync(grid).sent == 1
    later = the_run(service)
    service.runs.clear()
    (folder,) = [path.parent for path in grid.glob("*/record.json")]
    mirror = load_mirror(folder)
    rows = read_rows(folder / "metrics.jsonl")
    assert mirror is not None
    online = tmp_path / "online" / "smoke" / folder.name
    shutil.copytree(folder, online, ignore=shutil.ignore_patterns("wandb"))
    about = About(experiment="smoke", run_id=folder.name, config=mirror.config, name=mirror.name, tags=mirror.tags,
                  notes=mirror.notes)  # fmt: skip
    tracker = Tracker(online, about)
    for row in rows:
        tracker.log(row)
    tracker.finish(json.loads((folder / "record.json").read_text()))
    now = the_run(service)
    assert tracker.message is None
    assert {key for key in now.summary if key[0] != "_"} == {key for key in later.summary if key[0] != "_"}
    for key in ("predictions", "confusion_matrix"):
        assert now.summary[key]["sha256"] == later.summary[key]["sha256"]
    same = ("displayName", "notes", "groupName", "jobType", "tags")
    assert [now.settings[key] for key in same] == [later.settings[key] for key in same]
    assert [row["_step"] for row in now.history] == [row["_step"] for row in later.history] == [2, 4]


# ------------------------------------------------------------------------------------------------------------ plain values
def test_examples_are_the_same_images_for_every_run_and_small() -> None:
    ids = np.array([f"test/{index}" for index in range(1000)])
    chosen = content.chosen_examples(ids)
    assert sorted(chosen.tolist()) == list(range(1000))
    shuffled = np.random.default_rng(0).permutation(1000)
    assert ids[shuffled][content.chosen_examples(ids[shuffled])].tolist() == ids[chosen].tolist()
    large = np.zeros((2, 3, 224, 200), dtype=np.uint8)
    large[:, :, :4, :4] = 100
    small = content.shrunk(large)
    assert small.shape == (2, 3, 56, 50) and small[0, 0, 0, 0] == 100 and small[0, 0, 1, 1] == 0
    assert content.shrunk(small) is small


@pytest.mark.parametrize(("side", "kept"), [(8, 1000), (32, 85), (224, 64)])
def test_as_many_images_are_kept_as_have_room(tmp_path: Path, side: int, kept: int) -> None:
    ids = np.array([f"test/{index}" for index in range(1000)])
    pixels = np.broadcast_to(np.arange(1000, dtype=np.uint16)[:, None, None, None] % 251, (1000, 3, side, side)).astype(
        np.uint8
    )
    content.write_examples(tmp_path, pixels, ids, lambda some: some[:, 0, :2, :3])
    with np.load(tmp_path / "examples.npz") as stored:
        chosen = content.chosen_examples(ids)[:kept]
        assert stored["sample_ids"].tolist() == ids[chosen].tolist() and len(stored["pixels"]) == kept
        assert stored["attention"].shape == (kept, 2, 3) and (stored["attention"][:, 0, 0] == chosen % 251).all()


def test_where_a_model_looked_is_kept_for_the_projects_own_vit_alone() -> None:
    model, normalise = (
        VisionTransformer(8, 2, 1, 3, dim=8, depth=2, num_heads=2),
        Normalise([0.5], [0.5], torch.device("cpu")),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8), dtype=np.uint8)
    maps = looked(model, normalise, pixels, torch.device("cpu"))
    assert maps is not None and maps.shape == (9, 4, 4) and (maps.max(axis=(1, 2)) == 255).all()
    frozen = looked(FrozenFeatures(model, ["head.weight"]), normalise, pixels, torch.device("cpu"))
    assert frozen is not None and (frozen == maps).all()
    assert looked(torch.nn.Linear(1, 1), normalise, pixels, torch.device("cpu")) is None
    permuted = Normalise([0.5], [0.5], torch.device("cpu"), 8, permutation=0)
    assert looked(model, permuted, pixels, torch.device("cpu")) is None, "patches of permuted pixels are no places"


def test_of_larger_images_the_part_is_kept_that_the_model_saw(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 10, 10), dtype=np.uint8)
    normalise = Normalise([0.5], [0.5], torch.device("cpu"), size=4, crop_fraction=0.6)
    ids = np.array(["a", "b", "c"])
    content.write_examples(tmp_path, pixels, ids, seen=normalise.seen)
    with np.load(tmp_path / "examples.npz") as stored:
        assert np.array_equal(stored["pixels"], pixels[content.chosen_examples(ids)][..., 2:8, 2:8])


def test_many_classes_show_the_five_most_likely(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = np.array([f"i{index}" for index in range(80)])
    labels = np.arange(80) % 40
    logits = rng.normal(size=(80, 40)).astype(np.float32)
    names = np.array([f"class {index}" for index in range(40)])
    np.savez(tmp_path / "predictions.npz", logits=logits, labels=labels, sample_ids=ids, class_names=names)
    assert content.predictions_table(tmp_path) is None, "a run from before there were examples"
    content.write_examples(tmp_path, rng.integers(0, 255, (80, 3, 8, 8), dtype=np.uint8), ids)
    found = content.predictions_table(tmp_path)
    assert found is not None
    rows, images = found
    assert rows.columns == ["id", "label", "prediction", "correct", "confidence", "p(label)", "five most likely"]
    assert images[0].shape == (8, 8, 3)
    first = rows.rows[0]
    index = ids.tolist().index(first[0])
    assert first[2] == f"class {logits[index].argmax()}" and first[6].startswith(first[2])
    confusion = content.confusion_table(tmp_path)
    assert confusion is not None and sum(row[2] for row in confusion.rows) == 80 and len(confusion.rows) <= 80
