"""Run folders that lie among an experiment's own and are not of its grid: what they are, and whose place they would take.

A run of other settings has another run id, so that it can never slip into a table unseen. Where its place in the grid is
filled by a run of the right settings it is left out and named. Where that place is empty the report would be of fewer runs
than lie there, or of unequal ones: it is refused, with each difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from analysis.fairness.certificate import Difference, read_config, table_label
from experiments.config.cells import setting_label
from experiments.config.identity import PROTOCOL, added_fields, flattened, requested_settings
from experiments.config.schema import Experiment, ModelConfig, join_words, quoted
from experiments.config.text import listed
from experiments.records.record import CONFIG_FILE, RECORD_FILE, Record, RecordError, read_record

Cell = dict[str, Any]
Ledger = Mapping[str, Any]
Place = tuple[Any, ...]
"""Model, data, train fraction, seed and setting: where in the grid a cell or a record stands."""

_WANTED = " (this experiment)"


class _Placed(NamedTuple):
    """A run of other settings, the cell whose place it has, and what differs: key → (wanted, found)."""

    record: Record
    cell: Cell
    differences: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Strangers:
    """What was found."""

    sentences: list[str]
    """About runs that are left out."""
    differences: list[Difference]
    """Between the experiment and the runs that would take the place of a missing cell."""
    adopted: dict[Place, str]
    """Places of missing cells → ids of the runs that would take them, the newest for each."""

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
    """Tell how each record that the ledger calls other differs from the cell whose place it has."""
    cells = {_place(cell): cell for cell in ledger["cells"]}
    sentences: list[str] = []
    elsewhere: list[str] = []
    placed: list[_Placed] = []
    for name in sorted(ledger.get("other", [])):
        try:
            record = read_record(folder / name / RECORD_FILE)
        except RecordError as error:
            sentences.append(str(error))
            continue
        cell = cells.get(_place(record.model_dump()))
        ours = record.experiment == experiment.name and record.run_id == name
        if cell is None or not ours or record.status != "done" or record.trial is not None:
            elsewhere.append(name)
        else:
            placed.append(_Placed(record, cell, _differences(record, cell, folder / name, experiment)))
    groups: dict[str, list[str]] = {"not of this grid": elsewhere} if elsewhere else {}
    contenders = []
    for entry in placed:
        if entry.cell["status"] == "missing":
            contenders.append(entry)
        else:
            words = ", ".join(f"{key} {theirs} instead of {wanted}" for key, (wanted, theirs) in entry.differences.items())
            groups.setdefault(f"of other settings ({words})", []).append(entry.record.run_id)
    for what, names in groups.items():
        folders = f"{len(names)} run folder{'s' * (len(names) > 1)}"
        sentences.append(f"{folder}: {folders} {what}, left out: {listed(names, 3)}.")
    oldest_first = sorted(contenders, key=lambda entry: entry.record.finished)
    adopted = {_place(entry.cell): entry.record.run_id for entry in oldest_first}
    return Strangers(sentences, _by_table(contenders), adopted)


def _place(values: Mapping[str, Any]) -> Place:
    return (*(values[key] for key in ("model", "data", "train_fraction", "seed")), setting_label(values["varied"]))


def _differences(record: Record, cell: Cell, folder: Path, experiment: Experiment) -> dict[str, tuple[str, str]]:
    """What differs between a record and the cell whose place it has: key → (wanted, found)."""
    varied = cell["varied"] or {}
    track = varied.get("track", "identical")
    tuning = experiment.tuning if track == "tuned" else None
    recipe = experiment.own[cell["model"]] if track == "own" else experiment.recipe
    wanted = flattened(requested_settings(recipe, experiment.data[cell["data"]], tuning, track))
    wanted |= {key: value for key, value in varied.items() if key in wanted}
    try:
        config = read_config(folder / CONFIG_FILE)
        found, model = flattened(config["requested"]), config["model"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {"settings_hash": ("that of this experiment", record.settings_hash)}
    # Fields that did not exist when the run was made were then as their default is now.
    younger = {name: ModelConfig.model_fields[name].default for name in added_fields(ModelConfig)}
    own = flattened(experiment.models[record.model].model_dump(exclude={"title"}))
    wanted |= {f"model.{key}": value for key, value in own.items()}
    found |= {f"model.{key}": value for key, value in flattened(younger | dict(model)).items() if key in own}
    wanted["protocol"], found["protocol"] = PROTOCOL, record.protocol
    differences = {
        key: (str(wanted.get(key, "absent")), str(found.get(key, "absent")))
        for key in sorted({*wanted, *found})
        if wanted.get(key, "absent") != found.get(key, "absent")
    }
    return differences or {"split_hash": ("the images as they are now", record.split_hash)}


def _by_table(contenders: list[_Placed]) -> list[Difference]:
    """One difference per table and key, with every run that has it."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for record, cell, differences in contenders:
        table = table_label(cell["data"], setting_label(cell["varied"]))
        for key, (wanted, theirs) in differences.items():
            values = found.setdefault((table, key), {f"{wanted}{_WANTED}": []})
            values.setdefault(theirs, []).append(record.run_id)
    return [Difference(key, table, values) for (table, key), values in found.items()]
