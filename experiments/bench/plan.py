"""What a grid will cost: every cell counted, and each model's steps timed here or taken from what earlier runs recorded."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.bench.steps import Task, take_steps
from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.identity import canonical_hash, fraction_label
from experiments.config.machine import free_memory
from experiments.data import datasets
from experiments.data.splits import nested_subset
from experiments.grid import local
from experiments.records.intended import Costs, Range, Rate
from experiments.records.paces import MIN_RECORDS, Paces, kind, recorded
from experiments.training import cost, memory, models
from experiments.training.device import resolve_device

SECONDS = 12.0
"""Time for timed steps, all models together."""
SLOW_DEVICE_FLOPS = 2e10
"""A step that would take longer than its share of that on such a device, a CPU's core, is timed with fewer images."""
UNKNOWN_FACTOR = 1.5
"""How far a grid's pace may lie from that of timed steps: other work, heat, memory that workers share."""
START_SECONDS = 5.0
"""Of a worker process, before its first cell (measured, ``results/bench.json``)."""
SMALL_FILES_BYTES = 200_000
"""Of a run: record, configuration, evaluations, example images, what is kept for W&B."""


def estimate(cells: Sequence[Cell], trials: Sequence[Cell], jobs: str, earlier: Iterable[Path], target: Path) -> Costs:
    """Cost of a grid on this device.

    `earlier` are folders of experiments whose records tell a pace, where they are of this device; `target` is the folder of
    the runs, or where it will be.
    """
    every, device, threads = [*trials, *cells], resolve_device(), cells[0].execution.threads
    at_once = local.resolve_jobs(jobs, len(every), threads)
    torch.set_num_threads(threads)
    kinds, name = {_kind(cell): cell for cell in every}, cost.device_name(device)
    known = recorded(earlier, name)
    rates = {kind: _rate(cell, known, device, SECONDS / len(kinds)) for kind, cell in kinds.items()}
    sizes = {at: _sizes(cell) for at, cell in {cell.place[::2]: cell for cell in every}.items()}
    hours, per_seed, images, pflops, disk = np.zeros(3), dict[str, float](), 0, 0.0, 0
    for cell in every:
        rate, recipe, (n_val, n_test, n_classes) = rates[_kind(cell)], cell.trained, sizes[cell.place[::2]]
        passes = cost.FORWARD_AND_BACKWARD if cell.model.train == "all" else cost.FORWARD
        seen = recipe.steps * recipe.batch_size
        evaluated = (recipe.evaluations + 1) * n_val + (n_test if cell.trial is None else 0)
        own = (seen + evaluated / passes) / 3600 * np.array(rate.seconds_per_image)
        hours += own
        if cell.trial is None and cell.seed == cells[0].seed:
            key = f"{cell.data_name}/{fraction_label(cell.train_fraction)}"
            per_seed[key] = per_seed.get(key, 0.0) + float(own[1])
        images += seen
        pflops += cost.train_pflops(rate.gmacs, seen, passes)
        disk += 8 * rate.parameters + 4 * (n_test + n_val) * n_classes + SMALL_FILES_BYTES  # weights, checkpoint, logits
    peaks = [rate.peak_memory_bytes for rate in rates.values()]
    return Costs(
        cells=len(cells),
        trials=len(trials),
        images=images,
        pflops=pflops,
        device=name,
        device_hours=_range(hours),
        jobs=at_once,
        hours=_range(hours / at_once + START_SECONDS / 3600),
        hours_per_seed=per_seed,
        disk_bytes=disk,
        disk_free_bytes=shutil.disk_usage(next(path for path in (target, *target.parents) if path.is_dir())).free,
        memory_bytes=None if None in peaks else at_once * max(filter(None, peaks)),
        memory_free_bytes=torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory(),
        rates=list(rates.values()),
    )


def _range(values: Any) -> Range:
    low, likely, high = map(float, values)
    return low, likely, high


def _kind(cell: Cell) -> str:
    """What decides a cell's pace: all but its budget, its seed and the rates of its optimiser."""
    parts = {"batch_size", "precision", "compile", "augmentation", "optimizer", "ema"}
    return canonical_hash([cell.model_name, cell.data_name, cell.recipe.model_dump(include=parts), cell.data.image_size])


def _sizes(cell: Cell) -> tuple[int, int, int]:
    """Images of validation and test, and classes."""
    dataset = datasets.load(cell.data)
    subset = nested_subset(dataset.pool.labels, cell.train_fraction, cell.seed)
    return len(subset.val), len(dataset.test), len(dataset.class_names)


def _rate(cell: Cell, known: Paces, device: torch.device, seconds: float) -> Rate:
    """A model's pace from earlier runs where there are enough, else from steps that are timed now."""
    recipe, threads, dataset = cell.recipe, cell.execution.threads, datasets.load(cell.data)
    sizes = {"image_size": cell.data.image_size, "in_channels": cell.data.channels, "num_classes": len(dataset.class_names)}
    build = partial(models.build, cell.model_name, cell.model, **sizes)
    model = build()[0]
    gmacs = cost.forward_gmacs(model, cell.data.channels, cell.data.image_size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    runs = [record for record in known.get(kind(cell), []) if math.isclose(record.compute.forward_gmacs or 0, gmacs)]
    peak: int | None
    if len(runs) >= MIN_RECORDS:
        paces = np.quantile([1 / (record.compute.images_per_second or math.nan) for record in runs], [0.1, 0.5, 0.9])
        peak = max(record.compute.peak_memory_bytes or 0 for record in runs) or None
        source = f"{len(runs)} runs of {', '.join(sorted({record.experiment for record in runs}))}"
    else:
        size = recipe.batch_size
        if device.type == "cpu":
            size = min(size, max(2, int(seconds / 4 * SLOW_DEVICE_FLOPS * threads / (6 * gmacs * 1e9))))
        subset = nested_subset(dataset.pool.labels, cell.train_fraction, cell.seed)
        smaller = recipe.model_copy(update={"batch_size": size, "compile": "off"})
        train, val = dataset.pool.take(subset.train), dataset.pool.take(subset.val)
        task = Task(build, train, val, cell.data, smaller, device, len(dataset.class_names))
        try:
            steps, busy, peak = _timed(task, seconds, threads)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            fix = "Use a smaller recipe.batch_size, or micro_batch_size"
            raise ConfigError(f"{cell.model_name}: no room for a step of {size} images ({error}). {fix}.") from error
        paces = np.array([min(steps) / 1.1, np.median(steps), np.median(steps) * max(UNKNOWN_FACTOR, busy)]) / size
        whole = size == recipe.batch_size
        peak = peak if whole else None
        source = f"{len(steps)} timed steps{'' if whole else f' of {size} images instead of {recipe.batch_size}'}"
        source += ", not compiled" if recipe.compile != "off" else ""
    return Rate(
        model=cell.model_name, data=cell.data_name, parameters=parameters, gmacs=gmacs, seconds_per_image=_range(paces),
        source=source, peak_memory_bytes=peak,
    )  # fmt: skip


def _timed(task: Task, seconds: float, threads: int) -> tuple[list[float], float, int | None]:
    """Seconds of single steps; how much longer than these the clock saw pass; peak of memory in bytes.

    On a CPU a step's time is what its threads computed, so that other work on the machine does not count as its own.
    """
    one = replace(task, recipe=task.recipe.model_copy(update={"steps": 1}))
    training, batches, times = task.training(), task.batches(), list[tuple[float, float]]()
    with training.meter.training():
        while len(times) < 5 or (times[-1][0] - times[0][0] < seconds and len(times) < 200):
            take_steps(one, training, lambda _: batches(len(times)))
            cost.synchronise(task.device)
            times.append((time.perf_counter(), time.process_time() / threads))
    wall, own = np.diff(times[1:], axis=0).T  # the first two steps warm up
    chosen = own if task.device.type == "cpu" else wall
    return chosen.tolist(), float(wall.sum() / chosen.sum()), training.meter.peak_bytes
