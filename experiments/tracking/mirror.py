"""What is kept of a run's W&B mirror, in ``<run folder>/wandb/mirror.json``, and how rows and records become its content.

It holds what is needed to make the mirror again: the W&B id (the run id and a random suffix, made once, so that the same run
id made in another folder never joins a foreign W&B run), config, tags, notes, summary, and what W&B is known to hold. Keys
and the environment are never in it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from experiments.config.errors import UserError
from experiments.config.identity import flattened
from experiments.records.record import RECORD_FILE, RecordError, read_record, write_whole
from experiments.records.state import StateError, read_json

MIRROR_FILE = "wandb/mirror.json"

Ending = Literal["done", "failed", "interrupted"]


class TrackingError(UserError):
    """W&B cannot be used for what the user asked. The message says what to do."""


@dataclass(kw_only=True)
class About:
    """What W&B shows of a run beside its numbers."""

    experiment: str
    run_id: str
    config: dict[str, Any]
    """What the run was asked for. Dashboards group by it."""
    name: str = ""
    """The run's name for people; the run id where it is empty."""
    job_type: str = "train"
    tags: list[str] = field(default_factory=list)
    notes: str = ""


@dataclass(kw_only=True)
class Mirror(About):
    """What is needed to make a run's W&B mirror again, and what W&B is known to hold of it."""

    id: Annotated[str, Field(pattern=r"^[^/\\#?%:\x00-\x1f]+$")]
    summary: dict[str, Any] = field(default_factory=dict)
    ended: Ending | None = None
    """How the last attempt ended; ``None`` while it goes on, or after it was killed."""
    sent: dict[str, Any] | None = None
    """The state that W&B confirmed, as `progress` gives it."""
    url: str | None = None
    """Where the service shows the run, as its client names the place."""
    shown: dict[str, Any] | None = None
    """Of a report: where and as which step the row of which content was meant to be shown."""

    def progress(self, rows: Sequence[Mapping[str, Any]], destination: str) -> dict[str, Any]:
        """What W&B would hold, and where, after everything up to now was sent."""
        held = {
            "destination": destination,
            "rows": len(rows),
            "last_step": int(rows[-1]["step"]) if rows else None,
            "ended": self.ended,
            "finished": self.summary.get("finished"),
        }
        return held | {"weights": True} if weights_asked() and self.ended == "done" else held

    def is_held(self, progress: Mapping[str, Any]) -> bool:
        """Whether W&B is known to hold all of this progress; weights that it holds beyond it do not count."""
        held = dict(self.sent or {})
        more = held.pop("weights", False) and not progress.get("weights")
        return held == progress if more else self.sent == progress

    def save(self, folder: Path) -> None:
        """Write it into a run folder, atomically."""
        write_whole(folder / MIRROR_FILE, json.dumps(asdict(self), indent=1, default=str))


def load_mirror(folder: Path) -> Mirror | None:
    """Read a run folder's mirror; ``None`` where there is none.

    Raises
    ------
    TrackingError
        If the file is there and cannot be used.
    """
    path = folder / MIRROR_FILE
    try:
        return read_json(path, Mirror)
    except FileNotFoundError:
        return None
    except StateError as error:
        raise TrackingError(f"{path}: cannot be used ({error.reason})") from error


def wandb_id(folder: Path, run_id: str) -> str:
    """A run's id in W&B where no mirror tells it: of the client's last session, or a new one."""
    wanted = re.compile(rf"-({re.escape(run_id[:100])}-[0-9a-f]{{8}})$")
    sessions = sorted((folder / "wandb").glob("*run-*"), key=lambda session: session.name.partition("run-")[2])
    known = [match[1] for session in sessions if (match := wanted.search(session.name))]
    return known[-1] if known else f"{run_id[:100]}-{secrets.token_hex(4)}"


def renewed(folder: Path, about: About, before: Mirror | None, **changes: Any) -> Mirror:
    """The mirror of a run as it is asked for now, with the id and all that is known of what W&B holds from before."""
    known = {name: getattr(before, name) for name in ("id", "sent", "url", "shown")} if before else {}
    return Mirror(**vars(about) | {"id": wandb_id(folder, about.run_id)} | known | changes)


def mirror_again(folder: Path) -> Mirror:
    """Make the mirror of a run that ended from its record.

    Raises
    ------
    TrackingError
        If the run has not ended, or its record cannot be used.
    """
    if not (folder / RECORD_FILE).is_file():
        raise TrackingError(f"{folder / MIRROR_FILE} is lost. Run the experiment again: the run goes on and makes it again.")
    try:
        record = read_record(folder / RECORD_FILE)
    except RecordError as error:
        raise TrackingError(str(error)) from error
    results = {"schema_", "status", "metrics", "compute", "attempts", "started", "finished", "failure"}
    about = About(
        experiment=record.experiment,
        run_id=record.run_id,
        config=flattened(record.model_dump(mode="json", exclude=results), "/"),
        tags=[record.data, record.family, record.track],
        job_type="train" if record.trial is None else "trial",
    )
    return renewed(folder, about, None)


def weights_asked() -> bool:
    """Whether final weights go to W&B too: ``WANDB_LOG_MODEL``, which other trainers read too, is ``end`` or ``true``."""
    return os.environ.get("WANDB_LOG_MODEL", "").strip().lower() in ("end", "true", "1", "checkpoint")


def ordered(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows by ascending step, one per step (the last one written), without the values that are ``null``."""
    by_step = {int(row["step"]): row for row in rows}
    return [{key: value for key, value in by_step[step].items() if value is not None} for step in sorted(by_step)]


def summary_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a run, from the values of its ``record.json``: one level, metrics under their own names."""
    values = dict(record)
    metrics = values.pop("metrics", {})
    return flattened(values, "/") | dict(metrics)


def usable_mirror(folder: Path) -> Mirror | None:
    """A run folder's mirror; ``None`` where there is none that can be used."""
    try:
        return load_mirror(folder)
    except TrackingError:
        return None


def page_of(folder: Path) -> str | None:
    """Where W&B shows a run, as its client named the place; ``None`` for a run that it never saw."""
    mirror = usable_mirror(folder)
    return mirror.url if mirror else None


def pages_of(ledger: Mapping[str, Any], experiment_folder: Path) -> dict[str, str]:
    """W&B pages of a ledger's runs, for those that have one."""
    pages = {cell["run_id"]: page_of(experiment_folder / cell["run_id"]) for cell in ledger["cells"] if cell["run_id"]}
    return {run_id: page for run_id, page in pages.items() if page}


def unsent(experiment_folder: Path) -> int:
    """Number of an experiment's runs that W&B is not known to hold."""
    mirrors = (usable_mirror(path.parent.parent) for path in experiment_folder.glob(f"*/{MIRROR_FILE}"))
    return sum(mirror is None or mirror.sent is None for mirror in mirrors)


def ended_by_record(folder: Path) -> tuple[Ending, dict[str, Any]] | None:
    """Ending and summary from a run's record, for a run that was killed between its record and the end of its mirror."""
    try:
        values = read_json(folder / RECORD_FILE, dict[str, Any])
        return ("failed" if values["status"] == "failed" else "done"), summary_of(values)
    except (FileNotFoundError, StateError, KeyError, TypeError, ValueError):
        return None
