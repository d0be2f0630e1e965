"""Published runs are small, hold no path of the machine, and give the same tables."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.__main__ import main
from experiments.config.paths import ROOT
from experiments.config.schema import join_words, repeat_command
from experiments.grid.publish import half_precision
from experiments.records.folder import config_without_path, without_path

ONE = ["seeds=[0]", "train_fractions=[1.0]"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Finished runs with weights, a checkpoint and a private path, such as a machine has them."""
    folder = tmp_path / "runs" / "vit_small_data"
    for run in (ROOT / "results" / "vit_small_data").glob("*-f1-s0-*"):
        shutil.copytree(run, folder / run.name)
        (folder / run.name / "model.safetensors").write_bytes(b"weights")
        (folder / run.name / "last.pt").write_bytes(b"checkpoint")
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        config["data"]["path"] = "/home/someone/photos"
        config["command"] = 'make experiment NAME=vit_small_data ARGS="data.path=/home/someone/photos"'
        (folder / run.name / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(ROOT / "results" / "vit_small_data" / "splits.json", folder)
    monkeypatch.setenv("RUNS_DIR", str(folder.parent))
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    return main()


def test_published_runs_give_the_same_table(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "publish", "vit_small_data", *ONE, "--to", str(tmp_path / "paper")) == 0
    published = tmp_path / "paper" / "vit_small_data"
    assert len(list(runs.glob("*/record.json"))) == len(list(published.glob("*/record.json"))) == 4
    for run in published.glob("*-s0-*"):
        assert {path.name for path in run.iterdir()} == {"record.json", "config.yaml", "metrics.jsonl", "predictions.npz"}
        assert (run / "record.json").read_bytes() == (runs / run.name / "record.json").read_bytes()
        assert "someone" not in (run / "config.yaml").read_text(encoding="utf-8")
        with np.load(run / "predictions.npz") as halved, np.load(runs / run.name / "predictions.npz") as whole:
            assert halved["logits"].dtype == halved["val_logits"].dtype == np.float16
            np.testing.assert_allclose(halved["logits"], whole["logits"], rtol=1e-3, atol=1e-4)
            assert np.array_equal(halved["sample_ids"], whole["sample_ids"])
    tables = []
    for place in ("runs", "paper"):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path / place))
        monkeypatch.setenv("REPORTS_DIR", str(tmp_path / "reports" / place))
        assert call(monkeypatch, "report", "vit_small_data", *ONE) == 0
        tables.append((tmp_path / "reports" / place / "vit_small_data" / "accuracy.csv").read_text(encoding="utf-8"))
    top1 = [[line.split(",")[:4] for line in table.splitlines()] for table in tables]
    assert top1[0] == top1[1] and len(top1[0]) == 5


@pytest.mark.parametrize(
    ("path", "words", "left"),
    [
        (
            ".",
            ["recipe.steps=4", "train_fractions=[1.0]", "data.path=."],
            ["recipe.steps=4", "train_fractions=[1.0]", "data.path=."],
        ),
        ("a", ["data=data_a", "data.path=a"], ["data=data_a", "data.path=a"]),
        ("/", ["data.title=a/b", "data.path=/"], ["data.title=a/b", "data.path=/"]),
        ("/home/me/my photos #2", ["data.path=/home/me/my photos #2"], ["data.path=my photos #2"]),
        ("/home/me/it's \"$x\\", ["data.path=/home/me/it's \"$x\\"], ["data.path=it's \"$x\\"]),
        ("/home/me/b/", ["data.path=/home/me/a", "data.path=/home/me/b/"], ["data.path=a", "data.path=b"]),
    ],
)
def test_of_a_command_the_way_to_the_photos_alone_is_cut(
    tmp_path: Path, path: str, words: list[str], left: list[str]
) -> None:
    config = tmp_path / "config.yaml"
    values = {"experiment": "mine", "command": repeat_command("mine", join_words(words)), "data": {"path": path}}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    cut = yaml.safe_load(config_without_path(config))
    assert cut["command"] == repeat_command("mine", join_words(left))
    assert cut["data"]["path"] == left[-1].removeprefix("data.path=")
    assert without_path(join_words(words)) == join_words(left)


def test_commands_that_earlier_versions_joined_without_quotes_are_cut_too(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    command = 'make experiment NAME=mine ARGS="seeds=[0] data.path=/home/my own/it\'s here"'
    values = {"experiment": "mine", "command": command, "data": {"path": "/home/my own/it's here"}}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert b"home" not in config_without_path(config) and b"own" not in config_without_path(config)


def test_half_precision_changes_no_predicted_class() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (5000, 4)).astype(np.float32)
    logits[:, 3] = logits[:, 0] + rng.normal(0, 1e-3, 5000).astype(np.float32)  # many that rounding ties
    assert (logits.astype(np.float16).argmax(axis=1) != logits.argmax(axis=1)).sum() > 50
    halved = half_precision(logits)
    assert np.array_equal(halved.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_allclose(halved, logits, rtol=2e-3, atol=1e-6)


def test_large_logits_keep_their_precision(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(runs.glob("*-s0-*")) / "predictions.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["logits"][0, 0] = 1e6
    np.savez_compressed(path, **arrays)
    assert call(monkeypatch, "publish", "vit_small_data", *ONE, "--to", str(tmp_path / "paper")) == 0
    with np.load(tmp_path / "paper" / "vit_small_data" / path.parent.name / path.name) as published:
        assert published["logits"].dtype == np.float32 and published["val_logits"].dtype == np.float16
        assert published["logits"][0, 0] == 1e6


def test_publishing_adds_to_what_is_there(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = tmp_path / "paper" / "vit_small_data"
    paper.mkdir(parents=True)
    (paper / "splits.json").write_text('{"another/1/0": "hash"}', encoding="utf-8")
    for _ in range(2):
        assert call(monkeypatch, "publish", "vit_small_data", *ONE, "--to", str(tmp_path / "paper")) == 0
    known = json.loads((paper / "splits.json").read_text(encoding="utf-8"))
    assert known == {"another/1/0": "hash"} | json.loads((runs / "splits.json").read_text(encoding="utf-8"))


def test_a_damaged_run_is_left_out_and_named(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, foreign, bare, *_ = sorted(runs.glob("*-s0-*"))
    (broken / "predictions.npz").write_bytes((broken / "predictions.npz").read_bytes()[:300])
    (foreign / "config.yaml").write_text("- 1", encoding="utf-8")
    (bare / "metrics.jsonl").unlink()
    assert call(monkeypatch, "publish", "vit_small_data", *ONE, "--to", str(tmp_path / "paper")) == 1
    said = capsys.readouterr()
    assert f"{broken / 'predictions.npz'}: cannot be read" in said.err and f"{foreign / 'config.yaml'}: " in said.err
    assert "2 runs" in said.out
    published = {path.name for path in (tmp_path / "paper" / "vit_small_data").glob("*-s0-*")}
    assert published == {path.name for path in runs.glob("*-s0-*")} - {broken.name, foreign.name}


def test_control_characters_of_a_path_reach_no_terminal(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = tmp_path / "a\x1b[2Jb"
    shutil.move(runs.parent, hostile)
    monkeypatch.setenv("RUNS_DIR", str(hostile))
    (next((hostile / "vit_small_data").glob("*-s0-*")) / "predictions.npz").write_bytes(b"")
    (hostile / "vit_small_data" / "data.json").write_text("{")
    assert call(monkeypatch, "publish", "vit_small_data", *ONE, "--to", str(tmp_path / "paper")) == 1
    said = capsys.readouterr()
    assert said.err.count("a\\x1b[2Jb") == 2 and "\x1b" not in said.err + said.out


def test_links_to_the_runs_are_not_written_through(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(runs.glob("*-s0-*"))
    (tmp_path / "paper" / "vit_small_data").mkdir(parents=True)
    (tmp_path / "paper" / "vit_small_data" / run.name).symlink_to(run)
    before = (run / "predictions.npz").read_bytes()
    assert call(monkeypatch, "publish", "vit_small_data", *ONE, "--to", str(tmp_path / "paper")) == 2
    assert "holds the runs themselves" in " ".join(capsys.readouterr().err.split())
    assert (run / "predictions.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("paper", ["holds no run of these settings", "make experiment NAME=vit_small_data"]),
        ("runs", ["themselves", "--to"]),
        ("runs/vit_small_data/splits.json", ["--to", "cannot be written"]),
    ],
)
def test_what_cannot_be_published_is_told(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    to: str,
    words: list[str],
) -> None:
    settings = ["seeds=[7]"] if to == "paper" else ONE
    assert call(monkeypatch, "publish", "vit_small_data", *settings, "--to", str(tmp_path / to)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(word in said for word in words)
    assert not (tmp_path / "paper").exists()
