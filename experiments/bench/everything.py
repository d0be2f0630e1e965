"""All that ``make bench`` measures: the steps of each model, what is around them, and one GPU model at its full size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from experiments.bench import costs, gpu
from experiments.bench.steps import Task, costs_of, evaluations_of_stretch, measure
from experiments.config.errors import ConfigError
from experiments.config.loading import load_part
from experiments.data import datasets
from experiments.data.splits import nested_subset
from experiments.grid import local
from experiments.records.record import write_json
from experiments.training import cost, models
from experiments.training.device import resolve_device


def write_bench(
    names: list[str],
    data_name: str,
    recipe_name: str,
    *,
    steps: int,
    repeats: int,
    grid_cells: int,
    settings: dict[str, Any],
    target: Path,
    on_part: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Measure models on one recipe in the three ways of `measure`, then what is around the steps.

    ``bench.json`` in the folder `target` is written after the first part, and again after the second. Names are stems of
    files in ``configs``; `settings` replaces fields of the recipe, such as ``precision``, ``compile`` and ``batch_size``;
    `on_part` is called with what is measured next.

    Raises
    ------
    ConfigError
        If a batch is larger than the training set.
    """
    device = resolve_device()
    torch.set_num_threads(1)
    tasks = _tasks(names, data_name, recipe_name, steps, settings, device)
    first = next(iter(tasks.values()))
    about = {
        "device": cost.device_name(device),
        "threads": 1,
        "data": data_name,
        "recipe": recipe_name,
        "batch_size": first.recipe.batch_size,
        "precision": first.recipe.precision,
        "compile": first.recipe.compile,
        "steps": steps,
        "repeats": repeats,
        "evaluations": first.recipe.evaluations,
        "images_per_evaluation": len(first.val),
        "torch": torch.__version__,
    }
    rows = measure(tasks, repeats, lambda turn: on_part(f"turn {turn} of {repeats}" if turn else "a turn to warm up"))
    for name, task in tasks.items():
        on_part(f"memory and checkpoint of {name}")
        rows[name] |= costs_of(task)
    _write(target, rows, about, {})  # what follows takes minutes and may be stopped
    on_part("what is around the steps")
    around = _around(first, grid_cells)
    _write(target, rows, about, around)
    return rows, around


def _tasks(
    names: list[str], data_name: str, recipe_name: str, steps: int, settings: dict[str, Any], device: torch.device
) -> dict[str, Task]:
    """The models on the training set of the data, with stretches of `steps` that evaluate as the recipe does."""
    data, recipe = load_part("data", data_name), load_part("recipes", recipe_name)
    configs = {name: load_part("models", name) for name in names}
    dataset = datasets.load(data)
    subset, n_classes = nested_subset(dataset.pool.labels, 1.0, seed=0), len(dataset.class_names)
    batch_size = settings.get("batch_size", recipe.batch_size)
    evaluations, n_val = evaluations_of_stretch(recipe, steps, batch_size, len(subset.val))
    recipe = recipe.model_copy(update={"steps": steps, "evaluations": evaluations} | settings)
    if recipe.batch_size > len(subset.train):
        raise ConfigError(
            f"--batch-size: {data_name} has {len(subset.train)} training images, fewer than a batch of "
            f"{recipe.batch_size}, of which a DataLoader makes none. Use at most {len(subset.train)}."
        )
    train, val = dataset.pool.take(subset.train), dataset.pool.take(subset.val[:n_val])
    build = partial(models.build, image_size=data.image_size, in_channels=data.channels, num_classes=n_classes)
    return {
        name: Task(partial(build, name, config), train, val, data, recipe, device, n_classes)
        for name, config in configs.items()
    }


def _around(task: Task, grid_cells: int) -> dict[str, Any]:
    """What the harness costs around the steps, whatever the model, and one GPU model at its full size."""
    around: dict[str, Any] = {
        "startup_seconds": costs.startup_seconds(),
        "first_batch_seconds": costs.first_batch_seconds(task),
        "data_images_per_second": costs.data_images_per_second(task.device),
        "augmentation_images_per_second": costs.augmentation_images_per_second(task.device),
        **costs.cell_seconds(grid_cells),
    }
    if task.device.type == "cpu" and local.usable_cores() > 1:
        engines = ["local", *(["ray"] if find_spec("ray") else [])]
        around["side_by_side"] = {name: costs.side_by_side(name) for name in engines}
    if task.device.type == "cuda":
        around["vit_base_p16"] = gpu.vit_base(task.device)
    return around


def _write(target: Path, rows: dict[str, dict[str, Any]], about: dict[str, Any], around: dict[str, Any]) -> None:
    write_json(target / "bench.json", {**rows, "settings": about, "costs": around}, indent=2)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The measurements for the terminal, in images per second."""
    lines = [f"{'model':<26}{'bare':>9}{'harness':>9}{'loader':>9}{'harness/bare':>14}{'quartiles':>15}{'step/first':>12}"]
    for name, row in rows.items():
        spread = row["quartiles"]["end_to_end_over_bare"]
        lines.append(
            f"{name:<26}{row['bare']:>9,.0f}{row['end_to_end']:>9,.0f}{row['dataloader']:>9,.0f}"
            f"{row['end_to_end_over_bare']:>14.3f}{spread['q1']:>9.3f}–{spread['q3']:.3f}{row['bare_over_first']:>12.2f}"
        )
    return "\n".join(lines)
