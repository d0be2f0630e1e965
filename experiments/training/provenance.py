"""Where a run comes from: commit, versions, device. Facts for the record and for W&B; nothing of the user's environment."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch

from experiments.config.cells import Cell
from experiments.config.paths import ROOT
from experiments.training.cost import device_name

HERE = f"{__name__.replace('.', '/')}.py"
"""This file, from the top of the project."""

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "wandb")


def _git(*arguments: str) -> str | None:
    """What git says of the checkout; None where there is no git, or it refuses."""
    # A git that called this program, as from a hook, names its own repository in the environment.
    given = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(ROOT), *arguments],  # noqa: S607 - git as the user has it
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=True,
            env=given,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@lru_cache(maxsize=1)
def git_facts() -> dict[str, Any]:
    """Commit of the checkout and whether files differ from it.

    Null outside a git checkout, and where the project was put into another repository, whose commit says nothing of it.
    """
    said = _git("rev-parse", "--show-prefix", "HEAD", f"HEAD:{HERE}")
    if said is None or not said.startswith("\n"):  # the first line is the way down to here from the repository's top
        return {"commit": None, "dirty": None}
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": said.split()[0], "dirty": None if status is None else bool(status)}


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {package: version(package) for package in PACKAGES}


def facts_of(cell: Cell, device: torch.device) -> dict[str, Any]:
    """The resolved values of a run that are not requested: device, precision, threads, versions, commit."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "precision": cell.recipe.precision,
        "threads": cell.execution.threads,
        "deterministic": cell.execution.deterministic,
        **({} if cell.execution.nudge is None else {"nudge": cell.execution.nudge}),
        "python": platform.python_version(),
        "versions": dict(versions()),
        "git": git_facts(),
    }
