"""Read an experiment's report and records out of Weights & Biases, on a machine that has no run folders."""

from __future__ import annotations

import multiprocessing
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config.errors import ConfigError
from experiments.config.schema import Experiment
from experiments.config.text import checked_name, listed, printable
from experiments.records.dataset import DATA_FILE
from experiments.records.digests import RUN_FILES, SUMS_FILE, file_digest
from experiments.records.intended import DECISION_FILE, PLAN_FILE
from experiments.records.record import RecordError
from experiments.records.reported import EXPERIMENT_FILE, LEDGER_FILE, read_report
from experiments.tracking.client import (
    NO_ANSWER,
    long_wait_said,
    one_line,
    own_temporary_folder,
    require_login,
    transfer_seconds,
    wandb_module,
    why,
)
from experiments.tracking.mirror import TrackingError
from experiments.tracking.report import artifact_name

API_TIMEOUT_SECONDS = 15
FOUND_SECONDS = 60.0
"""Until the service has said what there is: a few questions, and the start of a process."""
LONGEST_SECONDS = 3600.0
_SOURCE = re.compile(r"wandb:([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)")


def parse_source(text: str) -> tuple[str, str]:
    """``wandb:entity/project`` → entity and project.

    Raises
    ------
    ConfigError
        If it is anything else.
    """
    match = _SOURCE.fullmatch(text)
    if not match:
        raise ConfigError(f"FROM: must be wandb:<entity>/<project>, got {text!r}, as in FROM=wandb:my-team/vit-bench.")
    return match[1], match[2]


class Fetched(NamedTuple):
    """What a download holds: the experiment as it was run, its ledger, and the folder of its run folders."""

    experiment: Experiment
    ledger: dict[str, Any]
    runs: Path


def fetch(source: str, name: str, runs_folder: Path, say: Callable[[str], None] = lambda sentence: None) -> Fetched:
    """Download the newest version of an experiment's report artifact from ``wandb:entity/project``, and verify it.

    The download lies in a hidden folder of `runs_folder`, that of all runs. `say` is told where the wait is long.

    Raises
    ------
    ConfigError
        If `source` is not of the form.
    TrackingError
        If nobody is logged in, W&B does not answer, it has no such artifact, or a file is not what its checksum says.
    """
    checked_name(name)
    entity, project = parse_source(source)
    target = runs_folder / ".downloaded" / entity / project / name
    require_login(runs_folder / ".downloaded")
    partial = target.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with long_wait_said(say):
        _downloaded(entity, project, name, partial)
    verify(partial)
    try:
        experiment, ledger = read_report(partial / "report", name, f"Send it again: make sync NAME={name}")
    except RecordError as error:
        raise TrackingError(f"FROM: {error}") from error
    (partial / "runs").mkdir(exist_ok=True)  # a report of no finished run
    runs = partial / "runs" / name  # as below RUNS_DIR, so that messages name the same places as on the other machine
    (partial / "runs").rename(partial / name)
    runs.parent.mkdir()
    (partial / name).rename(runs)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return Fetched(experiment, ledger, target / "runs" / name)


def _downloaded(entity: str, project: str, name: str, folder: Path) -> None:
    """Download in a process of its own, which can be ended: the client waits for files without a limit."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_download, args=(theirs, entity, project, name, folder), daemon=True)
    process.start()
    theirs.close()
    try:
        told: Any = FOUND_SECONDS
        while isinstance(told, float):
            if not ours.poll(told):
                raise _not_there(TimeoutError("timed out"), entity, project, name)
            told = ours.recv()
    except EOFError as error:
        raise TrackingError("FROM: the download ended before its time. Try again.") from error
    finally:
        process.kill()
        process.join()
    if told is not None:
        raise told


def _download(pipe: Connection, entity: str, project: str, name: str, folder: Path) -> None:
    """Tell how long the files may take, then how it ended: an error, or ``None``."""
    try:
        require_login(folder.parents[2])
        api = wandb_module().Api(timeout=API_TIMEOUT_SECONDS, overrides={"entity": entity, "project": project})
        artifact = api.artifact(f"{entity}/{project}/{artifact_name(name)}:latest", type="report")
        _check_entries(artifact.manifest.entries)
        pipe.send(min(transfer_seconds(artifact.size), LONGEST_SECONDS))
        with own_temporary_folder():
            artifact.download(root=str(folder), skip_cache=True)
        pipe.send(None)
    except TrackingError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(_not_there(error, entity, project, name))


def _not_there(error: Exception, entity: str, project: str, name: str) -> TrackingError:
    reason = why(error)
    if reason == NO_ANSWER:
        return TrackingError(f"FROM: {NO_ANSWER}. Try again when Weights & Biases can be reached.")
    return TrackingError(
        f"FROM: W&B has no report of experiment {name!r} in {entity}/{project} that this login may read "
        f"({one_line(error)}). Send it from the machine that ran it: make sync NAME={name}"
    )


def _check_entries(entries: Mapping[str, Any]) -> None:
    """Refuse an artifact before anything of it is written, if one of its files has a foreign place or source."""
    names = [name for name, entry in entries.items() if entry.ref is not None or (name != SUMS_FILE and not _is_ours(name))]
    _refuse("holds what no report of this project does", names)


def _is_ours(name: str) -> bool:
    """Whether a report of this project has files of this name: below ``report`` and ``runs``, and nowhere else."""
    place, *inner = name.split("/")
    known = inner in ([DATA_FILE], [PLAN_FILE], [DECISION_FILE]) or (len(inner) == 2 and inner[1] in RUN_FILES)
    plain = not any(part in ("", ".", "..") for part in inner) and "\\" not in name and printable(name) == name
    return plain and (known if place == "runs" else place == "report" and bool(inner))


def _refuse(reason: str, names: Collection[str]) -> None:
    if names:
        shown = [printable(name) for name in sorted(names)]
        raise TrackingError(f"FROM: the download {reason}: {listed(shown, 3)}. Try again, or send the report again.")


def verify(folder: Path) -> None:
    """Check the names of a download, and every file of it against ``SHA256SUMS``.

    Raises
    ------
    TrackingError
        If a file is missing, is not the one that was sent, is a link, or was not sent; if a name is given twice or leads
        elsewhere; if it is not this project's artifact.
    """
    try:
        lines = [line.split("  ", 1) for line in (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()]
        names = [name for _, name in lines]
    except (OSError, ValueError) as error:
        raise TrackingError(f"FROM: the artifact is not a report of this project ({one_line(error)}).") from error
    entries = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    there = {name for name, path in entries.items() if path.is_symlink() or not path.is_dir()}
    odd = [name for name, times in Counter(names).items() if not _is_ours(name) or times > 1]
    odd += [name for name, path in entries.items() if path.is_symlink()]
    _refuse("holds what no report of this project does", [*odd, *(there - {SUMS_FILE, *names})])
    wrong = [name for name in (f"report/{LEDGER_FILE}", f"report/{EXPERIMENT_FILE}") if name not in names]
    for digest, name in lines:
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            wrong.append(name)
    _refuse("is not what was sent", wrong)
