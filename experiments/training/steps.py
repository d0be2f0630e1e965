"""The two functions that own training: one trains for some steps, one evaluates. Neither knows of configs or files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.data.seeding import integer_seed
from experiments.training.memory import until_it_fits


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Mixed precision where the recipe asks for bf16, plain fp32 otherwise."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def accumulate(
    model: nn.Module, images: Tensor, labels: Tensor, parts: int, *, precision: str, label_smoothing: float
) -> Tensor:
    """Add the gradients of the mean loss over a batch to the parameters, one part of the batch after another.

    Images (B, C, H, W) and labels (B,) or (B, K) are cut into 1 to B parts as equal as possible, and each counts by its
    share of the images, so that the sum is the whole batch's. Returns the mean loss over the batch, detached, of shape ().
    """
    total = torch.zeros((), device=images.device)
    for inputs, targets in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
        with autocast(images.device, precision):
            loss = cross_entropy(model(inputs), targets, label_smoothing=label_smoothing)
        loss = loss * (len(targets) / len(labels))
        loss.backward()
        total += loss.detach()
    return total


def _seed_device(device: torch.device, seed: int) -> None:
    """Seed the generator that a model on `device` draws from."""
    if device.type == "cpu":  # torch.manual_seed also queues a call for a CUDA that may start later, with a stack trace
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _no_more_parts(error: BaseException, parts: int) -> int:
    raise error


@dataclass(frozen=True)
class Update:
    """How a step is taken."""

    rate: Callable[[int], float]
    """Step → learning rate."""
    seed: int = 0
    """Keys the random numbers inside the model (dropout, stochastic depth) together with the step."""
    precision: str = "fp32"
    label_smoothing: float = 0.0
    clip_grad_norm: float | None = None
    micro_batches: int = 1
    """Parts that each batch is cut into (gradient accumulation)."""
    after: Callable[[], None] = lambda: None
    """Called after each step, as to average the weights."""


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    steps: range,
    update: Update,
    *,
    loss_sum: Tensor,
    more_parts: Callable[[BaseException, int], int] = _no_more_parts,
    should_stop: Callable[[int], bool] = lambda step: False,
) -> int:
    """Take optimiser steps, without waiting for the device in any of them.

    Parameters
    ----------
    batches : callable
        Step → images (B, C, H, W) and labels: classes (B,), or probabilities (B, K).
    steps : range
        Steps to take, counted from 0 over the whole run.
    loss_sum : Tensor of shape ()
        Sum of the losses, on the device; added to in place.
    more_parts : callable
        Out of memory, takes the error and the parts that were tried; returns how many are tried next, or raises.
    should_stop : callable
        Asked before each step; true ends the function.

    Returns
    -------
    int
        The step after the last one taken.
    """
    model.train()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = update.micro_batches
    for step in steps:
        if should_stop(step):
            return step
        for group in optimizer.param_groups:
            group["lr"] = update.rate(step)
        images, labels = batches(step)

        def gradients(step: int = step, images: Tensor = images, labels: Tensor = labels) -> Tensor:
            _seed_device(images.device, integer_seed(update.seed, "model", step))
            optimizer.zero_grad(set_to_none=True)
            smoothing = update.label_smoothing
            return accumulate(model, images, labels, parts, precision=update.precision, label_smoothing=smoothing)

        def smaller(error: BaseException) -> None:
            nonlocal parts
            parts = more_parts(error, parts)

        loss = until_it_fits(gradients, smaller)
        if update.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, update.clip_grad_norm)
        optimizer.step()
        update.after()
        loss_sum += loss
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
