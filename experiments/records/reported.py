"""What a report was made of, read again: ``experiment.json`` and ``ledger.json``, which may have come from anywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from experiments.config.cells import expand
from experiments.config.errors import ConfigError
from experiments.config.identity import fraction_label
from experiments.config.schema import Experiment
from experiments.config.text import control_character, printable
from experiments.records.record import RecordError
from experiments.records.state import StateError, read_bytes

EXPERIMENT_FILE = "experiment.json"
LEDGER_FILE = "ledger.json"
STATES = ("done", "failed", "running", "missing", "unknown")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Cell(_Strict):
    """One cell and what became of it."""

    run_id: str | None
    model: str
    data: str
    train_fraction: float
    seed: int
    varied: dict[str, Any]
    status: Literal["done", "failed", "running", "missing", "unknown"]
    reason: str | None


class _Trial(_Cell):
    trial: int


class _Ledger(_Strict):
    experiment: str
    counts: dict[str, int]
    cells: list[_Cell]
    other: list[str]
    trials: list[_Trial] | None = None


def count(cells: list[dict[str, Any]]) -> dict[str, int]:
    """How many cells there are, and how many of each state."""
    states = [cell["status"] for cell in cells]
    seen = [state for state in STATES if state != "unknown" or state in states]
    return {"expected": len(cells)} | {state: states.count(state) for state in seen}


def read_report(folder: Path, name: str, fix: str) -> tuple[Experiment, dict[str, Any]]:
    """The experiment and the ledger of a report, checked by type, names and place in the grid; the states are counted again.

    `name` is the experiment that the files in `folder` must be of; `fix` says what to do and ends every message.

    Raises
    ------
    RecordError
        If a file is missing, or holds what no report of this experiment does. The message names the file and the value.
    """
    path = folder / EXPERIMENT_FILE
    try:
        experiment = Experiment.model_validate_json(read_bytes(path))
        if experiment.name != name:
            raise ValueError(f"`name` is {experiment.name!r}, not {name!r}")
        cells = expand(experiment, {})
        path = folder / LEDGER_FILE
        ledger = _Ledger.model_validate_json(read_bytes(path)).model_dump()
        if ledger["trials"] is None:
            del ledger["trials"]
        for fault in _foreign(ledger, experiment, [_place(vars(cell), cell.model_name, cell.data_name) for cell in cells]):
            raise ValueError(fault)
    except StateError as error:
        raise RecordError(f"{error}. {fix}") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}). {fix}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(map(str, first["loc"])))
        told = f"`{where}`: {first['msg']}" if where else first["msg"]
        raise RecordError(f"{path}: not of a report of this version: {told}. {fix}") from error
    except (ValueError, ConfigError, RecursionError) as error:
        raise RecordError(f"{path}: not of a report of this experiment: {error}. {fix}") from error
    return experiment, ledger | {"counts": count(ledger["cells"])}


def _place(values: dict[str, Any], model: str, data: str) -> tuple[str, ...]:
    """Where a cell stands in the grid; the last entry is its setting."""
    return model, data, fraction_label(values["train_fraction"]), str(values["seed"]), repr(sorted(values["varied"].items()))


def _foreign(ledger: dict[str, Any], experiment: Experiment, grid: list[tuple[str, ...]]) -> Iterator[str]:
    """What a ledger says that a ledger of this grid does not, one clause each."""
    if ledger["experiment"] != experiment.name:
        yield f"`experiment` is {ledger['experiment']!r}, not {experiment.name!r}"
    if found := control_character(ledger, but=("reason",)):
        yield found
    for name in ledger["other"]:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            yield f"`other` names {name!r}, which does not name a folder"
    places = [_place(cell, cell["model"], cell["data"]) for cell in ledger["cells"]]
    missing, more = set(grid) - set(places), set(places) - set(grid)
    if missing or more or len(places) != len(set(places)):
        at = printable(" ".join(min(more or missing or places)[:4]))
        fault = "none of them" if more else "missing" if missing else "repeated"
        yield f"`cells` are not those of the grid: {at} is {fault}"
    trials = ledger.get("trials", [])
    for trial in trials:
        known = trial["model"] in experiment.models and trial["data"] in experiment.data
        if not known or trial["seed"] != experiment.tuning.seed or trial["train_fraction"] not in experiment.train_fractions:
            yield f"`trials` name {trial['run_id']!r}, which is not a trial of this experiment"
    for cell in [*ledger["cells"], *trials]:
        turn = f"-trial{cell['trial']}" if "trial" in cell else ""
        stem = f"{cell['model']}-{cell['data']}-f{fraction_label(cell['train_fraction'])}-s{cell['seed']}{turn}-"
        run_id = cell["run_id"]
        if run_id is None and cell["status"] == "missing":
            continue
        if not re.fullmatch(re.escape(stem) + "[0-9a-f]{8}", run_id or ""):
            yield f"`run_id` is {run_id!r}, this cell's begins with {stem!r} and ends in 8 digits of a hash"
    run_ids = Counter(cell["run_id"] for cell in [*ledger["cells"], *trials] if cell["run_id"])
    yield from (f"`run_id` {run_id!r} stands in {number} cells" for run_id, number in run_ids.items() if number > 1)
