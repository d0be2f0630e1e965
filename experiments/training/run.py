"""One cell → one record: the procedure of a paper."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.identity import canonical_hash
from experiments.config.schema import repeat_command
from experiments.data import datasets
from experiments.data.batches import EvaluationBatches, Normalise, TrainBatches
from experiments.data.images import Images, SealedTest
from experiments.data.seeding import integer_seed
from experiments.data.splits import nested_subset, split_hash
from experiments.records.folder import without_path
from experiments.records.progress import Heartbeat
from experiments.records.record import Record, write_record
from experiments.tracking import content
from experiments.tracking.tracker import About, Tracker
from experiments.training import artifacts, compilation, cost, distributed, models
from experiments.training.artifacts import Predictions
from experiments.training.device import resolve_device, set_deterministic
from experiments.training.fit import Diverged, Interrupted, MetricsLog, Training, fit, logits_of
from experiments.training.memory import parts_for
from experiments.training.model_check import DECLARED
from experiments.training.optim import adamw
from experiments.training.provenance import environment_facts
from experiments.training.tuning import chosen


class Splits(NamedTuple):
    """The three sets of one run, the last one sealed."""

    train: Images
    val: Images
    test: SealedTest
    class_names: tuple[str, ...]
    test_split: str


def load_splits(cell: Cell) -> Splits:
    """The data of a cell: train, validation and the sealed test set."""
    dataset = datasets.load(cell.data)
    subset = nested_subset(dataset.pool.labels, cell.train_fraction, cell.seed)
    train, val, test = dataset.pool.take(subset.train), dataset.pool.take(subset.val), dataset.seal()
    if split_hash(train.ids, val.ids, test.ids) != cell.split_hash:
        raise ConfigError([f"{cell.data.title}: its files changed after this command began. Start the command again."])
    return Splits(train, val, test, dataset.class_names, dataset.test_split)


def build_model(cell: Cell, n_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a cell, initialised from its seed, and its declared geometry."""
    sizes = {"image_size": cell.data.image_size, "in_channels": cell.data.channels}
    checked = models.check(cell.model_name, cell.model, **sizes)
    torch.manual_seed(integer_seed(cell.seed, "initialisation"))
    model, geometry = models.build(cell.model_name, cell.model, **sizes, num_classes=n_classes)
    return model, geometry | checked.geometry


_gmacs: dict[str, float] = {}
"""Counted operations by what they depend on: the same model is not counted again in every cell of a process."""


def forward_gmacs(cell: Cell, model: nn.Module, n_classes: int) -> float:
    """Multiply–accumulates of a cell's model on one image, in 1e9."""
    key = canonical_hash([cell.model.model_dump(), cell.data.channels, cell.data.image_size, n_classes])
    if key not in _gmacs:
        _gmacs[key] = cost.forward_gmacs(model, cell.data.channels, cell.data.image_size)
    return _gmacs[key]


def run(
    cell: Cell,
    folder: Path,
    *,
    device: torch.device,
    say: Callable[[str], None] = lambda sentence: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Record:
    """Train one cell, or go on with it, evaluate the test set once, and write the record.

    Parameters
    ----------
    cell : Cell
        What to run; its `run_id` is known.
    folder : Path
        The run folder, locked by the caller.
    device : torch.device
    say : callable
        Takes sentences for the user, such as why W&B logs offline.
    stop_requested : callable
        Asked before every step; true makes the run write a checkpoint and raise `experiments.training.fit.Interrupted`.
    """
    trials = list[Record]()
    if cell.tuning and cell.trial is None:
        cell, trials = chosen(cell, folder.parent)
    distributed.current().told((cell, trials))
    return _carried_out(cell, trials, folder, device=device, say=say, stop_requested=stop_requested)


def follow(stop_requested: Callable[[], bool]) -> None:
    """Take part in the cells that the leading process runs, until it says that there are no more.

    What a run writes goes into a folder that is thrown away: the leader's is the run folder.
    """
    os.environ["WANDB_MODE"] = "disabled"
    group, device = distributed.current(), resolve_device()
    while (order := group.told(None)) is not None:
        with tempfile.TemporaryDirectory() as name, contextlib.suppress(Interrupted, Diverged, ConfigError):
            cell, trials = order
            _carried_out(cell, trials, Path(name), device=device, say=lambda sentence: None, stop_requested=stop_requested)


def _carried_out(
    cell: Cell,
    trials: list[Record],
    folder: Path,
    *,
    device: torch.device,
    say: Callable[[str], None],
    stop_requested: Callable[[], bool],
) -> Record:
    """The procedure, in every process of the run."""
    recipe, group = cell.recipe, distributed.current()
    torch.set_num_threads(cell.execution.threads)
    set_deterministic(cell.execution.deterministic)
    splits = load_splits(cell)
    model, geometry = build_model(cell, len(splits.class_names))
    for key in sorted(DECLARED & geometry.keys()):
        say(f"{cell.model_name} at {cell.data.image_size} pixels: {key.replace('_', ' ')}: {geometry[key]}")
    gmacs = forward_gmacs(cell, model, len(splits.class_names))
    normalise = Normalise(cell.data.mean, cell.data.std, device)
    train = TrainBatches(
        splits.train,
        normalise,
        batch_size=recipe.batch_size,
        seed=cell.seed,
        augmentation=recipe.augmentation,
        device=device,
        n_classes=len(splits.class_names),
        mixed_steps=math.ceil(recipe.augmentation.mix_until * recipe.steps),
        part=group.part,
    )
    val = evaluation_batches(splits.val, normalise, device)

    training, resolved = prepare(cell, model, train, folder, device, say)
    environment = facts_of(cell, device) | resolved
    artifacts.write_config(cell, folder, geometry, environment)
    log = MetricsLog(folder, training.step, training.rows)
    for warning in log.warnings:
        say(warning)
    tracker = open_tracker(cell, folder, splits, geometry, environment, log)
    if tracker.message:
        say(tracker.message)
    heartbeat = Heartbeat(
        folder,
        device=environment["device"],
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        start_step=training.step,
        kept=training.ledger,
        devices=group.size,
    )
    try:
        fit(
            training,
            recipe,
            train,
            val,
            seed=cell.seed,
            folder=folder,
            log=log,
            on_row=tracker.log,
            heartbeat=heartbeat,
            checkpoint_every_steps=cell.execution.checkpoint_every_steps,
            on_oom=cell.execution.on_oom,
            say=lambda sentence: say(f"{cell.model_name}: {sentence}"),
            stop_requested=stop_requested,
        )
        predictions = predict(cell, training.model, splits, normalise, device, folder)
    except (Interrupted, KeyboardInterrupt):
        heartbeat.end("interrupted")
        tracker.interrupt()
        raise
    except Exception as error:
        heartbeat.end("failed")
        tracker.finish({"failure": str(error)}, failed=True)
        raise
    if group.leads:
        artifacts.write_predictions(folder, predictions, splits.class_names)
        artifacts.write_weights(folder, training.model)
    attempts = heartbeat.end("completed")
    record = artifacts.make_record(
        cell,
        predictions,
        n_train=len(splits.train),
        n_test=len(splits.test),
        test_split=splits.test_split,
        rows=log.rows,
        trials=trials,
        training=training,
        geometry=geometry,
        gmacs=gmacs,
        attempts=attempts,
        environment=environment,
        started=heartbeat.started,
    )
    write_record(folder, record)
    tracker.finish(json.loads(record.to_json()))
    if tracker.message:
        say(tracker.message)
    return record


def facts_of(cell: Cell, device: torch.device) -> dict[str, Any]:
    """What a record says about the machine and the resolved settings of a cell."""
    return environment_facts(
        device, precision=cell.recipe.precision, threads=cell.execution.threads, deterministic=cell.execution.deterministic
    )


def prepare(
    cell: Cell, model: nn.Module, train: TrainBatches, folder: Path, device: torch.device, say: Callable[[str], None]
) -> tuple[Training, dict[str, Any]]:
    """Model and optimiser as the step needs them: on the device, at their checkpoint, compiled and distributed as asked for.

    Returns
    -------
    training : Training
    resolved : dict
        What was decided on the way, for the record.
    """
    recipe, group = cell.recipe, distributed.current()
    layout = compilation.memory_format(model, device)
    model = distributed.synchronise_batch_norm(model, group, device).to(device)
    model.to(memory_format=layout)
    optimizer = adamw(model, weight_decay=recipe.weight_decay, betas=(recipe.betas[0], recipe.betas[1]))
    loss_sum = torch.zeros((), device=device)
    training = Training(str(cell.run_id), model, optimizer, cost.Meter(device), loss_sum, group=group)
    training.micro_batches = parts_for(recipe.batch_size // group.size, cell.execution.micro_batch_size)
    for warning in training.restore(folder):
        say(warning)
    step = compilation.compiled(model, recipe.compile, train(training.step)[0], precision=recipe.precision)
    if step.failure:
        say(step.failure)
    training.forward = group.wrapped(step.forward, device)
    training.meter.compile_seconds += step.seconds
    return training, {
        "compile": step.mode,
        "compile_failure": step.failure,
        "memory_format": "channels_last" if layout == torch.channels_last else "contiguous",
        "processes": group.size,
        "data_path": train.source.name,
    }


def evaluation_batches(images: Images, normalise: Normalise, device: torch.device) -> EvaluationBatches:
    """This process's share of a set, in batches as large as suits the device."""
    size = compilation.evaluation_batch_size(images.pixels.shape[-1], device)
    return EvaluationBatches(images, normalise, device=device, batch_size=size, part=distributed.current().part)


def predict(
    cell: Cell, model: nn.Module, splits: Splits, normalise: Normalise, device: torch.device, folder: Path
) -> Predictions:
    """Predict validation; break the seal of the test set and predict that too, unless this is a tuning trial.

    A sample of the test images is kept in `folder`, for the tables of W&B.
    """

    def predicted(images: Images) -> NDArray[np.float32]:
        batches = evaluation_batches(images, normalise, device)
        logits = logits_of(model, batches, device=device, precision=cell.recipe.precision, on_oom=cell.execution.on_oom)
        return distributed.current().gathered(logits)

    val = (predicted(splits.val), splits.val.labels, splits.val.ids)
    if cell.trial is not None:
        return Predictions(None, None, None, *val)
    test = splits.test.open()
    content.write_examples(folder, test.pixels, test.ids)
    return Predictions(predicted(test), test.labels, test.ids, *val)


def open_tracker(
    cell: Cell, folder: Path, splits: Splits, geometry: dict[str, Any], environment: dict[str, Any], log: MetricsLog
) -> Tracker:
    """The run's mirror in W&B, with a config that dashboards can group and filter by."""
    command = repeat_command(cell.experiment, without_path(cell.args))  # no path of this machine leaves it
    config = artifacts.identity(cell) | {
        "model_title": cell.model.title,
        "data_title": cell.data.title,
        "n": len(splits.train) + len(splits.val),
        "recipe_name": cell.recipe_name,
        "recipe": cell.recipe.model_dump(),
        "image_size": cell.data.image_size,
        "geometry": geometry,
        "environment": environment,
        "command": command,
    }
    config.pop("schema_")
    about = About(
        experiment=cell.experiment,
        run_id=str(cell.run_id),
        config=config,
        name=cell.title,
        job_type="train" if cell.trial is None else "trial",
        tags=[cell.data_name, cell.model.family, cell.track],
        notes=f"Repeat it: {command}",
    )
    return Tracker(folder, about, history=log.rows, system_metrics=environment["device_type"] == "cuda")
