"""ViT-B/16 at 224 pixels on a GPU: how near the hardware's limit, and where its time goes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from experiments.config.loading import load_part
from experiments.training import compilation, cost, models
from experiments.training.profile import bare_step

KERNEL_CLASSES = (
    ("attention", r"flash|fmha|attention|cudnn_generated.*sdpa"),
    ("convolution", r"conv|implicit_gemm|dgrad|wgrad|winograd"),
    ("matrix product", r"gemm|cutlass|nvjet|xmma|matmul|cublas"),
    ("optimizer", r"adam|multi_tensor|foreach"),
    ("normalisation", r"norm|welford"),
    ("softmax and loss", r"softmax|nll|cross_entropy"),
    ("copy", r"memcpy|memset|copy|catarray|\bcat"),
    ("elementwise and reduction", r"elementwise|reduce|triton|vectorized|gelu|index|gather|scatter"),
)
"""Classes of GPU kernels by their names; the first that matches counts."""


def kernel_class(name: str) -> str:
    """The class of a kernel, ``other`` where no pattern matches."""
    return next((label for label, pattern in KERNEL_CLASSES if re.search(pattern, name, re.I)), "other")


def _kernel_shares(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Share of GPU time by class of kernel over ten steps, the largest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(10):
            step()
        cost.synchronise(device)
    seconds = Counter[str]()
    for event in seen.key_averages():
        seconds[kernel_class(event.key)] += event.self_device_time_total
    return {label: value / seconds.total() for label, value in seconds.most_common() if value}


def vit_base(device: torch.device) -> dict[str, Any]:
    """ViT-B/16 at 224 pixels in bf16, compiled, on a GPU: images/s, MFU and the share of GPU time by class of kernel."""
    config = load_part("models", "vit_base_p16")
    torch.manual_seed(0)
    model, _ = models.build("vit_base_p16", config, image_size=224, in_channels=3, num_classes=1000)
    gmacs = cost.forward_gmacs(model, 3, 224)
    images = torch.randn(256, 3, 224, 224, device=device)
    labels = torch.randint(1000, (256,), device=device)
    forward = compilation.compiled(model.to(device), "max-autotune", images, precision="bf16")
    step = bare_step(forward.forward, images, labels, precision="bf16")
    seconds = [cost.seconds(step, device) for _ in range(60)][10:]
    rate = len(images) / float(np.median(seconds))
    return {
        "images_per_second": rate,
        "mfu": cost.mfu(gmacs, rate, cost.device_name(device)),
        "compile": forward.mode,
        "kernel_shares": _kernel_shares(step, device),
    }
