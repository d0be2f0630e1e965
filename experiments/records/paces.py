"""How fast earlier runs of a device were, by what decides it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.config.cells import Cell
from experiments.records.record import RECORD_FILE, Record, RecordError, read_record

MIN_RECORDS = 3
"""Runs that must have recorded their pace before it tells that of others."""

Paces = dict[tuple[Any, ...], list[Record]]


def recorded(folders: Iterable[Path], device: str, runs: str = "*") -> Paces:
    """Finished runs of a device in experiments' folders by what decides their pace; `runs` is a pattern of their ids.

    The device has its name of records. Those that cannot be read are for the report to name.
    """
    found: Paces = {}
    for path in (path for folder in folders for path in sorted(folder.glob(f"{runs}/{RECORD_FILE}"))):
        with suppress(RecordError):
            record = read_record(path)
            about, batch = record.environment, record.samples_seen // max(record.steps, 1)
            if record.status == "done" and about.get("device") == device and record.compute.images_per_second:
                key = (record.model, record.data, batch, *map(about.get, ("precision", "compile", "threads")))
                found.setdefault(key, []).append(record)
    return found


def kind(cell: Cell) -> tuple[Any, ...]:
    """What decides a cell's pace, as `recorded` has it."""
    recipe, threads = cell.recipe, cell.execution.threads
    return cell.model_name, cell.data_name, recipe.batch_size, recipe.precision, recipe.compile, threads


def training_seconds(cells: Iterable[Cell], folders: Iterable[Path], device: str) -> dict[str, float] | None:
    """Run id → how long training will take, by the median pace of runs of a cell's kind; None where one kind has too few."""
    cells, folders, known, found = list(cells), list(folders), Paces(), dict[str, float]()
    for name in {f"{cell.model_name}-{cell.data_name}-f*" for cell in cells}:
        known |= recorded(folders, device, name)
    for cell in cells:
        runs = known.get(kind(cell), [])
        if len(runs) < MIN_RECORDS:
            return None
        pace = statistics.median(record.compute.images_per_second or 0.0 for record in runs)
        found[str(cell.run_id)] = cell.trained.steps * cell.trained.batch_size / pace
    return found
