"""An experiment → its cells, their names, and the ledger of what became of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config import ConfigError, DataConfig, Execution, Experiment, ModelConfig, Recipe, Tuning, repeat_command
from experiments.data_record import DataDescription, keep_descriptions, read_descriptions
from experiments.identity import PROTOCOL, canonical_hash, fraction_label, hashed_values, settings_hash
from experiments.loading import varied_settings, with_settings
from experiments.progress import is_running
from experiments.record import RECORD_FILE, RecordError, atomic_write, read_record

if TYPE_CHECKING:
    from experiments.data.images import Dataset

SPLITS_FILE = "splits.json"
"""Cache of split hashes in an experiment's folder, so that `status` names the cells without reading any data."""


@dataclass(frozen=True)
class Cell:
    """One combination of an experiment, before it runs. Plain values: it travels to worker processes."""

    experiment: str
    model_name: str
    model: ModelConfig
    data_name: str
    data: DataConfig
    recipe_name: str
    recipe: Recipe
    train_fraction: float
    seed: int
    varied: dict[str, Any]
    execution: Execution
    split_hash: str | None
    """None where the split has never been computed: such a cell has not run."""
    target_val_top1: float | None = None
    tuning: Tuning | None = None
    """On track B the space that the recipe is chosen from."""
    trial_split_hash: str | None = None
    """Split of the tuning seed, on track B."""
    trial: int | None = None
    """Number of a tuning trial, which never sees the test set; None for a run that is reported."""
    args: str = ""
    """The overrides of the command that asked for the cell."""

    @property
    def command(self) -> str:
        """What to type to run the cell's grid again."""
        return repeat_command(self.experiment, self.args)

    @property
    def track(self) -> str:
        """``identical``: one recipe for all; ``tuned``: for each model the best of equally many trials."""
        return "tuned" if self.tuning else "identical"

    @cached_property
    def settings_hash(self) -> str:
        """Hash of everything but the model."""
        return settings_hash(self.recipe, self.data, self.tuning)

    @cached_property
    def run_id(self) -> str | None:
        """``<model>-<data>-f<fraction>-s<seed>-<hash8>``."""
        if self.split_hash is None:
            return None
        identity = {
            "settings": self.settings_hash,
            "split": self.split_hash,
            "model": hashed_values(self.model, exclude={"title"}),
            "protocol": PROTOCOL,
        }
        label = f"{self.model_name}-{self.data_name}-f{fraction_label(self.train_fraction)}-s{self.seed}"
        if self.trial is not None:
            label, identity = f"{label}-trial{self.trial}", identity | {"trial": self.trial}
        return f"{label}-{canonical_hash(identity)[:8]}"

    def describe(self) -> str:
        """How progress lines call the cell."""
        varied = "".join(f" {key.rpartition('.')[2]}={value}" for key, value in self.varied.items())
        turn = f"seed {self.seed}" if self.trial is None else f"trial {self.trial}"
        return f"{self.model_name} {self.data_name} {100 * self.train_fraction:.4g}% {turn}{varied}"

    @property
    def title(self) -> str:
        """The run's name for people: ``ResNet-micro · digits · 10% · seed 0``."""
        turn = f"seed {self.seed}" if self.trial is None else f"trial {self.trial}"
        varied = [f"{key.rpartition('.')[2]}={value}" for key, value in self.varied.items()]
        return " · ".join([self.model.title, self.data.title, f"{100 * self.train_fraction:.4g}%", turn, *varied])


def data_key(data: DataConfig) -> str:
    """Key of a dataset in the caches: the data as it is requested."""
    return canonical_hash(hashed_values(data, exclude={"title"}))[:16]


def split_key(data: DataConfig, train_fraction: float, seed: int) -> str:
    """Key of a split in the cache: the data as it is requested, the fraction and the seed."""
    return f"{data_key(data)}/{fraction_label(train_fraction)}/{seed}"


def expand(experiment: Experiment, splits: Mapping[str, str]) -> list[Cell]:
    """All cells that are reported, in the order in which they run: seeds outermost, so that an early stop leaves whole rows.

    On track B the identical recipe comes first, as the block that the tuned one is read against.

    Parameters
    ----------
    experiment : Experiment
    splits : mapping
        Split hashes by `split_key`; those absent leave the cell without a run id.
    """
    tracks: list[tuple[dict[str, Any], Tuning | None]] = [(setting, None) for setting in varied_settings(experiment)]
    if experiment.track == "tuned":
        tracks = [({"track": "identical"}, None), ({"track": "tuned"}, experiment.tuning)]
    cells = []
    for varied, tuning in tracks:
        recipe, datasets = with_settings(experiment, {} if experiment.track == "tuned" else varied)
        for (data_name, data), seed in product(datasets.items(), experiment.seeds):
            for fraction in sorted(experiment.train_fractions, reverse=True):
                trial_split = splits.get(split_key(data, fraction, tuning.seed)) if tuning else None
                cells += [
                    Cell(
                        experiment=experiment.name,
                        model_name=model_name,
                        model=model,
                        data_name=data_name,
                        data=data,
                        recipe_name=experiment.recipe_name,
                        recipe=recipe,
                        train_fraction=fraction,
                        seed=seed,
                        varied=varied,
                        execution=experiment.execution,
                        split_hash=splits.get(split_key(data, fraction, seed)),
                        target_val_top1=experiment.target_val_top1,
                        tuning=tuning,
                        trial_split_hash=trial_split,
                        args=experiment.args,
                    )
                    for model_name, model in experiment.models.items()
                ]
    return cells


def read_splits(folder: Path) -> dict[str, str]:
    """The cache of split hashes of an experiment's folder; empty where there is none."""
    try:
        values = json.loads((folder / SPLITS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def compute_splits(experiment: Experiment, folder: Path) -> dict[str, str]:
    """Load the data, cut every split, refresh the cache, and describe the data in ``data.json``.

    Raises
    ------
    ConfigError
        For each data set that cannot be had and each class that a fraction leaves too small, all at once; if the folder
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
                faults += [fault for fault in error.faults if fault not in faults]
                continue
            own, small = _cut(experiment, data, dataset)
            told = [f"experiment {experiment.name} with data {name}: {fault}" for fault in small]
            faults += [fault for fault in told if fault not in faults]
            splits |= own
            described[key].split_hashes = sorted(own.values())
    if faults:
        raise ConfigError(faults)
    try:
        keep_splits(splits, folder)
        keep_descriptions(described, folder)
    except OSError as error:
        raise ConfigError([f"RUNS_DIR: {folder} cannot be written ({error.strerror}). Choose another folder."]) from error
    return splits


def _cut(experiment: Experiment, data: DataConfig, dataset: Dataset) -> tuple[dict[str, str], list[str]]:
    """Hashes of all splits of a dataset by their keys, and the classes that a fraction leaves too small."""
    from experiments.data.images import CUT
    from experiments.data.splits import nested_subset, split_hash

    pool, test, splits = dataset.pool, dataset.test, {}
    faults: dict[str, None] = {}
    cut = test.labels if dataset.test_split == CUT else None
    seeds = [*experiment.seeds, *([experiment.tuning.seed] if experiment.track == "tuned" else [])]
    for fraction in experiment.train_fractions:
        for seed in seeds:
            try:
                train, val = nested_subset(pool.labels, fraction, seed, dataset.class_names, cut)
            except ConfigError as error:
                faults |= dict.fromkeys(error.faults)
                break
            splits[split_key(data, fraction, seed)] = split_hash(pool.ids[train], pool.ids[val], test.ids)
    return splits, list(faults)


def keep_splits(splits: Mapping[str, str], folder: Path) -> None:
    """Add split hashes to the cache of an experiment's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read_splits(folder)
    if {**before, **splits} != before:
        with atomic_write(folder / SPLITS_FILE) as file:
            json.dump({**before, **splits}, file, indent=0, sort_keys=True)


def cell_status(cell: Cell, folder: Path) -> tuple[str, str | None]:
    """``done``, ``failed``, ``running`` or ``missing``, with a reason where there is one to give."""
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
    return ("running", None) if is_running(run_folder) else ("missing", None)


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
    counts = {name: sum(entry["status"] == name for entry in entries) for name in ("done", "failed", "running", "missing")}
    mine = {cell.run_id for cell in [*cells, *trials]}
    other = sorted(path.parent.name for path in folder.glob(f"*/{RECORD_FILE}") if path.parent.name not in mine)
    values = {"experiment": experiment.name, "counts": {"expected": len(cells), **counts}, "cells": entries, "other": other}
    if trials:
        values["trials"] = [entry(trial) | {"trial": trial.trial} for trial in trials]
    return values
