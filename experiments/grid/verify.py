"""Published runs, trained again from their own configuration and compared with what was published.

On the same kind of processor and the same versions the bits are equal. Elsewhere sums round otherwise, and training makes
small differences large: how large is measured for each cell, by training it again from initial weights that were each moved
to the number beside them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError
from scipy import special, stats

from experiments.config.cells import Cell, split_key
from experiments.config.errors import ConfigError
from experiments.config.schema import DataConfig, Execution, Experiment, ModelConfig, Recipe, Tuning
from experiments.grid.ledger import compute_splits
from experiments.grid.publish import published_arrays
from experiments.records.digests import SUMS_FILE, changed_files, file_digest
from experiments.records.progress import now
from experiments.records.record import CONFIG_FILE, PREDICTIONS_FILE, RECORD_FILE, Record, RecordError, read_record
from experiments.training import stop

NUDGES = 3
"""Repetitions from nudged weights of a cell whose bits differ."""
HOW = (
    "Distance: total variation of the predicted probabilities, mean over test images, between the published run and the one "
    f"trained again. Bound: {NUDGES} more runs, from initial weights each moved to the number beside it; the 97.5% "
    "prediction limit of a further distance, log-normal, its spread pooled over the cells."
)
Launch = Callable[[list[Cell], Path], None]
"""Trains cells into a folder."""
Arrays = Mapping[str, np.ndarray]


def finished(folder: Path) -> list[Record]:
    """The records of the finished runs of a published experiment.

    Raises
    ------
    ConfigError
        If there is none, or files changed after they were published: each is named.
    """
    if changed := changed_files(folder):
        raise ConfigError(*changed.values())
    records = [read_record(path) for path in sorted(folder.glob(f"*/{RECORD_FILE}")) if path.is_file()]
    done = [record for record in records if record.status == "done"]
    if not done:
        raise ConfigError(f"FROM: {folder} holds no finished run. Give the folder that holds {folder.name}/<run_id>/.")
    return done


def choose(records: Sequence[Record], number: int) -> list[Record]:
    """Cells to train again: the cheapest first, each as unlike those before it as can be in model, fraction and seed."""
    alike = ("model", "train_fraction", "seed", "data", "varied")
    left = sorted((r for r in records if r.trial is None), key=lambda r: (r.compute.train_pflops or 0, r.run_id))
    taken: list[Record] = []
    while left and len(taken) < number:
        best = min(left, key=lambda r: sum(getattr(r, key) == getattr(other, key) for other in taken for key in alike))
        left.remove(best)
        taken.append(best)
    return taken


def cell_of(folder: Path, record: Record, records: Sequence[Record], images: str | None) -> Cell:
    """The cell of a run from its own ``config.yaml``; `images` is the folder of images where the data are one.

    Raises
    ------
    ConfigError
        If the configuration lacks something, is another run's, or the images here are others.
    """
    path = folder / record.run_id / CONFIG_FILE
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        about, requested = values["cell"], values["requested"]
        data = DataConfig(**values["data"] | ({"path": images} if images else {}))
        asked = Experiment(
            name=record.experiment,
            question="Does it come out again?",
            models={record.model: ModelConfig(**values["model"])},
            data={record.data: data},
            recipe_name=record.recipe,
            recipe=(recipe := Recipe(**{**requested["recipe"], **(record.tuned or {})})),
            recipes={record.model: record.recipe} if record.track == "own" else {},
            reference=record.model,
            seeds=[record.seed],
            train_fractions=[record.train_fraction],
            track=about["track"],
            tuning=Tuning(**requested.get("tuning", {})),
            **{key: about[key] for key in Execution.model_fields if key in about},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: does not say how the run was made ({' '.join(reason.split())})") from error
    here = (record.model, record.data, record.train_fraction)
    trial = next((r for r in records if r.trial is not None and (r.model, r.data, r.train_fraction) == here), None)
    tuning, split = (asked.tuning, trial.split_hash if trial else None) if record.track == "tuned" else (None, None)
    cell = Cell(asked, *here[:2], data, recipe, here[2], record.seed, record.varied, record.split_hash, tuning, split)
    if cell.run_id != record.run_id:
        raise ConfigError(f"{path}: its settings are those of {cell.run_id}, or of another version of this project")
    if tuning and trial is None:
        raise ConfigError(f"{folder}: the tuning trials of {record.run_id} were not published")
    return cell


def repeat(folder: Path, number: int, images: str | None, scratch: Path, launch: Launch) -> dict[str, Any]:
    """Train `number` cells of a published experiment again and compare them: the content of ``verification.json``.

    `images` is the folder of images, where the data are one; `scratch` takes the runs and is removed in the end.

    Raises
    ------
    ConfigError
        As `finished`; if published predictions cannot be read.
    """
    records = finished(folder)
    chosen = choose(records, number)
    cells, rows = dict[str, Cell](), {record.run_id: _row(folder, record) for record in chosen}
    for record in chosen:
        try:
            cells[record.run_id] = cell = cell_of(folder, record, records, images)
            split = compute_splits(cell.asked, scratch)[split_key(cell.data, cell.train_fraction, cell.seed)]
            if split != record.split_hash:
                raise ConfigError(f"{record.run_id}: the images here are not those that it was made from")
        except ConfigError as error:
            cells.pop(record.run_id, None)
            rows[record.run_id] |= {"verdict": "settings missing", "reason": " ".join(error.faults)}
    again = _trained(list(cells.values()), folder, scratch / "again", launch)
    for run_id in rows.keys() & cells.keys():
        _compare(folder, rows[run_id], again, records)
    near = [cell for run_id, cell in cells.items() if rows[run_id]["verdict"] == "near"]
    for seed in range(NUDGES):
        nudged = [replace(cell, asked=cell.asked.model_copy(update={"nudge": seed})) for cell in near]
        place = _trained(nudged, folder, scratch / f"nudged-{seed}", launch)
        for cell in near:
            pair = (published_arrays(where / str(cell.run_id) / PREDICTIONS_FILE) for where in (again, place))
            rows[str(cell.run_id)].setdefault("nudged", []).append(distance(*pair))
    judge([rows[str(cell.run_id)] for cell in near])
    shutil.rmtree(scratch, ignore_errors=True)
    sums = folder / SUMS_FILE
    return {
        "experiment": folder.name,
        "made": now(),
        "how": HOW,
        SUMS_FILE: file_digest(sums) if sums.is_file() else None,
        "cells": list(rows.values()),
    }


def _trained(cells: list[Cell], folder: Path, place: Path, launch: Launch) -> Path:
    """Train cells into a folder that has the trials of their recipes; a stop ends the command, to go on later."""
    place.mkdir(parents=True, exist_ok=True)
    for trial in folder.glob(f"*-trial*/{RECORD_FILE}") if any(cell.tuning for cell in cells) else ():
        (place / trial.parent.name).mkdir(exist_ok=True)
        shutil.copy(trial, place / trial.parent.name)
    if cells:
        launch(cells, place)
    if stop.requested():
        raise KeyboardInterrupt
    return place


def _row(folder: Path, record: Record) -> dict[str, Any]:
    """What was published of a cell."""
    about = {key: getattr(record, key) for key in ("run_id", "model", "data", "train_fraction", "seed", "varied")}
    files = {name: file_digest(folder / record.run_id / name) for name in (RECORD_FILE, PREDICTIONS_FILE)}
    return about | {"verdict": "", "reason": "", "sha256": files, "published": _provenance(record)}


def _provenance(record: Record) -> dict[str, Any]:
    made = {key: record.environment.get(key) for key in ("device", "threads", "python", "versions", "git")}
    return made | {"test/top1": record.metrics.get("test/top1")}


def _compare(folder: Path, row: dict[str, Any], again: Path, records: Sequence[Record]) -> None:
    """Fill in how the run that was trained again compares; verdict ``near`` where rounding must be measured."""
    run_id = row["run_id"]
    try:
        repeated = read_record(again / run_id / RECORD_FILE)
    except RecordError as error:
        raise ConfigError(f"{run_id} could not be trained again: {error}") from error
    if repeated.failure:
        row |= {"verdict": "differs", "reason": f"training failed: {repeated.failure.message}"}
        return
    record = next(r for r in records if r.run_id == run_id)
    ours, theirs = published_arrays(again / run_id / PREDICTIONS_FILE), _published(folder / run_id)
    row["again"] = _provenance(repeated)
    classes, before = (arrays["logits"].argmax(axis=1) for arrays in (ours, theirs))
    claimed, of_files = record.metrics.get("test/top1"), float((before == theirs["labels"]).mean())
    others = [r.run_id for r in records if _is_other_seed(r, record)]
    same = row["published"] | {"git": None} == row["again"] | {"git": None}
    fixed = ("sample_ids", "labels", "class_names", "val_sample_ids", "val_labels")
    if wrong := [name for name in fixed if not np.array_equal(ours[name], theirs.get(name, ()))]:
        row |= {"verdict": "differs", "reason": f"other {', '.join(wrong)}"}
    elif claimed is None or abs(claimed - of_files) > 1e-6:
        row |= {"verdict": "differs", "reason": f"its record says test/top1 {claimed}, its predictions {of_files:.6g}"}
    elif all(np.array_equal(ours[name], theirs[name]) for name in ours):
        wrong = [key for key, value in record.metrics.items() if value != repeated.metrics.get(key)]
        reason = f"equal predictions, but other {', '.join(wrong)} in the record" if wrong else ""
        row |= {"verdict": "differs" if wrong else "equal", "reason": reason}
    else:
        row |= {
            "verdict": "near",
            "reason": "bits were expected: processor and versions have the same names" if same else "",
            "other_class": int((classes != before).sum()),
            "images": len(before),
            "distance": distance(ours, theirs),
            "other_seeds": min((distance(theirs, _published(folder / other)) for other in others), default=None),
        }


def _is_other_seed(other: Record, record: Record) -> bool:
    keys = ("model", "data", "train_fraction", "varied", "trial", "settings_hash")
    return other.seed != record.seed and all(getattr(other, key) == getattr(record, key) for key in keys)


def _published(run: Path) -> Arrays:
    try:
        return published_arrays(run / PREDICTIONS_FILE)
    except Exception as error:  # a damaged archive raises nearly anything
        raise ConfigError(f"{run / PREDICTIONS_FILE}: cannot be read ({error}). Restore the file.") from error


def distance(first: Arrays, second: Arrays) -> float:
    """Total variation between two runs' predicted probabilities, mean over the test images: in [0, 1]."""
    one, other = (special.softmax(arrays["logits"].astype(np.float64), axis=1) for arrays in (first, second))
    return float(np.abs(one - other).sum(axis=1).mean() / 2)


def judge(rows: Sequence[dict[str, Any]]) -> None:
    """Give each cell its bound and verdict, from the distances of its nudged runs: see `HOW`."""
    logs = [np.log(np.maximum(row["nudged"], np.finfo(np.float16).tiny)) for row in rows]
    df = sum(len(own) - 1 for own in logs)
    spread = np.sqrt(sum(((own - own.mean()) ** 2).sum() for own in logs) / df) if df else 0.0
    for row, own in zip(rows, logs, strict=True):
        row["bound"] = float(np.exp(own.mean() + stats.t.ppf(0.975, df) * spread * np.sqrt(1 + 1 / len(own))))
        row["verdict"] = "within rounding" if row["distance"] <= row["bound"] else "differs"
        if row["verdict"] == "differs":
            row["reason"] = "farther away than rounding explains"
        elif row["other_seeds"] is not None and row["bound"] >= row["other_seeds"]:
            row["reason"] = "rounding moves this cell as far as another seed does: this shows little"
