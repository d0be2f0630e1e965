"""Starting from weights, frozen features, and that both are said wherever a result is shown."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d
from timm.models import MetaFormer, RepVit, ResNetV2, VisionTransformerDistilled
from torch import Tensor, nn

import vit_scratch
from experiments.__main__ import main
from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.identity import canonical_hash, hashed_values
from experiments.config.loading import load_experiment
from experiments.config.paths import ROOT
from experiments.config.schema import DataConfig, ModelConfig, Recipe
from experiments.records.record import read_record
from experiments.training import models, pretrained
from experiments.training.optim import adamw
from experiments.training.steps import Update, train_steps

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
        asked=load_experiment("vit_small_data"),
        model_name=name,
        data_name="digits",
        data=DataConfig.model_validate(about["data"]),
        recipe=Recipe.model_validate(about["requested"]["recipe"]),
        train_fraction=1.0,
        seed=0,
        varied={},
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
        (MICRO, {"init": "pretrained", "weights": "run:a/b", "layout": "timm"}, "delete it"),
        (
            MICRO,
            {"init": "pretrained", "weights": "run:smoke"},
            "of a run are run:<experiment>/<model or run id>, got 'run:sm",
        ),
        (MICRO, {"init": "pretrained", "weights": "run:../*/a"}, "of a run are run:<experiment>"),
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


SMALL = {"depths": (1, 1, 1, 1), "dims": (4, 8, 8, 8)}
HEADS = {  # the architecture, small → the parameters of the layers that give the logits
    "repvit": (
        partial(RepVit, depth=SMALL["depths"], embed_dim=SMALL["dims"], distillation=True),
        {"head.head.l.weight", "head.head.l.bias", "head.head_dist.l.weight", "head.head_dist.l.bias"},
    ),
    "caformer": (partial(MetaFormer, **SMALL, use_mlp_head=True), {"head.fc.fc2.weight", "head.fc.fc2.bias"}),
    "deit": (
        partial(VisionTransformerDistilled, img_size=32, embed_dim=12, depth=1),
        {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"},
    ),
    "bit": (  # a convolution of 1 × 1
        partial(ResNetV2, layers=[1, 1], channels=(32, 32), norm_layer=BatchNormAct2d),
        {"head.fc.weight", "head.fc.bias"},
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_only_what_gives_the_logits_begins_with_zeros(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, zeros = HEADS[name]
    monkeypatch.setattr(models, "_checked", {})
    monkeypatch.setitem(models.BUILDERS, "timm", lambda c, image_size, in_channels, **classes: (architecture(**classes), {}))
    source = architecture(num_classes=7).state_dict()
    torch.save(source, tmp_path / "w.pt")
    made = config(RESNET, init="pretrained", weights=str(tmp_path / "w.pt"))
    model, _ = build(made, size=32, channels=3, classes=5)
    for key, parameter in model.named_parameters():
        assert not parameter.any() if key in zeros else torch.equal(parameter, source[key]), key
    probe, _ = build(config(made.model_dump(), train="head"), size=32, channels=3, classes=5)
    assert {key for key, parameter in probe.named_parameters() if parameter.requires_grad} == {
        f"model.{key}" for key in zeros
    }
    assert models.check("mine", made, image_size=32, in_channels=3).geometry == {}


def test_a_whole_head_of_zeros_would_have_been_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two zeros in a row: no gradient but in the last bias."""

    def zeroed(made: ModelConfig, **sizes: int) -> tuple[nn.Module, dict[str, Any]]:
        model = HEADS["caformer"][0](num_classes=sizes["num_classes"])
        for parameter in model.head.fc.parameters():
            nn.init.zeros_(parameter)
        return model, {}

    monkeypatch.setattr(models, "_checked", {})
    monkeypatch.setitem(models.BUILDERS, "timm", zeroed)
    with pytest.raises(ConfigError, match=r"mine\.yaml: at 32×32 pixels no gradient reaches \d+ of \d+ parameters \(stem"):
        models.check("mine", config(RESNET), image_size=32, in_channels=3)


def state_file(path: Path, name: str, **arguments: Any) -> str:
    """Random weights of a timm model, in place of those that timm would publish."""
    torch.manual_seed(0)
    torch.save(timm.create_model(name, **arguments).state_dict(), path)
    return str(path)


def test_distilled_deit_at_another_size_says_what_was_resampled(tmp_path: Path) -> None:
    name, arguments = "deit_tiny_distilled_patch16_224", {"depth": 1}
    path = state_file(tmp_path / "w.pt", name, **arguments)
    made = config(RESNET, name=name, arguments=arguments, init="pretrained", weights=path)
    model, facts = build(made, size=64, channels=3, classes=5)
    assert facts["resampled"] == "pos_embed" and model.pos_embed.shape == (1, 2 + 16, 192)
    assert torch.equal(model.pos_embed[:, :2], torch.load(path, weights_only=True)["pos_embed"][:, :2])
    assert "resampled" not in build(made, size=224, channels=3, classes=5)[1]


def test_hiera_at_another_size_is_one_message(tmp_path: Path) -> None:
    small = {"embed_dim": 16, "num_heads": 1, "stages": [1, 1, 1, 1]}
    path = state_file(tmp_path / "w.pt", "hiera_tiny_224", **small)
    made = config(RESNET, name="hiera_tiny_224", arguments=small, init="pretrained", weights=path)
    shapes = "pos_embed has shape (1, 3136, 16), the model's (1, 256, 16)"
    fault = f"configs/models/mine.yaml: `weights`: {path} does not fit the model: {shapes}."
    assert faults_of(made, size=64, channels=3) == fault


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
    train_steps(model, optimizer, batches, range(3), Update(lambda step: 0.1), loss_sum=torch.zeros(()))
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


# ------------------------------------------------------------------------------------------------------ runs of the grid
@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs ``smoke`` at its smallest; models that start from its runs are there as ``vit`` and ``cnn``."""
    configs = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", configs)
    monkeypatch.setenv("CONFIGS_DIR", str(configs))
    for name, base in (("vit", "vit_micro_p2"), ("cnn", "resnet_micro")):
        own = yaml.safe_load((configs / "models" / f"{base}.yaml").read_text(encoding="utf-8"))
        own |= {"init": "pretrained", "weights": f"run:smoke/{base}"}
        (configs / "models" / f"{name}.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    shutil.copy(configs / "experiments" / "smoke.yaml", configs / "experiments" / "later.yaml")

    def run(*arguments: str) -> int:
        small = ["recipe.steps=4", "recipe.evaluations=1", "seeds=[0]", "train_fractions=[0.1]", "--jobs", "1"]
        monkeypatch.setattr(sys, "argv", ["experiments", "run", *arguments, *small])
        monkeypatch.setattr(models, "_checked", {})  # a command is a process of its own
        return main()

    return run


LATER = ("later", "models=[vit,cnn,resnet_micro]", "reference=resnet_micro")


def test_a_run_starts_from_another_runs_weights_and_is_charged_its_cost(
    grid: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid("smoke") == 0
    before = {path.parent.name.split("-")[0]: path.parent for path in tmp_path.glob("runs_dir/smoke/*/record.json")}
    model, facts = build(config(MICRO, init="pretrained", weights="run:smoke/vit_micro_p2"))
    source = load_file(before["vit_micro_p2"] / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, torch.zeros_like(tensor) if name.startswith("head.") else source[name]), name
    assert facts["weights"].startswith(f"{before['vit_micro_p2'].name}, SHA-256 ")
    assert grid(*LATER) == 0
    records = {path.parent.name.split("-")[0]: read_record(path) for path in tmp_path.glob("runs_dir/later/*/record.json")}
    for name, base in (("vit", "vit_micro_p2"), ("cnn", "resnet_micro")):
        cost, own = read_record(before[base] / "record.json").compute, records[name].compute
        assert own.pretraining_pflops == cost.train_pflops and own.pretraining_device_hours == cost.device_hours
        assert pretrained.cost_of(config(MICRO, init="pretrained", weights=f"run:later/{name}")) == {
            "pretraining_pflops": own.train_pflops + cost.train_pflops,
            "pretraining_device_hours": pytest.approx(own.device_hours + cost.device_hours),
        }  # what comes after it inherits both
    assert records["resnet_micro"].compute.pretraining_pflops is None
    rows = pd.read_csv(tmp_path / "reports_dir" / "later" / "compute.csv").set_index("model")["train_pflops"]
    assert rows["cnn"] == pytest.approx(2 * rows["resnet_micro"])  # its own training and the one before
    table = (tmp_path / "reports_dir" / "later" / "compute.md").read_text(encoding="utf-8")
    assert "Runs of smoke count as published; their cost is charged to all that start from them." in table


def test_a_run_that_cannot_be_started_from_is_one_message_before_any_cell(
    grid: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert grid(*LATER, *arguments) == 2
        assert not list(tmp_path.glob("runs_dir/later/*/config.yaml"))
        return " ".join(capsys.readouterr().err.split())

    assert "no finished run vit_micro_p2 with weights in" in (text := said())
    assert "Run it first: make experiment NAME=smoke" in text
    assert grid("smoke") == 0
    text = said("data.permute_pixels=3")
    assert "was trained on pixels as they are and Digits has `permute_pixels: 3` at 8 pixels" in text
    assert "vit.yaml" in (text := said("data.image_size=16")) and "embedding.pos_embedding has shape (1, 17, 64)" in text
    with pytest.raises(ValueError, match="no finished run vit_micro with weights in"):
        pretrained.run_folder("run:smoke/vit_micro")
    for path in tmp_path.glob("runs_dir/smoke/vit_micro_p2-*"):  # of a model whose name begins so
        path.rename(path.with_name(path.name.replace("vit_micro_p2", "vit-micro")))
        record = path.with_name(path.name.replace("vit_micro_p2", "vit-micro")) / "record.json"
        record.write_text(record.read_text(encoding="utf-8").replace('"vit_micro_p2"', '"vit-micro"'), encoding="utf-8")
    with pytest.raises(ValueError, match="no finished run vit with weights in"):
        pretrained.run_folder("run:smoke/vit")
    assert pretrained.run_folder("run:smoke/vit-micro").name.startswith("vit-micro-digits")
    for file in ("model.safetensors", "record.json"):  # which cannot be read, of a model that was not asked for
        (other := tmp_path / "runs_dir" / "smoke" / "vit-micro_p2-digits").mkdir(exist_ok=True)
        (other / file).write_text("{", encoding="utf-8")
    assert pretrained.run_folder("run:smoke/vit-micro").name.startswith("vit-micro-digits")
    for path in tmp_path.glob("runs_dir/smoke/resnet_micro-*"):
        shutil.copytree(path, path.with_name(f"{path.name}2"))
    text = said()
    assert (
        "run:smoke/resnet_micro names 2 runs; write the id of one in place of resnet_micro: resnet_micro-digits-f0.1" in text
    )
