"""Runs of several people or machines in one folder: each run once, with what contradicts another one left out by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config.errors import ConfigError
from experiments.config.text import NAME
from experiments.grid.ledger import keep_splits, read_splits
from experiments.grid.publish import published_arrays
from experiments.records.dataset import keep_descriptions, read_descriptions
from experiments.records.digests import SUMS_FILE, add_digests, changed_files
from experiments.records.folder import MERGED_FILE, read_merged, without_path
from experiments.records.intended import DECISION_FILE, Decision, read_decision
from experiments.records.progress import LOCK_FILE
from experiments.records.record import (
    CHECKPOINT_FILE,
    PREDICTIONS_FILE,
    RECORD_FILE,
    Record,
    atomic_write,
    read_record,
)


class Source(NamedTuple):
    """A folder of runs, as ``runs/`` or ``results/``, or that of one experiment; `lab` is empty where it was not named."""

    folder: Path
    lab: str


class _Run(NamedTuple):
    source: Source
    folder: Path
    record: Record
    answers: str
    """Hash of its predictions as they are published."""
    images: str
    """Hash of its test images' ids and labels."""


class Merged(NamedTuple):
    """What was written of one experiment: runs, those of them that lay in several sources, and what was left out and why."""

    experiment: str
    runs: int
    repeated: int
    left_out: list[str]


def parse_sources(words: Sequence[str]) -> list[Source]:
    """``folder`` or ``lab=folder``.

    Raises
    ------
    ConfigError
        If there are fewer than two, or a folder is not there.
    """
    sources = []
    for word in words:
        lab, named, path = word.partition("=")
        plain = not named or Path(word).is_dir() or not NAME.fullmatch(lab)
        sources.append(Source(Path(word), "") if plain else Source(Path(path), lab))
    faults = [f"merge: {source.folder} is no folder. Give two or more that hold runs." for source in sources
              if not source.folder.is_dir()]  # fmt: skip
    if len({source.folder.resolve() for source in sources}) < max(2, len(sources)):
        faults.append("merge: give two or more different folders, as in: merge runs_a zurich=runs_b --to runs")
    if faults:
        raise ConfigError(*faults)
    return sources


def merge(sources: Sequence[Source], target: Path) -> list[Merged]:
    """Copy the runs of all sources, without checkpoints, into `target`, an experiment at a time.

    Raises
    ------
    ConfigError
        If no source holds a finished run, or the target holds one of the experiments already.
    """
    found: dict[str, list[tuple[Source, Path]]] = {}
    for source in sources:
        of_runs = [*source.folder.glob(f"*/{RECORD_FILE}")] or source.folder.glob(f"*/*/{RECORD_FILE}")
        for folder in sorted({path.parent.parent for path in of_runs}):
            found.setdefault(folder.resolve().name, []).append((source, folder))
    faults = [
        f"--to: {target / name} is there already. Choose another folder." for name in found if (target / name).exists()
    ]
    if faults or not found:
        raise ConfigError(*faults or [f"merge: no finished run in {', '.join(str(source.folder) for source in sources)}."])
    return [_experiment(name, places, target / name) for name, places in found.items()]


def _experiment(name: str, places: list[tuple[Source, Path]], target: Path) -> Merged:
    """Merge the folders of one experiment."""
    left_out: list[str] = []
    runs = [run for source, folder in places for run in _readable(source, folder, left_out)]
    runs = _of_one_dataset(runs, left_out)
    kept, also = _each_once(runs, left_out)
    before = {folder: read_merged(folder) for _, folder in places}
    decision = _decision(name, [folder for _, folder in places])
    target.mkdir(parents=True)
    if decision:
        decision.keep(target)
    splits = {run.record.split_hash for run in kept.values()}
    for _, folder in places:
        keep_splits({key: split for key, split in read_splits(folder).items() if split in splits}, target)
        described = {key: data for key, data in read_descriptions(folder).items() if splits & {*data.split_hashes}}
        keep_descriptions(described, target)
    about: dict[str, Any] = {}
    for run_id, run in sorted(kept.items()):
        skip = shutil.ignore_patterns(LOCK_FILE, CHECKPOINT_FILE, "previous.pt", ".*.tmp")
        shutil.copytree(run.folder, target / run_id, ignore=skip)
        about[run_id] = {"source": run.source.folder.resolve().name, "lab": run.source.lab}
        about[run_id] |= before[run.folder.parent].get(run_id, {})
        about[run_id] |= {"also": also[run_id]} if run_id in also else {}
    with atomic_write(target / MERGED_FILE) as file:
        json.dump({"runs": about}, file, indent=1, ensure_ascii=False)
    if any((folder / SUMS_FILE).is_file() for _, folder in places):
        add_digests(target)
    return Merged(name, len(kept), len(also), left_out)


def _decision(name: str, folders: list[Path]) -> Decision | None:
    """What seeds were added for, where they were; of one question on several machines, the decision that looked furthest."""
    found = [decision for folder in folders if (decision := read_decision(folder))]
    fixed = {"effect", "margin", "error_rate", "seeds", "looks"}
    asked = {(without_path(one.args), one.model_dump_json(include=fixed)) for one in found}  # machines keep images anywhere
    if len(asked) > 1:
        raise ConfigError(
            f"merge: seeds of {name} were added for {len(asked)} different questions ({DECISION_FILE}), and one report of "
            "them all would not know how often was looked. Merge the folders of one question."
        )
    return max(found, key=lambda one: len(one.history), default=None)


def _readable(source: Source, folder: Path, left_out: list[str]) -> list[_Run]:
    """The runs of a source that ended; what cannot be read, was changed, failed or has not ended is named."""
    changed = {name.partition("/")[0]: sentence for name, sentence in changed_files(folder).items()}
    left_out += changed.values()
    runs, open_runs = list[_Run](), 0
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if place.name in changed:
            continue
        if not (place / RECORD_FILE).is_file():
            open_runs += 1
            continue
        try:
            record = read_record(place / RECORD_FILE)
            if record.status == "failed":
                runs.append(_Run(source, place, record, "", ""))
                continue
            arrays = published_arrays(place / PREDICTIONS_FILE)
            answers = hashlib.sha256(b"".join(arrays[key].tobytes() for key in sorted(arrays))).hexdigest()
            order = np.argsort(ids := arrays.get("sample_ids", np.array([])), kind="stable")
            test = b"".join(values[order].tobytes() for values in (ids, arrays.get("labels", ids)))
            runs.append(_Run(source, place, record, answers, hashlib.sha256(test).hexdigest()))
        except Exception as error:  # a damaged archive raises nearly anything
            left_out.append(f"{place}: {' '.join(str(error).split())}")
    if open_runs:
        left_out.append(f"{folder}: {open_runs} folder{'s' * (open_runs > 1)} without a record, of runs that have not ended")
    return runs


def _of_one_dataset(runs: list[_Run], left_out: list[str]) -> list[_Run]:
    """Leave out what a source ran on other images than those before it did, under the same name of the data."""
    first: dict[Any, str] = {}
    foreign: dict[tuple[Source, str], None] = {}
    for run in runs:
        record = run.record
        place = (record.data, json.dumps(record.varied, sort_keys=True))
        facts: dict[Any, str] = {(*place, record.train_fraction, record.seed): record.split_hash}
        facts |= {place: run.images} if record.status == "done" and record.trial is None else {}  # others have no test set
        if any(first.get(key, value) != value for key, value in facts.items()):
            foreign[run.source, record.data] = None
        else:
            first |= facts
    for source, data in foreign:
        number = sum((run.source, run.record.data) == (source, data) for run in runs)
        words = f"its {data} are other images than in the folders before it, under the same name"
        left_out.append(f"{source.folder}: {words}; {number} runs left out")
    return [run for run in runs if (run.source, run.record.data) not in foreign]


def _each_once(runs: list[_Run], left_out: list[str]) -> tuple[dict[str, _Run], dict[str, list[str]]]:
    """Runs by id, and where else an equal one lies; of a contradiction neither side stays."""
    kept: dict[str, _Run] = {}
    also: dict[str, list[str]] = {}
    conflicts: dict[str, list[_Run]] = {}
    for run in runs:
        other = kept.setdefault(run.record.run_id, run)
        if other is run or run.record.status == "failed":
            continue
        if other.record.status == "failed":
            kept[run.record.run_id] = run
            continue
        if (other.answers, other.record.metrics) == (run.answers, run.record.metrics):
            also.setdefault(run.record.run_id, []).append(run.source.lab or run.source.folder.resolve().name)
        else:
            conflicts.setdefault(run.record.run_id, [other]).append(run)
    for run_id, sides in conflicts.items():
        found = "; ".join(f"{side.folder}: test/top1 {side.record.metrics.get('test/top1')}" for side in sides)
        left_out.append(f"{run_id}: results differ, both left out ({found})")
        del kept[run_id]
        also.pop(run_id, None)
    return kept, also
