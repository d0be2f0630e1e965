"""From the first step, or a checkpoint, to the last: training in stretches, evaluations and checkpoints between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from experiments.config.errors import UserError
from experiments.config.schema import Execution, Recipe
from experiments.data.batches import EvaluationBatches, TrainBatches
from experiments.metrics import classification_metrics
from experiments.training import memory
from experiments.training.optim import learning_rate
from experiments.training.state import Training
from experiments.training.steps import Update, evaluate, train_steps
from experiments.training.watch import Written

CHECKPOINT_SECONDS = 30.0
"""Shortest time between checkpoints that are not asked for by step."""

CHECKPOINT_SHARE = 0.02
"""Checkpoints may cost at most this share of the time between them."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""


class Diverged(UserError):
    """The training loss is not finite, as was seen at `step`."""

    def __init__(self, step: int, *, clipped: bool = True) -> None:
        self.step = step
        clip = "lower `recipe.clip_grad_norm`" if clipped else "set `recipe.clip_grad_norm`, such as to 1.0"
        super().__init__(f"the training loss is not finite at step {step}; lower `recipe.learning_rate` or {clip}")


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Steps after which validation is evaluated: evenly spaced, the last is the last step."""
    return [math.ceil(steps * k / evaluations) for k in range(1, evaluations + 1)]


class _Checkpoints:
    """Writes checkpoints, and decides when one is due: by step where asked for, else by time and cost."""

    def __init__(self, training: Training, folder: Path, every_steps: int | None, observer: Written) -> None:
        self.training, self.folder, self.every_steps, self.observer = training, folder, every_steps, observer
        self._last, self._cost = time.monotonic(), 0.0

    def due(self, step: int) -> bool:
        if self.every_steps is not None:
            return step > 0 and step % self.every_steps == 0
        return time.monotonic() - self._last >= max(CHECKPOINT_SECONDS, self._cost / CHECKPOINT_SHARE)

    def known_to_all(self, step: int) -> bool:
        """Whether every process of a group knows by itself that one is due."""
        return self.every_steps is not None and step % self.every_steps == 0

    def save(self, *, last: bool = False) -> None:
        start = time.monotonic()
        self.training.save(self.folder, *self.observer.kept(), last=last)
        self._last = time.monotonic()
        self._cost = self._last - start


def fit(
    training: Training,
    recipe: Recipe,
    train: TrainBatches,
    val: EvaluationBatches,
    *,
    seed: int,
    folder: Path,
    observer: Written,
    execution: Execution = Execution(),  # noqa: B008 - frozen
) -> None:
    """Train to the last step of the recipe. Test data is no argument of this function.

    Raises
    ------
    Interrupted
        After a checkpoint, if the observer asked to stop.
    Diverged
        If a training loss is not finite at an evaluation.
    experiments.training.memory.DoesNotFit
        If there is no room for a step, in the smallest parts that `execution` allows.
    """
    group, checkpoints = training.group, _Checkpoints(training, folder, execution.checkpoint_every_steps, observer)
    update = _update(recipe, group.seed(seed))

    def pause_before(step: int) -> bool:
        observer.beat(step)
        wish = observer.stop_requested() or (step != training.step and checkpoints.due(step))
        return group.agree(wish, 0 if checkpoints.known_to_all(step) else step)

    evaluate_at = evaluation_steps(recipe.steps, recipe.evaluations)
    while training.step < recipe.steps:
        boundary = next(step for step in evaluate_at if step > training.step)
        parts = training.micro_batches
        observer.works()
        with training.meter.training():
            training.step = train_steps(
                training.model if training.forward is None else training.forward,
                training.optimizer,
                train,
                range(training.step, boundary),
                replace(update, micro_batches=parts, after=training.step_taken),
                loss_sum=training.loss_sum,
                more_parts=partial(_more_parts, training, recipe.batch_size, execution.on_oom),
                should_stop=pause_before,
            )
        observer.rests(training.step)
        if training.micro_batches != parts:
            observer.out_of_memory(_split_sentence(recipe.batch_size, training.micro_batches))
        if training.step == boundary:
            observer.evaluated(_evaluation_row(training, recipe, val, update.rate, execution.on_oom))
        if group.agree(observer.stop_requested()):
            checkpoints.save()
            raise Interrupted(f"stopped at step {training.step} of {recipe.steps}")
        if training.step < recipe.steps and group.agree(checkpoints.due(training.step)):
            checkpoints.save()
    checkpoints.save(last=True)


def _more_parts(training: Training, batch_size: int, on_oom: str, error: BaseException, parts: int) -> int:
    """Cut the batches of a training into more parts after it ran out of memory; several processes do not."""
    on_oom = on_oom if training.group.size == 1 else "fail"
    training.micro_batches = memory.more_parts(error, parts, batch_size=batch_size, on_oom=on_oom, model=training.model)
    return training.micro_batches


def _update(recipe: Recipe, seed: int) -> Update:
    """A recipe's step."""

    def rate(step: int) -> float:
        return learning_rate(
            step,
            steps=recipe.steps,
            peak=recipe.learning_rate,
            floor=recipe.min_learning_rate,
            warmup_fraction=recipe.warmup_fraction,
            schedule=recipe.schedule,
        )

    return Update(rate, seed, recipe.precision, recipe.label_smoothing, recipe.clip_grad_norm)


def _split_sentence(batch_size: int, parts: int) -> str:
    largest = math.ceil(batch_size / parts)
    return (
        f"out of memory with the whole batch of {batch_size}; it is trained in {parts} parts, with an equal result. "
        f"`micro_batch_size={largest}` begins so."
    )


def logits_of(
    model: nn.Module, batches: EvaluationBatches, *, device: torch.device, precision: str, on_oom: str
) -> NDArray[np.float32]:
    """Logits of a set, float32 of shape (N, classes); out of memory, in smaller chunks where `on_oom` is ``split``."""

    def smaller(error: BaseException) -> None:
        if on_oom != "split" or batches.batch_size == 1:
            raise error
        batches.batch_size = math.ceil(batches.batch_size / 2)

    return memory.until_it_fits(lambda: evaluate(model, batches, device=device, precision=precision), smaller)


def _evaluation_row(
    training: Training, recipe: Recipe, val: EvaluationBatches, rate: Callable[[int], float], on_oom: str
) -> dict[str, Any]:
    """Evaluate validation, close the running loss, keep the best, and make the row of ``metrics.jsonl``."""
    device = training.loss_sum.device
    loss = training.group.mean(training.loss_sum).item() / (training.step - training.loss_from)
    if not math.isfinite(loss):
        raise Diverged(training.step, clipped=recipe.clip_grad_norm is not None)
    with training.meter.evaluating():
        logits = logits_of(training.evaluated, val, device=device, precision=recipe.precision, on_oom=on_oom)
        logits = training.group.gathered(logits)
        metrics = classification_metrics(logits, val.labels)
    training.loss_sum.zero_()
    training.loss_from = training.step
    samples = training.step * recipe.batch_size
    if metrics["top1"] is not None and metrics["top1"] > training.val_best.get("top1", -1.0):
        training.val_best = {"step": training.step, "top1": metrics["top1"], "nll": metrics["nll"] or 0.0}
    seconds = training.meter.train_seconds
    return {
        "step": training.step,
        "samples_seen": samples,
        "learning_rate": rate(training.step - 1),
        "train/loss": loss,
        "val/loss": metrics["nll"],
        "val/top1": metrics["top1"],
        "train_seconds": seconds,
        "evaluation_seconds": training.meter.evaluation_seconds,
        "images_per_second": samples / seconds if seconds > 0 else None,
    }
