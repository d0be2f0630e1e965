"""`plan` from its command: what it counts, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.bench import plan as bench_plan
from experiments.config import loading
from experiments.grid import driver
from experiments.grid.driver import GridObserver
from experiments.reporting import plans
from experiments.training import cost

TINY = ["recipe.steps=4", "recipe.evaluations=2", "seeds=[0,1,2]", "train_fractions=[0.1]"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    return main()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_plan, "SECONDS", 0.1)


def test_a_plan_counts_the_grid_and_is_kept_beside_the_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "plan", "smoke", *TINY, "--effect", "0.05", "--jobs", "1", "--budget", "8h") == 0
    printed = capsys.readouterr().out
    assert "Plan of smoke" in printed and "timed steps" in printed and "What it can tell" in printed
    plan = json.loads((tmp_path / "runs_dir" / "smoke" / "plan.json").read_text(encoding="utf-8"))
    costs, experiment = plan["costs"], loading.load_experiment("smoke", loading.parse_overrides(TINY))
    cells = len(experiment.models) * 3
    assert (costs["cells"], costs["trials"], costs["images"]) == (cells, 0, cells * 4 * experiment.recipe.batch_size)
    seen = 3 * 4 * experiment.recipe.batch_size
    assert costs["pflops"] == pytest.approx(sum(cost.train_pflops(rate["gmacs"], seen) for rate in costs["rates"]))
    low, likely, high = costs["device_hours"]
    assert 0 < low <= likely <= high and costs["hours_per_seed"].keys() == {"digits/0.1"}
    assert costs["hours_per_seed"]["digits/0.1"] == pytest.approx(likely / 3)
    assert plan["effect"] == 0.05 and plan["budget_hours"] == 8 and plan["power"][0]["n_test"] == 364
    assert "results/" in plan["power"][0]["source"]  # named: nothing of this machine's own


def test_what_was_planned_before_the_first_run_stays_and_runs_tell_the_pace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "plan", "smoke", *TINY) == 0
    path = tmp_path / "runs_dir" / "smoke" / "plan.json"
    first = path.read_bytes()
    experiment = loading.load_experiment("smoke", loading.parse_overrides(TINY))
    driver.launch(driver.plan(experiment), path.parent, jobs="1", observer=GridObserver())
    capsys.readouterr()
    assert call(monkeypatch, "plan", "smoke", *TINY, "--effect", "0.2", "--json") == 0
    told = capsys.readouterr()
    assert path.read_bytes() == first and "stays in plan.json" in told.err
    again = json.loads(told.out)
    assert {rate["source"] for rate in again["costs"]["rates"]} == {"3 runs of smoke"}
    assert again["power"][0]["source"] == "runs_dir/smoke" and again["effect"] == 0.2
    assert call(monkeypatch, "report", "smoke", *TINY) == 0
    page = (tmp_path / "reports_dir" / "smoke" / "report.html").read_text(encoding="utf-8")
    assert "Planned before the first run, and what came" in page


def test_a_step_that_would_take_too_long_is_timed_with_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_plan, "SLOW_DEVICE_FLOPS", 1.0)
    experiment = loading.load_experiment("smoke", loading.parse_overrides(TINY))
    costs = bench_plan.estimate(driver.plan(experiment), [], "1", [], Path("runs"))
    assert all("of 2 images instead of" in rate.source for rate in costs.rates) and costs.memory_bytes is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--effect", "0"], "EFFECT: must be a difference of accuracies between 0 and 1"),
        (["--budget", "8 hours"], "BUDGET: must be a time such as 30m, 90s or 1h30m, got '8 hours'"),
        (["--budget", "0s"], "BUDGET: must be a time"),
        (["--budget", "1s"], "and one seed of them"),
    ],
)
def test_bad_input_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    long = [word.replace("steps=4", "steps=1000000") for word in TINY]  # more than a second on any machine
    assert call(monkeypatch, "plan", "smoke", *long, *options) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert told in error and "Traceback" not in error


def test_without_any_record_the_costs_are_still_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(plans, "ROOT", tmp_path)
    assert call(monkeypatch, "plan", "smoke", *TINY) == 0
    told = capsys.readouterr()
    assert "device hours" in told.out and "to take variances from" in " ".join(told.err.split())
