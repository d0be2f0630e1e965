"""Records on disk → one frame, one row per run, and what each run answered on every test image.

Every record is checked before it is used: its schema, its place in the grid, its numbers, and its predictions, from which
its metrics are computed again. A run that fails a check is named in `Results.faults` and left out; it then counts as an
incomplete cell, never as a smaller mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fairness.copies import copied_or_foreign
from analysis.run_folder import (
    COMPUTE_COLUMNS,
    Arrays,
    Loaded,
    PerImage,
    Refused,
    load_run,
    read_predictions,
)
from experiments.config.cells import setting_label
from experiments.config.errors import UserError
from experiments.config.schema import Experiment, ModelConfig
from experiments.records.dataset import DataDescription, read_descriptions
from experiments.records.digests import changed_files
from experiments.records.intended import Decision, read_decision
from experiments.records.record import PREDICTIONS_FILE, RECORD_FILE, Compute, Record, RecordError, read_record

Tuned = tuple[str, str, float]
"""What trials are of: a model, a dataset and a train fraction."""


class NothingDone(UserError):
    """There is no usable run to report on. The message says what was found instead and what to do."""


@dataclass(frozen=True)
class Results:
    """Everything an experiment's report is made from."""

    folder: Path
    """The experiment's folder of runs."""
    runs: pd.DataFrame
    """One row per usable run, models in table order, accuracies as fractions."""
    cells: pd.DataFrame
    """The ledger's cells, with ``setting`` as in `runs`; a done cell whose run is unusable has status ``unusable``."""
    records: Mapping[str, Record]
    per_image: Mapping[str, PerImage]
    labels: Mapping[str, np.ndarray]
    """Per test set (a value of the column ``test_digest``): the labels in the order of the ids."""
    class_names: Mapping[str, tuple[str, ...]]
    """Per dataset."""
    faults: list[str]
    """One sentence per record that could not be used, or only in part. Paths begin at the folder of all runs, so that they
    read the same wherever that lies."""
    _curves: Mapping[str, list[dict[str, Any]]]
    trials: Mapping[Tuned, list[Record]] = field(default_factory=dict)
    """By model, data and fraction: the trials of tracks B and R, in their order, where all can be read."""
    decision: Decision | None = None
    """What was to be decided, where seeds were added in looks."""
    descriptions: Mapping[str, DataDescription] = field(default_factory=dict)
    """Per dataset, where it was described when its splits were cut."""

    @property
    def costs(self) -> list[Compute]:
        """What every run and tuning trial cost, each once: tables charge a trial to every run of its recipe."""
        return [record.compute for record in chain(self.records.values(), *self.trials.values())]

    @property
    def groups(self) -> list[tuple[str, str]]:
        """Every (data, setting) of the grid, one table each, in the grid's order."""
        return list(dict.fromkeys(zip(self.cells["data"], self.cells["setting"], strict=True)))

    def predictions(self, run_id: str) -> Arrays:
        """Read one run's arrays from disk again, logits included, test images in ascending order of their ids."""
        return read_predictions(self.folder / run_id / PREDICTIONS_FILE)

    def curves(self, run_id: str) -> pd.DataFrame:
        """Evaluations of one run, one row each: step, samples_seen, train/loss, val/top1, …; empty if unreadable."""
        return pd.DataFrame(self._curves.get(run_id, []))


def select(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows of a frame that have these values in these columns: ``select(runs, data="digits", setting="")``."""
    chosen = np.ones(len(frame), dtype=bool)
    for column, value in where.items():
        chosen &= (frame[column] == value).to_numpy(dtype=bool)
    return frame[chosen]


def table_order(models: Mapping[str, ModelConfig]) -> list[str]:
    """Models in the order of a table's rows: grouped by family, families and models as listed, the project's own last."""
    families = list(dict.fromkeys(model.family for model in models.values()))
    own = {model.family for model in models.values() if model.source == "scratch"}

    def position(name: str) -> tuple[bool, int, bool]:
        model = models[name]
        return model.family in own, families.index(model.family), model.source == "scratch"

    return sorted(models, key=position)


def load(ledger: Mapping[str, Any], folder: Path, experiment: Experiment, known_faults: Sequence[str] = ()) -> Results:
    """Read and check every run in `folder` that the ledger, as in ``ledger.json``, calls done.

    `known_faults` are sentences on what was found before, which stand first among the faults.

    Raises
    ------
    NothingDone
        If no run is usable. The message lists the faults.
    """
    cells = pd.DataFrame(ledger["cells"])
    if cells.empty:
        raise NothingDone(f"{folder}: the grid of experiment {experiment.name!r} has no cell; list models, data and seeds.")
    cells["setting"] = [setting_label(varied) for varied in cells["varied"]]
    trials = _whole_tunings(ledger, folder, experiment)
    runs, unusable, faults = _usable(ledger, folder, experiment, trials)
    faults = [*known_faults, *faults]
    if not runs:
        raise _nothing_done(folder, experiment, cells, faults)
    refused = cells["run_id"].isin(list(unusable))
    cells.loc[refused, "status"] = "unusable"
    cells.loc[refused, "reason"] = cells.loc[refused, "run_id"].map(unusable)
    records = {run_id: run.record for run_id, run in runs.items()}
    first_first = list(runs.values())[::-1]  # of several, a mapping keeps the last
    return Results(
        folder=folder,
        runs=_frame([run.row for run in runs.values()], experiment),
        cells=cells,
        records=records,
        per_image={run_id: run.per_image for run_id, run in runs.items()},
        labels={run.row["test_digest"]: run.labels for run in first_first},
        class_names={run.row["data"]: run.class_names for run in first_first},
        faults=[fault.replace(f"{folder.parent.parent}{os.sep}", "") for fault in faults],
        _curves={run_id: run.curve for run_id, run in runs.items()},
        trials=trials,
        decision=read_decision(folder, experiment.args),
        descriptions=_descriptions(folder, records.values()),
    )


def _usable(
    ledger: Mapping[str, Any], folder: Path, experiment: Experiment, trials: Mapping[Tuned, Sequence[Record]]
) -> tuple[dict[str, Loaded], dict[str, str], list[str]]:
    """Runs that passed every check by id, why the others did not, and all faults."""
    runs: dict[str, Loaded] = {}
    unusable: dict[str, str] = {}
    faults: list[str] = []
    changed = {name.partition("/")[0]: sentence for name, sentence in changed_files(folder).items()}
    for cell in ledger["cells"]:
        run_id = cell["run_id"]
        if run_id in changed:
            faults.append(changed[run_id])
            unusable[run_id] = changed[run_id].replace(f"{folder / run_id}{os.sep}", "")
            continue
        if not run_id or not (cell["status"] == "done" or _unreadable(cell, folder)):
            continue
        tuned = (cell["varied"] or {}).get("track") == "tuned"
        try:
            runs[run_id] = load_run(cell, folder / run_id, experiment, trials.get(_tuning_key(cell), ()) if tuned else ())
        except (RecordError, Refused) as refusal:
            faults.append(str(refusal))
            unusable[run_id] = str(refusal).replace(f"{folder / run_id}{os.sep}", "")
    for run_id, sentence in copied_or_foreign(runs).items():
        faults.append(f"{folder / run_id}: {sentence}")
        unusable[run_id] = sentence
        del runs[run_id]
    return runs, unusable, [*faults, *(fault for run in runs.values() for fault in run.faults)]


def _descriptions(folder: Path, records: Iterable[Record]) -> dict[str, DataDescription]:
    """What the datasets of these runs were, found by the splits that were cut from them."""
    by_split = {split: described for described in read_descriptions(folder).values() for split in described.split_hashes}
    return {record.data: by_split[record.split_hash] for record in records if record.split_hash in by_split}


def _tuning_key(cell: Mapping[str, Any]) -> Tuned:
    return cell["model"], cell["data"], cell["train_fraction"]


def _whole_tunings(ledger: Mapping[str, Any], folder: Path, experiment: Experiment) -> dict[Tuned, list[Record]]:
    """Records of trials, where all of a tuning can be read: a report needs none of them, its costs are checked with them."""
    found: dict[Tuned, list[Record]] = {}
    for trial in ledger.get("trials", []):
        with contextlib.suppress(RecordError):
            found.setdefault(_tuning_key(trial), []).append(read_record(folder / str(trial["run_id"]) / RECORD_FILE))
    return {key: trials for key, trials in found.items() if len(trials) == experiment.tuning.trials}


def _nothing_done(folder: Path, experiment: Experiment, cells: pd.DataFrame, faults: list[str]) -> NothingDone:
    counts = ", ".join(f"{number} {status}" for status, number in cells["status"].value_counts().items())
    text = (
        f"{folder}: no usable run of experiment {experiment.name!r} (cells: {counts}). "
        f"Run `make experiment NAME={experiment.name}` first."
    )
    return NothingDone("\n".join([text, *faults]))


def _frame(rows: list[dict[str, Any]], experiment: Experiment) -> pd.DataFrame:
    """Rows in table order: data, setting, model, fraction from large to small, seed."""
    runs = pd.DataFrame(rows)
    numeric = [name for name in runs.columns if "/" in name or name in COMPUTE_COLUMNS]
    runs[numeric] = runs[numeric].astype(float)
    settings = list(dict.fromkeys(runs["setting"]))
    keys = pd.DataFrame(
        {
            "data": runs["data"].map(list(experiment.data).index),
            "setting": runs["setting"].map(settings.index),
            "model": runs["model"].map(table_order(experiment.models).index),
            "fraction": -runs["train_fraction"],
            "seed": runs["seed"],
        }
    )
    return runs.loc[keys.sort_values(list(keys.columns), kind="stable").index].reset_index(drop=True)


def _unreadable(cell: Mapping[str, Any], folder: Path) -> bool:
    """Whether a cell counts as failed only because its record cannot be read: that is then named as a fault."""
    path = folder / cell["run_id"] / RECORD_FILE
    if cell["status"] != "failed" or not path.is_file():
        return False
    try:
        read_record(path)
    except RecordError:
        return True
    return False
