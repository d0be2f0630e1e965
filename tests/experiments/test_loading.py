"""Configuration: every file composes; every fault is told, all at once, with file, key, value and fix."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments.config import loading
from experiments.config.cells import expand
from experiments.config.errors import ConfigError
from experiments.config.identity import settings_hash
from experiments.config.paths import ROOT


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of configs/ to write into."""
    folder = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", folder)
    monkeypatch.setenv("CONFIGS_DIR", str(folder))
    return folder


def faults_of(name: str, *arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loading.load_experiment(name, loading.parse_overrides(arguments))
    return caught.value.faults


@pytest.mark.parametrize("name", loading.names("experiments"))
def test_every_experiment_composes_and_expands(name: str) -> None:
    needed = {"data.path": "/photos"} if name == "vit_photos" else {}
    experiment = loading.load_experiment(name, needed)
    cells = expand(experiment, {})
    expected = len(experiment.models) * len(experiment.train_fractions) * len(experiment.seeds) * len(experiment.data)
    blocks = 2 if experiment.track in ("tuned", "own") else max(1, sum(map(len, experiment.vary.values())))
    assert len(cells) == expected * blocks
    header = (ROOT / "configs" / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    for part in ("# Cells", "# Cost", "# Expected", "# Command"):
        assert part in header, f"{name}: its header lacks {part!r}"


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in ("recipes", "data") for name in loading.names(kind)])
def test_every_part_loads(kind: str, name: str) -> None:
    overrides = {"path": ("/photos", "test")} if name == "image_folder" else {}
    assert loading.load_part(kind, name, overrides)


def test_overrides_reach_recipe_data_and_experiment() -> None:
    overrides = loading.parse_overrides(["recipe.steps=50", "seeds=[0]", "data.image_size=16", "recipe.learning_rate=3e-4"])
    experiment = loading.load_experiment("smoke", overrides)
    assert experiment.recipe.steps == 50
    assert experiment.recipe.learning_rate == 3e-4
    assert experiment.seeds == [0]
    assert experiment.data["digits"].image_size == 16


def test_all_faults_at_once() -> None:
    faults = faults_of("smoke", "recipe.stepz=5", "recipe.batch_size=many", "seeds=[-1]", "colour=red", "data.channels=2")
    text = "\n".join(faults)
    assert len(faults) == 5
    assert "recipe.stepz" in text and "Did you mean 'steps'" in text
    assert "ARGS recipe.batch_size=many" in text and "'many'" in text
    assert "seeds.0" in text and "got -1" in text
    assert "unknown key `colour`" in text
    assert "`data.channels`" in text and "got 2" in text


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("vit_small", (), ["no experiment named 'vit_small'", "vit_small_data"]),
        ("smoke", ("models=[vit_micr, resnet_micro]",), ["no model named 'vit_micr'", "vit_micro_p2"]),
        ("smoke", ("data=digit",), ["no data set named 'digit'", "digits"]),
        ("smoke", ("recipe=digts",), ["no recipe named 'digts'", "digits"]),
        ("smoke", ("reference=resnet",), ["`reference` must be one of `models`", "'resnet'"]),
        ("smoke", ("train_fractions=[0, 1.0]",), ["train_fractions.0", "got 0"]),
        ("smoke", ("train_fractions=[0.5, 0.5]",), ["must not repeat"]),
        ("smoke", ("recipe.steps=0",), ["recipe.steps", "greater than or equal to 1", "got 0"]),
        ("smoke", ("recipe.batch_size=1000000000",), ["recipe.batch_size", "65536"]),
        ("smoke", ("recipe.steps=true",), ["recipe.steps", "got True"]),
        ("smoke", ("vary={recipe.steps: [2]}",), ["`evaluations` must not exceed `steps`", "4 > 2"]),
        ("smoke", ("data.image_size=9",), ["vit_micro_p2.yaml", "must divide the image size", "got 2", "9 pixels"]),
        ("smoke", ("data=image_folder",), ["`path` is missing", "data.path"]),
        ("smoke", ("vary.recipe=[1]",), ["`vary` takes keys that begin with"]),
        ("../../etc/passwd", (), ["no experiment named"]),
        ("smoke", ("seeds=[]",), ["ARGS seeds=[]", "`seeds` must have at least 1 value, got []"]),
        ("smoke", ("models=[vit_micr]", "reference=vit_micr"), ["ARGS models=['vit_micr']: no model named 'vit_micr'"]),
        ("smoke", ("recipe=digts",), ["ARGS recipe=digts: no recipe named 'digts' in configs/recipes"]),
        ("smoke", ("data.image_size=9",), ["ARGS data.image_size=9: configs/models/vit_micro_p2.yaml"]),
        ("smoke", ("vary={recipe.step: [1]}",), ["ARGS vary", "unknown key `recipe.step`"]),
        ("smoke", ("micro_batch_size=0",), ["ARGS micro_batch_size=0", "greater than or equal to 1"]),
        ("smoke", ("data.channels=true",), ["data.channels", "must be 1 or 3, got True"]),
        (
            *("smoke", ("vary={data.image_size: [8, 16], data.permute_pixels: [null, 0]}",)),
            ["ARGS vary", "several `data.image_size` under `data.permute_pixels`", "make two experiments"],
        ),
        ("smoke", ("vary={data.image_size: [8, 16]}", "data.permute_pixels=0"), ["a permutation is of one image size"]),
        (
            *("smoke", ("expect=[{claim: c, models: [resnet_micro], at_least: 0, where: {recipe.steps: 3}}]",)),
            ["`expect.0` speaks of recipe.steps=3, which the experiment has not", "`vary` has no key recipe.steps"],
        ),
        (
            *("smoke", ("expect=[{claim: c, models: [resnet_micro], at_least: 0, where: {data: mnist}}]",)),
            ["`expect.0` speaks of data=mnist, which the experiment has not: it has ['digits']"],
        ),
        (
            *("smoke", ("expect=[{claim: c, models: [resnet_micro], at_least: 0, minus: {recipe.steps: 3}}]",)),
            ["`minus` needs the keys of `vary` in `where` and no others, got {'recipe.steps': 3} for {}"],
        ),
        ("smoke", ("data.permute_pixels=-1",), ["data.permute_pixels", "greater than or equal to 0"]),
        ("smoke", ("on_oom=halve",), ["`on_oom` must be 'fail' or 'split'", "'halve'"]),
        ("smoke", ("recipe.min_learning_rate=1",), ["`min_learning_rate` must not exceed `learning_rate`, got 1.0 > 0.003"]),
        ("smoke", ("recipe.betas=[0.9, 1.0]",), ["`betas` must lie in [0, 1), got [0.9, 1.0]"]),
        ("smoke", ("recipe.augmentation.crop=4",), ["unknown key `recipe.augmentation.crop`", "'resized_crop'"]),
        ("smoke", ("data.mean=[0.1, 0.2]",), ["`mean` must have one value per channel (1), got [0.1, 0.2]"]),
        ("smoke", ("data.std=[64.0]",), ["`std` is of pixels in [0, 1]", "got [64.0]; divide by 255"]),
        (
            "smoke",
            ("track=tuned", "tuning.learning_rate=[0.1, 0.01]"),
            ["`learning_rate` must be [low, high], got [0.1, 0.01]"],
        ),
        ("smoke", ("track=tuned", "tuning.seed=0"), ["`tuning.seed` must not be one of `seeds`, got 0"]),
        ("smoke", ("expect=[{claim: c, models: [resnet_micro]}]",), ["an expectation needs `at_least` or `at_most`"]),
        (
            "smoke",
            ("expect=[{claim: c, model: [resnet_micro]}]",),
            ["unknown key `expect.0.model`", "Did you mean 'models'"],
        ),
        (
            *("smoke", ("expect=[{claim: c, models: [resnet_micro], at_least: 0.9, at_most: 0.1}]",)),
            ["`at_least` must not exceed `at_most`, got 0.9 > 0.1"],
        ),
    ],
)
def test_bad_input_is_named(name: str, arguments: tuple[str, ...], words: list[str]) -> None:
    text = "\n".join(faults_of(name, *arguments))
    for word in words:
        assert word in text


@pytest.mark.parametrize("arguments", [["recipe.steps=2"], ["recipe.steps=2", "recipe.evaluations=4"]])
def test_a_short_run_has_fewer_evaluations_and_says_so(arguments: list[str]) -> None:
    experiment = loading.load_experiment("smoke", loading.parse_overrides(arguments))
    assert (experiment.recipe.steps, experiment.recipe.evaluations) == (2, 2)
    assert experiment.notes == ["`recipe.evaluations` is lowered from 4 to 2, the steps of a run."]
    assert loading.load_experiment("smoke", loading.parse_overrides(["recipe.steps=4"])).notes == []


def test_expectations_of_what_args_left_out_are_passed_over_and_said(configs: Path) -> None:
    path = configs / "experiments" / "smoke.yaml"
    path.write_text(
        path.read_text().replace("train_fractions: [0.1, 1.0]", "train_fractions: [0.5, 1.0]")
        + """
expect:
  - {claim: ViT learns, models: [vit_micro_p2], at_least: 0.1}
  - {claim: ResNet leads, models: [resnet_micro], against: vit_micro_p2, at_least: 0}
  - {claim: half is enough, models: [resnet_micro], train_fraction: 0.5, at_least: 0.1}
"""
    )

    def kept(*arguments: str) -> tuple[list[str], str]:
        experiment = loading.load_experiment("smoke", loading.parse_overrides(arguments))
        return [entry.claim for entry in experiment.expect], "\n".join(experiment.notes)

    assert kept() == (["ViT learns", "ResNet leads", "half is enough"], "")
    claims, notes = kept("models=[resnet_micro]", "reference=resnet_micro")
    assert claims == ["half is enough"] and "'ResNet leads' is passed over: ARGS leaves out vit_micro_p2." in notes
    experiment = loading.load_experiment("smoke", loading.parse_overrides(["models=[timm_vit_micro_p2, vit_micro_p2]"]))
    assert experiment.reference == "timm_vit_micro_p2"
    assert "`reference` is timm_vit_micro_p2, since ARGS leaves out resnet_micro" in experiment.notes[0]
    claims, notes = kept("train_fractions=[1.0]")
    assert claims == ["ViT learns", "ResNet leads"]
    assert "'half is enough' is passed over: ARGS leaves out the fraction 0.5." in notes
    path = configs / "experiments" / "smoke.yaml"
    path.write_text(path.read_text().replace("train_fractions: [0.5, 1.0]\n", ""))  # by default all images
    assert kept("train_fractions=[0.5]")[0] == ["half is enough"]
    assert "'nobody'" in "".join(faults_of("smoke", "expect=[{claim: c, models: [nobody], at_least: 0}]"))


def test_what_is_no_file_is_passed_over_in_lists_and_named_when_asked_for(configs: Path) -> None:
    folder = configs / "experiments"
    (folder / "folder.yaml").mkdir()
    (folder / "dangling.yaml").symlink_to(configs / "absent.yaml")
    os.mkfifo(folder / "pipe.yaml")
    assert not {"folder", "dangling", "pipe"} & set(loading.first_lines("experiments"))
    for name in ("folder", "dangling", "pipe"):
        assert f"{name}.yaml: not a file that can be read" in faults_of(name)[0]


def test_names_have_hyphens_and_one_rule_is_told(configs: Path) -> None:
    for kind, source in (("models", "resnet_micro"), ("data", "digits"), ("recipes", "digits"), ("experiments", "smoke")):
        for name in ("my-own-2", "my own", "-own", "Ö"):
            shutil.copy(configs / kind / f"{source}.yaml", configs / kind / f"{name}.yaml")
        assert "my-own-2" in loading.names(kind) and not {"my own", "-own", "Ö"} & set(loading.names(kind))
        assert {text for name, text in loading.first_lines(kind).items() if name in ("my own", "-own", "Ö")} == {
            "cannot be used: a name has letters from a to z, digits, _ and -, and begins with a letter or a digit; rename it"
        }
    changes = {"models": ["my-own-2"], "reference": "my-own-2", "data": "my-own-2", "recipe": "my-own-2", "expect": []}
    cell = expand(loading.load_experiment("my-own-2", changes), {"": ""})[0]
    assert (cell.model_name, cell.data_name, cell.recipe_name, cell.experiment) == ("my-own-2",) * 4
    for arguments in (("models=[my own, resnet_micro]",), ("data=my own",), ("recipe=my own",)):
        (fault,) = [fault for fault in faults_of("smoke", *arguments) if "named" in fault]
        assert "named 'my own' in" in fault and "a name has letters" in fault and "Did you mean" not in fault
    assert "no experiment named '-own': a name has letters" in faults_of("-own")[0]


def test_a_missing_folder_of_configs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGS_DIR", str(tmp_path / "absent"))
    assert "CONFIGS_DIR: no folder" in faults_of("smoke")[0]
    with pytest.raises(ConfigError, match="CONFIGS_DIR"):
        loading.names("models")
    (tmp_path / "absent").mkdir()
    assert "There is none." in faults_of("smoke")[0]


def test_a_word_that_is_no_override() -> None:
    with pytest.raises(ConfigError, match="not of the form key=value"):
        loading.parse_overrides(["recipe.steps"])


def test_broken_yaml_names_file_and_line(configs: Path) -> None:
    (configs / "recipes" / "broken.yaml").write_text("steps: 10\nbatch_size: [1,\n", encoding="utf-8")
    assert "broken.yaml:3: broken YAML" in faults_of("smoke", "recipe=broken")[0]


def test_a_repeated_key_is_refused(configs: Path) -> None:
    (configs / "recipes" / "twice.yaml").write_text("steps: 10\nsteps: 20\n", encoding="utf-8")
    assert "'steps' is given twice" in faults_of("smoke", "recipe=twice")[0]


def test_unsafe_yaml_is_not_executed(configs: Path, tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    (configs / "recipes" / "evil.yaml").write_text(f"steps: !!python/object/apply:os.mkdir ['{target}']\n", encoding="utf-8")
    assert "broken YAML" in faults_of("smoke", "recipe=evil")[0]
    assert not target.exists()


def test_faults_of_several_files_come_together(configs: Path) -> None:
    recipe = configs / "recipes" / "digits.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("batch_size: 32", "batch_size: 0"), encoding="utf-8")
    model = configs / "models" / "resnet_micro.yaml"
    model.write_text(model.read_text(encoding="utf-8") + "colour: red\n", encoding="utf-8")
    text = "\n".join(faults_of("smoke"))
    assert "recipes/digits.yaml" in text and "models/resnet_micro.yaml" in text


def test_settings_hash_holds_everything_but_the_model() -> None:
    experiment = loading.load_experiment("smoke", {})
    recipe, data = experiment.recipe, experiment.data["digits"]
    same = settings_hash(recipe, data)
    assert settings_hash(recipe, data.model_copy(update={"path": "/elsewhere", "title": "D"})) == same
    assert settings_hash(recipe.model_copy(update={"steps": 101}), data) != same
    assert settings_hash(recipe, data.model_copy(update={"image_size": 16})) != same


def test_vary_multiplies_cells() -> None:
    experiment = loading.load_experiment("smoke", {"vary": {"recipe.learning_rate": [1e-3, 3e-3]}, "seeds": [0]})
    cells = expand(experiment, {})
    assert len(cells) == 2 * 2 * 2
    assert {cell.recipe.learning_rate for cell in cells} == {1e-3, 3e-3}
    assert len({cell.settings_hash for cell in cells}) == 2


def test_a_number_of_more_than_64_bits_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than 64 bits"):
        loading.parse_overrides(["seeds=[0x" + "f" * 9999 + "]"])


def test_an_expectation_speaks_of_a_metric_that_records_have():
    import numpy as np

    from experiments.config.schema import Expectation, known_metrics
    from experiments.metrics import classification_metrics

    computed = classification_metrics(np.eye(3), [0, 1, 2])
    assert {f"{split}/{name}" for split in ("test", "val") for name in computed} <= set(known_metrics())
    with pytest.raises(ValueError, match=r"`metric` must be one of test/top1, .*, got 'test/acc'"):
        Expectation(claim="it is good", models=["vit"], metric="test/acc", at_least=0.5)


# ------------------------------------------------------------------------------------------------------- recipes of track C
RECIPES = {"ViT": "digits_deit", "resnet_micro": "digits_sgd", "EfficientNet": "digits_efficientnet"}
OWN = {"track": "own", "recipes": RECIPES}


def test_each_model_has_its_own_recipe_beside_the_shared_one() -> None:
    experiment = loading.load_experiment("vit_small_data", OWN | {"recipe.steps": 70, "recipe.precision": "bf16"})
    cells = {(cell.track, cell.model_name): cell for cell in expand(experiment, {})}
    assert {cell.recipe_name for (track, _), cell in cells.items() if track == "identical"} == {"digits"}
    resnet, vit = cells["own", "resnet_micro"], cells["own", "timm_vit_micro_p2"]
    assert (resnet.recipe_name, resnet.recipe.optimizer, resnet.recipe.schedule) == ("digits_sgd", "sgd", "step")
    assert vit.recipe_name == "digits_deit" and vit.recipe.augmentation.policy == "rand_augment"
    assert {(cell.recipe.steps, cell.recipe.precision) for cell in cells.values()} == {(70, "bf16")}
    assert resnet.settings_hash != vit.settings_hash


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipes": {"ViT": "digits_deit"}}, ["names no recipe for resnet_micro nor for its family, ResNet"]),
        ({"recipes": {**RECIPES, "ResNets": "digits"}}, ["names 'ResNets'", "Did you mean 'ResNet'?"]),
        ({"recipes": {**RECIPES, "ViT": "digits_diet"}}, ["no recipe named 'digits_diet'", "'digits_deit'"]),
        ({"recipes": {}}, ["`recipes` and `track: own` go together"]),
        ({"track": "identical"}, ["`recipes` and `track: own` go together"]),
        ({"vary": {"recipe.steps": [3, 4]}}, ["`vary` and `track: own` cannot be combined"]),
    ],
)
def test_own_recipes_that_do_not_fit(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load_experiment("vit_small_data", OWN | changes)
    for word in words:
        assert word in str(caught.value)
