"""What large grids cost: planning, the ledger, the report; in processor seconds of fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.config.paths import ROOT
from tests.chaos import grids

LARGE = ("recipe.steps=4", "recipe.evaluations=1", f"seeds={list(range(1250))}", "train_fractions=[0.5,1.0]")
"""5,000 cells of two models on digits."""


def _seconds(code: str, place: Path, *arguments: str) -> dict[str, float]:
    """Processor seconds of a fresh process that runs some code, less those of its imports, and its peak in MiB."""
    measured = (
        "import json, resource, sys\n"
        f"{code}\n"
        "def clock(): used = resource.getrusage(resource.RUSAGE_SELF); return used.ru_utime + used.ru_stime\n"
        # On Linux the peak of resource counts that of the process that started this one.
        "def peak():\n"
        "    if sys.platform != 'linux': return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20\n"
        "    return int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) / 2**10\n"
        "begun = clock(); work(); print(json.dumps([clock() - begun, peak()]))"
    )
    command = [sys.executable, "-c", measured, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=grids.environment(place, OMP_NUM_THREADS="1"), check=True, capture_output=True, text=True
    )
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return {"cpu_seconds": round(seconds, 2), "peak_mib": round(peak)}


def large_grid(place: Path) -> dict[str, Any]:
    """Planning 5,000 cells, and asking for their state."""
    load = (
        "from experiments.config import loading\nfrom experiments.config.paths import runs_dir\n"
        "from experiments.grid import driver\n"
        "from experiments.reporting.known import known_ledger\n"
        "import experiments.data.datasets, sklearn.datasets\n"
        "e = loading.load_experiment('smoke', loading.parse_overrides(sys.argv[1:]))\n"
    )
    plan = _seconds(load + "work = lambda: print(len(driver.plan(e)))", place, *LARGE)
    status = _seconds(load + "work = lambda: print(len(known_ledger(e, runs_dir() / e.name)['cells']))", place, *LARGE)
    return {"plan_cpu_seconds": plan["cpu_seconds"], "status_cpu_seconds": status["cpu_seconds"]}


def large_reports(place: Path, sizes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Reports over grids of so many runs with so many predictions each, on 4 models and 3 budgets."""
    figures: dict[str, Any] = {}
    code = (
        "import analysis.report, matplotlib.pyplot\nfrom pathlib import Path\n"
        "from tests.analysis.conftest import make_experiment, write_run\n"
        "runs, n_test, place = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])\n"
        "e = make_experiment(seeds=list(range(runs // 12)))\n"
        "cells = [write_run(place / 'runs', e, m, d, f, s, n_test=n_test)\n"
        "         for d in e.data for m in e.models for f in e.train_fractions for s in e.seeds]\n"
        "ledger = {'experiment': e.name, 'counts': {'expected': len(cells), 'done': len(cells), 'failed': 0, 'running': 0,\n"
        "          'missing': 0}, 'cells': cells, 'other': []}\n"
        "def work(): analysis.report.build(ledger, place / 'runs', e, place / 'report')\n"
    )
    for runs, n_test in sizes:
        there = place / f"{runs}-{n_test}"
        there.mkdir(parents=True)
        for name, value in _seconds(code, there, str(runs), str(n_test), str(there)).items():
            figures[f"report_of_{runs}_runs_with_{n_test}_predictions_{name}"] = value
    return figures


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        print(large_grid(Path(name) / "grid"))
        print(large_reports(Path(name) / "reports", ((504, 1000), (2004, 1000), (996, 10_000))))
