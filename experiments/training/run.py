"""One cell → one record: the procedure of a paper."""

from __future__ import annotations

import math
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.identity import canonical_hash
from experiments.data import datasets
from experiments.data.batches import EvaluationBatches, Normalise, TrainBatches, normalised
from experiments.data.images import Images, SealedTest
from experiments.data.seeding import integer_seed
from experiments.data.splits import nested_subset, split_hash
from experiments.records.record import Record
from experiments.tracking import content
from experiments.training import artifacts, compilation, cost, distributed, models, pretrained
from experiments.training.artifacts import Facts, Predictions
from experiments.training.attempt import Attempt
from experiments.training.device import resolve_device, set_deterministic
from experiments.training.fit import fit, logits_of
from experiments.training.memory import parts_for
from experiments.training.model_check import DECLARED
from experiments.training.optim import make_optimizer
from experiments.training.outcome import Outcome
from experiments.training.provenance import facts_of
from experiments.training.state import Training
from experiments.training.tuning import chosen
from vit_scratch import VisionTransformer
from vit_scratch.attention import class_token_maps


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
        raise ConfigError(f"{cell.data.title}: its files changed after this command began. Start the command again.")
    return Splits(train, val, test, dataset.class_names, dataset.test_split)


def build_model(cell: Cell, n_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a cell, initialised from its seed, and its declared geometry."""
    sizes = {"image_size": cell.data.image_size, "in_channels": cell.data.channels}
    checked = models.check(cell.model_name, cell.model, **sizes)
    torch.manual_seed(integer_seed(cell.seed, "initialisation"))
    model, geometry = models.build(cell.model_name, cell.model, **sizes, num_classes=n_classes)
    if cell.execution.nudge is not None:
        nudge(model, integer_seed(cell.execution.nudge, "nudge"))
    return model, geometry | checked.geometry


def nudge(model: nn.Module, seed: int) -> None:
    """Move each weight to the number beside it, up or down by chance: the smallest change there is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            up = torch.rand(parameter.shape, generator=generator) < 0.5
            parameter.copy_(torch.nextafter(parameter, torch.where(up, torch.inf, -torch.inf).to(parameter)))


_gmacs: dict[str, float] = {}
"""Counted operations by what they depend on: the same model is not counted again in every cell of a process."""


def forward_gmacs(cell: Cell, model: nn.Module, n_classes: int) -> float:
    """Multiply–accumulates of a cell's model on one image, in 1e9."""
    key = canonical_hash([cell.model.model_dump(), cell.data.channels, cell.data.image_size, n_classes])
    if key not in _gmacs:
        _gmacs[key] = cost.forward_gmacs(model, cell.data.channels, cell.data.image_size)
    return _gmacs[key]


def run(cell: Cell, experiment_folder: Path, trials: list[Record] | None = None) -> Outcome:
    """Train one cell, or go on with it, evaluate the test set once, and write the record.

    Never raises: what goes wrong is the outcome, and a failed cell's record. A cell that has ended, or that another process
    is on, is left alone.

    Parameters
    ----------
    experiment_folder : Path
        Where the run folder lies or will lie.
    trials : list of Record, optional
        In a process that follows another one: what the leader chose the recipe from.
    """
    attempt, group = Attempt(cell, experiment_folder / str(cell.run_id)), distributed.current()
    with attempt.claimed():
        if attempt.outcome:
            return attempt.ended
        if trials is None:
            attempt.cell, trials = group.told(chosen(cell, experiment_folder))
        cell = attempt.cell
        device = resolve_device()
        torch.set_num_threads(cell.execution.threads)
        set_deterministic(cell.execution.deterministic)
        splits = load_splits(cell)
        model, geometry = build_model(cell, len(splits.class_names))
        for key in sorted(DECLARED & geometry.keys()):
            attempt.says(f"{cell.model_name} at {cell.data.image_size} pixels: {key.replace('_', ' ')}: {geometry[key]}")
        gmacs = forward_gmacs(cell, model, len(splits.class_names))
        normalise = normalised(cell.data, device)
        train = train_batches(cell, splits, normalise, device)
        val = evaluation_batches(splits.val, normalise, device)
        training, resolved = prepare(cell, model, train, attempt, device)
        sizes = (len(splits.train), len(splits.train) + len(splits.val), len(splits.test))
        facts = Facts(geometry, facts_of(cell, device) | resolved, gmacs, *sizes, splits.test_split)
        watch = attempt.watch(training, facts)
        fit(
            training,
            cell.trained,
            train,
            val,
            seed=cell.seed,
            folder=attempt.folder,
            execution=cell.execution,
            observer=watch,
        )
        predictions = predict(cell, training.evaluated, splits, normalise, device, attempt.folder)
        if group.leads:
            artifacts.write_predictions(attempt.folder, predictions, splits.class_names)
            artifacts.write_weights(attempt.folder, training.evaluated)
        attempt.done(watch.completed(predictions, trials))
    return attempt.ended


def follow() -> None:
    """Take part in the cells that the leading process runs, until it says that there are no more.

    What a run writes goes into a folder that is thrown away: the leader's is the run folder.
    """
    os.environ["WANDB_MODE"] = "disabled"
    while (order := distributed.current().told(None)) is not None:
        with tempfile.TemporaryDirectory() as name:
            cell, trials = order
            run(cell, Path(name), trials)


def train_batches(cell: Cell, splits: Splits, normalise: Normalise, device: torch.device) -> TrainBatches:
    """The batches of a cell, of which this process takes its share."""
    recipe = cell.trained
    return TrainBatches(
        splits.train,
        normalise,
        batch_size=recipe.batch_size,
        seed=cell.seed,
        augmentation=recipe.augmentation,
        device=device,
        n_classes=len(splits.class_names),
        mixed_steps=math.ceil(recipe.augmentation.mix_until * recipe.steps),
        part=distributed.current().part,
    )


def prepare(
    cell: Cell, model: nn.Module, train: TrainBatches, attempt: Attempt, device: torch.device
) -> tuple[Training, dict[str, Any]]:
    """Model and optimiser as the step needs them: on the device, at their checkpoint, compiled and distributed as asked for.

    What was decided on the way comes with them, for the record.
    """
    recipe, group = cell.recipe, distributed.current()
    layout = compilation.memory_format(model, device)
    model = distributed.synchronise_batch_norm(model, group, device).to(device)
    model.to(memory_format=layout)
    optimizer = make_optimizer(model, recipe)
    loss_sum = torch.zeros((), device=device)
    training = Training(str(cell.run_id), model, optimizer, cost.Meter(device), loss_sum, group=group)
    if recipe.ema is not None:  # buffers too, as timm averages them
        average = get_ema_multi_avg_fn(recipe.ema)
        training.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    training.micro_batches = parts_for(recipe.batch_size // group.size, cell.execution.micro_batch_size)
    for warning in training.restore(attempt.folder):
        attempt.says(warning)
    step = compilation.compiled(model, recipe.compile, train(training.step)[0], precision=recipe.precision)
    attempt.says(step.failure)
    training.forward = group.wrapped(step.forward, device)
    training.meter.compile_seconds += step.seconds
    return training, {
        "compile": step.mode,
        "compile_failure": step.failure,
        "memory_format": "channels_last" if layout == torch.channels_last else "contiguous",
        "processes": group.size,
        **({} if recipe.ema is None else {"weights": f"moving average, decay {recipe.ema:g}"}),
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
    logits = predicted(test)
    maps = partial(looked, model, normalise, device=device)
    content.write_examples(folder, test.pixels, test.ids, maps, normalise.seen)
    return Predictions(logits, test.labels, test.ids, *val)


@torch.inference_mode()
def looked(
    model: nn.Module, normalise: Normalise, pixels: NDArray[np.uint8], device: torch.device
) -> NDArray[np.uint8] | None:
    """Where this project's ViT looks on images (N, C, H, W), each map with 255 at its largest.

    None for any other model, and where pixels are permuted, whose patches are no places.
    """
    model = pretrained.unwrapped(model).eval()
    if not isinstance(model, VisionTransformer) or normalise.places is not None:
        return None
    images = normalise(torch.from_numpy(np.ascontiguousarray(pixels)).to(device)).to(next(model.parameters()).dtype)
    maps = class_token_maps(model, images)
    return (255 * maps / maps.amax(dim=(1, 2), keepdim=True)).round().to(torch.uint8).cpu().numpy()
