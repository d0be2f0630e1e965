"""What training costs: operations, time, memory, energy. Unknown is None, never a guess."""

from __future__ import annotations

import copy
import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

DENSE_BF16_PEAKS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
}
"""FLOP/s without sparsity, from the vendor's data sheets; the first key that is part of a device's name counts."""


def _flops(model: Callable[[torch.Tensor], object], images: torch.Tensor) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


@lru_cache(maxsize=1)
def check_flop_counter() -> None:
    """Assert that the counter counts attention on this version of torch: some versions count 0 for the fused form.

    Raises
    ------
    RuntimeError
        If one 8 × 8 projection and one attention over 4 tokens of width 8 do not give 2·4·8·8 + 2·(2·4·4·8) operations.
    """
    tokens, weight = torch.empty(1, 1, 4, 8, device="meta"), torch.empty(8, 8, device="meta")

    def probe(tokens: torch.Tensor) -> torch.Tensor:
        projected = tokens @ weight
        return scaled_dot_product_attention(projected, projected, projected)

    counted = _flops(probe, tokens)
    known = 2 * 4 * 8 * 8 + 2 * (2 * 4 * 4 * 8)
    if counted != known:
        raise RuntimeError(f"torch {torch.__version__} counts {counted} FLOPs where {known} are known; GMACs would be wrong")


def forward_gmacs(model: nn.Module, in_channels: int, image_size: int) -> float:
    """Multiply–accumulates of one forward pass on one image, in 1e9.

    Counted on the meta device at batch 1: FLOPs / 2 of matrix products, convolutions and attention.
    """
    check_flop_counter()
    twin = copy.deepcopy(model).to("meta").eval()
    return _flops(twin, torch.empty(1, in_channels, image_size, image_size, device="meta")) / 2e9


FORWARD, FORWARD_AND_BACKWARD = 1, 3
"""Cost of an image in forward passes: a backward pass costs two of them, and frozen features have none."""


def train_pflops(gmacs: float, images: int, passes: int = FORWARD_AND_BACKWARD) -> float:
    """Training operations in 1e15: forward passes' worth × images, at 2 FLOPs a MAC."""
    return passes * 2 * gmacs * 1e9 * images / 1e15


def mfu(gmacs: float, images_per_second: float, device_name: str, passes: int = FORWARD_AND_BACKWARD) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al., arXiv 2204.02311, app. B) against the dense bf16 peak; None if unknown."""
    peak = next((peak for name, peak in DENSE_BF16_PEAKS.items() if name in device_name), None)
    return None if peak is None else passes * 2 * gmacs * 1e9 * images_per_second / peak


def device_name(device: torch.device) -> str:
    """Name of the hardware, such as ``NVIDIA H200`` or the processor's model name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def synchronise(device: torch.device) -> None:
    """Wait for the device; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of some work, until the device has done it."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def _energy_joules(device: torch.device) -> float | None:
    """NVML's total energy counter of the whole GPU, None where there is none."""
    if device.type != "cuda":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid)) / 1000
    except (AttributeError, pynvml.NVMLError):
        return None


_STATUS, _CLEAR = "/proc/self/status", "/proc/self/clear_refs"
_metered = False
"""Whether a meter was made in this process before."""


def _reset_process_peak() -> bool:
    """Let the peak of this process's memory begin anew at what it holds; whether from now on it is one run's alone.

    What earlier runs freed is given back first, as the C library keeps much of it: ResNet-micro (32 pixels, batch 128) after
    ResNet-18 then peaks at 1,283 MiB, alone at 1,265; ResNet-18 at 1,812.
    """
    global _metered
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    first, _metered = not _metered, True
    try:
        with open(_CLEAR, "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return first
    return True


def _process_peak_bytes() -> int:
    """The most memory that this process held since `_reset_process_peak`, or, where that has no effect, ever."""
    try:
        with open(_STATUS, encoding="utf-8") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Meter:
    """Adds up seconds, joules and the peak of memory over the stretches of a run; its state goes into the checkpoint.

    On a GPU the peak is that of torch's allocator. On a CPU it is the process's from the making of the meter on, with what
    the process held by then: libraries (about 0.7 GiB), data, the model. Linux alone can begin a peak anew; elsewhere
    (macOS, a read-only ``/proc``) it is known for the first run of a process and None for those after it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.train_seconds = 0.0
        self.evaluation_seconds = 0.0
        self.compile_seconds = 0.0
        self.energy_joules: float | None = 0.0 if _energy_joules(device) is not None else None
        self.peak_bytes: int | None = 0
        self.reserved_bytes: int | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif not _reset_process_peak():
            self.peak_bytes = None

    @contextmanager
    def training(self) -> Iterator[None]:
        """Measure a stretch of optimiser steps; the device is awaited once, at its end."""
        start, energy = time.perf_counter(), _energy_joules(self.device)
        yield
        synchronise(self.device)
        self.train_seconds += time.perf_counter() - start
        after = _energy_joules(self.device)
        if self.energy_joules is not None:
            self.energy_joules = self.energy_joules + after - energy if energy is not None and after is not None else None
        self._see_memory()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Measure an evaluation."""
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.evaluation_seconds += time.perf_counter() - start

    def _see_memory(self) -> None:
        on_gpu = self.device.type == "cuda"
        if self.peak_bytes is not None:
            now = torch.cuda.max_memory_allocated(self.device) if on_gpu else _process_peak_bytes()
            self.peak_bytes = max(self.peak_bytes, now)
        if on_gpu:
            self.reserved_bytes = max(self.reserved_bytes or 0, torch.cuda.max_memory_reserved(self.device))

    _STATE = ("train_seconds", "evaluation_seconds", "compile_seconds", "energy_joules", "peak_bytes", "reserved_bytes")

    def state(self) -> dict[str, float | int | None]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._STATE}

    def restore(self, state: dict[str, float | int | None]) -> None:
        """Go on from a checkpoint; a peak that is unknown now stays unknown."""
        unknown = self.peak_bytes is None
        for name, value in state.items():
            setattr(self, name, value)
        if unknown:
            self.peak_bytes = None
