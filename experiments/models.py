"""The one place that joins the project's own model and the reference models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import baselines
import vit_scratch
from experiments import pretrained
from experiments.config import ConfigError, ModelConfig


def _scratch(
    config: ModelConfig, *, image_size: int, in_channels: int, num_classes: int
) -> tuple[nn.Module, dict[str, Any]]:
    patch_size = config.geometry.patch_size
    model = vit_scratch.build(
        config.name,
        image_size=image_size,
        patch_size=patch_size,
        in_channels=in_channels,
        num_classes=num_classes,
        **config.arguments,
    )
    return model, {"patch_size": patch_size, **config.arguments}


def _timm(config: ModelConfig, *, image_size: int, in_channels: int, num_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    return baselines.create(
        config.name,
        image_size=image_size,
        in_channels=in_channels,
        num_classes=num_classes,
        patch_size=config.geometry.patch_size,
        stem=config.geometry.stem,
        **config.arguments,
    )


BUILDERS: dict[str, Callable[..., tuple[nn.Module, dict[str, Any]]]] = {"scratch": _scratch, "timm": _timm}


def build(
    name: str, config: ModelConfig, *, image_size: int, in_channels: int, num_classes: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model for images of a size. Initialisation draws from torch's global generator.

    Returns
    -------
    model : nn.Module
        Images (B, C, H, W) → logits (B, num_classes).
    geometry : dict
        The declared adaptations, for the record.

    Raises
    ------
    ConfigError
        Naming the model's file, if the library refuses the name or an argument, or weights to start from are not there.
    """
    try:
        model, geometry = BUILDERS[config.source](
            config, image_size=image_size, in_channels=in_channels, num_classes=num_classes
        )
    except (ValueError, TypeError) as error:
        raise ConfigError([f"configs/models/{name}.yaml: {str(error).rstrip('.')}."]) from error
    if config.init == "pretrained":
        geometry = geometry | pretrained.start(model, name, config)
    if config.train == "head":
        model, geometry = pretrained.FrozenFeatures(model), geometry | {"train": "head alone, features frozen"}
    return model, geometry
