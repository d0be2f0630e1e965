"""Models and data from Python code of the user's own: named by file or module, in the run's identity, used afterwards."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from experiments.__main__ import main
from experiments.config import loading
from experiments.config.cells import expand
from experiments.config.code import identity_of
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT
from experiments.data import datasets
from experiments.training import models

MODEL = """
import torch
from torch import nn

class MyNet(nn.Sequential):
    def __init__(self, image_size, in_chans, num_classes, width=8):
        super().__init__(nn.Flatten(), nn.Linear(in_chans * image_size**2, width), nn.ReLU(), nn.Linear(width, num_classes))

def broken(num_classes):
    raise RuntimeError("out of\\nideas")

def no_model(num_classes):
    return [num_classes]

def unseeded(image_size, num_classes):
    import numpy as np
    model = MyNet(image_size, 1, num_classes)
    model[1].weight.data += torch.from_numpy(np.random.rand(*model[1].weight.shape)).float()
    return model

def greedy(image_size, num_classes):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return MyNet(image_size, 1, num_classes)

def reseeded(image_size, num_classes):
    torch.manual_seed(0)
    return MyNet(image_size, 1, num_classes)

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def two_outputs(image_size, num_classes):
    return MyNet(image_size, 1, num_classes + 1)
"""
DATA = """
import numpy as np

def load(image_size, channels, count=90, own_test=False, top=2):
    labels = np.arange(count) % 3
    labels[-1] = top
    noise = np.random.default_rng(0).integers(0, 80, (count, channels, image_size, image_size))
    pixels = noise + 80 * labels[:, None, None, None]
    half = (pixels.clip(0, 255).astype(np.uint8), labels)
    return ("a", "b", "c"), half, half if own_test else None

def two_values():
    return ("a", "b", "c"), None
"""


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's configs with a model, a dataset and an experiment of the user's own."""
    folder = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", folder)
    monkeypatch.setenv("CONFIGS_DIR", str(folder))
    (folder / "mine.py").write_text(MODEL, encoding="utf-8")
    (folder / "my_data.py").write_text(DATA, encoding="utf-8")
    write_model(folder, "mine.py:MyNet", "arguments: {width: 12}")
    write_data(folder, "my_data.py:load")
    text = (folder / "experiments" / "smoke.yaml").read_text(encoding="utf-8")
    text = text.replace("vit_micro_p2", "mine").replace("data: digits", "data: mine").replace("[0.1, 1.0]", "[1.0]")
    (folder / "experiments" / "mine.yaml").write_text(text, encoding="utf-8")
    return folder


def write_model(folder: Path, name: str, more: str = "") -> None:
    lines = ["title: Mine", "family: MLP", "source: python", f"name: {name}", more]
    (folder / "models" / "mine.yaml").write_text("\n".join(lines), encoding="utf-8")


def write_data(folder: Path, name: str, more: str = "") -> None:
    lines = ["title: Mine", "source: python", f"name: {name}", "image_size: 8", "channels: 1", "mean: [0.5]", "std: [0.2]"]
    lines += [more]
    (folder / "data" / "mine.yaml").write_text("\n".join(lines), encoding="utf-8")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    return main()


def test_a_run_is_trained_reported_and_used(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["recipe.steps=20", "recipe.evaluations=1", "seeds=[0]", "models=[mine]", "reference=mine"]
    assert call(monkeypatch, "run", "mine", *small, "--jobs", "1") == 0
    assert "Mine" in (tmp_path / "reports_dir" / "mine" / "accuracy.md").read_text(encoding="utf-8")
    (record,) = (tmp_path / "runs_dir" / "mine").glob("mine-*/record.json")
    Image.new("L", (8, 8), 200).save(tmp_path / "photo.png")
    capsys.readouterr()
    assert call(monkeypatch, "predict", str(record.parent), str(tmp_path / "photo.png")) == 0
    assert "c" in capsys.readouterr().out
    target = tmp_path / "model.pt2"
    assert call(monkeypatch, "export", str(record.parent), "-o", str(target), "--format", "torch-export") == 0
    assert torch.export.load(target).module()(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    (configs / "mine.py").write_text(MODEL + "# mended\n", encoding="utf-8")
    assert call(monkeypatch, "predict", str(record.parent), str(tmp_path / "photo.png")) == 2
    assert "mine.py:MyNet is SHA-256" in " ".join(capsys.readouterr().err.split())


def test_the_code_is_part_of_a_runs_identity(configs: Path) -> None:
    def ids() -> tuple[str, str]:
        cell = expand(loading.load_experiment("mine", {}), {})[0]
        return loading.load_part("models", "mine").code, cell.settings_hash

    code, settings = ids()
    assert code.startswith("SHA-256 ") and ids() == (code, settings)
    (configs / "mine.py").write_text(MODEL + "\n", encoding="utf-8")
    assert ids()[0] != code and ids()[1] == settings
    (configs / "my_data.py").write_text(DATA + "\n", encoding="utf-8")
    assert ids()[1] != settings


def test_a_file_of_the_working_folder_and_a_packages_callable(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (configs / "mine.py").rename(tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    sizes = {"image_size": 8, "in_channels": 1, "num_classes": 3}
    model, geometry = models.build("mine", loading.load_part("models", "mine"), **sizes)
    assert model[1].out_features == 12 and geometry == {"width": 12}
    write_model(configs, "timm.models.resnet:test_resnet")
    assert loading.load_part("models", "mine").code.startswith("timm ")


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("MyNet", "", "must be file.py:callable or package.module:callable, got 'MyNet'"),
        ("absent.py:MyNet", "", "no file absent.py in"),
        ("nobody.models:MyNet", "", "no installed package holds 'nobody'"),
        ("mine.py:Net", "", "mine.py:Net cannot be called (AttributeError"),
        ("mine.py:MyNet", "arguments: {depth: 3}", "unexpected keyword argument 'depth'"),
        ("mine.py:broken", "", "(RuntimeError: out of ideas)"),
        ("mine.py:no_model", "", "mine.py:no_model gives list, not a torch.nn.Module"),
        ("timm.models.nothing:Net", "", "ModuleNotFoundError"),
        ("mine.py:unseeded", "", "mine.py:unseeded draws 1.weight from another generator than torch's"),
        ("mine.py:greedy", "", "mine.py:greedy changes torch's number of threads"),
        ("mine.py:reseeded", "", "mine.py:reseeded sets torch's seed, so that all seeds would train the same model"),
        ("mine.py:lazy", "", "mine.py:lazy leaves 1.weight without a shape until it sees images"),
        ("mine.py:two_outputs", "", "must give logits of shape (4, 10), it gives shape (4, 11)"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_message(configs: Path, name: str, more: str, said: str) -> None:
    write_model(configs, name, more)
    with pytest.raises(ConfigError) as caught:
        models.check("mine", loading.load_part("models", "mine"), image_size=8, in_channels=1)
    (fault,) = caught.value.faults
    assert said in fault and "models/mine.yaml" in fault and "\n" not in fault


def test_data_are_cut_or_have_a_test_set_of_their_own(configs: Path) -> None:
    dataset = datasets.load(loading.load_part("data", "mine"))
    assert dataset.class_names == ("a", "b", "c") and (len(dataset.pool), len(dataset.test)) == (72, 18)
    write_data(configs, "my_data.py:load", "arguments: {own_test: true, count: 30}")
    dataset = datasets.load(loading.load_part("data", "mine"))
    assert (len(dataset.pool), len(dataset.test), dataset.test_split) == (30, 30, "its own")
    assert not set(dataset.pool.ids) & set(dataset.test.ids)


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("my_data.py:load", "arguments: {top: 3}", "3 class names for 4 classes"),
        ("my_data.py:two_values", "", "it gives tuple of length 2, not three values"),
        ("my_data.py:np", "", "cannot be called (TypeError"),
        ("my_data.py:load", "arguments: {many: 3}", "unexpected keyword argument 'many'"),
    ],
)
def test_data_that_cannot_be_had_are_one_message(configs: Path, name: str, more: str, said: str) -> None:
    write_data(configs, name, more)
    with pytest.raises(ConfigError) as caught:
        datasets.load(loading.load_part("data", "mine"))
    (fault,) = caught.value.faults
    assert fault.startswith(f"Mine: `data.name`: {name}") and said in fault


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("models", {"geometry": {"patch_size": 2}}, "`geometry` is for models of this project and of timm"),
        ("data", {"name": None}, "`name` is missing: set it to what makes the images, as in my_data.py:load"),
        ("data", {"source": "digits"}, "`name` is for `source: torchvision or huggingface or python`; delete it for digits"),
    ],
)
def test_keys_that_do_not_belong_together(configs: Path, kind: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        loading.load_part(kind, "mine", {key: (value, "ARGS") for key, value in change.items()})


def test_code_that_varies_is_known_by_its_own_file(configs: Path) -> None:
    (configs / "other.py").write_text(DATA.replace("80 * labels", "60 * labels"), encoding="utf-8")
    vary = "vary={data.name: [my_data.py:load, other.py:load]}"
    experiment = loading.load_experiment("mine", loading.parse_overrides([vary]))
    settings = [loading.with_settings(experiment, setting)[1]["mine"] for setting in loading.varied_settings(experiment)]
    first, second = (datasets.load(data).pool.pixels.sum() for data in settings)
    assert first > second and settings[0].code != settings[1].code == identity_of("other.py:load")


def test_a_question_ends_with_its_own_mark(configs: Path) -> None:
    text = "title: T\nfamily: F\nsource: torchvision\nname: resnet81\n"
    (configs / "models" / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did you mean resnet18.*\?$"):
        models.check("mine", loading.load_part("models", "mine"), image_size=8, in_channels=1)
