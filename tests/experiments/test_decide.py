"""`decide` from its command: what is fixed before the first run, looks, budget, resuming, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.statistics import sequential
from experiments.__main__ import main
from experiments.bench import plan as bench_plan
from experiments.grid import driver
from experiments.records.intended import Decision

ARGS = ["recipe.steps=4", "recipe.evaluations=2", "train_fractions=[0.1]", "seeds=[5]"]
ASK = ["--effect", "0.2", "--jobs", "1"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_plan, "SECONDS", 0.1)
    monkeypatch.setattr(sequential, "LOOKS", (3, 4, 5))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    return main()


def kept(tmp_path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((tmp_path / "runs_dir" / "smoke" / "decision.json").read_text(encoding="utf-8"))
    return values


def test_what_is_asked_is_fixed_first_and_the_looks_end_as_the_statistics_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen = list[tuple[int, dict[str, Any]]]()
    launch = driver.launch

    def watched(cells: Any, *arguments: Any, **options: Any) -> None:
        seen.append((len(cells), kept(tmp_path)))
        launch(cells, *arguments, **options)

    monkeypatch.setattr(driver, "launch", watched)
    answers = iter(["open", "equivalent"])
    monkeypatch.setattr("analysis.decided.outcomes", lambda *_: [next(answers)])
    assert call(monkeypatch, "decide", "smoke", *ARGS, *ASK, "--budget", "1h") == 0
    before = seen[0][1]
    assert (before["effect"], before["margin"], before["error_rate"], before["budget_hours"]) == (0.2, 0.2, 0.05, 1.0)
    assert before["made"] and before["history"] == [] and before["looks"] == [3, 4, 5] and before["seeds"] == [5, 6, 7, 8, 9]
    assert [cells for cells, _ in seen] == [6, 8]  # two models: three seeds, then one more, the same cells again
    after = kept(tmp_path)
    assert [look["seeds"] for look in after["history"]] == [3, 4] and after["ended"] == "every pair is decided"
    assert after["history"][1]["device_hours"] > after["history"][0]["device_hours"] > 0
    (pair,) = after["pairs"]
    assert pair["outcome"] == "equivalent" and pair["low"] <= pair["delta"] <= pair["high"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "are equivalent within ±20 points" in printed and "Ended every pair is decided" in printed
    assert f'Again make decide NAME=smoke EFFECT=0.2 BUDGET=1h ARGS="{" ".join(ARGS)}"' in printed
    page = (tmp_path / "reports_dir" / "smoke" / "report.html").read_text(encoding="utf-8")
    assert "Sequential: seeds were added in looks (3, 4, 5)" in page and "4 of 4" not in page
    # A later version that looks and spends otherwise goes on as was fixed.
    monkeypatch.setattr(sequential, "LOOKS", (3, 5))
    monkeypatch.setattr(sequential, "SPENDING", (0.1, 2.0))
    # The same command has nothing left to do; a report from the command of the grid shows all seeds.
    assert call(monkeypatch, "decide", "smoke", *ARGS, *ASK, "--budget", "1h") == 0 and len(seen) == 2
    assert call(monkeypatch, "report", "smoke", *ARGS) == 0
    capsys.readouterr()
    assert call(monkeypatch, "publish", "smoke", *ARGS, "--to", str(tmp_path / "published")) == 0
    assert json.loads((tmp_path / "published" / "smoke" / "decision.json").read_text(encoding="utf-8")) == after
    assert len(list((tmp_path / "published" / "smoke").glob("*/record.json"))) == 8
    capsys.readouterr()
    assert call(monkeypatch, "status", "smoke", *ARGS, "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {
        "expected": 8, "done": 8, "failed": 0, "running": 0, "missing": 0
    }  # fmt: skip


def test_a_spent_budget_leaves_pairs_open_and_what_was_fixed_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("experiments.grid.deciding._hours", lambda cells, folder: (0.4, 0.3))
    monkeypatch.setattr("analysis.decided.outcomes", lambda *_: ["open"])
    monkeypatch.setattr(bench_plan, "UNKNOWN_FACTOR", 1.0)
    ask = ["decide", "smoke", *ARGS, *ASK, "--budget"]
    assert call(monkeypatch, *ask, "30m") == 0
    after = kept(tmp_path)
    assert len(after["history"]) == 1 and "budget spent: 0.4 of 0.5 device hours" in after["ended"]
    assert "budget spent, not decided" in " ".join(capsys.readouterr().out.split())
    assert call(monkeypatch, *ask, "2h") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "budget_hours was 0.5, is now 2.0" in error and "decision.json" in error and "not changed afterwards" in error
    assert kept(tmp_path) == after
    assert call(monkeypatch, "decide", "smoke", *ARGS, "recipe.batch_size=16", *ASK, "--budget", "30m") == 2
    assert "is of other ARGS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--effect", "0.2"], "EFFECT and BUDGET are fixed before the first run"),
        (["--effect", "0.001", "--budget", "1h"], "EFFECT: 0.001 is below what 364 test images can show"),
        (["--effect", "0.2", "--budget", "1s"], "BUDGET: 0.000278 device hours"),
        (["--effect", "2", "--budget", "1h"], "EFFECT: must be a difference of accuracies"),
        ([*ASK, "--budget", "1h", "--margin", "0"], "--margin: must be a difference of accuracies"),
        ([*ASK, "--budget", "1h", "--engine", "slurm"], "ENGINE: must be `local` or `ray`, got 'slurm'"),
    ],
)
def test_bad_input_is_one_message_and_fixes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], told: str
) -> None:
    long = [re.sub(r"steps=\d+", "steps=1000000", word) for word in ARGS]  # more than a second on any machine
    assert call(monkeypatch, "decide", "smoke", *long, *options) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs_dir" / "smoke" / "decision.json").exists()


def test_runs_that_were_seen_before_are_refused_and_a_damaged_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "run", "smoke", *ARGS, "--jobs", "1") == 0
    capsys.readouterr()
    ask = ["decide", "smoke", *ARGS, *ASK, "--budget", "1h"]
    assert call(monkeypatch, *ask) == 2
    assert "2 of its runs have ended" in capsys.readouterr().err
    (tmp_path / "runs_dir" / "smoke" / "decision.json").write_text("{}")
    assert call(monkeypatch, *ask) == 2
    assert "decision.json: not a file of this version" in " ".join(capsys.readouterr().err.split())
    assert call(monkeypatch, "decide", "smoke", *ARGS, "models=[vit_micro_p2]", "reference=vit_micro_p2", "expect=[]",
                *ASK, "--budget", "1h") == 2  # fmt: skip
    assert "one model alone is compared with nothing" in capsys.readouterr().err


def test_a_pair_that_is_decided_gets_no_more_seeds_and_its_cells_are_not_called_incomplete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers = iter([["first"], ["open"], ["second"]])  # with all data and with a tenth, then the one that is open
    monkeypatch.setattr("analysis.decided.outcomes", lambda *_: next(answers))
    args = [*ARGS[:2], "train_fractions=[0.1,1.0]", "seeds=[5]"]
    assert call(monkeypatch, "decide", "smoke", *args, *ASK, "--budget", "1h") == 0
    after = kept(tmp_path)
    assert [(pair["train_fraction"], pair["outcome"], pair["seeds"]) for pair in after["pairs"]] == [
        (1.0, "first", 3), (0.1, "second", 4),
    ]  # fmt: skip
    assert [look["open"] for look in after["history"]] == [1, 0]
    assert len(list((tmp_path / "runs_dir" / "smoke").glob("*/record.json"))) == 2 * 3 + 2 * 4
    report = tmp_path / "reports_dir" / "smoke"
    assert "of 4 seeds" not in (report / "accuracy.md").read_text(encoding="utf-8")
    assert "Incomplete" not in (report / "report.html").read_text(encoding="utf-8")
    assert "14 of 14 runs done" in (report / "report.html").read_text(encoding="utf-8")


def test_the_command_that_goes_on_asks_what_was_asked() -> None:
    pairs = [{"data": "digits", "setting": "", "train_fraction": 0.1, "first": "a", "second": second} for second in "bc"]
    asked = {"experiment": "smoke", "args": "seeds=[5]", "made": "", "effect": 0.01, "margin": 0.02, "error_rate": 0.1}
    asked |= {"budget_hours": 1.5, "share_per_seed": 0.03, "seeds": [5], "looks": [3], "pairs": pairs}
    flags = ' FLAGS="--margin 0.02 --error-rate 0.1 --all-pairs"'
    line = 'make decide NAME=smoke EFFECT=0.01 BUDGET=90m ARGS="seeds=[5]"'
    assert Decision.model_validate(asked).command("c") == line + flags
    asked |= {"args": "", "margin": 0.01, "error_rate": 0.05, "budget_hours": 61 / 3600, "pairs": pairs[:1]}
    assert Decision.model_validate(asked).command("b") == "make decide NAME=smoke EFFECT=0.01 BUDGET=61s"
    asked |= {"effect": 0.012345678, "margin": 0.012345678}
    assert "EFFECT=0.012345678 BUDGET=61s" in Decision.model_validate(asked).command("b")


@pytest.mark.parametrize(
    "command", [["decide", "smoke", *ARGS, *ASK, "--budget", "1h"], ["verify", "vit_small_data", "--cells", "1"]]
)
def test_commands_that_nobody_leads_are_refused_under_torchrun(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert call(monkeypatch, *command) == 2
    assert "torchrun: its processes share the cells of `run` alone" in " ".join(capsys.readouterr().err.split())
