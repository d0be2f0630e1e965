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

from experiments.tracking.mirror import MIRROR_FILE, Mirror, usable_mirror

VIEWER_FOLDER = ".wandb/viewer/wandb"


def link_runs(experiment_folder: Path) -> list[str]:
    """Make the folder of links anew. Returns the runs' names in the viewer's order, newest first."""
    target = experiment_folder / VIEWER_FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(experiment_folder.glob(f"*/{MIRROR_FILE}")):
        mirror = usable_mirror(path.parent.parent)
        sessions = sorted([*path.parent.glob("offline-run-*"), *path.parent.glob("run-*")], key=_begun)
        logs = sorted(sessions[-1].glob("*.wandb")) if sessions else []
        if mirror and logs:
            # The viewer takes folders named run-<date>_<time>-<id>, and in each the file run-<id>.wandb.
            shown = readable_id(mirror)
            folder = target / f"run-{_begun(sessions[-1])[:15]}-{shown}"
            folder.mkdir()
            (folder / f"run-{shown}.wandb").symlink_to(logs[-1].resolve())
    return sorted((folder.name for folder in target.iterdir()), reverse=True)


def _begun(session: Path) -> str:
    return session.name.partition("run-")[2]


def readable_id(mirror: Mirror) -> str:
    """What the viewer's narrow list shows of a run, the telling part first: ``100%_s0_ViT-micro-2_Digits_0f82d38e``."""
    config = mirror.config
    parts = [f"{100 * config['train_fraction']:.4g}%", f"s{config['seed']}"] if "train_fraction" in config else []
    parts += [str(config.get("model_title", mirror.run_id)), str(config.get("data_title", ""))]
    text = "_".join([*filter(None, parts), mirror.run_id[-8:]])
    return re.sub(r"[^\w%.=()+-]+", "_", text.replace("/", "-"))


def on_terminal() -> bool:
    """Whether a person sits there and the viewer can draw."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def show(experiment_folder: Path) -> int:
    """Open the viewer on the links; returns its exit code when the user leaves it."""
    command = [sys.executable, "-m", "wandb", "leet", str(experiment_folder / VIEWER_FOLDER)]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - fixed arguments
