"""One run over several processes, as ``torchrun`` starts them: who this process is, and what the processes tell each other.

The batch of a step is the one that a single process would take, cut into equal slices; gradients are averaged, so that the
step is the same. The process of rank 0 leads: it alone decides, writes and speaks. The others follow.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from types import MethodType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.config.errors import ConfigError
from experiments.training import torchrun

AGREE_EVERY = 10
"""Steps between two agreements on whether to stop or to write a checkpoint."""

PATIENCE = timedelta(days=2)
"""How long a process waits for the others. Long, since ``torchrun`` ends them all when one of them dies."""


@dataclass(frozen=True)
class Group:
    """The processes of a run. One process alone needs no communication, and has none."""

    rank: int = 0
    """This process, counted from 0."""
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """Which slice of a batch is this process's: its rank and the number of slices."""
        return self.rank, self.size

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes, as a new tensor."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def agree(self, wish: bool, step: int = 0) -> bool:
        """Whether any process wishes it, asked at every `AGREE_EVERY`-th step; alone, the wish itself."""
        if self.size == 1:
            return wish
        if step % AGREE_EVERY:
            return False
        wishes = torch.tensor(int(wish))
        dist.all_reduce(wishes, dist.ReduceOp.MAX)
        return bool(wishes)

    def told(self, value: Any) -> Any:
        """What the leader says, in every process."""
        if self.size == 1:
            return value
        words = [value]
        dist.broadcast_object_list(words, src=0, device=torch.device("cpu"))
        return words[0]

    def gathered(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows of all processes, in order of rank, in every process; the slices may differ in length."""
        if self.size == 1:
            return rows
        slices: list[Any] = [None] * self.size
        dist.all_gather_object(slices, rows)  # by way of the CPU, where there are both
        return np.concatenate(slices)

    def wrapped(self, forward: nn.Module, device: torch.device) -> nn.Module:
        """The model as the step calls it: its gradients are averaged over the processes."""
        if self.size == 1:
            return forward
        devices = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(forward, device_ids=devices)

    def seed(self, seed: int) -> int:
        """Seed of the random numbers inside the model: each process drops units of its own images."""
        return seed if self.leads else seed + (self.rank << 40)


ALONE = Group()


def current() -> Group:
    """The group that this process works in."""
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else ALONE


def local_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none or `DEVICE` says so.

    Raises
    ------
    ConfigError
        If there are fewer GPUs than processes on this machine.
    """
    wanted, count, place = os.environ.get("DEVICE") or "auto", torch.cuda.device_count(), torchrun.place()
    if wanted == "cpu" or (wanted == "auto" and count == 0):
        return torch.device("cpu")
    if wanted not in ("auto", "cuda"):
        raise ConfigError(f"DEVICE: must be auto, cpu or cuda under torchrun, got {wanted!r}: each process has its own GPU.")
    if place.local_size > count:
        raise ConfigError(
            f"torchrun: {place.local_size} processes were asked for and this machine has {count} GPUs; use "
            f"--nproc-per-node {count or 1}, or DEVICE=cpu."
        )
    return torch.device("cuda", place.local_rank)


def join() -> Group:
    """Meet the other processes: NCCL between GPUs, gloo between CPUs and for words."""
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return current()


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------------------- batch norm
class _Sum(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _exchanged(self: Any, images: Tensor) -> Tensor:
    """Batch normalisation (Ioffe & Szegedy, arXiv 1502.03167, algorithm 1) over the whole batch of all processes."""
    if not self.training:
        return type(self).forward(self, images)
    axes = [0, *range(2, images.ndim)]
    shape = [1, -1] + [1] * (images.ndim - 2)
    count = images.numel() / images.shape[1] * dist.get_world_size()
    exact = images.to(torch.promote_types(images.dtype, torch.float32))
    mean = _Sum.apply(exact.sum(axes)) / count
    centred = exact - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(axes)) / count
    normed = centred * (variance + self.eps).rsqrt().view(shape)
    if self.affine:
        normed = normed * self.weight.view(shape) + self.bias.view(shape)
    if self.track_running_stats:
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
    normed = normed.to(images.dtype)
    for name in ("drop", "act"):  # timm's norm layers hold what follows them
        normed = getattr(self, name, nn.Identity())(normed)
    return normed


def synchronise_batch_norm(model: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """Let batch normalisation see the whole batch, as in one process. Names and shapes of the state stay.

    On GPUs it is torch's ``SyncBatchNorm``, which exists for them alone; on CPUs the statistics are exchanged here.
    """
    if group.size == 1:
        return model
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = MethodType(_exchanged, module)  # type: ignore[method-assign]
    return model
