"""Runs of other settings in an experiment's folder: left out where they change nothing, refused where they would."""

import pytest
import yaml

from analysis import figures, report
from analysis.fairness.certificate import Unequal
from analysis.fairness.strangers import examine
from tests.analysis.conftest import write_run


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *_: [])


def _other(runs, model="resnet", fraction=1.0, seed=2, **changes):
    """A run of another recipe beside the grid's own; returns its id."""
    recipe = runs.experiment.recipe.model_copy(update=changes)
    run_id = write_run(runs.folder, runs.experiment, model, "shapes", fraction, seed, recipe=recipe)["run_id"]
    runs.ledger["other"].append(run_id)
    return run_id


def _examine(runs):
    return examine(runs.ledger, runs.folder, runs.experiment)


def _build(runs, out, **options):
    return report.build(runs.ledger, runs.folder, runs.experiment, out, **options)


def test_two_recipes_in_the_place_of_missing_cells_are_refused_key_by_key(synthetic_runs, tmp_path):
    run_id = _other(synthetic_runs, learning_rate=0.01, steps=50)
    synthetic_runs.lose(synthetic_runs.run_id("resnet", 1.0, 2))
    with pytest.raises(Unequal) as caught:
        _build(synthetic_runs, tmp_path / "out")
    for word in (
        "shapes: `recipe.learning_rate` differs: 0.001 (this experiment); 0.01 in " + run_id,
        "`recipe.steps` differs: 100 (this experiment); 50 in ",
        "--allow-unequal",
        'ARGS="recipe.learning_rate=0.01 recipe.steps=50"',
    ):
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_report_of_unequal_runs_takes_them_in_with_a_banner(synthetic_runs, tmp_path):
    run_id = _other(synthetic_runs, steps=50)
    synthetic_runs.lose(synthetic_runs.run_id("resnet", 1.0, 2))
    made = _build(synthetic_runs, tmp_path / "out", allow_unequal=True)
    assert not made.equal
    for suffix in (".md", ".tex", ".csv"):
        text = (made.folder / f"accuracy{suffix}").read_text()
        plain = text.replace("\\allowbreak{}", "").replace("\\", "")
        assert "UNEQUAL SETTINGS" in plain and "recipe.steps" in plain
    assert run_id in (made.folder / "accuracy.csv").read_text()


def test_where_the_grid_is_whole_other_settings_are_left_out_and_named(synthetic_runs, tmp_path):
    names = [_other(synthetic_runs, seed=seed, steps=50) for seed in (0, 1)]
    made = _build(synthetic_runs, tmp_path / "out")
    assert made.equal
    (sentence,) = _examine(synthetic_runs).sentences
    assert "2 run folders of other settings" in (made.folder / "report.html").read_text()
    assert not made.faults
    assert "2 run folders of other settings (recipe.steps 50 instead of 100), left out" in sentence
    assert all(name in sentence for name in names)
    assert names[0] not in (made.folder / "accuracy.csv").read_text()


def test_a_seed_that_is_not_listed_is_no_part_of_the_grid(synthetic_runs):
    run_id = _other(synthetic_runs, seed=9)
    found = _examine(synthetic_runs)
    assert not found.differences and f"1 run folder not of this grid, left out: {run_id}." in found.sentences[0]


def test_an_unreadable_stranger_is_named(synthetic_runs):
    run_id = _other(synthetic_runs, steps=50)
    (synthetic_runs.folder / run_id / "record.json").write_text('{"schema": 0}')
    (sentence,) = _examine(synthetic_runs).sentences
    assert run_id in sentence and "schema 0" in sentence


def test_a_stranger_without_configuration_differs_by_its_hash(synthetic_runs):
    run_id = _other(synthetic_runs, steps=50)
    (synthetic_runs.folder / run_id / "config.yaml").unlink()
    synthetic_runs.lose(synthetic_runs.run_id("resnet", 1.0, 2))
    found = _examine(synthetic_runs)
    assert [difference.key for difference in found.differences] == ["settings_hash"] and found.advice == ""


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda record, config: config["model"].update(name="resnet34"), "model.name"),
        (lambda record, config: record.update(protocol=0), "protocol"),
        (lambda record, config: record.update(split_hash="0" * 64), "split_hash"),
    ],
)
def test_other_code_models_and_images_are_named(synthetic_runs, change, key):
    import json

    run_id = _other(synthetic_runs, steps=50)
    folder = synthetic_runs.folder / run_id
    record, config = json.loads((folder / "record.json").read_text()), yaml.safe_load((folder / "config.yaml").read_text())
    config["requested"]["recipe"]["steps"] = 100
    change(record, config)
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    synthetic_runs.lose(synthetic_runs.run_id("resnet", 1.0, 2))
    assert [difference.key for difference in _examine(synthetic_runs).differences] == [key]


def test_fields_that_are_younger_than_a_run_make_no_difference(synthetic_runs):
    run_id = _other(synthetic_runs, steps=50)
    path = synthetic_runs.folder / run_id / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"] = {key: value for key, value in config["model"].items() if key not in ("init", "weights", "train")}
    path.write_text(yaml.safe_dump(config))
    synthetic_runs.lose(synthetic_runs.run_id("resnet", 1.0, 2))
    assert [difference.key for difference in _examine(synthetic_runs).differences] == ["recipe.steps"]


def test_of_several_claims_to_a_place_the_newest_is_taken(synthetic_runs):
    old, new = _other(synthetic_runs, steps=50), _other(synthetic_runs, steps=60)
    synthetic_runs.edit_record(new, finished="2026-02-01T00:00:00Z")
    synthetic_runs.lose(synthetic_runs.run_id("resnet", 1.0, 2))
    found = _examine(synthetic_runs)
    assert list(found.adopted.values()) == [new]
    assert found.differences[0].values == {"100 (this experiment)": [], "50": [old], "60": [new]}
