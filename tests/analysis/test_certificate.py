"""Equal settings are proven from the records; every difference is named."""

import pytest
import yaml

from analysis import captions
from analysis.fairness.certificate import Unequal, certify, read_config
from analysis.load import load
from analysis.summary import summarise
from tests.analysis.conftest import SyntheticRuns, make_experiment, write_experiment, write_run


def _certify(runs):
    return certify(load(runs.ledger, runs.folder, runs.experiment))


def _edit_config(runs, run_id, change):
    path = runs.folder / run_id / "config.yaml"
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values))


def test_equal_runs_are_certified(synthetic_runs):
    certificate = _certify(synthetic_runs)
    content = certificate.content
    assert certificate.equal and content["equal"] is True
    assert content["differences"] == [] and content["unverified"] == []
    assert content["records"] == 36
    assert len(content["settings_hash"]["shapes"]) == 64
    assert content["settings"]["shapes"]["recipe"]["learning_rate"] == 1e-3
    assert content["geometry"]["vit"] == {"patch_size": 2, "stem": "native"}
    assert content["devices"] == ["cpu"] and content["protocol"] == [1] and content["precision"] == {"shapes": ["fp32"]}


def test_another_recipe_is_named_key_by_key(synthetic_runs):
    experiment = synthetic_runs.experiment
    old = synthetic_runs.run_id("resnet", 1.0, 2)
    recipe = experiment.recipe.model_copy(update={"learning_rate": 0.01, "steps": 50})
    cell = write_run(synthetic_runs.folder, experiment, "resnet", "shapes", 1.0, 2, recipe=recipe)
    synthetic_runs.lose(old)
    synthetic_runs.cell("resnet", 1.0, 2).update(cell)
    certificate = _certify(synthetic_runs)
    assert not certificate.equal
    differences = {difference.key: difference for difference in certificate.differences}
    assert set(differences) == {"recipe.learning_rate", "recipe.steps"}
    assert differences["recipe.learning_rate"].values["0.01"] == [cell["run_id"]]
    assert len(differences["recipe.learning_rate"].values["0.001"]) == 35
    message = str(Unequal(certificate.differences))
    for word in ("recipe.learning_rate", "0.001", "0.01", "recipe.steps", "50", cell["run_id"], "--allow-unequal"):
        assert word in message


def test_an_edited_record_is_caught(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    synthetic_runs.edit_record(run_id, settings_hash="0" * 64)
    keys = [(d.key, d.where) for d in _certify(synthetic_runs).differences]
    assert ("settings_hash", f"shapes, tampered run {run_id}") in keys
    assert ("settings_hash", "shapes") in keys


def test_an_edited_configuration_is_caught(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    _edit_config(synthetic_runs, run_id, lambda values: values["requested"]["recipe"].update(weight_decay=0.5))
    differences = {d.key: d for d in _certify(synthetic_runs).differences}
    assert differences["settings_hash"].where == f"shapes, tampered run {run_id}"
    assert differences["recipe.weight_decay"].values["0.5"] == [run_id]


def test_record_and_configuration_edited_alike_still_differ_from_the_rest(synthetic_runs):
    from experiments.config.identity import canonical_hash

    run_id = synthetic_runs.run_id("vit")
    _edit_config(synthetic_runs, run_id, lambda values: values["requested"]["recipe"].update(weight_decay=0.5))
    requested = yaml.safe_load((synthetic_runs.folder / run_id / "config.yaml").read_text())["requested"]
    synthetic_runs.edit_record(run_id, settings_hash=canonical_hash(requested))
    assert [d.key for d in _certify(synthetic_runs).differences] == ["recipe.weight_decay"]


@pytest.mark.parametrize(
    ("changes", "key", "where"),
    [
        ({"split_hash": "other"}, "split_hash", "shapes, train fraction 0.3, seed 1"),
        ({"n_train": 271}, "n_train", "shapes, train fraction 0.3, seed 1"),
        ({"steps": 99}, "steps", "shapes"),
        (
            {"samples_seen": 31, "compute": {"train_pflops": 31 * 6e-6 * 0.0123, "images_per_second": None}},
            "samples_seen",
            "shapes",
        ),
        ({"compute": {"n_params": 1}}, "n_params", "shapes, model vit"),
        ({"environment": {"precision": "bf16"}}, "precision", "shapes"),
        ({"protocol": 2}, "protocol", "report"),
        ({"geometry": {"patch_size": 4}}, "geometry", "shapes, model vit"),
    ],
)
def test_other_differences(synthetic_runs, changes, key, where):
    run_id = synthetic_runs.run_id("vit", 0.3, 1)
    synthetic_runs.edit_record(run_id, **changes)
    (difference,) = _certify(synthetic_runs).differences
    assert (difference.key, difference.where) == (key, where)
    assert [run_id] in difference.values.values()


def test_another_test_set_is_refused(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    ids = load(synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment).predictions(run_id)["sample_ids"]
    synthetic_runs.edit_predictions(run_id, sample_ids=ids + 1)
    assert [d.key for d in _certify(synthetic_runs).differences] == ["test images and labels"]


def test_mixed_devices_are_listed_and_allowed(synthetic_runs):
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), environment={"device": "NVIDIA H200"})
    certificate = _certify(synthetic_runs)
    assert certificate.equal and certificate.content["devices"] == ["NVIDIA H200", "cpu"]


def test_batches_in_parts_are_listed_and_allowed(synthetic_runs):
    assert _certify(synthetic_runs).content["micro_batches"] == [1]
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), compute={"micro_batches": 4})
    certificate = _certify(synthetic_runs)
    assert certificate.equal and certificate.content["micro_batches"] == [1, 4]
    results = load(synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment)
    facts = captions.gather(results, summarise(results, synthetic_runs.experiment), synthetic_runs.experiment, certificate)
    assert "trained in parts (up to 4)" in " ".join(facts.details)


def test_a_missing_configuration_is_named_and_refuses_nothing(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    (synthetic_runs.folder / run_id / "config.yaml").unlink()
    certificate = _certify(synthetic_runs)
    assert certificate.equal
    (fault,) = certificate.content["unverified"]
    assert run_id in fault and "cannot be verified" in fault


def test_a_configuration_that_is_none_is_named_and_refuses_nothing(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    path = synthetic_runs.folder / run_id / "config.yaml"
    path.write_text(path.read_text().replace("steps: 100", "steps: 2020-01-01"))
    (fault,) = _certify(synthetic_runs).faults
    assert run_id in fault and "cannot be verified" in fault


def test_an_older_protocol_in_all_runs_is_no_equality(synthetic_runs):
    for cell in synthetic_runs.ledger["cells"]:
        synthetic_runs.edit_record(cell["run_id"], protocol=0)
    (difference,) = _certify(synthetic_runs).differences
    assert difference.key == "protocol" and list(difference.values) == ["1 (this version)", "0"]


def test_varied_settings_are_tables_of_their_own(tmp_path):
    experiment = make_experiment(vary={"recipe.learning_rate": [1e-3, 1e-2]}, seeds=[0], train_fractions=[1.0])
    runs = write_experiment(tmp_path / "runs" / "synthetic", experiment)
    runs.ledger["cells"] = [
        write_run(runs.folder.with_name("varied"), experiment, model, "shapes", 1.0, 0,
                  recipe=experiment.recipe.model_copy(update={"learning_rate": rate}), varied={"recipe.learning_rate": rate})
        for rate in (1e-3, 1e-2) for model in experiment.models
    ]  # fmt: skip
    runs.folder = runs.folder.with_name("varied")
    certificate = _certify(runs)
    assert certificate.equal
    assert list(certificate.content["settings_hash"]) == [
        "shapes (recipe.learning_rate=0.001)",
        "shapes (recipe.learning_rate=0.01)",
    ]


def _own_track(folder, sloppy=None):
    """A grid on both tracks, with a recipe for each model on its own; `sloppy` changes one run's recipe and data."""
    base = make_experiment()
    own = {name: base.recipe.model_copy(update={"learning_rate": 0.01 * (1 + at)}) for at, name in enumerate(base.models)}
    recipes = {name: name for name in base.models}
    experiment = make_experiment(track="own", recipes=recipes, own=own)
    cells = []
    for track in ("identical", "own"):
        for model in experiment.models:
            for fraction in experiment.train_fractions:
                for seed in experiment.seeds:
                    recipe = own[model] if track == "own" else experiment.recipe
                    if sloppy and (track, model, fraction, seed) == ("own", "vit", 1.0, 2):
                        recipe = recipe.model_copy(update=sloppy)
                    where = (experiment, model, "shapes", fraction, seed)
                    cells.append(write_run(folder, *where, recipe=recipe, varied={"track": track}))
    ledger = {"experiment": experiment.name, "counts": {"done": len(cells)}, "cells": cells, "other": []}
    return SyntheticRuns(folder, experiment, ledger)


def test_on_track_c_recipes_differ_between_models_and_nothing_else(tmp_path):
    certificate = _certify(_own_track(tmp_path / "synthetic"))
    assert certificate.equal
    settings = certificate.content["settings"]
    assert settings["shapes (track=identical)"]["recipe"]["learning_rate"] == 1e-3
    assert settings["shapes (track=own)"]["vit_timm"]["recipe"]["learning_rate"] == pytest.approx(0.02)
    assert certificate.content["images_seen"]["shapes (track=own)"] == [3200]


@pytest.mark.parametrize(
    ("sloppy", "key", "where"),
    [
        ({"weight_decay": 0.5}, "recipe.weight_decay", "shapes (track=own), model vit"),
        ({"precision": "bf16"}, "recipe.precision", "shapes (track=own)"),
    ],
)
def test_on_track_c_a_models_runs_have_one_recipe_and_all_one_precision(tmp_path, sloppy, key, where):
    differences = {d.key: d for d in _certify(_own_track(tmp_path / "synthetic", sloppy)).differences}
    assert differences[key].where == where


@pytest.mark.parametrize(("odd", "equal"), [(None, True), (40, False)])
def test_under_a_budget_of_epochs_steps_are_equal_at_each_fraction(tmp_path, odd, equal):
    base = make_experiment()
    recipe = base.recipe.model_copy(update={"budget": "epochs"})
    experiment = make_experiment(recipe=recipe)
    runs = write_experiment(tmp_path / "synthetic", experiment)
    for cell in runs.ledger["cells"]:
        steps = odd if odd and cell is runs.ledger["cells"][-1] else round(100 * cell["train_fraction"])
        runs.edit_record(cell["run_id"], steps=steps, samples_seen=32 * steps)
    certificate = _certify(runs)
    assert certificate.equal is equal
    if not equal:
        assert {(d.key, d.where) for d in certificate.differences} == {
            (key, "shapes, train fraction 1") for key in ("steps", "samples_seen")
        }


@pytest.mark.parametrize("opening", ["[", "- ", "? ", "{a: "])
def test_settings_nested_without_end_are_a_fault_and_not_the_end_of_the_process(synthetic_runs, opening):
    path = synthetic_runs.folder / synthetic_runs.run_id("vit") / "config.yaml"
    path.write_text(100_000 * opening)
    with pytest.raises((RecursionError, yaml.YAMLError)):
        read_config(path)
