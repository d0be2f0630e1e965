"""Run folders that lie among an experiment's own and are not of its grid: what they are, and whose place they would take.

A run of other settings has another run id, so that it can never slip into a table unseen. Where its place in the grid is
filled by a run of the right settings it is left out and named. Where that place is empty the report would be of fewer runs
than lie there, or of unequal ones: it is refused, with each difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.certificate import Difference, flatten, read_config, table_label
from analysis.run_folder import setting_label
from experiments.config.identity import PROTOCOL, added_fields, requested_settings
from experiments.config.schema import Experiment, ModelConfig, join_words, quoted
from experiments.records.record import CONFIG_FILE, RECORD_FILE, Record, RecordError, read_record

Cell = dict[str, Any]
Ledger = Mapping[str, Any]
Place = tuple[Any, ...]
"""Model, data, train fraction, seed and setting: where in the grid a cell or a record stands."""

_WANTED = " (this experiment)"


@dataclass(frozen=True)
class Strangers:
    """What was found.

    Attributes
    ----------
    sentences : list of str
        About runs that are left out.
    differences : list of Difference
        Between the experiment and the runs that would take the place of a missing cell.
    adopted : dict
        Places of missing cells → ids of the runs that would take them, the newest for each.
    """

    sentences: list[str]
    differences: list[Difference]
    adopted: dict[Place, str]

    @property
    def advice(self) -> str:
        """The words that make the experiment the one that the runs were made by, where there are such."""
        words: list[str] = []
        for difference in self.differences:
            theirs = [value for value in difference.values if not value.endswith(_WANTED)]
            if not difference.key.startswith(("recipe.", "data.")) or len(theirs) != 1 or theirs == ["absent"]:
                return ""
            words.append(f"{difference.key}={'null' if theirs == ['None'] else theirs[0]}")
        args = quoted(join_words(dict.fromkeys(words)))
        return f"To report on those runs, give the settings that they were made with: ARGS={args}."

    def adopt(self, ledger: Ledger) -> dict[str, Any]:
        """The ledger with missing cells taken by runs of other settings, for a report that says so."""
        cells = [
            {**cell, "run_id": self.adopted[place], "status": "done"} if (place := _place(cell)) in self.adopted else cell
            for cell in ledger["cells"]
        ]
        return {**ledger, "cells": cells}


def examine(ledger: Ledger, folder: Path, experiment: Experiment) -> Strangers:
    """Read the records that the ledger calls others and tell how each differs from the cell whose place it has.

    Parameters
    ----------
    ledger : mapping
        As in ``ledger.json``.
    folder : Path
        Folder of the experiment's run folders.
    experiment : Experiment
    """
    cells = {_place(cell): cell for cell in ledger["cells"]}
    unreadable: list[str] = []
    elsewhere: list[str] = []
    placed: list[tuple[Record, Cell, dict[str, tuple[str, str]]]] = []
    for name in sorted(ledger.get("other", [])):
        try:
            record = read_record(folder / name / RECORD_FILE)
        except RecordError as error:
            unreadable.append(str(error))
            continue
        cell = cells.get(_place(record.model_dump()))
        ours = record.experiment == experiment.name and record.run_id == name
        if cell is None or not ours or record.status != "done" or record.trial is not None:
            elsewhere.append(name)
        else:
            placed.append((record, cell, _differences(record, cell, folder / name, experiment)))
    sentences = [*unreadable, *_outside(folder, elsewhere)]
    contenders = [entry for entry in placed if entry[1]["status"] == "missing"]
    sentences += _left_out(folder, [entry for entry in placed if entry[1]["status"] != "missing"])
    oldest_first = sorted(contenders, key=lambda entry: entry[0].finished)
    adopted = {_place(cell): record.run_id for record, cell, _ in oldest_first}
    return Strangers(sentences, _by_table(contenders), adopted)


def _place(values: Mapping[str, Any]) -> Place:
    place = tuple(values[key] for key in ("model", "data", "train_fraction", "seed"))
    return (*place, setting_label(values["varied"] or {}))


def _differences(record: Record, cell: Cell, folder: Path, experiment: Experiment) -> dict[str, tuple[str, str]]:
    """What differs between a record and the cell whose place it has: key → (wanted, found)."""
    wanted = _requested(experiment, cell)
    try:
        config = read_config(folder / CONFIG_FILE)
        found, model = flatten(config["requested"]), config["model"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {"settings_hash": ("that of this experiment", record.settings_hash)}
    keys = sorted(key for key in {*wanted, *found} if wanted.get(key, "absent") != found.get(key, "absent"))
    differences = {key: (str(wanted.get(key, "absent")), str(found.get(key, "absent"))) for key in keys}
    own = flatten(experiment.models[record.model].model_dump())
    differences |= {
        f"model.{key}": (str(value), str(theirs))
        for key, value in own.items()
        if key != "title" and (theirs := flatten(_younger_fields(model)).get(key, "absent")) != value
    }
    if record.protocol != PROTOCOL:
        differences["protocol"] = (str(PROTOCOL), str(record.protocol))
    return differences or {"split_hash": ("the images as they are now", record.split_hash)}


def _younger_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """A run's model with the fields that did not exist when it was made, which were then as their default is now."""
    return {name: ModelConfig.model_fields[name].default for name in added_fields(ModelConfig)} | dict(model)


def _requested(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    """The settings that a cell asks for, as dotted keys."""
    varied = cell["varied"] or {}
    tuning = experiment.tuning if varied.get("track") == "tuned" else None
    flat = flatten(requested_settings(experiment.recipe, experiment.data[cell["data"]], tuning))
    return flat | {key: value for key, value in varied.items() if key in flat}


def _by_table(contenders: Sequence[tuple[Record, Cell, dict[str, tuple[str, str]]]]) -> list[Difference]:
    """One difference per table and key, with every run that has it."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for record, cell, differences in contenders:
        table = table_label(cell["data"], setting_label(cell["varied"] or {}))
        for key, (wanted, theirs) in differences.items():
            values = found.setdefault((table, key), {f"{wanted}{_WANTED}": []})
            values.setdefault(theirs, []).append(record.run_id)
    return [Difference(key, table, values) for (table, key), values in found.items()]


def _left_out(folder: Path, placed: Sequence[tuple[Record, Cell, dict[str, tuple[str, str]]]]) -> list[str]:
    """One sentence for each way to differ, on runs whose place is filled by a run of the right settings."""
    groups: dict[str, list[str]] = {}
    for record, _, differences in placed:
        words = ", ".join(f"{key} {theirs} instead of {wanted}" for key, (wanted, theirs) in differences.items())
        groups.setdefault(words, []).append(record.run_id)
    return [
        f"{folder}: {_runs(names)} of other settings ({words}), left out: {_named(names)}."
        for words, names in groups.items()
    ]


def _outside(folder: Path, names: list[str]) -> list[str]:
    """A sentence on runs that have no place in the grid, such as one of a seed that is not listed."""
    return [f"{folder}: {_runs(names)} not of this grid, left out: {_named(names)}."] if names else []


def _runs(names: Sequence[str]) -> str:
    return f"{len(names)} run folder{'s' * (len(names) > 1)}"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
