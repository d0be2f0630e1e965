"""Runs in W&B's own terminal viewer, without an account: one folder that it can browse, with readable names.

The viewer lists the session folders of one ``wandb`` folder, while every run keeps its session in its own run folder. So a
folder of links is made beside the run folders, one link per run, named after the run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from experiments.mirror import MIRROR_FILE, TrackingError, load_mirror

VIEWER_FOLDER = ".wandb/viewer/wandb"


def link_runs(experiment_folder: Path) -> list[str]:
    """Make the folder of links anew.

    Returns
    -------
    list of str
        Names of the links, in the viewer's order.
    """
    target = experiment_folder / VIEWER_FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(experiment_folder.glob(f"*/{MIRROR_FILE}")):
        try:
            mirror = load_mirror(path.parent.parent)
        except TrackingError:
            continue
        sessions = sorted([*path.parent.glob("offline-run-*"), *path.parent.glob("run-*")], key=_begun)
        if mirror and sessions:
            link = target / link_name(mirror.name or mirror.run_id)
            if link.is_symlink():  # the same name under other settings
                link = target / f"{link.name}_{mirror.run_id[-8:]}"
            link.symlink_to(sessions[-1].resolve())
    return sorted(link.name for link in target.iterdir())


def _begun(session: Path) -> str:
    return session.name.partition("run-")[2]


def link_name(name: str) -> str:
    """A folder name that the viewer lists and a person can read: ``run-ViT-micro-2_Digits_10%_seed_0``."""
    return "run-" + re.sub(r"[^\w%.=()+-]+", "_", name.replace(" · ", "_").replace("/", "-")).strip("_")


def on_terminal() -> bool:
    """Whether a person sits there and the viewer can draw."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def show(experiment_folder: Path) -> int:
    """Open the viewer on the links; returns its exit code when the user leaves it."""
    command = [sys.executable, "-m", "wandb", "leet", str(experiment_folder / VIEWER_FOLDER)]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - fixed arguments
