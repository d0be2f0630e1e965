"""A run on disk: finding it, and what of it may leave this machine."""

from __future__ import annotations

from pathlib import Path

import yaml

from experiments.config import ConfigError
from experiments.folders import runs_dir
from experiments.record import RECORD_FILE


def find_run(run: Path) -> Path:
    """The folder of a run that ended, given as a folder or by its id.

    Raises
    ------
    ConfigError
        If there is no such run, or several experiments have one of that id.
    """
    if (run / RECORD_FILE).is_file():
        return run
    found = sorted(path.parent for path in runs_dir().glob(f"*/*/{RECORD_FILE}") if path.parent.name == run.name)
    if not found:
        raise ConfigError([f"{run}: no run folder, and no finished run of that name below {runs_dir()}."])
    if len(found) > 1:
        raise ConfigError([f"{run}: several runs have this name; give the folder of one: {', '.join(map(str, found))}."])
    return found[0]


def config_without_path(path: Path) -> bytes:
    """A run's ``config.yaml``; where it names a folder of images, without the way to it."""
    content = path.read_bytes()
    if b"path: null" in content:
        return content
    values = yaml.safe_load(content)
    if values.get("data", {}).get("path"):
        values["data"]["path"] = Path(values["data"]["path"]).name
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
