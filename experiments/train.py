"""The two functions that own training: one trains for some steps, one evaluates. Neither knows of configs or files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.seeding import integer_seed


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Mixed precision where the recipe asks for bf16, plain fp32 otherwise."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    steps: range,
    *,
    rate: Callable[[int], float],
    seed: int,
    loss_sum: Tensor,
    precision: str = "fp32",
    label_smoothing: float = 0.0,
    clip_grad_norm: float | None = None,
    should_stop: Callable[[int], bool] = lambda step: False,
) -> int:
    """Take optimiser steps, without waiting for the device in any of them.

    Parameters
    ----------
    model, optimizer
        Changed in place.
    batches : callable
        Step → images (B, C, H, W) and labels (B,).
    steps : range
        Steps to take, counted from 0 over the whole run.
    rate : callable
        Step → learning rate.
    seed : int
        Keys the random numbers inside the model (dropout, stochastic depth) together with the step.
    loss_sum : Tensor of shape ()
        Sum of the losses, on the device; added to in place.
    should_stop : callable
        Asked before each step; true ends the function.

    Returns
    -------
    int
        The step after the last one taken.
    """
    model.train()
    device = loss_sum.device
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in steps:
        if should_stop(step):
            return step
        torch.manual_seed(integer_seed(seed, "model", step))
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        images, labels = batches(step)
        with autocast(device, precision):
            loss = cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_grad_norm)
        optimizer.step()
        loss_sum += loss.detach()
    return steps.stop


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Tensor], *, device: torch.device, precision: str = "fp32"
) -> NDArray[np.float32]:
    """Logits of all images of a set, in order: float32 of shape (N, classes)."""
    model.eval()
    with autocast(device, precision):
        logits = [model(images).float() for images in batches]
    return torch.cat(logits).cpu().numpy()
