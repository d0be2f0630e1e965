"""Read an experiment's report and records out of Weights & Biases, on a machine that has no run folders."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config.errors import ConfigError
from experiments.config.schema import Experiment
from experiments.tracking.client import NO_ANSWER, one_line, require_login, wandb_module, why
from experiments.tracking.mirror import TrackingError
from experiments.tracking.report import EXPERIMENT_FILE, LEDGER_FILE, SUMS_FILE, artifact_name

API_TIMEOUT_SECONDS = 30
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
        raise ConfigError([f"FROM: must be wandb:<entity>/<project>, got {text!r}, as in FROM=wandb:my-team/vit-bench."])
    return match[1], match[2]


class Fetched(NamedTuple):
    """What a download holds.

    Attributes
    ----------
    experiment : Experiment
        As it was run, overrides included.
    ledger : dict
    runs : Path
        Folder of the run folders.
    """

    experiment: Experiment
    ledger: dict[str, Any]
    runs: Path


def fetch(source: str, name: str, runs_folder: Path) -> Fetched:
    """Download the newest version of an experiment's report artifact, and verify it.

    Parameters
    ----------
    source : str
        ``wandb:entity/project``.
    name : str
        The experiment.
    runs_folder : Path
        Folder of all runs; the download lies below it, in a hidden folder of its own.

    Returns
    -------
    Fetched

    Raises
    ------
    ConfigError
        If `source` is not of the form.
    TrackingError
        If nobody is logged in, W&B does not answer, it has no such artifact, or a file is not what its checksum says.
    """
    entity, project = parse_source(source)
    target = runs_folder / ".downloaded" / entity / project / name
    require_login(runs_folder / ".downloaded")
    partial = target.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        api = wandb_module().Api(timeout=API_TIMEOUT_SECONDS, overrides={"entity": entity, "project": project})
        artifact = api.artifact(f"{entity}/{project}/{artifact_name(name)}:latest", type="report")
        artifact.download(root=str(partial), skip_cache=True)
    except Exception as error:
        raise _not_there(error, entity, project, name) from error
    verify(partial)
    try:
        experiment = Experiment.model_validate_json((partial / "report" / EXPERIMENT_FILE).read_text(encoding="utf-8"))
        ledger = json.loads((partial / "report" / LEDGER_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrackingError(
            f"FROM: the report was made by a version of this project that this one cannot read ({one_line(error)})."
        ) from error
    runs = partial / "runs" / name  # as below RUNS_DIR, so that messages name the same places as on the other machine
    (partial / "runs").rename(partial / name)
    runs.parent.mkdir()
    (partial / name).rename(runs)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return Fetched(experiment, ledger, target / "runs" / name)


def _not_there(error: Exception, entity: str, project: str, name: str) -> TrackingError:
    reason = why(error)
    if reason == NO_ANSWER:
        return TrackingError(f"FROM: {NO_ANSWER}. Try again when Weights & Biases can be reached.")
    return TrackingError(
        f"FROM: W&B has no report of experiment {name!r} in {entity}/{project} that this login may read "
        f"({one_line(error)}). Send it from the machine that ran it: make sync NAME={name}"
    )


def verify(folder: Path) -> None:
    """Check every file of a download against ``SHA256SUMS``.

    Raises
    ------
    TrackingError
        If a file is missing or not the one that was sent, or it is not this project's artifact.
    """
    try:
        lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise TrackingError(f"FROM: the artifact is not a report of this project ({one_line(error)}).") from error
    wrong = [name for name in (f"report/{LEDGER_FILE}", f"report/{EXPERIMENT_FILE}") if name not in sums]
    for name, digest in sums.items():
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        if not inside or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(name)
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise TrackingError(f"FROM: the download is not what was sent: {shown}. Try again, or send the report again.")
