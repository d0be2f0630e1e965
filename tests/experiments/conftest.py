"""Shared by the tests of the W&B mirror: a machine without a login, and one that is logged in to the stand-in service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.config.paths import ROOT
from experiments.tracking import client as wandb_client
from experiments.tracking import tracker
from tests.standins.wandb_service import WandbService

KEY = "0123456789abcdef0123456789abcdef01234567"
PRIVATE = "a-secret-of-this-machine"


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A machine on which nobody ever logged in, and a client that remembers nothing of other tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in (
        "WANDB_DATA_DIR",
        "WANDB_CACHE_DIR",
        "WANDB_HTTP_TIMEOUT",
    ):  # set by the code under test: to be unset afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.setenv("OTHER_TOKEN", PRIVATE)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(tracker, "_outage", tracker._Outage())
    monkeypatch.setattr(wandb_client, "_pointed", {})
    monkeypatch.setattr(wandb_client, "_temporary", None)
    yield monkeypatch
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture
def service(env: pytest.MonkeyPatch) -> Iterator[WandbService]:
    """The stand-in, with a user who is logged in."""
    with WandbService() as running:
        env.setenv("WANDB_BASE_URL", running.url)
        env.setenv("WANDB_API_KEY", KEY)
        yield running


def go_online(env: pytest.MonkeyPatch) -> None:
    """What a new command finds after WANDB_MODE was unset: the client reads its environment once in a process."""
    env.delenv("WANDB_MODE")
    sys.modules["wandb"].teardown()


ONE = ["recipe.steps=4", "recipe.evaluations=2", "seeds=[0]", "train_fractions=[0.1]", "models=[resnet_micro]", "expect=[]"]


@pytest.fixture(scope="session")
def _offline_grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cell of `smoke` and its report, made once by the real command with W&B offline."""
    place = tmp_path_factory.mktemp("offline_grid")
    given = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    given |= {"RUNS_DIR": str(place / "runs"), "REPORTS_DIR": str(place / "reports"), "DEVICE": "cpu", "HOME": str(place)}
    command = [sys.executable, "-m", "experiments", "run", "smoke", *ONE, "--jobs", "1"]
    done = subprocess.run(command, cwd=ROOT, env=given | {"WANDB_MODE": "offline"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture
def grid(_offline_grid: Path, env: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of that grid that the test may spoil; ``RUNS_DIR`` and ``REPORTS_DIR`` point to it. The experiment's folder."""
    for name in ("runs", "reports"):
        shutil.copytree(_offline_grid / name, tmp_path / name, symlinks=True)
        env.setenv(f"{name.upper()}_DIR", str(tmp_path / name))
    return tmp_path / "runs" / "smoke"
