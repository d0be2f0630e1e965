"""Finding a run on disk."""

from __future__ import annotations

from pathlib import Path

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
