"""A model's cost without training it: operations, the bare step, memory. One row, printed, saved, found again by runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.config.identity import canonical_hash
from experiments.config.paths import runs_dir
from experiments.config.schema import ModelConfig
from experiments.records.record import atomic_write
from experiments.training import cost, models
from experiments.training.optim import adamw
from experiments.training.steps import autocast

WARMUP_STEPS, TIMED_STEPS = 10, 50


def profile_path(about: dict[str, Any]) -> Path:
    """Where a profile is kept: named after everything that its figures depend on."""
    return runs_dir() / "profiles" / f"{about['model']}-{canonical_hash(about)[:12]}.json"


def describe(
    name: str,
    config: ModelConfig,
    *,
    image_size: int,
    channels: int,
    batch_size: int,
    precision: str,
    threads: int,
    device: str,
) -> dict[str, Any]:
    """What the figures of a profile depend on."""
    return {
        "model": name,
        "config": config.model_dump(exclude={"title"}),
        "image_size": image_size,
        "channels": channels,
        "batch_size": batch_size,
        "precision": precision,
        "threads": threads,
        "device": device,
        "torch": torch.__version__,
    }


def bare_rate(about: dict[str, Any]) -> float | None:
    """The bare step's median images per second of an earlier profile; None where none was made."""
    try:
        return float(json.loads(profile_path(about).read_text(encoding="utf-8"))["bare_images_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def bare_step(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, precision: str = "fp32"
) -> Callable[[], None]:
    """One forward–backward–update step on a resident batch, with AdamW at rate 0."""
    optimizer = adamw(model.train(), weight_decay=0.05, betas=(0.9, 0.999))

    def step() -> None:
        with autocast(images.device, precision):
            loss = cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def profile(
    name: str,
    config: ModelConfig,
    *,
    image_size: int,
    channels: int,
    batch_size: int,
    n_classes: int,
    precision: str,
    threads: int,
    device: torch.device,
) -> dict[str, Any]:
    """Measure a model on one device and keep the row below `RUNS_DIR`.

    Returns
    -------
    dict
        Parameters, forward GMACs, training GFLOPs an image, the bare step in images/s (median and quartiles of 50 timed
        steps after 10), MFU at that rate and peak memory in bytes; null where unknown.
    """
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
    seconds = []
    with meter.training():
        for _ in range(TIMED_STEPS):
            cost.synchronise(device)
            start = time.perf_counter()
            step()
            cost.synchronise(device)
            seconds.append(time.perf_counter() - start)
    low, median, high = (float(batch_size / value) for value in np.quantile(seconds, [0.75, 0.5, 0.25]))
    hardware = cost.device_name(device)
    about = describe(
        name, config, image_size=image_size, channels=channels, batch_size=batch_size, precision=precision, threads=threads,
        device=hardware,
    )  # fmt: skip
    row = about | {
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
    path = profile_path(about)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        json.dump(row, file, indent=2)
    return row
