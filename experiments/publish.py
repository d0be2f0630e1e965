"""Finished runs without what only this machine needs: small enough to publish, whole enough to be analysed again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import ConfigError
from experiments.grid import SPLITS_FILE
from experiments.record import CONFIG_FILE, METRICS_FILE, PREDICTIONS_FILE, RECORD_FILE, atomic_write
from experiments.run_folder import config_without_path


def publish(ledger: Mapping[str, Any], folder: Path, target: Path) -> tuple[int, int]:
    """Copy the finished runs of an experiment, without weights and checkpoints and with logits in half precision.

    Half precision changes no recorded metric, since records are copied as they are; the analysis allows for its rounding
    when it computes them again. Logits too large for it stay as they are.

    Parameters
    ----------
    ledger : mapping
        What became of the cells and their trials, as `experiments.grid.ledger` gives it.
    folder, target : Path
        Folder of the experiment's runs, and the folder that shall hold ``<experiment>/<run_id>/``.

    Returns
    -------
    runs, size : int
        Number of runs and bytes written.

    Raises
    ------
    ConfigError
        If no cell is done, or the target is where the runs are.
    """
    name = ledger["experiment"]
    done = [entry["run_id"] for entry in [*ledger["cells"], *ledger.get("trials", [])] if entry["status"] == "done"]
    if not done:
        raise ConfigError([f"publish: {folder} holds no run of these settings. Run it first: make experiment NAME={name}"])
    place = target / name
    if place.resolve() == folder.resolve():
        raise ConfigError([f"publish: {place} holds the runs themselves. Choose another folder with --to."])
    for run_id in done:
        _copy(folder / run_id, place / run_id)
    if (folder / SPLITS_FILE).is_file():
        shutil.copyfile(folder / SPLITS_FILE, place / SPLITS_FILE)
    return len(done), sum(path.stat().st_size for run_id in done for path in (place / run_id).iterdir())


def _copy(run: Path, place: Path) -> None:
    """One run; its record is written last, as the run itself did."""
    place.mkdir(parents=True, exist_ok=True)
    with np.load(run / PREDICTIONS_FILE, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name in ("logits", "val_logits"):
        if name in arrays and np.abs(arrays[name]).max(initial=0.0) <= np.finfo(np.float16).max:
            arrays[name] = arrays[name].astype(np.float16)
    with atomic_write(place / PREDICTIONS_FILE, "wb") as file:
        np.savez_compressed(file, **arrays)
    for name in (CONFIG_FILE, METRICS_FILE, RECORD_FILE):
        content = config_without_path(run / name) if name == CONFIG_FILE else (run / name).read_bytes()
        with atomic_write(place / name, "wb") as file:
            file.write(content)
