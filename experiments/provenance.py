"""Where a run comes from: commit, versions, device. Facts for the record and for W&B; nothing of the user's environment."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch

from experiments.compute import device_name
from experiments.folders import ROOT

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "wandb")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(ROOT), *arguments],  # noqa: S607 - git as the user has it
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@lru_cache(maxsize=1)
def git_facts() -> dict[str, Any]:
    """Commit of the checkout and whether files differ from it; null outside a git checkout."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if status is None else bool(status)}


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {package: version(package) for package in PACKAGES}


def environment_facts(device: torch.device, *, precision: str, threads: int, deterministic: bool) -> dict[str, Any]:
    """The resolved values of a run that are not requested: device, precision, threads, versions, commit."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "precision": precision,
        "threads": threads,
        "deterministic": deterministic,
        "python": platform.python_version(),
        "versions": dict(versions()),
        "git": git_facts(),
    }
