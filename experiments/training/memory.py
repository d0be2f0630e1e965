"""Out of memory: how it is recognised, and how a batch goes on in smaller parts (gradient accumulation).

A batch that is cut into parts gives the gradient of the whole batch, up to rounding, for every model whose output for one
image does not depend on the others. Batch normalisation in training breaks that, so its models are never cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")

SIGNS_OF_HOST = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory")
"""Words of torch's plain RuntimeError where the host has no room; it has no type of its own for that."""


class DoesNotFit(MemoryError):
    """A step for which there is no room in so many parts of its batch; `hint` says what to do, or why no more were tried."""

    def __init__(self, error: BaseException, parts: int, hint: str) -> None:
        self.parts, self.hint = parts, hint
        super().__init__((str(error).splitlines() or [type(error).__name__])[0])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device ran out."""
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS_OF_HOST))
    )  # fmt: skip


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a layer normalises by the statistics of its batch, so that parts of a batch are another computation.

    The model is taken as it is: in training, frozen layers in evaluation.
    """
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return any(norm.training or norm.running_mean is None for norm in norms)


def parts_for(batch_size: int, micro_batch_size: int | None) -> int:
    """Number of parts of a batch, none larger than `micro_batch_size`; 1 where that is not given."""
    return math.ceil(batch_size / micro_batch_size) if micro_batch_size else 1


def more_parts(error: BaseException, parts: int, *, batch_size: int, on_oom: str, model: nn.Module) -> int:
    """Twice as many parts as were tried, at most one for each image.

    Raises
    ------
    DoesNotFit
        If `on_oom` is not ``split``, the model has batch statistics, or a single image was tried already.
    """
    splits = not has_batch_statistics(model)
    if on_oom != "split":
        hint = "with `on_oom=split` it is trained in parts with an equal result" if splits else ""
        raise DoesNotFit(error, parts, hint)
    if not splits:
        raise DoesNotFit(error, parts, "`on_oom=split` is refused, since parts would change its batch statistics")
    if parts >= batch_size:
        raise DoesNotFit(error, parts, "not even a single image fits")
    return min(2 * parts, batch_size)


def until_it_fits(work: Callable[[], T], make_smaller: Callable[[BaseException], None]) -> T:
    """Do a piece of work; out of memory, let `make_smaller` change what it does, or raise, and begin it again."""
    while True:
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            make_smaller(error)
        # Only here, outside the handler, are the tensors free that the traceback held.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
