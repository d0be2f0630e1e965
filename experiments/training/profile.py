"""A model's cost without training it: operations, the bare step, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.config.schema import ModelConfig
from experiments.training import cost, models
from experiments.training.optim import adamw
from experiments.training.steps import autocast

WARMUP_STEPS, TIMED_STEPS = 10, 50


def bare_step(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    precision: str = "fp32",
    optimizer: torch.optim.Optimizer | None = None,
    label_smoothing: float = 0.0,
    clip_grad_norm: float | None = None,
) -> Callable[[], None]:
    """One forward–backward–update step on a resident batch, written out; by default with AdamW at rate 0."""
    used = optimizer or adamw(model, weight_decay=0.05, betas=(0.9, 0.999))
    model.train()

    def step() -> None:
        with autocast(images.device, precision):
            loss = cross_entropy(model(images), labels, label_smoothing=label_smoothing)
        used.zero_grad(set_to_none=True)
        loss.backward()
        if clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
        used.step()

    return step


def profile(
    name: str,
    config: ModelConfig,
    *,
    shape: tuple[int, int, int],
    n_classes: int,
    precision: str,
    threads: int,
    device: torch.device,
) -> dict[str, Any]:
    """Measure a model on one device, on batches of a shape: images, channels, pixels of a side.

    Gives parameters, forward GMACs, training GFLOPs an image, the bare step in images/s (median and quartiles of 50 timed
    steps after 10), MFU at that rate and peak memory in bytes; null where unknown.
    """
    batch_size, channels, image_size = shape
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, geometry = models.build(name, config, image_size=image_size, in_channels=channels, num_classes=n_classes)
    gmacs = cost.forward_gmacs(model, channels, image_size)
    model.to(device)
    images = torch.randn(batch_size, channels, image_size, image_size, device=device)
    labels = torch.randint(n_classes, (batch_size,), device=device)
    step, meter = bare_step(model, images, labels, precision=precision), cost.Meter(device)
    with meter.training():
        for _ in range(WARMUP_STEPS):
            step()
        seconds = [cost.seconds(step, device) for _ in range(TIMED_STEPS)]
    low, median, high = (float(batch_size / value) for value in np.quantile(seconds, [0.75, 0.5, 0.25]))
    hardware = cost.device_name(device)
    return {
        "model": name,
        "config": config.model_dump(exclude={"title"}),
        "image_size": image_size,
        "channels": channels,
        "batch_size": batch_size,
        "precision": precision,
        "threads": threads,
        "device": hardware,
        "torch": torch.__version__,
        "geometry": geometry,
        "n_params": sum(parameter.numel() for parameter in model.parameters()),
        "forward_gmacs": gmacs,
        "train_gflops_per_image": 6 * gmacs,
        "bare_images_per_second": median,
        "bare_images_per_second_quartiles": [low, high],
        "mfu": cost.mfu(gmacs, median, hardware) if precision == "bf16" else None,
        "peak_memory_bytes": meter.peak_bytes,
        "reserved_memory_bytes": meter.reserved_bytes,
    }
