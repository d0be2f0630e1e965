"""What the harness costs around the steps: starting, cells, checkpoints, the first batch, workers side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.config import loading
from experiments.config.cells import Cell
from experiments.config.paths import ROOT
from experiments.config.schema import DataConfig, Recipe
from experiments.data import datasets
from experiments.data.batches import EvaluationBatches, TrainBatches, normalised
from experiments.data.splits import nested_subset
from experiments.grid import driver
from experiments.grid.driver import Observer
from experiments.records.record import Record, read_record
from experiments.training import cost, stop
from experiments.training.fit import Training
from experiments.training.run import build_model
from experiments.training.steps import evaluate

ONE_MODEL = ["models=[vit_micro_p2]", "reference=vit_micro_p2", "expect=[]"]
TRIVIAL = [*ONE_MODEL, "recipe.steps=1", "recipe.evaluations=1", "train_fractions=[0.1]"]
"""A cell that does next to nothing: one step of a small ViT."""


def _median(work: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


@contextmanager
def _apart() -> Iterator[Path]:
    """Runs go to a folder that is thrown away, without W&B."""
    before = {name: os.environ.get(name) for name in ("RUNS_DIR", "WANDB_MODE")}
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"RUNS_DIR": name, "WANDB_MODE": "disabled"}
        try:
            yield Path(name)
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})


def _records(cells: list[Cell], folder: Path) -> list[Record]:
    """The records of cells that have just run; a command that was told to stop meanwhile ends here."""
    if stop.requested():
        raise KeyboardInterrupt
    return [read_record(folder / str(cell.run_id) / "record.json") for cell in cells]


def startup_seconds(repeats: int = 3) -> dict[str, float]:
    """Seconds from a fresh interpreter to a light command's end, and to a worker that has imported torch and timm."""
    commands = {
        "list": ["-m", "experiments", "list"],
        "worker": ["-c", "from experiments.grid import worker; worker.warm_up()"],
    }

    def start(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)  # noqa: S603

    return {name: _median(partial(start, arguments), repeats) for name, arguments in commands.items()}


def cell_seconds(cells: int) -> dict[str, float]:
    """Seconds per cell of a grid of trivial cells in this process, and what of it is not computation.

    Computation is the step, its evaluation, and the predictions of the validation and test sets.
    """
    with _apart():
        experiment = loading.load_experiment("smoke", loading.parse_overrides([*TRIVIAL, f"seeds={list(range(cells))}"]))
        planned, folder = driver.plan(experiment), driver.experiment_folder(experiment)
        driver.launch(planned[:1], folder, jobs="1", observer=Observer())  # what a process does once
        start = time.perf_counter()
        driver.launch(planned, folder, jobs="1", observer=Observer())
        each = (time.perf_counter() - start) / max(1, len(planned) - 1)
        records = _records(planned[1:], folder)
        stepping = float(np.mean([(r.compute.train_seconds or 0) + (r.compute.evaluation_seconds or 0) for r in records]))
        return {"cell_seconds": each, "cell_overhead_seconds": max(0.0, each - stepping - _predicting(planned[0]))}


def _predicting(cell: Cell) -> float:
    """Seconds of the predictions at the end of a cell."""
    model = build_model(cell, n_classes=10)[0]
    dataset, device = datasets.load(cell.data), torch.device("cpu")
    normalise = normalised(cell.data, device)
    subset = nested_subset(dataset.pool.labels, cell.train_fraction, cell.seed)
    sets = [EvaluationBatches(i, normalise, device=device) for i in (dataset.pool.take(subset.val), dataset.seal().open())]
    return _median(lambda: [evaluate(model, images, device=device) for images in sets], 5)


def checkpoint_seconds(training: Training, repeats: int = 5) -> float:
    """Seconds to write a checkpoint of a model and its optimiser, to the disk of temporary files."""
    with tempfile.TemporaryDirectory() as name:
        return _median(lambda: training.save(Path(name), {"started": "", "attempts": []}, []), repeats)


def first_batch_seconds(data: DataConfig, recipe: Recipe, device: torch.device) -> float:
    """Seconds from nothing in memory to the first augmented batch on the device; the data lie on the disk."""
    datasets.forget()
    start = time.perf_counter()
    dataset = datasets.load(data)
    train = dataset.pool.take(nested_subset(dataset.pool.labels, 1.0, seed=0).train)
    normalise = normalised(data, device)
    batches = TrainBatches(
        train, normalise, batch_size=recipe.batch_size, seed=0, augmentation=recipe.augmentation, device=device,
        n_classes=len(dataset.class_names),
    )  # fmt: skip
    batches(0)
    cost.synchronise(device)
    return time.perf_counter() - start


def side_by_side(engine_name: str, steps: int = 600, jobs: int = 2) -> dict[str, float]:
    """Training images per second of `jobs` single-threaded workers of an engine together over those of one.

    The cells are those of ``vit_small_data``, shortened to `steps`.
    """

    def rates(workers: int) -> list[Record]:
        with _apart():
            grid = ["train_fractions=[1.0]", f"recipe.steps={steps}", f"seeds={list(range(jobs))}"]
            experiment = loading.load_experiment("vit_small_data", loading.parse_overrides([*ONE_MODEL, *grid]))
            planned, folder = driver.plan(experiment), driver.experiment_folder(experiment)
            driver.launch(planned, folder, jobs=str(workers), observer=Observer(), engine=engine_name)
            return _records(planned, folder)

    alone = float(np.mean([record.compute.images_per_second or 0.0 for record in rates(1)]))
    together = sum(record.compute.images_per_second or 0.0 for record in rates(jobs))
    return {
        "workers": jobs,
        "images_per_second_of_one": alone,
        "images_per_second_together": together,
        "ratio": together / alone,
    }


def costs_table(costs: dict[str, Any]) -> str:
    """What is around the steps, for the terminal."""
    start, cell = costs["startup_seconds"], (1000 * costs["cell_seconds"], 1000 * costs["cell_overhead_seconds"])
    lines = [
        f"start: a light command {start['list']:.2f} s, a worker {start['worker']:.2f} s; "
        f"first batch {costs['first_batch_seconds']:.2f} s",
        f"trivial cell {cell[0]:.0f} ms, of it {cell[1]:.0f} ms not computing",
    ]
    if "data_images_per_second" in costs:
        rates = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in costs["data_images_per_second"].items())
        lines.append(f"batches of 224 × 224 pixels, images/s: {rates}")
    for name, both in costs.get("side_by_side", {}).items():
        lines.append(f"{both['workers']} single-threaded workers over one, engine {name}: {both['ratio']:.2f}")
    if "vit_base_p16" in costs:
        base = costs["vit_base_p16"]
        shares = ", ".join(f"{name} {share:.0%}" for name, share in (base["kernel_shares"] or {}).items())
        mfu = "unknown" if base["mfu"] is None else f"{base['mfu']:.2f}"
        lines.append(f"ViT-B/16 at 224: {base['images_per_second']:,.0f} images/s, MFU {mfu}; {shares}")
    return "\n".join(lines)
