"""What the harness costs around the steps: starting, cells, checkpoints, batches, workers side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from experiments.bench.steps import Task, median_seconds
from experiments.config import loading
from experiments.config.cells import Cell
from experiments.config.paths import ROOT, runs_dir
from experiments.config.schema import Augmentation
from experiments.data import datasets
from experiments.data.batches import EvaluationBatches, Normalise, TrainBatches, normalised
from experiments.data.decoding import Photos, decode
from experiments.data.images import Images, Pixels, Rows
from experiments.data.splits import nested_subset
from experiments.grid import driver
from experiments.grid.driver import GridObserver
from experiments.records.record import Record, read_record
from experiments.training import cost, stop
from experiments.training.run import build_model
from experiments.training.steps import evaluate

ONE_MODEL = ["models=[vit_micro_p2]", "reference=vit_micro_p2", "expect=[]"]
TRIVIAL = [*ONE_MODEL, "recipe.steps=1", "recipe.evaluations=1", "train_fractions=[0.1]"]
"""A cell that does next to nothing: one step of a small ViT."""
WAIT_SECONDS = 120
"""Longest wait for a worker of a DataLoader."""
LONGEST_SOCKET_FOLDER = 70
"""Characters of a folder that leave room for a socket's path of at most 107; without room workers wait for ever."""
SIZE, STORED_SIZE = 224, 320
"""Pixels of a side: as batches have it, and as the files do."""


@contextmanager
def _planned(name: str, overrides: list[str]) -> Iterator[tuple[list[Cell], Path]]:
    """Cells of an experiment and their folder, which is thrown away; without W&B."""
    with tempfile.TemporaryDirectory() as runs, mock.patch.dict(os.environ, {"RUNS_DIR": runs, "WANDB_MODE": "disabled"}):
        experiment = loading.load_experiment(name, loading.parse_overrides(overrides))
        yield driver.plan(experiment), runs_dir() / experiment.name


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

    return {name: median_seconds(partial(start, arguments), repeats) for name, arguments in commands.items()}


def cell_seconds(cells: int) -> dict[str, float]:
    """Seconds per cell of a grid of trivial cells in this process, and what of it is not computation.

    Computation is the step, its evaluation, and the predictions of the validation and test sets.
    """
    with _planned("smoke", [*TRIVIAL, f"seeds={list(range(cells))}"]) as (planned, folder):
        driver.launch(planned[:1], folder, jobs="1", observer=GridObserver())  # what a process does once
        start = time.perf_counter()
        driver.launch(planned, folder, jobs="1", observer=GridObserver())
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
    return median_seconds(lambda: [evaluate(model, images, device=device) for images in sets], 5)


def first_batch_seconds(task: Task) -> float:
    """Seconds from nothing in memory to the first augmented batch on the device; the data lie on the disk."""

    def first_batch() -> None:
        pool = datasets.load(task.data).pool
        replace(task, train=pool.take(nested_subset(pool.labels, 1.0, seed=0).train)).batches()(0)

    datasets.forget()
    return cost.seconds(first_batch, task.device)


def _images_per_second(batches: Callable[[int], Any], steps: int, batch_size: int, device: torch.device) -> float:
    """Pace of batches by step, after a first one."""
    batches(0)
    return steps * batch_size / cost.seconds(lambda: [batches(step) for step in range(1, steps + 1)], device)


def _synthetic(
    pixels: Pixels, augmentation: Augmentation, batch_size: int, device: torch.device, resident: bool
) -> TrainBatches:
    """Batches of images that are all of one class."""
    images = Images(pixels, np.zeros(len(pixels), np.int64), np.arange(len(pixels)).astype(str))
    return TrainBatches(
        images, Normalise([0.5] * 3, [0.25] * 3, device), batch_size=batch_size, seed=0, augmentation=augmentation,
        device=device, resident=resident,
    )  # fmt: skip


def data_images_per_second(device: torch.device, *, n: int = 256, batch_size: int = 64, steps: int = 16) -> dict[str, float]:
    """Augmented training images of 224 × 224 per second without a model that takes them, by where the pixels wait.

    ``resident``: on the device; ``mapped``: in the mapped cache; ``decoded``: in JPEG files of 320 × 320 pixels, smooth
    random images that are about as hard to decode as photos; ``dataloader``: in the same files, read by a DataLoader of two
    worker processes with torchvision's transforms, where TMPDIR has room for their sockets.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / f"{number}.jpg" for number in range(n)]
        for file in files:
            coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            coarse.resize((STORED_SIZE, STORED_SIZE), Image.Resampling.BICUBIC).save(file, quality=90)
        np.save(Path(name) / "cache.npy", np.stack([decode(file, SIZE, 3) for file in files]))
        mapped, photos = np.load(Path(name) / "cache.npy", mmap_mode="r"), Rows(Photos(files, SIZE, 3), np.arange(n))

        def rate(batches: Callable[[int], Any]) -> float:
            return _images_per_second(batches, steps, batch_size, device)

        usual = Augmentation(crop_padding=4, horizontal_flip=True)
        ways: tuple[tuple[str, Pixels, bool], ...] = (
            ("resident", mapped, True), ("mapped", mapped, False), ("decoded", photos, False)
        )  # fmt: skip
        rates = {way: rate(_synthetic(pixels, usual, batch_size, device, lies)) for way, pixels, lies in ways}
        if len(name) < LONGEST_SOCKET_FOLDER:
            stream = iter(_conventional(files * (1 + (steps + 1) * batch_size // n), batch_size))
            rates["dataloader"] = rate(lambda step: next(stream).to(device))
        return rates


def _conventional(files: list[Path], batch_size: int) -> DataLoader[Tensor]:
    """What a training script usually has: files decoded and transformed one by one in two worker processes."""
    transform = v2.Compose([
        v2.Resize(SIZE, antialias=True), v2.CenterCrop(SIZE), v2.RandomCrop(SIZE, padding=4), v2.RandomHorizontalFlip(),
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3),
    ])  # fmt: skip

    options = {"shuffle": True, "drop_last": True, "num_workers": 2, "timeout": WAIT_SECONDS}
    return DataLoader(files, batch_size, collate_fn=partial(_batch, transform), **options)  # type: ignore[arg-type]


def _batch(transform: Callable[[Any], Tensor], files: list[Path]) -> Tensor:
    """A function of the module, as workers that are spawned must be able to import it (macOS; Linux from Python 3.14 on)."""
    return torch.stack([transform(Image.open(file).convert("RGB")) for file in files])


def augmentation_images_per_second(device: torch.device, *, batch_size: int = 256, steps: int = 8) -> dict[str, float]:
    """Images of 32 × 32 pixels per second through resized crop, flip and RandAugment, of a resident batch at once and by
    torchvision's transforms image by image, with as many threads.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, 3, 32, 32), dtype=np.uint8)
    augmentation = Augmentation(resized_crop=0.08, horizontal_flip=True, policy="rand_augment")
    transform = v2.Compose([
        v2.RandomResizedCrop(32, antialias=True), v2.RandomHorizontalFlip(), v2.RandAugment(2, 9),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3),
    ])  # fmt: skip
    tensors = torch.from_numpy(pixels)
    ways: dict[str, Callable[[int], Any]] = {
        "batched": _synthetic(pixels, augmentation, batch_size, device, resident=True),
        "per_image": lambda step: torch.stack([transform(image) for image in tensors]).to(device),
    }
    return {name: _images_per_second(way, steps, batch_size, device) for name, way in ways.items()}


def side_by_side(engine_name: str, steps: int = 600, jobs: int = 2) -> dict[str, float]:
    """Training images per second of `jobs` single-threaded workers of an engine together over those of one.

    The cells are those of ``vit_small_data``, shortened to `steps`.
    """

    def rates(workers: int) -> list[Record]:
        grid = ["train_fractions=[1.0]", f"recipe.steps={steps}", f"seeds={list(range(jobs))}"]
        with _planned("vit_small_data", [*ONE_MODEL, *grid]) as (planned, folder):
            driver.launch(planned, folder, jobs=str(workers), observer=GridObserver(), engine=engine_name)
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
    rates = ", ".join(f"{kind} {rate:,.0f}" for kind, rate in costs["data_images_per_second"].items())
    lines = [
        f"start: a light command {start['list']:.2f} s, a worker {start['worker']:.2f} s; "
        f"first batch {costs['first_batch_seconds']:.2f} s",
        f"trivial cell {cell[0]:.0f} ms, of it {cell[1]:.0f} ms not computing",
        f"batches of 224 × 224 pixels, images/s: {rates}",
    ]
    if augmented := costs.get("augmentation_images_per_second"):  # which older files have not
        lines.append(
            f"resized crop, flip and RandAugment at 32 × 32, images/s: {augmented['batched']:,.0f} as batches, "
            f"{augmented['per_image']:,.0f} by torchvision image by image"
        )
    for name, both in costs.get("side_by_side", {}).items():
        lines.append(f"{both['workers']} single-threaded workers over one, engine {name}: {both['ratio']:.2f}")
    if "vit_base_p16" in costs:
        base = costs["vit_base_p16"]
        shares = ", ".join(f"{name} {share:.0%}" for name, share in base["kernel_shares"].items())
        mfu = "unknown" if base["mfu"] is None else f"{base['mfu']:.2f}"
        lines.append(f"ViT-B/16 at 224: {base['images_per_second']:,.0f} images/s, MFU {mfu}; {shares}")
    return "\n".join(lines)
