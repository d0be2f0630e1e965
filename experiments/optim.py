"""Optimiser and schedule of a recipe."""

from __future__ import annotations

import math

import torch
from torch import nn

NO_DECAY_NAMES = {"cls_token", "pos_embed", "pos_embedding", "dist_token", "reg_token"}
"""Embeddings that carry no weight decay although they have more than one dimension."""


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
    """Two parameter groups: weights with decay; norms, biases, class tokens and position embeddings without."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim <= 1 or name.rpartition(".")[2] in NO_DECAY_NAMES
        (free if exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def adamw(model: nn.Module, *, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) in its fused form; the rate is set at every step."""
    return torch.optim.AdamW(weight_decay_groups(model, weight_decay), lr=0.0, betas=betas, fused=True)
