"""The record: everything that is known about one run, as one JSON file that stands alone.

A run folder holds ``config.yaml``, ``metrics.jsonl``, ``predictions.npz``, ``last.pt``, ``model.safetensors`` and, written
last and atomically, ``record.json``. A folder without a record is a run that has not ended. The analysis reads records
and nothing else of the harness.

Units are base units throughout: fractions (not per cent), seconds, bytes, joules. What is not known is ``null``.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.config.errors import UserError
from experiments.config.text import control_character
from experiments.records import state

SCHEMA = 1
"""Version of the record's layout. Raised when a field changes meaning or is removed, never when one is added, nor when a
value that was invented becomes ``null``: failed records of earlier versions say 0 where these say ``null``."""

RECORD_FILE = "record.json"
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
PREDICTIONS_FILE = "predictions.npz"
EXAMPLES_FILE = "examples.npz"
CHECKPOINT_FILE = "last.pt"
WEIGHTS_FILE = "model.safetensors"


class RecordError(UserError):
    """A record that cannot be used. The message names the file, what is wrong with it, and what to do."""


Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of steps or images."""


class Compute(BaseModel):
    """What a run cost. ``null`` where it could not be measured on this device."""

    model_config = ConfigDict(extra="allow")

    n_params: int | None = None
    forward_gmacs: float | None = None
    """Multiply–accumulates of one forward pass on one image, in units of 1e9."""
    train_pflops: float | None = None
    """3 × forward FLOPs × images seen, in units of 1e15."""
    images_per_second: float | None = None
    """Training images over training seconds, end to end, net of evaluation and checkpoints."""
    bare_images_per_second: float | None = None
    """In older records: the bare forward–backward–update step, where it was measured."""
    train_seconds: float | None = None
    evaluation_seconds: float | None = None
    compile_seconds: float | None = None
    """Time in ``torch.compile``, summed over attempts; part of neither training nor device hours."""
    device_hours: float | None = None
    """Training time × devices, net of evaluation, summed over attempts."""
    peak_memory_bytes: int | None = None
    """Of the GPU's allocator, on a CPU of the process with all that it held; ``null`` where an earlier run's peak would hide
    this one's."""
    reserved_memory_bytes: int | None = None
    micro_batches: int | None = None
    """Parts that a batch was cut into at the end of the run (gradient accumulation); 1 is the plain batch. It stands here,
    beside the rate and the peak of memory that it explains."""
    mfu: float | None = None
    energy_joules: float | None = None
    seconds_to_target: float | None = None
    """Training seconds up to the first evaluation that reached the experiment's validation target; ``null`` if none did."""
    tuning_pflops: float | None = None
    tuning_device_hours: float | None = None
    """Cost of all trials that this run's recipe was chosen from, on top of its own."""
    pretraining_pflops: float | None = None
    pretraining_device_hours: float | None = None
    """Cost of the run of this harness that this one started from, on top of its own."""


class Attempt(BaseModel):
    """One stretch of work on a run, from a start or a resume to an end or an interruption."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    start_step: Count
    end_step: Count
    device: str
    devices: int = 1
    """Processes that worked on it together, each with a device of its own."""
    seconds: float
    reason: str
    """Why the attempt ended: ``completed``, ``interrupted``, ``killed`` or ``failed``."""


class Failure(BaseModel):
    """Why a run failed."""

    model_config = ConfigDict(extra="allow")

    kind: str
    message: str
    step: int | None = None
    last_metrics: dict[str, float | None] | None = None
    """The last row of ``metrics.jsonl``."""


class Record(BaseModel):
    """One run. See the module's docstring for units."""

    model_config = ConfigDict(extra="allow")

    schema_: int
    run_id: str
    experiment: str
    status: Literal["done", "failed"]
    model: str
    family: str
    """Name of the architecture's family, such as ``ViT`` or ``ResNet``; tables are grouped by it."""
    source: str
    """``scratch`` for this project's own model, ``timm`` for a reference."""
    data: str
    recipe: str
    track: str
    init: str = "from_scratch"
    settings_hash: str
    split_hash: str
    protocol: int
    seed: int
    train_fraction: float
    trial: int | None = None
    """Number of a tuning trial; such a run has no test metrics. ``null`` for a run that is reported."""
    tuned: dict[str, Any] | None = None
    """On the track `tuned` the values that validation chose."""
    varied: dict[str, Any] = {}
    """Values of the experiment's ``vary`` keys in this run; empty for most experiments."""
    n_classes: int | None = None
    n_train: int | None = None
    n_val: int | None = None
    n_test: int | None = None
    """Classes and images of the three sets; ``null`` only in the record of a failed run."""
    test_split: str | None = None
    """Where the test set came from: ``its own``, another split ``used as test``, or a ``stratified 20% cut`` , the
    same for every seed."""
    steps: int
    samples_seen: int
    metrics: dict[str, float | None]
    compute: Compute
    environment: dict[str, Any]
    geometry: dict[str, Any]
    attempts: list[Attempt]
    started: str | None
    """When the first attempt began; ``null`` where a failed run did not come so far."""
    finished: str
    failure: Failure | None = None

    @model_validator(mode="after")
    def _whole(self) -> Record:
        needed = {name: getattr(self, name) for name in ("n_classes", "n_train", "n_val", "n_test", "started")}
        needed |= {f"compute.{name}": getattr(self.compute, name) for name in ("n_params", "forward_gmacs")}
        unknown = [name for name, value in needed.items() if value is None]
        if self.status == "done" and unknown:
            raise ValueError(f"`{unknown[0]}` is missing, which every finished run knows")
        return self

    def to_json(self) -> str:
        """Serialise with the contract's key ``schema`` and a trailing newline."""
        values = self.model_dump(mode="json")
        values = {"schema": values.pop("schema_"), **values}
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Write a file that is either whole or absent: a temporary neighbour, fsync, rename. Its folder must exist.

    `mode` is ``w`` for text in UTF-8 or ``wb``.
    """
    temporary = unfinished(path)
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        put_in_place(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a failed write names no file, and nobody knows the neighbour
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write content that is known with `atomic_write`, into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w" if isinstance(content, str) else "wb") as file:
        file.write(content)


def write_json(path: Path, values: Any, *, indent: int = 1) -> None:
    """Write values as JSON with `write_whole`."""
    write_whole(path, json.dumps(values, indent=indent, ensure_ascii=False))


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a finished file its name. A folder of this name is not this project's: it is moved aside."""
    if path.is_dir() and not path.is_symlink():
        set_aside(path)
    os.replace(temporary, path)


def set_aside(path: Path) -> Path:
    """Move what lies in the place of a file to a new name beside it, and return that."""
    aside = Path(tempfile.mkdtemp(prefix=f"{path.name}.aside-", dir=path.parent))
    os.replace(path, aside)
    return aside


def unfinished(path: Path) -> Path:
    """A neighbour's name for what shall be `path` once it is whole. Made by `open` or `mkdir`, it has the user's umask."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_record(folder: Path, record: Record) -> Path:
    """Write ``record.json`` into a run folder, atomically. The last thing that a run does."""
    path = folder / RECORD_FILE
    with atomic_write(path) as file:  # into the run's folder, which is not made again where it was lost
        file.write(record.to_json())
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``, as they were written; none without a file, none for a last line that a kill cut short.

    Raises
    ------
    RecordError
        If another line is not a row. The message names file and line.
    """
    try:
        return state.read_evaluations(path)
    except FileNotFoundError:
        return []
    except state.StateError as error:
        raise RecordError(f"{error}. Delete the run folder and run the experiment again.") from error


def read_record(path: Path) -> Record:
    """Read and check one ``record.json``.

    Raises
    ------
    RecordError
        If the file is unreadable, truncated, of another schema, or lacks a field. The message names the file and the fix.
    """
    advice = "Delete its folder and run the experiment again, or restore the file."
    try:
        values = state.read_json(path, object, finite=False)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}).") from error
    except state.StateError as error:
        raise RecordError(f"{error}. {advice}") from error
    if not isinstance(values, dict) or "schema" not in values:
        raise RecordError(f"{path}: not a record of this project (no key `schema`). {advice}")
    if found := control_character(values, but=("failure", "compile_failure")):  # messages of libraries have several lines
        raise RecordError(f"{path}: {found}. {advice}")
    schema = values.pop("schema")
    if schema != SCHEMA:
        raise RecordError(f"{path}: has record schema {schema!r}, this version reads schema {SCHEMA}. {advice}")
    try:
        return Record.model_validate({**values, "schema_": schema})
    except ValidationError as error:
        faults = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}" for e in error.errors())
        raise RecordError(f"{path}: {faults}. {advice}") from error
