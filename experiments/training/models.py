"""The one place that joins the project's own model and the reference models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

import baselines
import vit_scratch
from baselines import torchvision_models
from experiments.config.code import called
from experiments.config.errors import ConfigError
from experiments.config.identity import canonical_hash
from experiments.config.schema import ModelConfig
from experiments.training import pretrained
from experiments.training.memory import has_batch_statistics
from experiments.training.model_check import examine

Built = tuple[nn.Module, dict[str, Any]]
"""A model, and the adaptations that its record declares."""


def _scratch(config: ModelConfig, **sizes: int) -> Built:
    patch_size = config.geometry.patch_size
    model = vit_scratch.build(config.name, patch_size=patch_size, **sizes, **config.arguments)
    return model, {"patch_size": patch_size, **config.arguments}


def _timm(config: ModelConfig, **sizes: int) -> Built:
    geometry = config.geometry
    return baselines.create(config.name, patch_size=geometry.patch_size, stem=geometry.stem, **sizes, **config.arguments)


def _torchvision(config: ModelConfig, **sizes: int) -> Built:
    return torchvision_models.create(config.name, **sizes, **config.arguments)


def _python(config: ModelConfig, **sizes: int) -> Built:
    """Sizes are offered under every name that libraries have for them."""
    channels = dict.fromkeys(("in_chans", "channels"), sizes["in_channels"])
    offered = sizes | channels | {"img_size": sizes["image_size"]}
    model = called(config.name, config.code, offered, config.arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{config.name} gives {type(model).__name__}, not a torch.nn.Module")
    return model, dict(config.arguments)


BUILDERS: dict[str, Callable[..., Built]] = {
    "scratch": _scratch,
    "timm": _timm,
    "torchvision": _torchvision,
    "python": _python,
}


def build(name: str, config: ModelConfig, *, image_size: int, in_channels: int, num_classes: int) -> Built:
    """Build a model, images (B, C, H, W) → logits (B, num_classes), and say which adaptations its record declares.

    Initialisation draws from torch's global generator.

    Raises
    ------
    ConfigError
        Naming the model's file, if the library refuses the name or an argument, or weights to start from are not there.
    """
    create = partial(BUILDERS[config.source], config, image_size=image_size, in_channels=in_channels)
    try:
        model, geometry = create(num_classes=num_classes)
    except (ValueError, TypeError) as error:
        said = str(error)
        raise ConfigError(f"configs/models/{name}.yaml: {said if said.endswith('?') else said.rstrip('.') + '.'}") from error
    if config.init == "from_scratch" and config.train == "all":
        return model, geometry
    with torch.device("meta"):
        other, _ = create(num_classes=num_classes + 1)
    # What grows with the classes gives the logits, be it one layer or several, inside whatever the library calls the head.
    shapes = {parameter: tensor.shape for parameter, tensor in other.named_parameters()}
    head = [parameter for parameter, tensor in model.named_parameters() if tensor.shape != shapes[parameter]]
    if config.init == "pretrained":
        geometry = geometry | pretrained.start(model, name, config, head)
    if config.train == "head":
        model, geometry = pretrained.FrozenFeatures(model, head), geometry | {"train": "head alone, features frozen"}
    return model, geometry


def _global_state() -> dict[str, Any]:
    """What a model's code must leave as it is for the models that run after it."""
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
    }


def _unseeded(model: nn.Module, again: Callable[[], Built]) -> str:
    """What is wrong with a callable that does not build a model from the run's seed alone; empty where nothing is."""
    if lazy := [name for name, value in model.state_dict().items() if is_lazy(value)]:
        return f"leaves {lazy[0]} without a shape until it sees images; give the layer its sizes"
    before = _global_state()
    ends = []
    for seed in (1, 0):
        torch.default_generator.manual_seed(seed)
        other = again()[0].state_dict()
        ends.append(torch.default_generator.get_state())
    if torch.equal(*ends):
        return "sets torch's seed, so that all seeds would train the same model; leave that to the run"
    changed = [name for name, value in _global_state().items() if value != before[name]]
    if changed:
        return f"changes {', '.join(changed)}, which other models share; leave it as it is"
    differing = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, other[name])]
    if differing:
        return f"draws {differing[0]} from another generator than torch's, which the run's seed sets; draw it with torch"
    return ""


class Checked(NamedTuple):
    """What was found of a model that was tried."""

    geometry: dict[str, Any]
    """What the record declares beside the model's own adaptations; mostly nothing."""
    batch_statistics: bool
    """Whether the model normalises by the statistics of its batch."""


_checked: dict[str, Checked] = {}
"""By what the outcome depends on: a model is tried once in a process."""


def check(name: str, config: ModelConfig, *, image_size: int, in_channels: int) -> Checked:
    """Build a model and try it on random pixels; torch's generator is left as it was.

    Raises
    ------
    ConfigError
        Naming the model's file, if it cannot be built or could not learn; see `experiments.training.model_check`.
    """
    key = canonical_hash([config.model_dump(), image_size, in_channels])
    if key in _checked:
        return _checked[key]
    sizes = {"image_size": image_size, "in_channels": in_channels, "num_classes": 10}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # not torch.manual_seed, which reaches the GPUs' generators
        model, _ = build(name, config, **sizes)
        if config.source == "python" and (fault := _unseeded(model, partial(build, name, config, **sizes))):
            raise ConfigError(f"configs/models/{name}.yaml: {config.name} {fault}.")
        batch_statistics = has_batch_statistics(model)
        try:
            declared = examine(model, **sizes)
        except ValueError as error:
            raise ConfigError(f"configs/models/{name}.yaml: {error}.") from error
    _checked[key] = Checked(declared, batch_statistics)
    return _checked[key]
