"""Track B: equal trials for every model, chosen by validation alone, charged to what the result cost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.config import loading
from experiments.config.cells import Cell, expand
from experiments.config.errors import ConfigError
from experiments.config.schema import Tuning
from experiments.grid import driver
from experiments.grid.driver import GridObserver
from experiments.grid.ledger import compute_splits
from experiments.records.record import read_record
from experiments.training import tuning
from experiments.training.artifacts import seconds_to_target
from experiments.training.tuning import chosen, trial_recipes, trials_of

OVERRIDES = [
    "recipe.steps=4",
    "recipe.evaluations=1",
    "seeds=[0]",
    "train_fractions=[0.1]",
    "models=[resnet_micro]",
    "tuning.trials=2",
    "expect=[]",
]


def tuned_cells(folder: Path, *more: str) -> list[Cell]:
    experiment = loading.load_experiment("vit_small_data_tuned", loading.parse_overrides([*OVERRIDES, *more]))
    return expand(experiment, compute_splits(experiment, folder))


def test_trials_are_points_of_the_space_and_equal_for_all_models() -> None:
    recipe = loading.load_part("recipes", "digits")
    tuning = Tuning(trials=16, learning_rate=[2e-4, 4e-3], weight_decay=[0.01, 0.2])
    recipes = trial_recipes(recipe, tuning)
    assert recipes == trial_recipes(recipe, tuning)
    rates = [trial.learning_rate for trial in recipes]
    assert all(2e-4 <= rate <= 4e-3 for rate in rates)
    assert all(0.01 <= trial.weight_decay <= 0.2 for trial in recipes)
    # log-uniform: of 16 Halton points 8 lie below the geometric middle, give or take one
    assert abs(sum(rate < math.sqrt(2e-4 * 4e-3) for rate in rates) - 8) <= 1
    assert all(trial.steps == recipe.steps and trial.batch_size == recipe.batch_size for trial in recipes)


def test_two_blocks_with_names_of_their_own(tmp_path: Path) -> None:
    identical, tuned = tuned_cells(tmp_path)
    assert (identical.track, tuned.track) == ("identical", "tuned")
    assert identical.settings_hash != tuned.settings_hash
    trials = trials_of(tuned)
    assert len({cell.run_id for cell in [identical, tuned, *trials]}) == 4
    assert {trial.settings_hash for trial in trials} == {tuned.settings_hash}  # space and budget, not the point
    assert all(trial.seed == tuned.tuning.seed and trial.trial is not None for trial in trials if tuned.tuning)
    assert trials_of(identical) == []


def test_the_space_is_part_of_the_settings(tmp_path: Path) -> None:
    _, before = tuned_cells(tmp_path)
    _, after = tuned_cells(tmp_path, "tuning.learning_rate=[1e-4,1e-2]")
    assert before.settings_hash != after.settings_hash and before.run_id != after.run_id


def test_run_chooses_on_validation_charges_trials_and_keeps_the_test_from_them(tmp_path: Path) -> None:
    cells = tuned_cells(tmp_path)
    trials = driver.trials_for(cells)
    driver.launch(trials, tmp_path, jobs="1", observer=GridObserver())
    for trial in trials:
        record = read_record(tmp_path / str(trial.run_id) / "record.json")
        assert record.trial == trial.trial
        assert not [name for name in record.metrics if name.startswith("test/")]
        assert "logits" not in np.load(tmp_path / str(trial.run_id) / "predictions.npz")
    # Make the second trial the better one, whatever four steps gave.
    for trial, top1 in zip(trials, (0.1, 0.9), strict=True):
        path = tmp_path / str(trial.run_id) / "record.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values["metrics"]["val/top1"] = top1
        path.write_text(json.dumps(values), encoding="utf-8")
    driver.launch(cells, tmp_path, jobs="1", observer=GridObserver())
    tuned = read_record(tmp_path / str(cells[1].run_id) / "record.json")
    assert tuned.tuned is not None and tuned.tuned["learning_rate"] == trials[1].recipe.learning_rate
    spent = [read_record(tmp_path / str(trial.run_id) / "record.json").compute for trial in trials]
    assert tuned.compute.tuning_pflops == pytest.approx(sum(cost.train_pflops or 0 for cost in spent))
    assert tuned.compute.tuning_device_hours == pytest.approx(sum(cost.device_hours or 0 for cost in spent))
    identical = read_record(tmp_path / str(cells[0].run_id) / "record.json")
    assert identical.tuned is None and identical.compute.tuning_pflops is None


def test_among_equals_a_loss_of_zero_is_the_lowest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tuned = tuned_cells(tmp_path)
    trials, losses = trials_of(tuned), {}
    for trial, loss in zip(trials, (0.1, 0.0), strict=True):
        path = tmp_path / str(trial.run_id) / "record.json"
        losses[path] = SimpleNamespace(status="done", metrics={"val/top1": 1.0, "val/nll": loss})
        path.parent.mkdir()
        path.touch()
    monkeypatch.setattr(tuning, "read_record", losses.get)
    assert chosen(tuned, tmp_path)[0].recipe == trials[1].recipe


def test_without_a_good_trial_the_cell_says_so(tmp_path: Path) -> None:
    _, tuned = tuned_cells(tmp_path)
    with pytest.raises(ConfigError, match="none of its 2 tuning trials ended well"):
        chosen(tuned, tmp_path)


def test_bad_spaces_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load_experiment(
            "vit_small_data_tuned", loading.parse_overrides(["tuning.trials=1", "tuning.learning_rate=[2,1]"])
        )
    text = "\n".join(caught.value.faults)
    assert "tuning.trials" in text and "got 1" in text


def test_time_to_target_is_the_first_evaluation_that_reached_it() -> None:
    rows = [{"train_seconds": 1.0, "val/top1": 0.5}, {"train_seconds": 2.0, "val/top1": 0.9}]
    rows += [{"train_seconds": 3.0, "val/top1": 0.95}]
    assert seconds_to_target(rows, 0.9) == 2.0
    assert seconds_to_target(rows, 0.99) is None
    assert seconds_to_target(rows, None) is None


# -------------------------------------------------------------------------------------------------------- random recipes
RANDOM = {
    "track": "random", "tuning.trials": 6, "tuning.optimizers": ["adamw", "sgd"], "recipe.steps": 4, "recipe.evaluations": 1,
    "seeds": [0], "train_fractions": [0.1], "models": ["vit_micro_p2", "resnet_micro"], "reference": "resnet_micro",
    "expect": [],
}  # fmt: skip


def test_random_recipes_are_the_same_for_all_models_and_nothing_is_chosen() -> None:
    experiment = loading.load_experiment("vit_small_data", RANDOM)
    cells = driver.plan(experiment)
    trials = driver.trials_for(cells)
    assert [cell.track for cell in cells] == ["identical"] * 2 and {cell.tuning for cell in cells} == {None}
    assert len(trials) == 12 and {cell.track for cell in trials} == {"random"}
    by_model = [[cell.recipe for cell in trials if cell.model_name == name] for name in experiment.models]
    assert by_model[0] == by_model[1] and {recipe.optimizer for recipe in by_model[0]} == {"adamw", "sgd"}
    assert len({cell.settings_hash for cell in trials}) == 1


def test_a_report_of_random_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in RANDOM.items()]
    monkeypatch.setattr("sys.argv", ["experiments", "run", "vit_small_data", *words, "--jobs", "1"])
    assert main() == 0
    assert "the same random recipe, ViT-micro/2 (ours) is ahead of ResNet-micro" in " ".join(capsys.readouterr().out.split())
    report = tmp_path / "reports_dir" / "vit_small_data"
    table = (report / "recipes.md").read_text(encoding="utf-8")
    assert "Best of 4 (%)" in table and "Best of 6 (%)" in table and "Ahead of ResNet-micro" in table
    assert (report / "recipes.csv").read_text(encoding="utf-8").count("vit_micro_p2") == 4  # best of 1, 2, 4, 6
    assert "Random recipes" in (report / "report.html").read_text(encoding="utf-8")
