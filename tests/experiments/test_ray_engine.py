"""Cells as Ray tasks: the same records, shares of GPUs, dead workers, a cluster that is away."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.config import loading
from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.paths import runs_dir
from experiments.grid import driver, local
from experiments.grid import ray as engine
from experiments.grid.driver import GridObserver
from experiments.records.progress import read_progress
from experiments.records.record import read_record
from experiments.training.outcome import Outcome

TINY = ["recipe.steps=4", "recipe.evaluations=2", "seeds=[0]", "train_fractions=[0.1]"]


class Seen(GridObserver):
    def __init__(self) -> None:
        self.outcomes: list[tuple[Cell, Outcome]] = []

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        self.outcomes.append((cell, outcome))


def cells_of(*more: str) -> tuple[list[Cell], Path]:
    experiment = loading.load_experiment("smoke", loading.parse_overrides([*TINY, *more]))
    return driver.plan(experiment), runs_dir() / experiment.name


# ------------------------------------------------------------------------------------------------------ without Ray
def test_a_cluster_that_is_away_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.socket() as probe:  # a port at which nothing listens
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(ConfigError, match=r"RAY_ADDRESS: the cluster 127.0.0.1:\d+ cannot be joined"):
            engine.connect()


def test_without_ray_the_fix_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match="`make experiment ENGINE=ray …` installs it"):
        engine.connect()


@pytest.mark.parametrize(("jobs", "gpus", "share"), [(1, 0, 0), (1, 1, 1), (2, 2, 1), (2, 1, 0.5), (5, 2, 1 / 3), (8, 8, 1)])
def test_cells_share_gpus_evenly(jobs: int, gpus: int, share: float) -> None:
    assert engine.gpu_share(jobs, gpus) == share


@pytest.mark.parametrize(
    ("jobs", "threads", "device", "message"),
    [
        ("9", 1, "cpu", "JOBS: 9 cells at a time ask for 9 CPUs.*2 nodes has room for 6 cells of 1.*JOBS=6"),
        ("4", 2, "cpu", "room for 3 cells of 2"),
        ("1", 8, "cpu", "asks for 8 CPUs, the largest node of the Ray cluster has 4"),
        ("1", 1, "cuda", "no GPU"),
        ("none", 1, "cpu", "JOBS: must be `auto`"),
    ],
)
def test_more_than_the_cluster_has_is_told(
    monkeypatch: pytest.MonkeyPatch, jobs: str, threads: int, device: str, message: str
) -> None:
    monkeypatch.setattr(engine, "connect", lambda: None)
    monkeypatch.setattr(engine, "_nodes", lambda: [{"Resources": {"CPU": 4.0}}, {"Resources": {"CPU": 2.0}}])
    monkeypatch.setenv("DEVICE", device)
    with pytest.raises(ConfigError, match=message):
        engine.resolve_jobs(jobs, 100, threads)


def test_auto_fills_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Resources": {"CPU": 16.0, "GPU": 4.0}}, {"Resources": {"CPU": 16.0}}]
    monkeypatch.setattr(engine, "connect", lambda: None)
    monkeypatch.setattr(engine, "_nodes", lambda: nodes)
    monkeypatch.setenv("DEVICE", "cpu")
    assert engine.resolve_jobs("auto", 100, 3) == 10
    monkeypatch.setenv("DEVICE", "auto")
    assert engine.resolve_jobs("auto", 100, 3) == 4
    assert engine.resolve_jobs("auto", 2, 3) == 2


def test_a_run_folder_travels_whole(tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / "wandb").mkdir(parents=True)
    for name in ("record.json", "last.pt", "run.lock", ".half.tmp", "wandb/mirror.json"):
        (there / name).write_text(name, encoding="utf-8")
    engine.unpack(engine.pack(there), tmp_path / "here")
    names = sorted(str(path.relative_to(tmp_path / "here")) for path in (tmp_path / "here").rglob("*") if path.is_file())
    assert names == ["last.pt", "record.json", "wandb/mirror.json"]


# --------------------------------------------------------------------------------------------------------- with Ray
@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> object:
    ray = pytest.importorskip("ray", reason="Ray is not installed; ENGINE=ray installs it")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(engine, "usable_cores", lambda: 2)
    yield
    ray.shutdown()


def test_ray_gives_the_bits_of_one_process(two_cpus: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {}
    for name in ("local", "ray"):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path / name))
        cells, folder = cells_of()
        seen = Seen()
        jobs = "1" if name == "local" else "2"
        driver.launch(cells, folder, jobs=jobs, observer=seen, engine=name)
        assert [outcome.status for _, outcome in seen.outcomes] == ["done", "done"]
        weights[name] = [(folder / str(cell.run_id) / "model.safetensors").read_bytes() for cell in cells]
    assert weights["local"] == weights["ray"]

    # No shared folder: the run is made elsewhere and comes back whole.
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "apart"))
    monkeypatch.setattr(engine, "_is_shared", lambda folder: False)
    cells, folder = cells_of()
    driver.launch(cells, folder, jobs="2", observer=Seen(), engine="ray")
    assert [(folder / str(cell.run_id) / "model.safetensors").read_bytes() for cell in cells] == weights["local"]
    assert all(read_record(folder / str(cell.run_id) / "record.json").status == "done" for cell in cells)


@pytest.mark.slow
def test_a_killed_worker_is_retried_from_its_checkpoint(two_cpus: object) -> None:
    cells, folder = cells_of("recipe.steps=3000", "checkpoint_every_steps=20", "models=[vit_micro_p2,resnet_micro]")
    cells, killed = cells[:1], list[int]()

    class Killer(Seen):
        def started(self, cell: Cell) -> None:
            import threading

            threading.Thread(target=kill, args=(folder / str(cell.run_id),), daemon=True).start()

    def kill(run_folder: Path) -> None:
        import ray

        while not (run_folder / "last.pt").exists() or read_progress(run_folder).get("step", 0) < 40:
            time.sleep(0.1)
        pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _is_worker(p)]
        assert ray.is_initialized() and pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        killed.extend(pids)

    seen = Killer()
    driver.launch(cells, folder, jobs="1", observer=seen, engine="ray")
    assert killed and [outcome.status for _, outcome in seen.outcomes] == ["done"]
    attempts = read_record(folder / str(cells[0].run_id) / "record.json").attempts
    assert [attempt.reason for attempt in attempts] == ["killed", "completed"]
    assert attempts[1].start_step >= 20


def _is_worker(process: Path) -> bool:
    """Whether a process is a child's child of this one that carries out the task."""
    try:
        return b"ray::_work" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def test_a_worker_that_dies_twice_ends_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    cells, folder = cells_of()

    def dead(reference: object) -> None:
        raise ray.exceptions.WorkerCrashedError

    class Anything:
        """A remote function, an actor and a task, whatever is asked of it."""

        def __getattr__(self, name: str) -> Any:
            return Anything()

        def __call__(self, *arguments: object, **options: object) -> Any:
            return Anything()

    monkeypatch.setattr(engine, "resolve_jobs", lambda *_: 1)
    monkeypatch.setattr(engine, "_nodes", list)
    monkeypatch.setattr(engine.Cluster, "check", lambda self: [])
    monkeypatch.setattr(ray, "remote", lambda *_, **options: Anything())
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(ray, "wait", lambda references, timeout: (references, []))
    monkeypatch.setattr(ray, "get", dead)
    seen = Seen()
    driver.launch(cells, folder, jobs="1", observer=seen, engine="ray")
    assert [outcome.status for _, outcome in seen.outcomes] == ["failed", "failed"]
    record = read_record(folder / str(cells[0].run_id) / "record.json")
    assert record.failure and "died twice" in record.failure.message


def test_an_unknown_engine_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.__main__ import main

    monkeypatch.setattr("sys.argv", ["experiments", "run", "smoke", "--engine", "slurm"])
    assert main() == 2
    assert "must be `local` or `ray`, got 'slurm'" in capsys.readouterr().err
    assert local.requested_jobs("3") == 3
