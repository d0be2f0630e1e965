"""Shared by all tests: no network service, no login of the developer's, folders of their own, one thread."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("DEVICE", "cpu")
    for name in ("RUNS_DIR", "REPORTS_DIR", "DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("CONFIGS_DIR", raising=False)
