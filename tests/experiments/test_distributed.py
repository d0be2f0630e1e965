"""One run over two processes: the same batches, the same curve, exact evaluation, one writer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.config import loading
from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT, runs_dir
from experiments.data.batches import EvaluationBatches, Normalise
from experiments.data.images import Images
from experiments.grid import driver, local, worker
from experiments.records.progress import read_progress
from experiments.records.record import read_record, read_rows
from experiments.training import distributed, run, stop
from experiments.training.distributed import Group
from experiments.training.torchrun import Place
from tests.arithmetic import rounding

ARGUMENTS = ["recipe.steps=12", "recipe.evaluations=2", "seeds=[0]", "train_fractions=[0.5]", "checkpoint_every_steps=5"]
AUGMENTED = ["recipe.augmentation.crop_padding=1", "recipe.augmentation.mixup=0.4", "recipe.augmentation.erase=0.2"]


def cells_of() -> tuple[list[Cell], Path]:
    experiment = loading.load_experiment("smoke", loading.parse_overrides([*ARGUMENTS, *AUGMENTED]))
    return driver.plan(experiment), runs_dir() / experiment.name


def doubled(build: Callable[..., Any]) -> Callable[..., Any]:
    """Build models in double precision. In single precision batch normalisation turns rounding into other signs of near-zero
    gradients and Adam those into steps, so that nothing follows for a curve; here its rows are all that is rounded."""

    def build_model(*arguments: Any, **options: Any) -> Any:
        model, geometry = build(*arguments, **options)
        model.double().register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        return model, geometry

    return build_model


LEAD = """
import sys
from experiments.grid import driver
from experiments.config import loading
from experiments.config.paths import runs_dir
from experiments.training import stop
from experiments.training import run
from experiments.grid.driver import GridObserver
from tests.experiments.test_distributed import doubled

run.build_model = doubled(run.build_model)

with driver.leading() as leads:
    if leads:
        experiment = loading.load_experiment("smoke", loading.parse_overrides(sys.argv[1:]))
        driver.launch(driver.plan(experiment), runs_dir() / experiment.name, jobs="auto", observer=GridObserver())
"""


def two_processes(runs: Path) -> None:
    """The processes that torchrun would start, without the report that the command makes afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LEAD, *ARGUMENTS, *AUGMENTED],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env=os.environ | group | {"RANK": rank, "LOCAL_RANK": rank, "RUNS_DIR": str(runs), "OMP_NUM_THREADS": "1"},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        for process in started:
            assert process.wait(timeout=1200) == 0, process.stderr.read() if process.stderr else ""
    finally:
        for process in started:
            process.kill()


def curve(folder: Path, cell: Cell) -> np.ndarray:
    rows = read_rows(folder / str(cell.run_id) / "metrics.jsonl")
    return np.array([[row["step"], row["train/loss"], row["val/loss"], row["val/top1"]] for row in rows])


def test_two_processes_make_the_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, folder = cells_of()
    assert [cell.model.family for cell in cells] == ["ViT", "ResNet"]
    monkeypatch.setattr(run, "build_model", doubled(run.build_model))
    for cell in cells:
        assert worker.work(cell, folder).status == "done"
    alone = {cell.run_id: curve(folder, cell) for cell in cells}
    tolerance = rounding(
        12, np.concatenate(list(alone.values()))[:, 1:].max()
    )  # a row's loss is a sum over some of 12 steps

    # The ResNet begins in one process, which is stopped between checkpoints, and is ended by two.
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "two"))
    cells, shared = cells_of()
    asked = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stop, "requested", lambda: next(asked) >= 3)
        assert worker.work(cells[1], shared).status == "interrupted"
    stopped_at = read_progress(shared / str(cells[1].run_id))["step"]
    assert 0 < stopped_at < 10
    two_processes(tmp_path / "two")
    for cell in cells:
        both = curve(shared, cell)
        assert both.shape == (2, 4)
        assert np.abs(both - alone[cell.run_id]).max() <= tolerance
        record = read_record(shared / str(cell.run_id) / "record.json")
        assert record.environment["processes"] == 2 and record.attempts[-1].devices == 2
        saved = np.load(shared / str(cell.run_id) / "predictions.npz")
        before = np.load(folder / str(cell.run_id) / "predictions.npz")
        assert saved["sample_ids"].tolist() == before["sample_ids"].tolist() and len(saved["logits"]) == record.n_test
        for name in ("logits", "val_logits"):
            assert np.abs(saved[name] - before[name]).max() <= rounding(1, np.abs(before[name]).max())
    assert read_record(shared / str(cells[1].run_id) / "record.json").attempts[-1].start_step == stopped_at

    # What two processes checkpointed at step 10 is gone on with by one.
    for cell in cells:
        run_folder = shared / str(cell.run_id)
        (run_folder / "record.json").unlink()
        (run_folder / "last.pt").unlink()
        assert worker.work(cell, shared).status == "done"
        assert read_record(run_folder / "record.json").attempts[-1].start_step == 10
        assert np.abs(curve(shared, cell) - alone[cell.run_id]).max() <= tolerance


@pytest.mark.slow
def test_torchrun_runs_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "experiments"]
    done = subprocess.run(
        [*command, "run", "smoke", "recipe.steps=4", "recipe.evaluations=2", "seeds=[0]"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[4/4] done") == 1 and done.stdout.count("report.html") == 1


def test_slices_of_an_evaluation_cover_every_image_once() -> None:
    images = Images(np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1), np.arange(7), np.array(list("abcdefg")))
    plain = Normalise([0.0], [1 / 255], torch.device("cpu"))
    for processes in (1, 2, 3):
        seen = [
            chunk
            for process in range(processes)
            for chunk in EvaluationBatches(
                images, plain, device=torch.device("cpu"), batch_size=2, part=(process, processes)
            )
        ]
        assert torch.cat(seen).flatten().round().tolist() == list(range(7))


def test_a_batch_that_does_not_divide_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, _ = cells_of()
    monkeypatch.setattr(distributed, "current", lambda: Group(0, 3))
    monkeypatch.setattr(distributed.torchrun, "place", lambda: Place(size=3, local_size=3))
    faults = worker.check(cells)
    assert len(faults) == 1 and "32 images do not divide among 3 processes" in faults[0] and "33" in faults[0]


@pytest.mark.parametrize(
    ("wanted", "gpus", "processes", "message"),
    [
        ("auto", 2, 4, "4 processes.*2 GPUs.*--nproc-per-node 2"),
        ("cuda", 0, 2, "has 0 GPUs"),
        ("cuda:1", 2, 2, "auto, cpu or"),
    ],
)
def test_more_gpus_than_there_are_is_told(
    monkeypatch: pytest.MonkeyPatch, wanted: str, gpus: int, processes: int, message: str
) -> None:
    monkeypatch.setenv("DEVICE", wanted)
    monkeypatch.setattr(distributed.torchrun, "place", lambda: Place(size=processes, local_size=processes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ConfigError, match=message):
        distributed.local_device()


def test_each_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("DEVICE", "auto")
    monkeypatch.setattr(distributed.torchrun, "place", lambda: Place(rank=1, size=2, local_rank=1, local_size=2))
    assert distributed.local_device() == torch.device("cuda", 1)


def test_jobs_and_torchrun_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert local.resolve_jobs("auto", cells=8, threads=1) == 1
    with pytest.raises(ConfigError, match="JOBS: must be 1 under torchrun"):
        local.resolve_jobs("2", cells=8, threads=1)


def test_processes_drop_units_of_their_own() -> None:
    assert Group(0, 2).seed(7) == 7 != Group(1, 2).seed(7)
    assert json.dumps(Group(0, 1).part) == "[0, 1]"
