"""What the engines share: how a worker process is set up, what is checked before any cell, what a death leaves."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.training import stop, torchrun
from experiments.training.outcome import Outcome


def initialise(stop_requested: Callable[[], bool], threads: int) -> None:
    """Set up a worker process before torch is imported in it."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    stop.obey(stop_requested)


def work(cell: Cell, folder: Path) -> Outcome:
    """Run a cell, in a process that imports torch for it."""
    from experiments.training.run import run

    return run(cell, folder)


def warm_up() -> None:
    """Import what a cell needs, while another worker checks the grid."""
    import experiments.training.run  # noqa: F401


def check(cells: list[Cell]) -> list[str]:
    """Faults that only torch and timm can tell, before any cell runs: device, precision, models that cannot learn."""
    from experiments.training.device import check_precision, resolve_device
    from experiments.training.distributed import current
    from experiments.training.memory import parts_for
    from experiments.training.models import check as check_model
    from experiments.training.optim import faults as recipe_faults
    from experiments.training.pretrained import other_pixels

    faults: list[str] = []
    processes = current().size
    if torchrun.place().size != processes:  # nobody leads, so that every process would carry out the command by itself
        return ["torchrun: its processes share the cells of `run` alone. Start this command without it."]
    for size in sorted({cell.recipe.batch_size for cell in cells}):
        if size % processes:
            faults.append(
                f"`recipe.batch_size`: {size} images do not divide among {processes} processes; set it to a multiple of "
                f"{processes}, as in {size - size % processes + processes}, or change --nproc-per-node."
            )
    try:
        device = resolve_device()
        for precision in {cell.recipe.precision for cell in cells}:
            check_precision(precision, device)
    except ConfigError as error:
        faults += error.faults
    for cell in {id(cell.recipe): cell for cell in cells}.values():
        faults += recipe_faults(cell.recipe_name, cell.recipe)
    for cell in {(cell.model_name, id(cell.data)): cell for cell in cells}.values():
        with contextlib.suppress(ValueError):  # no such run: the check of the model says it
            faults += other_pixels(cell.model_name, cell.model, cell.data)
    first_of_each = {(cell.model_name, cell.data.image_size, cell.data.channels): cell for cell in cells}
    for cell in first_of_each.values():
        try:
            sizes = {"image_size": cell.data.image_size, "in_channels": cell.data.channels}
            checked = check_model(cell.model_name, cell.model, **sizes)
        except ConfigError as error:
            faults += error.faults
            continue
        largest = max(other.recipe.batch_size for other in cells if other.model_name == cell.model_name)
        if parts_for(largest, cell.execution.micro_batch_size) > 1 and checked.batch_statistics:
            faults.append(
                f"`micro_batch_size`: {cell.model_name} normalises by the statistics of its batch (BatchNorm), which "
                f"parts of {cell.execution.micro_batch_size} images would change. Leave it out, or choose other models."
            )
    return list(dict.fromkeys(faults))


def steps_per_second(cell: Cell, seconds: float = 2.0) -> float:
    """Steps of AdamW on a cell's model per second, its batches made beside them, for a short time.

    A proxy of its own speed, to compare numbers of processes: not compiled, without its optimiser. Nothing is written.

    Raises
    ------
    RuntimeError
        If the device has no memory for it.
    """
    from experiments.data.batches import normalised
    from experiments.training import cost, run
    from experiments.training.device import resolve_device
    from experiments.training.profile import bare_step

    device, splits = resolve_device(), run.load_splits(cell)
    batches = run.train_batches(cell, splits, normalised(cell.data, device), device)
    model, _ = run.build_model(cell, len(splits.class_names))
    step = bare_step(model.to(device), *batches(0), precision=cell.recipe.precision)
    for _ in range(5):
        step()
    cost.synchronise(device)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        batches(done)
        step()
        done += 1
    cost.synchronise(device)
    return done / (time.perf_counter() - begun)


def record_death(cell: Cell, folder: Path, process: str) -> Outcome:
    """Mark as failed a cell whose process, a kind in words, died more than once."""
    from experiments.training.attempt import record_failure

    message = (
        f"its {process} died twice, most likely killed for memory; "
        "use fewer JOBS or a smaller recipe.batch_size, then run with FLAGS=--retry-failed"
    )
    run_folder = folder / str(cell.run_id)
    run_folder.mkdir(exist_ok=True)
    record_failure(cell, run_folder, RuntimeError(message))
    return Outcome("failed", message)
