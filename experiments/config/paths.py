"""Where runs, reports, data and configuration lie: below the checkout, or where the environment says."""

from __future__ import annotations

import os
from pathlib import Path

from experiments.config.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def _folder(variable: str, name: str) -> Path:
    """The folder that a variable names, else the one of this name in the checkout."""
    try:
        return Path(os.environ.get(variable) or ROOT / name).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # ~ of nobody; links in a circle
        raise ConfigError(f"{variable}: {os.environ[variable]!r} leads nowhere ({error}). Name another folder.") from error


def runs_dir() -> Path:
    """Folder of the run folders: `RUNS_DIR`, else ``runs`` in the checkout."""
    return _folder("RUNS_DIR", "runs")


def reports_dir() -> Path:
    """Folder of the reports: `REPORTS_DIR`, else ``reports`` in the checkout."""
    return _folder("REPORTS_DIR", "reports")


def data_dir() -> Path:
    """Folder where datasets live or are downloaded: `DATA_DIR`, else ``data`` in the checkout."""
    return _folder("DATA_DIR", "data")


def in_data_dir(path: str | None) -> Path:
    """A file or folder of data as a config names it: below `DATA_DIR`, unless its path is absolute."""
    return data_dir() / Path(path or "").expanduser()


def configs_dir() -> Path:
    """Folder of the configuration files: `CONFIGS_DIR`, else ``configs`` in the checkout."""
    return _folder("CONFIGS_DIR", "configs")
