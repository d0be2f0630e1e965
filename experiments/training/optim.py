"""Optimiser and schedule of a recipe."""

from __future__ import annotations

import math
import re
from fnmatch import fnmatchcase

import torch
from torch import nn

NO_DECAY_WORDS = {"bias", "biases", "pos", "position", "token", "tokens"}
"""Words in the names of biases, positions and tokens, which carry no weight decay however many dimensions they have."""


def learning_rate(step: int, *, steps: int, peak: float, floor: float, warmup_fraction: float) -> float:
    """Linear warm-up, then cosine (Loshchilov & Hutter, arXiv 1608.03983, Eq. 5), as a pure function of the step.

    Parameters
    ----------
    step : int
        Optimiser step that is about to be taken, counted from 0.
    steps : int
        Steps of the whole run.
    peak, floor : float
        Rate at the end of the warm-up and at the last step.
    warmup_fraction : float
        Share of the steps that rise linearly from ``peak / warm-up steps`` to `peak`.
    """
    warmup = math.ceil(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


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


def adamw(model: nn.Module, *, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) in its fused form; the rate is set at every step."""
    return torch.optim.AdamW(weight_decay_groups(model, weight_decay), lr=0.0, betas=betas, fused=True)
