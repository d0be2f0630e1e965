"""Starting from weights, frozen features, and that both are said wherever a result is shown."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

import vit_scratch
from experiments.__main__ import main
from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.identity import canonical_hash, hashed_values
from experiments.config.loading import load_part
from experiments.config.paths import ROOT
from experiments.config.schema import DataConfig, Execution, ModelConfig, Recipe
from experiments.records.record import read_record
from experiments.training import models, pretrained
from experiments.training.optim import adamw
from experiments.training.steps import train_steps

MICRO = {"title": "ViT", "family": "ViT", "source": "scratch", "name": "micro", "geometry": {"patch_size": 2}}
RESNET = {"title": "ResNet", "family": "ResNet", "source": "timm", "name": "test_resnet"}
VIT = {"title": "ViT", "family": "ViT", "source": "timm", "name": "test_vit", "geometry": {"patch_size": 8}}


def config(base: dict[str, Any], **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({**base, **changes})


def build(made: ModelConfig, *, size: int = 8, channels: int = 1, classes: int = 10) -> tuple[nn.Module, dict[str, Any]]:
    return models.build("mine", made, image_size=size, in_channels=channels, num_classes=classes)


def faults_of(made: ModelConfig, **sizes: int) -> str:
    with pytest.raises(ConfigError) as caught:
        build(made, **sizes)
    return "\n".join(caught.value.faults)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[vit_scratch.VisionTransformer, Path]:
    """A model of ours with 10 classes and its weights as a file of timm's layout, in `DATA_DIR`."""
    torch.manual_seed(0)
    model = vit_scratch.build("micro", image_size=8, patch_size=2, in_channels=1, num_classes=10)
    path = tmp_path / "data_dir" / "weights" / "micro.safetensors"
    path.parent.mkdir(parents=True)
    save_file(vit_scratch.weights.export(model, "timm"), path)
    return model, path


# ------------------------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize("name", ["vit_micro_p2", "timm_vit_micro_p2", "resnet_micro", "efficientnet_micro"])
def test_published_runs_keep_their_names(name: str) -> None:
    folder = next((ROOT / "results" / "vit_small_data").glob(f"{name}-digits-f1-s0-*"))
    about = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    cell = Cell(
        experiment="vit_small_data",
        model_name=name,
        model=load_part("models", name),
        data_name="digits",
        data=DataConfig.model_validate(about["data"]),
        recipe_name="digits",
        recipe=Recipe.model_validate(about["requested"]["recipe"]),
        train_fraction=1.0,
        seed=0,
        varied={},
        execution=Execution(),
        split_hash=about["cell"]["split_hash"],
    )
    assert cell.run_id == folder.name
    assert read_record(folder / "record.json").init == "from_scratch"


def test_a_start_from_weights_is_another_run() -> None:
    hashes = {
        canonical_hash(hashed_values(made, exclude={"title"}))
        for made in (
            config(MICRO),
            config(MICRO, train="head"),
            config(MICRO, init="pretrained", weights="a.npz", layout="npz"),
            config(MICRO, init="pretrained", weights="b.npz", layout="npz"),
        )
    }
    assert len(hashes) == 4
    assert "init" not in hashed_values(config(MICRO))


def test_titles_say_it_once() -> None:
    probe = config(RESNET, init="pretrained", weights="r.safetensors", train="head")
    assert probe.title == "ResNet, pretrained, frozen" and probe.init_label == "linear_probe"
    assert ModelConfig.model_validate(probe.model_dump()).title == probe.title
    assert config(RESNET, init="pretrained", weights="r.safetensors").title == "ResNet, pretrained"
    assert config(RESNET, train="head").title == "ResNet, random, frozen"
    assert config(RESNET).title == "ResNet"


@pytest.mark.parametrize(
    ("base", "changes", "said"),
    [
        (MICRO, {"init": "pretrained"}, "`weights` is missing"),
        (MICRO, {"weights": "a.npz", "layout": "npz"}, "are for `init: pretrained`"),
        (MICRO, {"init": "pretrained", "weights": "a.npz"}, "`layout` is missing"),
        (RESNET, {"init": "pretrained", "weights": "a.pt", "layout": "timm"}, "scratch model; delete it"),
        (MICRO, {"init": "pretrained", "weights": "timm:test_vit", "layout": "timm"}, "delete it"),
    ],
)
def test_settings_that_do_not_go_together(base: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(base, **changes)


# -------------------------------------------------------------------------------------------------------------- weights
def test_scratch_model_starts_from_a_file(trained: tuple[vit_scratch.VisionTransformer, Path]) -> None:
    source, path = trained
    made = config(MICRO, init="pretrained", weights="weights/micro.safetensors", layout="timm")
    model, facts = build(made, classes=3)
    assert facts["init"] == "pretrained" and facts["weights"].startswith(f"{path.name}, SHA-256 ")
    assert not model.head.weight.any() and not model.head.bias.any()
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(model.forward_features(images), source.forward_features(images))
    larger, _ = build(made, size=12)  # 6 × 6 patches instead of 4 × 4
    assert torch.equal(larger.embedding.pos_embedding[:, 0], source.embedding.pos_embedding[:, 0])
    assert larger(torch.randn(2, 1, 12, 12)).shape == (2, 10)


@pytest.mark.parametrize(("base", "size"), [(RESNET, 32), (VIT, 32), (VIT, 48)])
def test_reference_model_starts_from_a_file(tmp_path: Path, base: dict[str, Any], size: int) -> None:
    torch.manual_seed(0)
    source = timm.create_model(base["name"], num_classes=7, **({"img_size": 32, "patch_size": 8} if base is VIT else {}))
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, path)
    model, _ = build(config(base, init="pretrained", weights=str(path)), size=size, channels=3, classes=5)
    images = torch.randn(2, 3, size, size)
    assert not model.eval()(images).any()  # the head is new
    if size == 32:
        assert torch.equal(model.forward_features(images), source.eval().forward_features(images))
    else:
        changed = {n for n, t in source.state_dict().items() if t.shape != model.state_dict()[n].shape}
        assert changed == {"pos_embed", "head.weight", "head.bias"}


def test_weights_that_do_not_fit_are_told_apart(tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet", num_classes=7).state_dict()
    weights["extra"] = torch.zeros(1)
    weights["layer1.0.bn1.weight"] = torch.zeros(3)
    del weights["layer1.0.conv1.weight"]
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    text = faults_of(config(RESNET, init="pretrained", weights=str(path)), size=32, channels=3)
    assert "missing: layer1.0.conv1.weight" in text and "no place for: extra" in text
    assert "layer1.0.bn1.weight has shape (3,), the model's (" in text
    text = faults_of(config(RESNET, init="pretrained", weights=str(path), geometry={"stem": "small"}), size=32, channels=3)
    assert "configs/models/mine.yaml: `weights`" in text and "conv1" in text


def test_a_missing_file_is_told_with_its_place(tmp_path: Path) -> None:
    for base, more in ((MICRO, {"layout": "npz"}), (RESNET, {})):
        text = faults_of(config(base, init="pretrained", weights="weights/w.npz", **more), channels=3)
        assert f"no file {tmp_path / 'data_dir' / 'weights' / 'w.npz'}. Put the weights there" in text


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    for name, content in (("w.safetensors", b"no"), ("w.pt", b"no"), ("w.txt", b"no")):
        (tmp_path / name).write_bytes(content)
        assert name in faults_of(config(RESNET, init="pretrained", weights=str(tmp_path / name)), channels=3, size=32)
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "w.pt")
    text = faults_of(config(RESNET, init="pretrained", weights=str(tmp_path / "w.pt")), channels=3, size=32)
    assert "holds no named tensors alone" in text


def test_offline_hub_says_what_to_save_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    place = tmp_path / "data_dir" / "weights" / "test_vit.safetensors"
    for base in (VIT, MICRO):
        text = faults_of(config(base, init="pretrained", weights="timm:test_vit"), size=32, channels=3)
        assert f"save the state dict of timm's test_vit as {place}" in text and "refused" in text
    assert "publishes no weights as 'nothing'" in faults_of(config(MICRO, init="pretrained", weights="timm:nothing"))


def test_published_weights_are_downloaded_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_vit", img_size=32, patch_size=8)
    asked = []

    def from_hub(name: str, cache: Path) -> dict[str, Tensor]:
        asked.append(name)
        return dict(source.state_dict())

    monkeypatch.setattr(pretrained.requests, "head", lambda *arguments, **options: None)
    monkeypatch.setattr(pretrained.baselines.pretrained, "from_hub", from_hub)
    for _ in range(2):
        model, facts = build(config(VIT, init="pretrained", weights="timm:test_vit"), size=32, channels=3)
        assert torch.equal(model.patch_embed.proj.weight, source.patch_embed.proj.weight)
    assert asked == ["test_vit"] and facts["weights"].startswith("test_vit.safetensors, SHA-256 ")
    kept = [path.name for path in (tmp_path / "data_dir" / "weights").iterdir() if not path.name.startswith(".")]
    assert kept == ["test_vit.safetensors"]


# -------------------------------------------------------------------------------------------------------------- freezing
@pytest.mark.parametrize("base", [RESNET, config(MICRO, arguments={"drop_rate": 0.5}).model_dump()])
def test_frozen_features_do_not_move(base: dict[str, Any]) -> None:
    model, facts = build(config(base, train="head"), size=32, channels=3, classes=4)
    assert facts["train"] == "head alone, features frozen"
    before = copy.deepcopy(model.state_dict())
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4

    def batches(step: int) -> tuple[Tensor, Tensor]:
        return images, labels

    optimizer = adamw(model, weight_decay=0.05, betas=(0.9, 0.999))
    train_steps(model, optimizer, batches, range(3), rate=lambda step: 0.1, seed=0, loss_sum=torch.zeros(()))
    assert not any(layer.training for layer in model.modules())
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    head = "fc" if base is RESNET else "head"
    assert moved == {f"model.{head}.weight", f"model.{head}.bias"}
    assert sum(p.grad is not None for p in model.parameters()) == 2


def test_a_run_is_labelled_in_record_table_and_certificate(
    trained: tuple[vit_scratch.VisionTransformer, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", configs)
    monkeypatch.setenv("CONFIGS_DIR", str(configs))
    own = yaml.safe_load((configs / "models" / "vit_micro_p2.yaml").read_text(encoding="utf-8"))
    own |= {"init": "pretrained", "weights": "weights/micro.safetensors", "layout": "timm", "train": "head"}
    (configs / "models" / "probe.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    arguments = "models=[vit_micro_p2,probe] reference=vit_micro_p2 recipe.steps=4 recipe.evaluations=2 seeds=[0]"
    monkeypatch.setattr(sys, "argv", ["experiments", "run", "smoke", arguments, "train_fractions=[0.1]", "--jobs", "1"])
    assert main() == 0
    assert "ViT-micro/2 (ours), pretrained, frozen" in capsys.readouterr().out
    records = {path.parent.name.split("-")[0]: read_record(path) for path in tmp_path.glob("runs_dir/smoke/*/record.json")}
    assert (records["probe"].init, records["vit_micro_p2"].init) == ("linear_probe", "from_scratch")
    full, probe = (records[name].compute.train_pflops for name in ("vit_micro_p2", "probe"))
    assert full and probe and full == pytest.approx(3 * probe)
    report = tmp_path / "reports_dir" / "smoke"
    table = (report / "accuracy.md").read_text(encoding="utf-8")
    assert "| ViT-micro/2 (ours), pretrained, frozen |" in table and "Not all models start from scratch" in table
    geometry = json.loads((report / "certificate.json").read_text(encoding="utf-8"))["geometry"]
    assert "micro.safetensors, SHA-256" in json.dumps(geometry)
