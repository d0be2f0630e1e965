"""Every file of configs/models builds through the two calls that the harness makes, and says what it is."""

from pathlib import Path

import pytest
import torch
import yaml

import baselines
import vit_scratch
from experiments.config.schema import ModelConfig

FOLDER = Path(__file__).parents[2] / "configs" / "models"
FILES = sorted(FOLDER.glob("*.yaml"))
NAMES = [file.stem for file in FILES]
SIZES = {"micro": (8, 1), "photo": (64, 3), "p16": (224, 3), "resnet50": (224, 3)}
"""Part of a file's name → image size and channels that it is meant for; 32 pixels and 3 channels otherwise."""


def read(name) -> ModelConfig:
    return ModelConfig.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def build(name):
    config = read(name)
    image_size, in_channels = next((size for part, size in SIZES.items() if part in name), (32, 3))
    sizes = {"image_size": image_size, "in_channels": in_channels, "num_classes": 10}
    patch_size = config.geometry.patch_size
    if config.source == "scratch":
        model = vit_scratch.build(config.name, patch_size=patch_size, **sizes, **config.arguments)
    else:
        stem = config.geometry.stem
        model, geometry = baselines.create(config.name, patch_size=patch_size, stem=stem, **sizes, **config.arguments)
        assert set(config.arguments) <= set(geometry)
    return model, (2, in_channels, image_size, image_size)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_file_builds_and_maps_images_to_logits(name):
    with torch.device("meta"):
        model, shape = build(name)
    assert model.eval()(torch.empty(shape, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name in NAMES if "micro" in name])
def test_models_for_digits_train(name):
    torch.manual_seed(0)
    model, shape = build(name)
    model(torch.randn(shape)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("timm_")])
def test_timm_twins_have_the_geometry_of_the_scratch_model(name):
    """The same parameters by name and shape, and as many heads."""
    with torch.device("meta"):
        ours, _ = build(name.removeprefix("timm_"))
        theirs, _ = build(name)
    assert count(ours) == count(theirs)
    assert ours.blocks[0].attention.num_heads == theirs.blocks[0].attn.num_heads
    exported = {row.theirs[0]: tuple(ours.get_parameter(row.ours).shape) for row in vit_scratch.layouts.rows(ours, "timm")}
    assert exported == {key: tuple(parameter.shape) for key, parameter in theirs.named_parameters()}


def test_files_open_with_a_comment_and_titles_differ():
    assert len(FILES) >= 18
    for file in FILES:
        lines = file.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# ") and lines[0].endswith(".") and not lines[1].startswith("#"), file.name
    titles = [read(name).title for name in NAMES]
    assert len(set(titles)) == len(titles)
    assert {read(name).family for name in NAMES} <= {"ViT", "ResNet", "ConvNeXt", "EfficientNet", "MobileNet"}
