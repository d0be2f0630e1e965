"""Options that came later rename no run that does not use them."""

from __future__ import annotations

import pytest
import yaml
from pydantic import BaseModel

from experiments.config import loading
from experiments.config.cells import expand, split_key
from experiments.config.identity import added_fields, canonical_hash, hashed_values, settings_hash
from experiments.config.paths import ROOT
from experiments.config.schema import Augmentation, DataConfig, Geometry, ModelConfig, Recipe, Tuning
from experiments.grid.ledger import read_splits
from experiments.records.record import read_record


def test_published_runs_keep_their_names() -> None:
    folder = ROOT / "results" / "vit_small_data"
    experiment = loading.load_experiment("vit_small_data", {})
    cells = expand(experiment, read_splits(folder))
    published = {path.parent.name: read_record(path) for path in folder.glob("*/record.json")}
    assert len(cells) == len(published) == 48
    by_place = {(r.model, r.train_fraction, r.seed): r for r in published.values()}
    for cell in cells:
        record = by_place[cell.model_name, cell.train_fraction, cell.seed]
        assert cell.settings_hash == record.settings_hash
        assert cell.run_id == record.run_id


def test_what_is_hashed_is_what_was_published() -> None:
    path = next((ROOT / "results" / "vit_small_data").glob("*/config.yaml"))
    requested = yaml.safe_load(path.read_text(encoding="utf-8"))["requested"]
    recipe, data = loading.load_part("recipes", "digits"), loading.load_part("data", "digits")
    assert hashed_values(recipe) == requested["recipe"]
    assert canonical_hash(requested) == settings_hash(recipe, data)


FIRST = {
    Augmentation: {"crop_padding", "horizontal_flip"},
    Recipe: {
        *("steps", "batch_size", "optimizer", "learning_rate", "min_learning_rate", "warmup_fraction", "weight_decay"),
        *("betas", "clip_grad_norm", "label_smoothing", "precision", "augmentation", "evaluations"),
    },
    DataConfig: {"title", "source", "path", "image_size", "channels", "mean", "std"},
    Geometry: {"patch_size", "stem"},
    ModelConfig: {"title", "family", "source", "name", "geometry", "arguments"},
    Tuning: {"trials", "seed", "learning_rate", "weight_decay", "augmentation"},
}
"""The fields under which the first records were hashed."""


@pytest.mark.parametrize("kind", FIRST)
def test_every_younger_field_is_declared_as_added(kind: type[BaseModel]) -> None:
    assert set(kind.model_fields) - FIRST[kind] == set(added_fields(kind))


@pytest.mark.parametrize(
    "change",
    [
        *("recipe.augmentation.erase=0.25", "recipe.augmentation.mixup=0.8", "recipe.compile=default"),
        *("recipe.schedule=wsd", "recipe.momentum=0.8", "recipe.optimizer_arguments={eps: 1.0e-6}", "recipe.optimizer=lion"),
    ],
)
def test_a_used_option_is_another_run(change: str) -> None:
    plain = loading.load_experiment("smoke", {})
    other = loading.load_experiment("smoke", loading.parse_overrides([change]))
    data = plain.data["digits"]
    assert settings_hash(plain.recipe, data) != settings_hash(other.recipe, data)
    assert settings_hash(plain.recipe, data, Tuning()) == settings_hash(Recipe(**plain.recipe.model_dump()), data, Tuning())
    tuned = Tuning(augmentation=[Augmentation(), Augmentation(erase=0.25)])
    assert (
        "erase" not in hashed_values(tuned)["augmentation"][0] and hashed_values(tuned)["augmentation"][1]["erase"] == 0.25
    )


def test_another_test_cut_is_another_run_and_the_default_none() -> None:
    recipe = loading.load_part("recipes", "digits")
    digits, blocks = (loading.load_part("data", name) for name in ("digits", "digits_blocks"))
    spelled_out = DataConfig(**digits.model_dump(exclude={"test_cut"}), test_cut="random")
    assert "test_cut" not in hashed_values(digits) and hashed_values(blocks)["test_cut"] == "blocks"
    assert settings_hash(recipe, digits) == settings_hash(recipe, spelled_out) != settings_hash(recipe, blocks)
    assert split_key(digits, 1.0, 0) == split_key(spelled_out, 1.0, 0) != split_key(blocks, 1.0, 0)


def test_a_permutation_of_pixels_is_another_run_and_none_is_not() -> None:
    plain, other, again = (
        loading.load_experiment("smoke", loading.parse_overrides([f"data.permute_pixels={seed}"])).data["digits"]
        for seed in ("null", "0", "1")
    )
    recipe = loading.load_part("recipes", "digits")
    assert "permute_pixels" not in hashed_values(plain)
    assert len({settings_hash(recipe, data) for data in (plain, other, again)}) == 3


@pytest.mark.parametrize("text", ["off", "'off'", "default"])
def test_compile_takes_a_bare_off(text: str) -> None:
    recipe = loading.load_experiment("smoke", loading.parse_overrides([f"recipe.compile={text}"])).recipe
    assert recipe.compile == text.strip("'")
