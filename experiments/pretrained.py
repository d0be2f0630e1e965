"""Where a model starts from other than random weights, and linear classifiers on frozen features."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import baselines.pretrained
import vit_scratch.weights
from experiments.config import ConfigError, ModelConfig, data_dir

HUB = "timm:"
"""What a name of timm's begins with, where a file could stand."""


def weights_path(weights: str) -> Path:
    """A file of weights as a config names it: below `DATA_DIR`, unless the path is absolute."""
    path = Path(weights).expanduser()
    return path if path.is_absolute() else data_dir() / path


def start(model: nn.Module, name: str, config: ModelConfig) -> dict[str, Any]:
    """Put a config's weights into a model, all but the head, which begins with zeros.

    Parameters
    ----------
    model : nn.Module
        As `experiments.models.build` made it; changed in place.
    name : str
        Stem of the model's file, for messages.
    config : ModelConfig
        With ``init: pretrained``.

    Returns
    -------
    dict
        For the record's geometry: which weights, with the SHA-256 of a file, so that a file that was exchanged between runs
        of one table is seen.

    Raises
    ------
    ConfigError
        If the weights are not there or do not fit. The message says which file belongs where.
    """
    weights = str(config.weights)
    source = f"configs/models/{name}.yaml: `weights`"
    try:
        origin = f"timm's {weights.removeprefix(HUB)}" if weights.startswith(HUB) else _file_label(weights, source)
        if config.source == "scratch":
            layout, content = ("timm", _hub(weights)) if weights.startswith(HUB) else (config.layout, weights_path(weights))
            vit_scratch.weights.load(model, content, str(layout), head="keep")  # type: ignore[arg-type]
        else:
            found = _hub(weights) if weights.startswith(HUB) else baselines.pretrained.read(weights_path(weights))
            baselines.pretrained.load(model, found, weights)
    except ValueError as error:
        raise ConfigError([f"{source}: {str(error).rstrip('.')}."]) from error
    with torch.no_grad():
        for parameter in head(model).parameters():
            parameter.zero_()
    return {"init": "pretrained", "weights": origin}


def _file_label(weights: str, source: str) -> str:
    path = weights_path(weights)
    if not path.is_file():
        raise ConfigError(
            [f"{source}: no file {path}. Put the weights there, or name another file below {data_dir()} or timm:<name>."]
        )
    with open(path, "rb") as file:
        return f"{path.name}, SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _hub(weights: str) -> dict[str, Tensor]:
    name, cache = weights.removeprefix(HUB), data_dir() / "weights"
    try:
        return baselines.pretrained.from_hub(name, cache)
    except ValueError as error:
        raise ValueError(
            f"{error}. Without a network, save the state dict of timm's {name} as a .safetensors file, put it at "
            f"{cache / (name + '.safetensors')}, and set `weights: weights/{name}.safetensors` (for a scratch model also "
            "`layout: timm`)"
        ) from error


def head(model: nn.Module) -> nn.Module:
    """The linear layer that gives the logits."""
    own = getattr(model, "get_classifier", None)  # timm's way; ours is the attribute
    found = own() if own else model.head
    if not isinstance(found, nn.Module):
        raise TypeError(f"{type(model).__name__} has no classifier of its own")
    return found


class FrozenFeatures(nn.Module):
    """A model of which the head alone is trained.

    Nothing else gets a gradient, and the whole stays in evaluation mode: dropout and stochastic depth are off, and norms use
    their stored statistics. (The head is linear, for which the mode makes no difference.)

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        head(model).requires_grad_(True)
        self.train()

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stay in evaluation mode, whichever is asked for."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images B × C × height × width → logits B × classes."""
        logits: Tensor = self.model(images)
        return logits


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `FrozenFeatures`, or the model itself."""
    return model.model if isinstance(model, FrozenFeatures) else model
