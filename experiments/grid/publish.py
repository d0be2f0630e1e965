"""Finished runs without what only this machine needs: small enough to publish, whole enough to be analysed again."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.config.errors import ConfigError
from experiments.grid.ledger import keep_splits, read_splits
from experiments.records.dataset import keep_descriptions, read_descriptions
from experiments.records.digests import add_digests
from experiments.records.folder import config_without_path
from experiments.records.intended import without_paths
from experiments.records.record import CONFIG_FILE, METRICS_FILE, PREDICTIONS_FILE, RECORD_FILE, write_whole

_LARGEST_HALVED = 60_000.0
"""Logits beyond it stay as they are; half precision ends at 65,504."""


class Published(NamedTuple):
    """What was written: runs and bytes; and a sentence for each run that was left out."""

    runs: int
    size: int
    faults: list[str]


def publish(ledger: Mapping[str, Any], folder: Path, target: Path) -> Published:
    """Copy the finished runs of an experiment, without weights and checkpoints and with logits in half precision.

    Half precision changes no recorded metric, since records are copied as they are, and no predicted class; the analysis
    allows for its rounding when it computes likelihoods again. Logits too large for it stay as they are.

    `ledger` is as `experiments.grid.ledger.ledger` gives it, `folder` that of the experiment's runs; `target` shall hold
    ``<experiment>/<run_id>/``.

    Raises
    ------
    ConfigError
        If no cell is done, or the target cannot be written or is where the runs are.
    """
    name = ledger["experiment"]
    done = [entry["run_id"] for entry in [*ledger["cells"], *ledger.get("trials", [])] if entry["status"] == "done"]
    if not done:
        raise ConfigError(f"publish: {folder} holds no run of these settings. Run it first: make experiment NAME={name}")
    place = target / name
    for run_folder, copy in ((folder, place), *((folder / run_id, place / run_id) for run_id in done)):
        if copy.resolve() == run_folder.resolve():
            raise ConfigError(f"--to: {copy} holds the runs themselves. Choose another folder.")
    try:
        keep_splits(read_splits(folder), place)
        keep_descriptions(read_descriptions(folder), place)
        _write(without_paths(folder), place)
    except OSError as error:
        raise ConfigError(f"--to: {place} cannot be written ({error.strerror}). Choose another folder.") from error
    faults, written = list[str](), dict[str, int]()
    for run_id in done:
        try:
            contents = _contents(folder / run_id)
        except _Damaged as damage:
            faults.append(f"{damage} The run is left out; delete its folder and run the experiment again.")
            continue
        _write(contents, place / run_id)
        written[run_id] = sum(map(len, contents.values()))
    add_digests(place, written)
    return Published(len(written), sum(written.values()), faults)


class _Damaged(Exception):
    """A file of a run that cannot be read; the message names it."""


def _contents(run: Path) -> dict[str, bytes]:
    """Files of one run by name, the record last; evaluations and configuration may be missing, as in a report."""
    contents = {}
    for name, read in (
        (PREDICTIONS_FILE, _halved),
        (CONFIG_FILE, config_without_path),
        (METRICS_FILE, Path.read_bytes),
        (RECORD_FILE, Path.read_bytes),
    ):
        try:
            contents[name] = read(run / name)
        except Exception as error:  # a damaged archive raises nearly anything
            if isinstance(error, FileNotFoundError) and name in (CONFIG_FILE, METRICS_FILE):
                continue
            reason = getattr(error, "strerror", None) or error
            raise _Damaged(f"{run / name}: cannot be read ({reason}).") from error
    return contents


def published_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a ``predictions.npz`` as they are published, with logits in half precision; raises as `numpy.load`."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name in ("logits", "val_logits"):
        if name in arrays and np.abs(arrays[name]).max(initial=0.0) <= _LARGEST_HALVED:
            arrays[name] = half_precision(arrays[name])
    return arrays


def _halved(path: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **published_arrays(path))
    return buffer.getvalue()


def half_precision(logits: NDArray[np.float32]) -> NDArray[np.float16]:
    """Logits of shape (N, classes) in half precision, with the same predicted classes.

    Where rounding ties the largest logit with one before it, so that another class would be predicted, the largest is raised
    to the next number: intervals over images must not hang on such ties.
    """
    halved, predicted = logits.astype(np.float16), logits.argmax(axis=1)
    lost = np.flatnonzero(halved.argmax(axis=1) != predicted)
    halved[lost, predicted[lost]] = np.nextafter(halved[lost].max(axis=1), np.float16(np.inf))
    return halved


def _write(contents: Mapping[str, bytes], place: Path) -> None:
    """One run; its record comes last, as the run itself wrote it."""
    for name, content in contents.items():
        write_whole(place / name, content)
