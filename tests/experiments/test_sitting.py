"""The script for a sitting at a GPU, its commands held against the command line, without training."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

from experiments.__main__ import app
from experiments.config import loading
from experiments.config.paths import ROOT

SCRIPT = ROOT / "configs" / "gpu" / "sitting.sh"


def commands(tmp_path: Path, ends: int = 0, **environment: str) -> tuple[list[list[str]], subprocess.CompletedProcess[str]]:
    """What the script would run, under a Python that writes down its arguments and ends with a status."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" "--end--" >> {log}\necho "from the command"\nexit {ends}\n')
    python.chmod(0o755)
    (tmp_path / "reports" / "bench").mkdir(parents=True)
    (tmp_path / "reports" / "bench" / "bench.json").write_text("{}")
    told = {"PYTHON": str(python), "REPORTS_DIR": str(tmp_path / "reports"), **environment}
    done = subprocess.run(["bash", str(SCRIPT)], env=os.environ | told, capture_output=True, text=True, timeout=60)
    return [text.split("\n")[2:-1] for text in log.read_text().split("--end--\n")[:-1]] if log.exists() else [], done


@pytest.mark.parametrize("dry", ["", "1"])
def test_every_command_of_a_sitting_is_one_that_exists(dry: str, tmp_path: Path) -> None:
    found, done = commands(tmp_path, DRY=dry)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = ["run", "bench", *([] if dry else ["bench"]), *["run"] * (2 if dry else 4), "run", "run"]
    assert [words[0] for words in found] == kinds
    for words in found:
        parameters = get_command(app).commands[words[0]].params  # type: ignore[attr-defined]
        known = {option for parameter in parameters for option in parameter.opts} | {"--stop-after"}
        assert {word for word in words if word.startswith("--")} <= known, words
        plain = [word for before, word in pairwise(words) if not word.startswith("--") and not before.startswith("--")]
        if words[0] == "run":
            loading.load_experiment(plain[0], loading.parse_overrides(plain[1:]))
        else:
            assert set(plain) <= set(loading.names("models"))
    assert (tmp_path / "reports" / "sitting" / "device.txt").read_text() == "from the command\n"
    assert len(re.findall(r"processes: 0 of 8 cells in", (tmp_path / "reports" / "sitting" / "cells.txt").read_text())) > 1


def test_a_part_that_fails_is_said_and_stops_none_after_it(tmp_path: Path) -> None:
    found, done = commands(tmp_path, ends=2, DRY="1")
    assert done.returncode == 1 and len(found) == 6 and done.stdout.count("ended with exit status 2") == 6


def test_one_that_ran_out_of_time_is_no_failure(tmp_path: Path) -> None:
    assert commands(tmp_path, ends=130, DRY="1")[1].returncode == 0


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    found, done = commands(tmp_path, MINUTES="0")
    assert not found and done.returncode == 0 and done.stdout.count("no time left; the next sitting goes on here") == 9
