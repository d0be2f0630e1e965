"""What the harness costs over bare computation: paired, repeated measurements in one process.

Three ways to take the same optimiser steps are timed in turn, over and over, so that a drift of the machine's speed meets
all of them: the bare forward–backward–update step on one resident batch; this harness, with real data, augmentation,
evaluation and logging; and a conventional loop over a `torch.utils.data.DataLoader` with per-sample transforms.

For every image that it trains on, the harness evaluates as many as the recipe does over its whole length; it writes a
checkpoint at the end of each timed stretch.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from experiments.config.schema import DataConfig, Recipe
from experiments.data.batches import EvaluationBatches, Normalise, TrainBatches, normalised
from experiments.data.images import Images
from experiments.training import compilation, cost
from experiments.training.fit import fit
from experiments.training.optim import make_optimizer
from experiments.training.profile import bare_step
from experiments.training.state import Training
from experiments.training.steps import Update, train_steps
from experiments.training.watch import Written


@dataclass(frozen=True)
class Task:
    """What is trained in all three ways."""

    build: Callable[[], tuple[nn.Module, dict[str, Any]]]
    train: Images
    val: Images
    data: DataConfig
    recipe: Recipe
    """Its `steps` and `evaluations` are those of one timed stretch."""
    device: torch.device
    n_classes: int

    def normalise(self) -> Normalise:
        """The data's normalisation on the device."""
        return normalised(self.data, self.device)

    def batches(self) -> TrainBatches:
        """The harness's batches."""
        return TrainBatches(
            self.train, self.normalise(), batch_size=self.recipe.batch_size, seed=0, augmentation=self.recipe.augmentation,
            device=self.device, n_classes=self.n_classes,
        )  # fmt: skip

    def training(self) -> Training:
        """A fresh model and optimiser, in the memory format and compiled as a run has them."""
        model = self.build()[0].to(self.device)
        model.to(memory_format=compilation.memory_format(model, self.device))
        optimizer = make_optimizer(model, self.recipe)
        training = Training("bench", model, optimizer, cost.Meter(self.device), torch.zeros((), device=self.device))
        images = self.batches()(0)[0]
        training.forward = compilation.compiled(model, self.recipe.compile, images, precision=self.recipe.precision).forward
        return training


def evaluations_of_stretch(recipe: Recipe, steps: int, batch_size: int, n_val: int) -> tuple[int, int]:
    """Evaluations of a stretch of `steps`, and images of each: together the recipe's own share of the images trained on."""
    images = recipe.evaluations * n_val * (steps * batch_size) / (recipe.steps * recipe.batch_size)
    evaluations = min(steps, max(1, math.ceil(images / n_val)))
    return evaluations, min(n_val, max(1, round(images / evaluations)))


def take_steps(task: Task, training: Training, batches: Callable[[int], tuple[Tensor, Tensor]]) -> None:
    """The recipe's steps as a run takes them, at its peak rate."""
    recipe = task.recipe
    train_steps(
        training.model if training.forward is None else training.forward,
        training.optimizer,
        batches,
        range(recipe.steps),
        Update(lambda step: recipe.learning_rate, 0, recipe.precision, recipe.label_smoothing, recipe.clip_grad_norm),
        loss_sum=training.loss_sum,
    )


def bare(task: Task) -> Callable[[], float]:
    """The step alone on one batch that lies on the device. Returns a function that times a stretch."""
    training, recipe = task.training(), task.recipe
    for group in training.optimizer.param_groups:
        group["lr"] = recipe.learning_rate
    step = bare_step(
        training.model if training.forward is None else training.forward, *task.batches()(0), precision=recipe.precision,
        optimizer=training.optimizer, label_smoothing=recipe.label_smoothing, clip_grad_norm=recipe.clip_grad_norm,
    )  # fmt: skip
    return lambda: cost.seconds(lambda: [step() for _ in range(recipe.steps)], task.device)


def harness(task: Task) -> Callable[[], float]:
    """This harness end to end: order, augmentation, schedule, evaluation, metrics and heartbeat."""
    batches, val = task.batches(), EvaluationBatches(task.val, task.normalise(), device=task.device)
    training = task.training()  # one for all stretches, as in the other ways: the cost of a start is measured per cell

    def stretch() -> float:
        training.step = training.loss_from = 0
        training.val_best = {}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            def work() -> None:
                written = Written(folder, training, task.recipe)
                fit(training, task.recipe, batches, val, seed=0, folder=folder, observer=written)

            return cost.seconds(work, task.device)

    return stretch


def dataloader(task: Task) -> Callable[[], float]:
    """A conventional loop: a DataLoader that shuffles and transforms samples one by one, and the same step."""
    training, options = task.training(), task.recipe.augmentation
    chosen: list[Any] = [transforms.ToPILImage()]
    if options.crop_padding:
        chosen.append(transforms.RandomCrop(task.data.image_size, padding=options.crop_padding))
    if options.horizontal_flip:
        chosen.append(transforms.RandomHorizontalFlip())
    transform = transforms.Compose([*chosen, transforms.ToTensor(), transforms.Normalize(task.data.mean, task.data.std)])

    def read(indices: list[int]) -> tuple[Tensor, Tensor]:
        samples = [transform(torch.from_numpy(task.train.pixels[index].copy())) for index in indices]
        return torch.stack(samples), torch.from_numpy(task.train.labels[indices])

    every: Any = range(len(task.train))
    loader = DataLoader[Any](every, task.recipe.batch_size, shuffle=True, drop_last=True, collate_fn=read)
    stream = chain.from_iterable(repeat(loader))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        images, labels = next(stream)
        return images.to(task.device), labels.to(task.device)

    return lambda: cost.seconds(lambda: take_steps(task, training, batch), task.device)


WAYS = {"bare": bare, "end_to_end": harness, "dataloader": dataloader}


def measure(tasks: dict[str, Task], repeats: int, on_turn: Callable[[int], None]) -> dict[str, Any]:
    """Time all ways of all models in turn, every second turn in the opposite order.

    `tasks` are by name of the model. Turn 0 is not counted; `on_turn` is told the number of each before it.

    Returns
    -------
    dict
        By model the medians of images/s per way, and of the ratios of one turn: ``end_to_end_over_bare``,
        ``end_to_end_over_dataloader`` and ``bare_over_first``, over the first model's bare step; ``quartiles`` of them all.
    """
    stretches = {(model, name): way(task) for model, task in tasks.items() for name, way in WAYS.items()}
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in stretches}
    images = {model: task.recipe.steps * task.recipe.batch_size for model, task in tasks.items()}
    for turn in range(repeats + 1):
        on_turn(turn)
        for key in list(stretches)[:: 1 if turn % 2 else -1]:
            rate = images[key[0]] / stretches[key]()
            if turn:
                rates[key].append(rate)
    first, rows = next(iter(tasks)), {}
    for model in tasks:
        values = {name: np.array(rates[model, name]) for name in WAYS}
        values |= {
            "end_to_end_over_bare": values["end_to_end"] / values["bare"],
            "end_to_end_over_dataloader": values["end_to_end"] / values["dataloader"],
            "bare_over_first": values["bare"] / np.array(rates[first, "bare"]),
        }
        spread = {name: dict(zip(("q1", "median", "q3"), np.quantile(v, [0.25, 0.5, 0.75]).tolist(), strict=True))
                  for name, v in values.items()}  # fmt: skip
        rows[model] = {**{name: quartiles["median"] for name, quartiles in spread.items()}, "quartiles": spread}
    return rows


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of some work that is not done on a GPU."""
    return float(np.median([cost.seconds(work, torch.device("cpu")) for _ in range(repeats)]))


def costs_of(task: Task) -> dict[str, Any]:
    """A model's costs around the steps: seconds of a checkpoint and of compiling, bytes of memory at the peak of a step."""
    start = time.perf_counter()
    training = task.training()
    compiling = time.perf_counter() - start if task.recipe.compile != "off" else None
    with training.meter.training():
        take_steps(replace(task, recipe=task.recipe.model_copy(update={"steps": 3})), training, task.batches())
    with tempfile.TemporaryDirectory() as name:
        saving = median_seconds(lambda: training.save(Path(name), {"started": "", "attempts": []}, []), 5)
    return {
        "checkpoint_seconds": saving,
        "compile_seconds": compiling,
        "peak_memory_bytes": training.meter.peak_bytes,
    }
