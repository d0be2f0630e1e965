"""Optimiser and schedule of a recipe."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import timm.optim
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.config.errors import reason
from experiments.config.loading import nearest
from experiments.config.schema import Recipe

NO_DECAY_WORDS = {"bias", "biases", "pos", "position", "token", "tokens"}
"""Words in the names of biases, positions and tokens, which carry no weight decay however many dimensions they have."""


# -------------------------------------------------------------------------------------------------------------- schedules
def _cosine(progress: float) -> float:
    """Loshchilov & Hutter, arXiv 1608.03983, Eq. 5."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _stable_then_decay(progress: float) -> float:
    """Stable, then linearly down over the last fifth (Hägele et al., arXiv 2405.18392)."""
    return min(1.0, 5 * (1 - progress))


def _step(progress: float) -> float:
    """A tenth after one half and again after three quarters (He et al., arXiv 1512.03385, section 4.2)."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
    "wsd": _stable_then_decay,
    "step": _step,
    "exponential": lambda progress: 0.97 ** (350 / 2.4 * progress),  # Tan & Le, arXiv 1905.11946, section 5.2
}
"""What `recipe.schedule` may be. Each maps the progress after the warm-up, 0 to 1, to a rate from 1, the peak, to 0, the
floor. A further schedule is a function and a line here."""


def learning_rate(
    step: int, *, steps: int, peak: float, floor: float, warmup_fraction: float, schedule: str = "cosine"
) -> float:
    """Linear warm-up, then one of `SCHEDULES`, as a pure function of the step that is about to be taken, counted from 0.

    A share `warmup_fraction` of all `steps` rises from ``peak / warm-up steps`` to `peak`; `floor` is the lowest that a
    schedule goes down to.
    """
    warmup = math.ceil(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return floor + (peak - floor) * SCHEDULES[schedule](min(1.0, progress))


# ------------------------------------------------------------------------------------------------------------- optimisers
def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two parameter groups: weights with decay; norms, biases, scales, tokens and positions without.

    What a model of timm names in its own ``no_weight_decay()``, patterns included, is without decay too.
    """
    own = [
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        if callable(named := getattr(module, "no_weight_decay", None))
        for name in named()
    ]
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = _carries_no_decay(model, name, parameter) or any(fnmatchcase(name, pattern) for pattern in own)
        (free if exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _carries_no_decay(model: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    *path, leaf = name.split(".")
    owner = model.get_submodule(".".join(path))
    if parameter.ndim <= 1 or "Norm" in type(owner).__name__:
        return True
    if leaf == "weight" and not isinstance(owner, nn.Embedding):  # of a layer, such as the convolution `pos_embed.proj`
        return False
    words = set(re.findall("[a-z]+", "_".join([*path[-1:], leaf])))
    # A scale for each channel or head keeps its other axes at length 1.
    return bool(words & NO_DECAY_WORDS) or (leaf != "weight" and parameter.squeeze().ndim <= 1)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": partial(torch.optim.AdamW, fused=True)}
"""What `recipe.optimizer` may be, beside the names of ``timm.optim.list_optimizers()``. A further one is a line here."""


def _factory(name: str) -> Callable[..., torch.optim.Optimizer]:
    """What makes an optimiser of parameter groups and named arguments."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    known = [str(entry) for entry in timm.optim.list_optimizers()]
    if name not in known:
        raise ValueError(f"no optimiser is named {name!r}. {nearest(name, {*OPTIMIZERS, *known})}")
    if timm.optim.get_optimizer_info(name).second_order:
        raise ValueError(f"{name} needs second derivatives, which a training step does not compute; choose another")
    factory: Callable[..., torch.optim.Optimizer] = timm.optim.get_optimizer_class(name)
    return factory


def _arguments(recipe: Recipe, factory: Callable[..., torch.optim.Optimizer]) -> dict[str, Any]:
    """Named arguments of a recipe's optimiser. Settings that it would not use are refused, but for defaults."""
    taken, arguments = inspect.signature(factory).parameters, dict(recipe.optimizer_arguments)
    for key in ("lr", "weight_decay", "momentum", "betas"):
        default = taken[key].default if key in taken else None
        fits = key in taken and (key != "betas" or (isinstance(default, tuple) and len(default) == 2))
        field = "learning_rate" if key == "lr" else key
        value = getattr(recipe, field)
        if key in arguments and (fits or key not in taken):
            raise ValueError(f"`optimizer_arguments` must not set {key!r}: that is `{field}` of the recipe")
        if not fits and value and value != Recipe.model_fields[field].default:
            raise ValueError(f"{recipe.optimizer} does not use `{field}`, got {value}; delete it")
        if fits and key in ("momentum", "betas"):
            arguments[key] = tuple(value) if key == "betas" else value
    return arguments


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe over `weight_decay_groups`; the rate is set at every step.

    Raises
    ------
    ValueError
        If there is none of this name, or it does not take a setting.
    """
    factory = _factory(recipe.optimizer)
    groups = weight_decay_groups(model, recipe.weight_decay)
    return factory(groups, lr=recipe.learning_rate, **_arguments(recipe, factory))  # some take the peak from the first rate


def adamw(model: nn.Module, *, weight_decay: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) in its fused form; the rate is set at every step."""
    return OPTIMIZERS["adamw"](weight_decay_groups(model, weight_decay), lr=0.0, betas=betas)


def faults(name: str, recipe: Recipe) -> list[str]:
    """What is wrong with the schedule and the optimiser of a recipe, which takes two steps with a small model.

    torch's generator is left as it was.
    """
    found = []
    if recipe.schedule not in SCHEDULES:
        found.append(f"`schedule`: no schedule is named {recipe.schedule!r}. {nearest(recipe.schedule, SCHEDULES)}")
    try:
        with torch.random.fork_rng(devices=[]):
            model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
            optimizer = make_optimizer(model, recipe)
            for _ in range(2):
                optimizer.zero_grad(set_to_none=True)
                cross_entropy(model(torch.randn(3, 1, 4, 4)), torch.arange(3)).backward()
                optimizer.step()
    except Exception as error:  # constructors and steps raise whatever their authors chose
        found.append(f"`optimizer`: {reason(error).rstrip('.')}.")
    return [f"configs/recipes/{name}.yaml: {fault}" for fault in found]
