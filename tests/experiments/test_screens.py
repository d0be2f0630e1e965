"""What a terminal shows: readable at 80 columns, plain in a pipe, and no guess of the time that is left."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.config.cells import expand
from experiments.config.loading import load_experiment
from experiments.config.paths import ROOT
from experiments.grid.ledger import known_splits
from experiments.records.record import read_record
from experiments.terminal import display, screens
from experiments.training.outcome import Outcome
from tests.experiments.test_command import tiny_cells
from tests.experiments.test_wandb_content import call


def drawn(what: Any, *, terminal: bool = False, width: int = 80) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system="truecolor" if terminal else None
    )
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def ledger(*statuses: str, other: tuple[str, ...] = ()) -> dict[str, Any]:
    cells = [
        {"run_id": f"r{seed}", "model": "vit", "data": "digits", "train_fraction": 0.1, "seed": seed, "varied": {},
         "status": status, "reason": "the loss is not finite" if status == "failed" else None}
        for seed, status in enumerate(statuses)
    ]  # fmt: skip
    counts = {name: statuses.count(name) for name in ("done", "failed", "running", "missing")}
    return {"counts": {"expected": len(cells), **counts}, "cells": cells, "other": list(other)}


def test_the_map_has_a_mark_per_seed_and_colours_only_on_a_terminal() -> None:
    plain = drawn(screens.ledger_table(ledger("done", "failed", "missing"), Path()))
    assert "●✗·" in plain and "10%" in plain and "r1: the loss is not finite" in plain and "\x1b" not in plain
    assert "48;5;" in drawn(screens.ledger_table(ledger("done", "done"), Path()), terminal=True)
    assert " 11/12 " in drawn(screens.ledger_table(ledger(*["done"] * 11, "missing"), Path()))


def test_settings_stand_below_each_other_whole() -> None:
    cells = [
        {"run_id": None, "model": "vit_micro_p2", "data": "digits", "train_fraction": fraction, "seed": 0, "reason": None,
         "varied": {"recipe.learning_rate": rate}, "status": "done" if rate == 0.001 else "missing"}
        for rate in (0.0005, 0.001) for fraction in (1.0, 0.1)
    ]  # fmt: skip
    shown = drawn(
        screens.ledger_table({"cells": cells, "counts": {"expected": 4, "done": 2, "missing": 2}, "other": []}, Path())
    ).splitlines()
    assert [line.split() for line in shown[:5]] == [
        ["model", "10%", "100%"], ["learning_rate=0.0005"], ["vit_micro_p2", "·", "·"],
        ["learning_rate=0.001"], ["vit_micro_p2", "●", "●"],
    ]  # fmt: skip


def test_runs_of_other_settings_come_with_the_command_that_made_them(tmp_path: Path) -> None:
    for name in ("a", "b", "old"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        text = 'experiment: smoke\ncommand: make experiment NAME=smoke ARGS="seeds=[7]"\ncell:\n  seed: 7\n'
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "old" / "config.yaml").write_text("experiment: smoke\ncell:\n  seed: 7\n")
    shown = drawn(screens.ledger_table(ledger("done", other=("a", "b", "old", "gone")), tmp_path))
    assert "4 more runs here are of other settings" in shown
    assert '2 by: make experiment NAME=smoke ARGS="seeds=[7]"' in shown
    assert "error" not in shown and "left out" not in shown
    for seed in range(4):
        (tmp_path / f"c{seed}").mkdir()
        (tmp_path / f"c{seed}" / "config.yaml").write_text(
            f"command: make experiment NAME=smoke ARGS=seeds=[{seed}]\ncell:\n"
        )
    first, *named, more = screens.other_settings({"other": ["c0", "c1", "a", "b", "c2", "c3"]}, tmp_path)
    assert first.startswith("6 more runs") and named[0].startswith("  2 by: ") and len(named) == 3
    assert "2 more commands" in more and "config.yaml" in more


def test_a_run_is_readable_and_whole_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sorted((ROOT / "results" / "vit_small_data").glob("resnet_micro-digits-f1-s0-*"))[0]
    monkeypatch.setenv("COLUMNS", "80")
    assert call(monkeypatch, "show", str(folder)) == 0
    printed = capsys.readouterr().out
    assert "ResNet" in printed and "top-1" in printed and "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert call(monkeypatch, "show", str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == read_record(folder / "record.json").run_id


def test_a_list_in_a_pipe_is_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call(monkeypatch, "list") == 0
    printed = capsys.readouterr().out
    assert "…" not in printed and "on images that ship with scikit-learn?" in printed


def test_time_left_is_hidden_until_it_can_be_known(tmp_path: Path) -> None:
    cells, folder = tiny_cells()
    progress = display.Display(Console(file=io.StringIO()), folder, total=10, done=2)
    assert progress._left() == ""
    progress.started(cells[0])
    run_folder = folder / str(cells[0].run_id)
    run_folder.mkdir(parents=True)

    def beat(step: int, start: int = 0) -> None:
        attempt = {"start_step": start, "end_step": step, "device": "cpu", "seconds": 1.0, "reason": "running"}
        (run_folder / "progress.json").write_text(json.dumps({"step": step, "steps": 100, "attempt": attempt}))

    beat(50, start=50)
    assert progress._left() == "", "what an earlier attempt did tells nothing"
    beat(55, start=50)
    assert progress._left() == "", "5% of a first cell is too little"
    assert progress._begun is not None
    progress._begun = time.monotonic() - 60
    beat(70, start=50)
    # 0.2 cells in a minute; 8 − 0.7 cells are left.
    assert "about 36 min" in progress._left()


XEON = "Intel(R) Xeon(R) Processor"


@pytest.mark.parametrize(("device", "shown"), [(XEON, True), ("another device", False)])
def test_the_first_estimate_is_from_earlier_runs_of_the_device(tmp_path: Path, device: str, shown: bool) -> None:
    experiment, earlier = load_experiment("vit_small_data"), ROOT / "results" / "vit_small_data"
    (tmp_path / "earlier").symlink_to(earlier)
    cells = expand(experiment, known_splits(experiment, earlier))
    progress = display.Display(Console(file=io.StringIO()), tmp_path / "now", total=48, done=0, left=cells)
    for cell in cells[:2]:
        progress.started(cell)
        attempt = {"start_step": 0, "end_step": 1, "device": device, "seconds": 1.0, "reason": "running"}
        (folder := tmp_path / "now" / str(cell.run_id)).mkdir(parents=True)
        (folder / "progress.json").write_text(json.dumps({"step": 1, "steps": 700, "attempt": attempt}))
    took = sum(read_record(path).compute.train_seconds or 0 for path in earlier.glob("*/record.json"))
    said = progress._left()
    if shown:
        minutes, seconds = map(int, re.findall(r"about (\d+) min (\d+) s left, by earlier runs", said)[0])
        assert 0.8 * took / 2 < 60 * minutes + seconds < 1.2 * took / 2
    else:
        assert said == ""


def test_a_pipe_is_told_the_time_left_with_the_first_cell(tmp_path: Path) -> None:
    cells, folder = tiny_cells()
    printed = io.StringIO()
    progress = display.Display(Console(file=printed, width=200), folder, total=8, done=0)
    progress.started(cells[0])
    assert progress._begun is not None
    progress._begun -= 60
    progress.ended(cells[0], Outcome("done", seconds=60.0))
    assert "about 7 min 00 s left" in printed.getvalue()


def test_what_is_unknown_of_a_cell_is_a_dash(tmp_path: Path) -> None:
    cells, folder = tiny_cells()
    printed = io.StringIO()
    display.Display(Console(file=printed, width=200), folder, total=8, done=0).ended(cells[0], Outcome("done"))
    assert printed.getvalue().rstrip().endswith("  val –  – images/s  –")


def test_a_status_that_cannot_be_told_is_shown_with_its_reason_once() -> None:
    cell = {
        "data": "d",
        "varied": {},
        "train_fraction": 1.0,
        "model": "m",
        "run_id": "r",
        "status": "unknown",
        "reason": "x",
    }
    counts = {"expected": 2, "done": 0, "failed": 0, "running": 0, "missing": 0, "unknown": 2}
    printed = io.StringIO()
    Console(file=printed, width=200).print(
        screens.ledger_table({"cells": [cell, cell], "counts": counts, "other": []}, Path())
    )
    assert "? 2 unknown" in printed.getvalue() and printed.getvalue().count("unknown x") == 1


def test_progress_says_what_a_cell_is_doing() -> None:
    assert display.progress_columns({}, 100)[1:] == ("", "loading")
    attempt = {"start_step": 40}
    beat = {"step": 50, "steps": 100, "val_top1": 0.5, "images_per_second": 1234.0, "attempt": attempt}
    assert display.progress_columns(beat, 100)[1:] == ("50/100", "goes on from step 40  val 50.0%  1,234/s")
    assert display.progress_columns(beat | {"step": 100}, 100)[2] == "testing, saving"


def test_a_resumed_cell_is_announced_when_it_ends(tmp_path: Path) -> None:
    cells, folder = tiny_cells()
    console = Console(file=io.StringIO(), width=80)
    progress = display.Display(console, folder, total=2, done=0)
    run_folder = folder / str(cells[0].run_id)
    run_folder.mkdir(parents=True)
    attempt = {"start_step": 2, "end_step": 4, "device": "cpu", "devices": 1, "seconds": 1.0, "reason": "completed"}
    (run_folder / "progress.json").write_text(json.dumps({"step": 4, "steps": 4, "attempt": attempt}))
    progress.ended(cells[0], Outcome("done", seconds=1.0, images_per_second=10.0, val_top1=0.5))
    assert isinstance(console.file, io.StringIO)
    assert "went on from step 2" in console.file.getvalue()
