"""Where runs, reports, data and configuration lie: below the checkout, or where the environment says."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def runs_dir() -> Path:
    """Folder of the run folders: `RUNS_DIR`, else ``runs`` in the checkout."""
    return Path(os.environ.get("RUNS_DIR") or ROOT / "runs").expanduser().resolve()


def reports_dir() -> Path:
    """Folder of the reports: `REPORTS_DIR`, else ``reports`` in the checkout."""
    return Path(os.environ.get("REPORTS_DIR") or ROOT / "reports").expanduser().resolve()


def data_dir() -> Path:
    """Folder where datasets live or are downloaded: `DATA_DIR`, else ``data`` in the checkout."""
    return Path(os.environ.get("DATA_DIR") or ROOT / "data").expanduser().resolve()


def configs_dir() -> Path:
    """Folder of the configuration files: `CONFIGS_DIR`, else ``configs`` in the checkout."""
    return Path(os.environ.get("CONFIGS_DIR") or ROOT / "configs").expanduser().resolve()
