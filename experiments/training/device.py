"""What a run computes on: the device that `DEVICE` names, and what is asked of its arithmetic."""

from __future__ import annotations

import os

import torch

from experiments.config.errors import ConfigError
from experiments.training import cost, distributed, torchrun


def resolve_device() -> torch.device:
    """`DEVICE` = ``auto``, ``cpu``, ``cuda`` or ``cuda:n`` → the device of a run; under torchrun the process's own.

    Raises
    ------
    ConfigError
        If the device is not one of these or is not there.
    """
    if torchrun.place().size > 1:
        return distributed.local_device()
    name = os.environ.get("DEVICE") or "auto"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    known = ["cpu", *(f"cuda:{index}" for index in range(count)), *(["cuda"] if count else [])]
    if name not in known:
        raise ConfigError(f"DEVICE: {name!r} is not there. This machine has auto, {', '.join(known)}.")
    return torch.device(name)


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse bf16 on a GPU that would only imitate it.

    Raises
    ------
    ConfigError
        With the override to type.
    """
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = cost.device_name(device)
        raise ConfigError(f'`recipe.precision`: {name} has no bf16 units; use ARGS="recipe.precision=fp32".')


def set_deterministic(wanted: bool) -> None:
    """Have torch and the libraries below it take deterministic algorithms alone, or any; on a CPU the bits are the same.

    An operation that has no such algorithm then fails with its name.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is made
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = False
