"""What makes a step fast without changing what it computes: memory format, compilation, the size of evaluation batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from experiments.config.errors import named
from experiments.training.cost import synchronise
from experiments.training.steps import autocast

WARMUP_STEPS = 3
"""Steps of a compiled model before the run: the first compiles, the others record what ``reduce-overhead`` replays."""
TIMED_STEPS = 20
"""Steps of each form between which ``auto`` decides."""


def memory_format(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels-last for convolutional networks on GPUs, whose tensor cores work in it; contiguous otherwise.

    A network counts as convolutional from its second convolution on: a ViT's only one cuts patches. CPUs keep the contiguous
    format, under which results were published.
    """
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    return torch.channels_last if device.type == "cuda" and convolutions > 1 else torch.contiguous_format


def evaluation_batch_size(image_size: int, device: torch.device) -> int:
    """Images of one evaluation batch: 500 on a CPU; on a GPU what makes about 2²² pixels, from 64 to 8,192."""
    return 500 if device.type == "cpu" else max(64, min(8192, 2**22 // image_size**2))


class Compiled(NamedTuple):
    """What became of a request to compile."""

    forward: nn.Module
    """What the step calls: the compiled model, or the model itself."""
    mode: str
    """As it is recorded: the mode, or ``off``."""
    seconds: float
    """Time until the compiled step ran, failed or not."""
    failure: str | None
    """One sentence where compilation failed."""


def compiled(
    model: nn.Module, mode: str, images: torch.Tensor, *, precision: str, compiler: Callable[..., Any] = torch.compile
) -> Compiled:
    """Compile a model for training steps on batches like `images`, and fall back once to the model itself.

    Parameters
    ----------
    model : nn.Module
        Its weights, buffers and gradients are as before when this returns; the compiled form shares them.
    mode : {"off", "auto", "default", "reduce-overhead", "max-autotune"}
        Mode of ``torch.compile``. ``auto`` is ``off`` on a CPU; on a GPU it is ``default``, or ``reduce-overhead`` where
        its CUDA graphs, which need no launch for each kernel, take less time.
    images : Tensor of shape (B, C, H, W)
        A batch of the run; only its shape and kind matter.
    compiler : callable
        ``torch.compile``, or what a test puts in its place.
    """
    if mode == "auto" and images.device.type == "cuda":
        return fastest(model, images, precision=precision, compiler=compiler)
    if mode in ("off", "auto"):
        return Compiled(model, "off", 0.0, None)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    start = time.perf_counter()
    try:
        forward = compiler(model, mode=mode)
        forward.train()
        seconds_of_steps(forward, images, precision, WARMUP_STEPS)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in many ways: no C++ compiler, an operation they do not know
        failure = f"torch.compile failed, the run goes on without: {named(error)}"
        result = Compiled(model, "off", time.perf_counter() - start, failure)
    else:
        result = Compiled(forward, mode, time.perf_counter() - start, None)
    _restore(model, buffers)
    return result


def fastest(
    model: nn.Module, images: torch.Tensor, *, precision: str, compiler: Callable[..., Any] = torch.compile
) -> Compiled:
    """The form of a model, ``default`` or ``reduce-overhead``, whose steps take less time; both are compiled.

    What only one of them can do, for want of memory or of a kernel, the other does.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    start, forms, failed = time.perf_counter(), dict[float, Compiled](), list[Compiled]()
    for mode in ("default", "reduce-overhead"):
        try:
            form = compiled(model, mode, images, precision=precision, compiler=compiler)
            if form.failure:
                failed.append(form)
            else:
                forms[seconds_of_steps(form.forward, images, precision, TIMED_STEPS)] = form
        except torch.OutOfMemoryError:
            if not forms:
                raise
    _restore(model, buffers)
    best = forms[min(forms)] if forms else failed[0]
    return best._replace(seconds=time.perf_counter() - start)


def seconds_of_steps(forward: nn.Module, images: torch.Tensor, precision: str, steps: int) -> float:
    """Time of forward and backward passes over one batch, without the optimiser; the gradients are dropped."""
    start = time.perf_counter()
    for _ in range(steps):
        with autocast(images.device, precision):
            loss = forward(images).float().logsumexp(1).mean()
        loss.backward()
        forward.zero_grad(set_to_none=True)
    synchronise(images.device)
    return time.perf_counter() - start


def _restore(model: nn.Module, buffers: dict[str, torch.Tensor]) -> None:
    """Leave no gradient and no statistic of a warm-up."""
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
