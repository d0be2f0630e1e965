"""A grid's report in Weights & Biases: one run per experiment, and an artifact from which the report can be made again.

The artifact ``report-<experiment>`` holds ``report/`` (all of ``reports/<experiment>``), ``runs/<run_id>/`` (record, config,
metrics, predictions), ``runs/data.json`` and ``SHA256SUMS``. The same content is sent once: its digest is kept beside the
run folders, and W&B makes no new version of equal files.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.records.dataset import DATA_FILE
from experiments.records.digests import RUN_FILES, SUMS_FILE
from experiments.records.folder import config_without_path, folder_name, without_path
from experiments.records.intended import without_paths
from experiments.records.record import CONFIG_FILE, RECORD_FILE
from experiments.records.reported import EXPERIMENT_FILE, read_report
from experiments.tracking.client import (
    Session,
    destination,
    long_wait_said,
    one_line,
    open_to_send,
    own_temporary_folder,
    require_login,
    transfer_seconds,
)
from experiments.tracking.content import Rows, table
from experiments.tracking.mirror import About, Mirror, TrackingError, page_of, renewed, usable_mirror

FINISH_TIMEOUT_SECONDS = 15.0


def artifact_name(experiment: str) -> str:
    """Name of the artifact that holds an experiment's report."""
    return f"report-{experiment}"


def contents(experiment_folder: Path, report_folder: Path) -> dict[str, bytes | Path]:
    """What the artifact holds: names in it → files on disk, or bytes where a file is sent without a path of this machine.

    Raises
    ------
    RecordError
        If there is no report, or not one of this experiment.
    TrackingError
        If a run's configuration cannot be sent.
    """
    name = experiment_folder.name
    asked, ledger = read_report(report_folder, name, f"Make it: make report NAME={name}")
    experiment = asked.model_dump(mode="json")
    found: dict[str, bytes | Path] = {}
    for path in sorted(report_folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            found[f"report/{path.relative_to(report_folder).as_posix()}"] = path
    for data in experiment["data"].values():
        data["path"] = data["path"] and folder_name(data["path"])
    experiment["args"] = without_path(asked.args)
    found[f"report/{EXPERIMENT_FILE}"] = json.dumps(experiment, indent=2, ensure_ascii=False).encode()
    if (experiment_folder / DATA_FILE).is_file():
        found[f"runs/{DATA_FILE}"] = experiment_folder / DATA_FILE
    found |= {f"runs/{name}": content for name, content in without_paths(experiment_folder).items()}
    for run_id in filter(None, (cell["run_id"] for cell in ledger["cells"])):
        folder = experiment_folder / run_id
        for path in (folder / name for name in RUN_FILES):
            if (folder / RECORD_FILE).is_file() and path.is_file():
                found[f"runs/{folder.name}/{path.name}"] = _sent_config(path) if path.name == CONFIG_FILE else path
    return found


def _sent_config(path: Path) -> bytes:
    try:
        return config_without_path(path)
    except ValueError as error:
        advice = "Delete the run's folder and run the experiment again, or restore the file."
        raise TrackingError(f"{path}: {error}. {advice}") from error


def checksums(found: dict[str, bytes | Path]) -> str:
    """The text of ``SHA256SUMS``, in the form of ``sha256sum``."""

    def digest(content: bytes | Path) -> str:
        return hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()

    return "".join(f"{digest(found[name])}  {name}\n" for name in sorted(found))


def state_folder(experiment_folder: Path) -> Path:
    """Where the state of the report run is kept."""
    return experiment_folder / ".wandb" / "report"


def page(experiment_folder: Path) -> str | None:
    """Where W&B shows the report run; ``None`` where it was never sent."""
    return page_of(state_folder(experiment_folder))


def send(experiment_folder: Path, report_folder: Path, say: Callable[[str], None] = lambda sentence: None) -> bool:
    """Send the report as it lies there. ``False`` where W&B holds just this content already.

    `say` is told where the wait is long.

    Raises
    ------
    TrackingError
        If there is no report, nobody is logged in, or W&B did not take it.
    """
    require_login(experiment_folder)
    found = contents(experiment_folder, report_folder)
    sums = checksums(found)
    digest = hashlib.sha256(sums.encode()).hexdigest()
    mirror = _prepare(experiment_folder, report_folder, digest)
    progress = {"destination": destination(), "digest": digest}
    if mirror.sent == progress:
        return False
    folder = state_folder(experiment_folder)
    mirror.save(folder)
    with long_wait_said(say):
        session = open_to_send(folder, mirror, finish_timeout=FINISH_TIMEOUT_SECONDS)
        try:
            with own_temporary_folder():
                _show(session, progress, report_folder)
                _log_artifact(session.run, mirror.experiment, found | {SUMS_FILE: sums.encode()})
            session.close()
        except Exception as error:
            with suppress(Exception):  # the service may be gone; what matters is the first error
                session.run.finish(exit_code=1)
            raise TrackingError(f"W&B: the report was not sent in full ({one_line(error)}). Sync again.") from error
    mirror.sent = progress
    mirror.save(folder)
    return True


def _show(session: Session, progress: dict[str, Any], report_folder: Path) -> None:
    """Log a content's row once, however often sending is broken off.

    Its step is noted before the row is given away: whether W&B holds it is told by the step that W&B expects next. Where the
    note is lost, the run's summary tells.
    """
    run, mirror = session.run, session.mirror
    step = run.starting_step
    meant = dict(mirror.shown or {})
    if isinstance(meant.get("step"), int) and meant == progress | {"step": meant["step"]}:
        step = meant["step"]
    elif run.summary.get("digest") == progress["digest"]:
        return
    mirror.shown = progress | {"step": step}
    mirror.save(session.folder)
    if run.starting_step <= step:
        session.give({"step": step, **_shown(report_folder)})
        run.summary["digest"] = progress["digest"]


def _prepare(experiment_folder: Path, report_folder: Path, digest: str) -> Mirror:
    """The report run as it shall be; its id is made once, and told by the client's sessions where its note is damaged."""
    folder, name = state_folder(experiment_folder), experiment_folder.name
    experiment, ledger = read_report(report_folder, name, f"Make it: make report NAME={name}")
    config = {"question": experiment.question, "args": without_path(experiment.args), "models": list(experiment.models)}
    about = About(
        experiment=name,
        run_id=artifact_name(name),
        config={"experiment": name} | config,
        tags=["report"],
        notes=experiment.question,
        name=f"{name} · report",
        job_type="report",
    )
    summary = {"digest": digest, **{f"cells/{key}": value for key, value in ledger["counts"].items()}}
    return renewed(folder, about, usable_mirror(folder), summary=summary, ended="done")


def _shown(report_folder: Path) -> dict[str, Any]:
    """What the run's page shows: tables, figures and the page itself."""
    import wandb

    values: dict[str, Any] = {f"tables/{path.stem}": table(csv_rows(path)) for path in sorted(report_folder.glob("*.csv"))}
    for path in sorted((report_folder / "figures").glob("*.png")):
        values[f"figures/{path.stem}"] = wandb.Image(str(path))
    if (report_folder / "report.html").is_file():
        values["report"] = wandb.Html((report_folder / "report.html").read_text(encoding="utf-8"), inject=False)
    return values


def csv_rows(path: Path) -> Rows:
    """A ``.csv`` table; columns that hold nothing but numbers as numbers, empty fields as unknown."""
    with open(path, encoding="utf-8", newline="") as file:
        columns, *rows = list(csv.reader(file))
    kinds = [_kind([row[at] for row in rows]) for at in range(len(columns))]
    return Rows(columns, [[kind(text) if text else None for kind, text in zip(kinds, row, strict=True)] for row in rows])


def _kind(texts: list[str]) -> Callable[[str], Any]:
    try:
        return float if [float(text) for text in texts if text] else str
    except ValueError:
        return str


def _log_artifact(run: Any, experiment: str, found: dict[str, bytes | Path]) -> None:
    """Send the files as a version of the artifact, and wait until W&B holds them."""
    import wandb

    artifact = wandb.Artifact(artifact_name(experiment), type="report", metadata={"experiment": experiment})
    for name, content in sorted(found.items()):
        if isinstance(content, bytes):
            with artifact.new_file(name, "wb") as file:
                file.write(content)
        else:
            artifact.add_file(str(content), name=name, policy="immutable", skip_cache=True)
    paths = [content for content in found.values() if isinstance(content, Path)]
    run.log_artifact(artifact).wait(timeout=math.ceil(transfer_seconds(*paths)))
