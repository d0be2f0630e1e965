"""Runs of several machines or labs become one grid, as if one had run it; what contradicts is named and left out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.config.paths import ROOT
from experiments.records.digests import SUMS_FILE, add_digests
from experiments.records.intended import Decision

PUBLISHED = ROOT / "results" / "vit_small_data"
NAME = "vit_small_data"
ONE = ["train_fractions=[1.0]", "models=[resnet_micro,vit_micro_p2]"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    return main()


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Path]:
    """What one machine holds of the grid `ONE`: the runs of some seeds, and their splits."""

    def make(name: str, seeds: Iterable[int]) -> Path:
        folder = tmp_path / name / "runs" / NAME
        for model in ("resnet_micro", "vit_micro_p2"):
            for seed in seeds:
                for run in PUBLISHED.glob(f"{model}-digits-f1-s{seed}-*"):
                    shutil.copytree(run, folder / run.name)
        splits = json.loads((PUBLISHED / "splits.json").read_text(encoding="utf-8"))
        own = {key: split for key, split in splits.items() if key.split("/")[1] == "1" and int(key[-1]) in seeds}
        (folder / "splits.json").write_text(json.dumps(own, indent=0, sort_keys=True), encoding="utf-8")
        return folder.parent

    return make


def report(monkeypatch: pytest.MonkeyPatch, runs: Path, code: int = 0) -> dict[str, bytes]:
    """The files of a report that lies beside its runs."""
    monkeypatch.setenv("RUNS_DIR", str(runs))
    monkeypatch.setenv("REPORTS_DIR", str(runs.parent / "reports"))
    assert call(monkeypatch, "report", NAME, *ONE) == code
    folder = runs.parent / "reports"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".made.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *sources: object, code: int = 0) -> Path:
    target = tmp_path / "joined" / "runs"
    assert call(monkeypatch, "merge", *map(str, sources), "--to", str(target)) == code
    return target


def test_two_halves_give_the_bytes_of_the_whole(part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = report(monkeypatch, part("whole", (0, 1, 2)))
    target = joined(monkeypatch, tmp_path, part("a", (0, 1)), part("b", (2,)) / NAME)
    assert (target / NAME / "splits.json").read_bytes() == (tmp_path / "whole" / "runs" / NAME / "splits.json").read_bytes()
    assert report(monkeypatch, target) == whole and len(whole) > 20
    merged = json.loads((target / NAME / "merged.json").read_text(encoding="utf-8"))["runs"]
    assert sorted(about["source"] for about in merged.values()) == ["runs"] * 4 + [NAME] * 2


def test_folders_that_were_copied_together_give_the_bytes_of_the_whole(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = report(monkeypatch, part("whole", (0, 1, 2)))
    by_hand = part("by_hand", (0, 1))
    for run in (part("b", (2,)) / NAME).glob("*-s2-*"):
        shutil.copytree(run, by_hand / NAME / run.name)
    assert "/2" not in (by_hand / NAME / "splits.json").read_text(encoding="utf-8")
    assert report(monkeypatch, by_hand) == whole


def test_equal_runs_are_there_once_and_contradicting_ones_not_at_all(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = part("a", (0, 1)), part("b", (1, 2))
    slower, other = sorted((b / NAME).glob("*-s1-*"))
    record = json.loads((slower / "record.json").read_text(encoding="utf-8"))
    (slower / "record.json").write_text(json.dumps(record | {"finished": "2030-01-01T00:00:00+00:00"}), encoding="utf-8")
    with np.load(other / "predictions.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["logits"][0, 0] += 1
    np.savez(other / "predictions.npz", **arrays)
    target = joined(monkeypatch, tmp_path, a, b, code=1)
    said = capsys.readouterr()
    assert f"left out: {other.name}: results differ, both left out ({a / NAME / other.name}" in said.err
    assert "5 runs, 1 of them found more than once" in said.out
    kept = {path.parent.name for path in (target / NAME).glob("*/record.json")}
    assert len(kept) == 5 and other.name not in kept
    assert (target / NAME / slower.name / "record.json").read_bytes() == (
        a / NAME / slower.name / "record.json"
    ).read_bytes()
    assert json.loads((target / NAME / "merged.json").read_text(encoding="utf-8"))["runs"][slower.name]["also"] == ["runs"]


@pytest.mark.parametrize("what", ["splits", "test set"])
def test_other_data_under_one_name_are_named_and_left_out(
    what: str, part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = part("a", (0, 1)), part("b", (1, 2) if what == "splits" else (2,))
    for run in list((b / NAME).glob("*/")):
        if what == "splits":
            record = json.loads((run / "record.json").read_text(encoding="utf-8"))
            record |= {"split_hash": f"{record['seed']}" * 64, "run_id": record["run_id"][:-8] + "0" * 8}
            (run / "record.json").write_text(json.dumps(record), encoding="utf-8")
            run.rename(run.with_name(record["run_id"]))
        else:
            with np.load(run / "predictions.npz") as stored:
                arrays = {name: stored[name] for name in stored.files}
            arrays["labels"] = arrays["labels"][::-1]
            np.savez(run / "predictions.npz", **arrays)
    target = joined(monkeypatch, tmp_path, a, b, code=1)
    number = 4 if what == "splits" else 2
    words = f"left out: {b}: its digits are other images than in the folders before it, under the same name; {number} runs"
    assert words in capsys.readouterr().err
    assert {path.parent.name for path in (target / NAME).glob("*/record.json")} == {
        path.parent.name for path in (a / NAME).glob("*/record.json")
    }
    assert (target / NAME / "splits.json").read_bytes() == (a / NAME / "splits.json").read_bytes()


def test_what_failed_changed_or_has_not_ended(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = part("a", (0,)), part("b", (0, 1))
    first, second = sorted((a / NAME).glob("*-s0-*"))
    failed = json.loads((first / "record.json").read_text(encoding="utf-8"))
    failed |= {"status": "failed", "metrics": {}, "failure": {"kind": "E", "message": "diverged"}}
    (first / "record.json").write_text(json.dumps(failed), encoding="utf-8")
    (second / "record.json").unlink()
    (second / "last.pt").write_bytes(b"checkpoint")
    add_digests(b / NAME)
    changed = sorted((b / NAME).glob("*-s1-*"))[0]
    (changed / "metrics.jsonl").write_text("", encoding="utf-8")
    target = joined(monkeypatch, tmp_path, a, b, code=1)
    said = capsys.readouterr().err
    assert f"left out: {a / NAME}: 1 folder without a record, of runs that have not ended" in said
    assert f"{changed / 'metrics.jsonl'}: changed after it was published" in said
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (target / NAME).glob("*/record.json")]
    assert len(records) == 3 and {record["status"] for record in records} == {"done"}
    assert not list(target.rglob("last.pt")) and len((target / NAME / SUMS_FILE).read_text().splitlines()) == 12


def test_labs_are_compared_where_each_has_two_seeds(part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = joined(monkeypatch, tmp_path, f"zurich={part('a', (0, 1))}", f"tokyo={part('b', (2,))}")
    files = report(monkeypatch, target)
    text = "".join(files[f"{NAME}/{page}.md"].decode() for page in ("conditions", "interactions"))
    assert "tokyo: 2 runs, seeds 2, on" in text and "zurich: 4 runs, seeds 0, 1, on" in text
    assert "takes two seeds of each to test" in text and "tokyo → zurich, 100%" in text
    merged = tmp_path / "joined" / "runs" / NAME / "merged.json"
    labs = json.loads(merged.read_text(encoding="utf-8"))
    assert {about["lab"] for about in labs["runs"].values()} == {"zurich", "tokyo"}
    again = joined(monkeypatch, tmp_path / "more", target, part("b2", (2,)))
    kept = json.loads((again / NAME / "merged.json").read_text(encoding="utf-8"))["runs"]
    assert {about["lab"] for about in kept.values()} == {"zurich", "tokyo"}
    merged.write_text("{", encoding="utf-8")
    assert call(monkeypatch, "report", NAME, *ONE) == 2


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["a"], "two or more different folders"),
        (["a", "a"], "two or more different folders"),
        (["a", "nowhere"], "nowhere is no folder"),
        (["a", "lab=nowhere"], "nowhere is no folder"),
        (["empty", "empty2"], "no finished run in"),
    ],
)
def test_sources_that_are_none(
    sources: list[str], words: str, part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    part("a", (0,))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty2").mkdir()
    monkeypatch.chdir(tmp_path)
    joined(
        monkeypatch, tmp_path, *[source.replace("a", "a/runs") if source == "a" else source for source in sources], code=2
    )
    assert words in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "joined").exists()


def test_a_damaged_source_leaves_nothing_half_done(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = part("a", (0,)), part("b", (1,))
    (a / NAME / "merged.json").write_text("{", encoding="utf-8")
    target = joined(monkeypatch, tmp_path, a, b, code=2)
    assert "merged.json" in capsys.readouterr().err and not target.exists()


def test_a_target_that_is_there_is_left_alone(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = part("a", (0,)), part("b", (1,))
    before = sorted(a.rglob("*"))
    assert call(monkeypatch, "merge", str(a), str(b), "--to", str(a)) == 2
    assert (
        f"--to: {a / NAME} is there already" in " ".join(capsys.readouterr().err.split()) and sorted(a.rglob("*")) == before
    )


def _decided(runs: Path, **changes: Any) -> dict[str, Any]:
    """A decision beside the runs of one machine."""
    pair = {"data": "digits", "setting": "", "train_fraction": 1.0, "first": "vit_micro_p2", "second": "resnet_micro"}
    look = {"made": "2026-01-01T00:00:00+00:00", "seeds": 3, "failed": 0, "device_hours": 0.1, "open": 1}
    values = {
        "experiment": NAME, "args": " ".join(ONE), "made": "2026-01-01T00:00:00+00:00", "effect": 0.2, "margin": 0.2,
        "error_rate": 0.05, "budget_hours": 1.0, "share_per_seed": 1 / 30, "share_power": 1.5, "seeds": [0, 1, 2, 3, 4],
        "looks": [3, 5], "pairs": [pair | {"seeds": 3}], "history": [look],
    } | changes  # fmt: skip
    Decision.model_validate(values).keep(runs / NAME)
    return values


def test_seeds_that_were_added_in_looks_are_told_so_after_a_merge(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = part("a", (0, 1)), part("b", (2,)), part("c", (2,))
    _decided(a, history=[], pairs=[])
    furthest = _decided(b)
    target = joined(monkeypatch, tmp_path, a, b)
    assert json.loads((target / NAME / "decision.json").read_text(encoding="utf-8"))["history"] == furthest["history"]
    page = report(monkeypatch, target)[f"{NAME}/report.html"].decode()
    assert "Sequential: seeds were added in looks" in page
    _decided(c, effect=0.1)
    assert call(monkeypatch, "merge", str(a), str(c), "--to", str(tmp_path / "refused")) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "seeds of vit_small_data were added for 2 different questions" in error and not (tmp_path / "refused").exists()
    for runs, place in ((a, "/disk"), (c, "/home/c")):  # one question, of images that lie elsewhere
        _decided(runs, args=" ".join([*ONE, f"data.path={place}/photos"]))
    assert call(monkeypatch, "merge", str(a), str(c), "--to", str(tmp_path / "again")) == 0
    assert (tmp_path / "again" / NAME / "decision.json").is_file()
