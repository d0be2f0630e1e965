"""From the first step, or a checkpoint, to the last: training in stretches, evaluations and checkpoints between them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from experiments.config.errors import UserError
from experiments.config.schema import Execution, Recipe
from experiments.data.batches import EvaluationBatches, TrainBatches
from experiments.metrics import classification_metrics
from experiments.records.record import METRICS_FILE, RecordError, atomic_write, read_rows
from experiments.training import checkpoint, memory
from experiments.training.cost import Meter
from experiments.training.distributed import ALONE, Group
from experiments.training.optim import learning_rate
from experiments.training.steps import Update, evaluate, train_steps

if TYPE_CHECKING:
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


@dataclass
class Training:
    """A run in training: what changes from step to step, and what a checkpoint must hold."""

    run_id: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    meter: Meter
    loss_sum: Tensor
    """Of the losses since the last evaluation, of shape (), on the device, so that no step waits for it."""
    step: int = 0
    loss_from: int = 0
    """Steps taken at the last evaluation."""
    val_best: dict[str, float] = field(default_factory=dict)
    """Metrics of the best evaluation so far, by validation accuracy."""
    micro_batches: int = 1
    """Parts that each batch is cut into."""
    ledger: dict[str, Any] | None = None
    rows: list[dict[str, Any]] | None = None
    """The attempts, and the rows of ``metrics.jsonl``, in the checkpoint that the run went on from."""
    forward: nn.Module | None = None
    """What a step calls where that is not the model itself: its compiled or distributed form, of the same weights."""
    average: AveragedModel | None = None
    """The moving average of the weights, where the recipe asks for one."""
    group: Group = ALONE

    @property
    def evaluated(self) -> nn.Module:
        """The model whose predictions count: the averaged one, where there is one."""
        return self.model if self.average is None else self.average.module

    def step_taken(self) -> None:
        """Let the average follow the weights."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def save(self, folder: Path, ledger: dict[str, Any], rows: list[dict[str, Any]], *, last: bool = False) -> None:
        """Write a checkpoint, with the list of attempts and the rows of ``metrics.jsonl`` up to it, from the leader.

        The `last` one, after which no step is taken, goes without the optimiser: with AdamW a third of the bytes.
        """
        loss_sum = self.group.mean(self.loss_sum)
        if not self.group.leads:
            return
        state = {
            "ledger": ledger,
            "rows": rows,
            "run_id": self.run_id,
            "step": self.step,
            "loss_from": self.loss_from,
            "loss_sum": loss_sum,
            "val_best": self.val_best,
            "micro_batches": self.micro_batches,
            "meter": self.meter.state(),
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": None if last else self.optimizer.state_dict(),
        }
        checkpoint.save(folder, state)

    def restore(self, folder: Path) -> list[str]:
        """Go on from the newest whole checkpoint, if there is one. Returns warnings about files that were passed over."""
        found = checkpoint.load(folder, self.loss_sum.device if self.group.size == 1 else torch.device("cpu"))
        state, warnings = self.group.told(found)
        if state is None:
            return warnings
        if state["run_id"] != self.run_id:
            return [*warnings, f"{folder}: its checkpoint is of run {state['run_id']}; starting from step 0."]
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.meter.restore(state["meter"])
        self.loss_sum.copy_(state["loss_sum"])
        self.step, self.loss_from, self.val_best = state["step"], state["loss_from"], state["val_best"]
        self.micro_batches = max(self.micro_batches, state.get("micro_batches", 1))
        self.ledger, self.rows = state.get("ledger"), state.get("rows")
        return warnings


class MetricsLog:
    """``metrics.jsonl`` of a run folder: one row per evaluation, the truth that trackers mirror.

    The run goes on at `step`; rows beyond it are of an attempt that was lost, and are made again. From the rows that the
    checkpoint `kept` a file that was lost or changed is made again, and a sentence in `warnings` says so.

    Raises
    ------
    experiments.records.record.RecordError
        If the file is damaged and the checkpoint, of an earlier version, does not hold its rows.
    """

    def __init__(self, folder: Path, step: int, kept: list[dict[str, Any]] | None = None) -> None:
        self.path = folder / METRICS_FILE
        self.warnings: list[str] = []
        damage = ""
        try:
            on_disk = [row for row in read_rows(self.path) if row["step"] <= step]
        except RecordError as error:
            if kept is None and step > 0:
                raise
            on_disk, damage = [], f"{error.__cause__}; the run begins at step 0 and makes it again."
        self.rows = on_disk if kept is None else list(kept)
        if damage and step == 0:
            self.warnings = [damage]
        elif self.rows != on_disk:
            lost = sum(row not in on_disk for row in self.rows)
            self.warnings = [
                f"{self.path}: {lost} of {len(self.rows)} evaluations were lost or changed; restored from the checkpoint."
            ]
        with atomic_write(self.path) as file:
            file.writelines(map(self._line, self.rows))

    @staticmethod
    def _line(row: dict[str, Any]) -> str:
        return json.dumps(row) + "\n"

    def append(self, row: dict[str, Any]) -> None:
        """Add a row at once to the file."""
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(self._line(row))


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
