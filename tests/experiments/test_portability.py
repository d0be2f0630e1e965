"""What Linux alone has is taken away: each use of it has another way."""

from __future__ import annotations

import builtins
import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.config import machine
from experiments.config.paths import ROOT
from experiments.data import decoding
from experiments.training import cost


def test_cores_are_those_that_affinity_and_a_quota_allow() -> None:
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from experiments.config import machine; "
    done = subprocess.run(
        [sys.executable, "-c", f"{one}print(machine.usable_cores())"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr


def test_memory_without_proc_is_unknown_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: Path, **options: Any) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    assert machine.free_memory() == machine.UNKNOWN


def test_a_container_allows_less(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"meminfo": "MemTotal: 9\nMemAvailable:    1000 kB\n", "memory.max": "900000\n", "memory.current": "100000\n"}
    monkeypatch.setattr(Path, "read_text", lambda path, **options: told[path.name])
    assert machine.free_memory() == 800_000
    told["memory.max"] = "max"
    assert machine.free_memory() == 1000 * 1024


def test_room_on_disk_without_fallocate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(decoding, "_PIECE", 1000)
    with decoding._mapped(tmp_path / "pixels.npy", (3, 3, 32, 32)) as pixels:
        assert os.stat(next(tmp_path.glob(".*.tmp"))).st_blocks * 512 >= pixels.nbytes
        pixels[1] = 7
    whole = np.load(tmp_path / "pixels.npy")
    assert whole.shape == (3, 3, 32, 32) and whole[1].min() == 7 and whole[[0, 2]].max() == 0


def test_a_peak_of_memory_without_proc_and_malloc_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open

    def without_proc(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", without_proc)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(cost, "_metered", False)
    assert [cost._reset_process_peak(), cost._reset_process_peak()] == [True, False]
    assert cost._process_peak_bytes() > 2**20


def test_windows_is_one_sentence(tmp_path: Path) -> None:
    code = (
        "import sys, sysconfig, typer, rich.console, pydantic, yaml; sysconfig.get_config_vars()\n"
        "sys.platform = 'win32'\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"  # importing them fails
        "from experiments.__main__ import main\n"
        "sys.argv = ['experiments', 'run', 'smoke']\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "WSL" in done.stderr and done.stderr.count("\n") == 1
