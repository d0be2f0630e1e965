"""What became of an experiment's cells, and the splits that their names need."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.cells import Cell, data_key, expand, split_key
from experiments.config.errors import ConfigError
from experiments.config.loading import varied_settings, with_settings
from experiments.config.schema import DataConfig, Experiment
from experiments.records.dataset import DATA_FILE, DataDescription, keep_descriptions, read_descriptions
from experiments.records.progress import LockError, is_running
from experiments.records.record import RECORD_FILE, RecordError, read_record, write_json
from experiments.records.reported import count
from experiments.records.state import StateError, read_cache, read_json

if TYPE_CHECKING:
    from experiments.data.images import Dataset

SPLITS_FILE = "splits.json"
"""Cache of split hashes in an experiment's folder, so that `status` names the cells without reading any data."""


def read_splits(folder: Path) -> dict[str, str]:
    """The cache of split hashes of an experiment's folder; empty where the file is missing or damaged."""
    return read_cache(folder / SPLITS_FILE, dict[str, str]) or {}


def known_splits(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Split hashes as the cache has them and, where it has none, as a record of the same settings does.

    Run folders that were copied from another machine are then known. Records that contradict each other tell nothing.
    """
    splits = read_splits(folder)
    unknown = {
        (cell.settings_hash, cell.train_fraction, cell.seed): split_key(cell.data, cell.train_fraction, cell.seed)
        for cell in expand(experiment, splits)
        if cell.split_hash is None
    }
    told: dict[str, set[str]] = {}
    for path in folder.glob(f"*/{RECORD_FILE}") if unknown else ():
        with contextlib.suppress(RecordError):
            record = read_record(path)
            if key := unknown.get((record.settings_hash, record.train_fraction, record.seed)):
                told.setdefault(key, set()).add(record.split_hash)
    return splits | {key: found.pop() for key, found in told.items() if len(found) == 1}


def lost_caches(folder: Path) -> list[str]:
    """A sentence for each cache of an experiment's folder that cannot be used. The next run makes it again from the data."""
    told = []
    for name, shape in ((SPLITS_FILE, dict[str, str]), (DATA_FILE, dict[str, DataDescription])):
        try:
            read_json(folder / name, shape)
        except FileNotFoundError:
            continue
        except StateError as error:
            told.append(f"{error}. It is made again from the data by `make experiment NAME={folder.name}`.")
    return told


def compute_splits(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Load the data, cut every split, refresh the cache, and describe the data in ``data.json``.

    Raises
    ------
    ConfigError
        For each data set that cannot be loaded and each class that a fraction leaves too small, all at once; if the folder
        cannot be written.
    """
    from experiments.data import datasets
    from experiments.data.description import describe

    splits: dict[str, str] = {}
    described: dict[str, DataDescription] = {}
    faults: list[str] = []
    known = read_descriptions(folder)
    for setting in varied_settings(experiment):
        for name, data in with_settings(experiment, setting)[1].items():
            key = data_key(data)
            try:
                dataset = datasets.load(data)
                described[key] = describe(dataset, data.title, known.get(key))
            except ConfigError as error:
                faults += error.faults
                continue
            own, small = _cut(experiment, data, dataset)
            faults += [f"experiment {experiment.name} with data {name}: {fault}" for fault in small]
            splits |= own
            described[key].split_hashes = sorted(own.values())
    if faults:
        raise ConfigError(*dict.fromkeys(faults))
    try:
        keep_splits(splits, folder)
        keep_descriptions(described, folder)
    except OSError as error:
        raise ConfigError(f"RUNS_DIR: {folder} cannot be written ({error.strerror}). Choose another folder.") from error
    return splits


def _cut(experiment: Experiment, data: DataConfig, dataset: Dataset) -> tuple[dict[str, str], list[str]]:
    """Hashes of all splits of a dataset by their keys, and the classes that a fraction leaves too small, for every seed."""
    from experiments.data.images import CUT
    from experiments.data.splits import nested_subset, ranked, split_hash

    pool, test, splits = dataset.pool, dataset.test, {}
    faults: list[str] = []
    cut = test.labels if dataset.test_split == CUT else None
    seeds = [*experiment.seeds, *([experiment.tuning.seed] if experiment.track in ("tuned", "random") else [])]
    for seed in seeds:
        order = ranked(pool.labels, seed)
        for fraction in experiment.train_fractions:
            try:
                train, val = nested_subset(pool.labels, fraction, seed, dataset.class_names, cut, order)
            except ConfigError as error:
                faults += error.faults
                continue
            splits[split_key(data, fraction, seed)] = split_hash(pool.ids[train], pool.ids[val], test.ids)
    return splits, faults


def keep_splits(splits: Mapping[str, str], folder: Path) -> None:
    """Add split hashes to the cache of an experiment's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read_splits(folder)
    if (after := {**before, **splits}) != before:
        write_json(folder / SPLITS_FILE, dict(sorted(after.items())), indent=0)


def cell_status(cell: Cell, folder: Path) -> tuple[str, str | None]:
    """``done``, ``failed``, ``running`` or ``missing``, with a reason where there is one to give.

    Where no lock tells whether somebody runs it, ``unknown``.
    """
    if cell.run_id is None:
        return "missing", None
    run_folder = folder / cell.run_id
    record = run_folder / RECORD_FILE
    if record.is_file():
        try:
            read = read_record(record)
        except RecordError as error:
            return "failed", str(error)
        return read.status, read.failure.message if read.failure else None
    try:
        return ("running", None) if is_running(run_folder) else ("missing", None)
    except LockError as error:
        return "unknown", str(error)


def left_to_run(cells: Sequence[Cell], folder: Path) -> list[Cell]:
    """The cells that have not ended."""
    return [cell for cell in cells if not (folder / str(cell.run_id) / RECORD_FILE).is_file()]


def ledger(experiment: Experiment, cells: list[Cell], folder: Path, trials: Sequence[Cell] = ()) -> dict[str, Any]:
    """What was expected and what became of it, as the plain value that ``ledger.json`` holds.

    Tuning trials stand apart: no table is made of them.
    """

    def entry(cell: Cell) -> dict[str, Any]:
        status, reason = cell_status(cell, folder)
        return {
            "run_id": cell.run_id,
            "model": cell.model_name,
            "data": cell.data_name,
            "train_fraction": cell.train_fraction,
            "seed": cell.seed,
            "varied": cell.varied,
            "status": status,
            "reason": reason,
        }

    entries = [entry(cell) for cell in cells]
    mine = {cell.run_id for cell in [*cells, *trials]}
    other = sorted(path.parent.name for path in folder.glob(f"*/{RECORD_FILE}") if path.parent.name not in mine)
    values = {"experiment": experiment.name, "counts": count(entries), "cells": entries, "other": other}
    if trials:
        values["trials"] = [entry(trial) | {"trial": trial.trial} for trial in trials]
    return values
