"""Whether a report that lies there was made from the same records by the same code, so that nothing need be made again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments import metrics
from experiments.config.schema import Experiment
from experiments.records.dataset import DATA_FILE
from experiments.records.digests import SUMS_FILE
from experiments.records.folder import MERGED_FILE
from experiments.records.intended import DECISION_FILE, PLAN_FILE
from experiments.records.record import (
    CONFIG_FILE,
    EXAMPLES_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    RECORD_FILE,
    set_aside,
    write_json,
)
from experiments.records.state import StateError, read_bytes, read_cache

MEMORY_FILE = ".made.json"


@dataclass(frozen=True)
class Remembered:
    """What is said again about a report that was made before."""

    key: str
    """Hash of all that it was made from."""
    accuracy_text: str
    verdict: list[str]
    faults: list[str]
    files: list[str]
    """What must still be there, from the report's folder on."""


def key_of(ledger: Mapping[str, Any], folder: Path, experiment: Experiment, links: Mapping[str, str]) -> str:
    """Hash of a report's inputs: ledger, experiment, links to W&B, run folders, data, and the code of the analysis.

    Records and code are hashed by content, the other files of a run by size and time: predictions may be large.
    """
    digest = hashlib.sha256(json.dumps([ledger, dict(links)], sort_keys=True).encode())
    digest.update(experiment.model_dump_json().encode())
    for name in (DATA_FILE, MERGED_FILE, PLAN_FILE, DECISION_FILE, SUMS_FILE):
        with contextlib.suppress(FileNotFoundError, StateError):
            digest.update(read_bytes(folder / name))
    for record in sorted(folder.glob(f"*/{RECORD_FILE}")):  # of cells, of trials and of other settings
        with contextlib.suppress(OSError):  # what cannot be read or is being removed enters no report
            digest.update(record.read_bytes())
        for name in (CONFIG_FILE, METRICS_FILE, PREDICTIONS_FILE, EXAMPLES_FILE):
            with contextlib.suppress(OSError):
                facts = (record.parent / name).stat()
                digest.update(f"{record.parent.name} {name} {facts.st_size} {facts.st_mtime_ns}".encode())
    sources = (path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".j2", ".css", ".js"))
    for source in (Path(metrics.__file__), *sorted(sources)):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def recall(report_folder: Path, key: str) -> Remembered | None:
    """What was remembered about the report of these inputs; ``None`` where it must be made."""
    memory = read_cache(report_folder / MEMORY_FILE, Remembered)
    whole = memory and memory.key == key and all((report_folder / name).is_file() for name in memory.files)
    return memory if whole else None


def remember(report_folder: Path, memory: Remembered) -> None:
    """Note what a report was made from, beside it."""
    write_json(report_folder / MEMORY_FILE, asdict(memory))


def forget(report_folder: Path) -> None:
    """Let the next run make the report again."""
    path = report_folder / MEMORY_FILE
    if path.is_dir() and not path.is_symlink():
        set_aside(path)
    path.unlink(missing_ok=True)
