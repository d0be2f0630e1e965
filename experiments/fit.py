"""From the first step, or a checkpoint, to the last: training in stretches, evaluations and checkpoints between them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments import checkpoint
from experiments.compute import Meter
from experiments.config import Recipe
from experiments.data.batches import EvaluationBatches, TrainBatches
from experiments.metrics import classification_metrics
from experiments.optim import learning_rate
from experiments.progress import Heartbeat
from experiments.record import METRICS_FILE, read_rows
from experiments.train import evaluate, train_steps

CHECKPOINT_SECONDS = 30.0
"""Shortest time between checkpoints that are not asked for by step."""

CHECKPOINT_SHARE = 0.02
"""Checkpoints may cost at most this share of the time between them."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""


class Diverged(Exception):
    """The loss is no number any more.

    Attributes
    ----------
    step : int
        Where that was seen.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(
            f"the training loss is not finite at step {step}; lower `recipe.learning_rate` or `recipe.clip_grad_norm`"
        )


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Steps after which validation is evaluated: evenly spaced, the last is the last step."""
    return [math.ceil(steps * k / evaluations) for k in range(1, evaluations + 1)]


@dataclass
class Training:
    """A run in training: what changes from step to step, and what a checkpoint must hold.

    Attributes
    ----------
    model, optimizer, meter
        Their states go into the checkpoint.
    loss_sum : Tensor of shape ()
        Sum of the losses since the last evaluation, on the device, so that no step waits for it.
    step, loss_from : int
        Steps taken, and steps taken at the last evaluation.
    val_best : dict
        Metrics of the best evaluation so far, by validation accuracy.
    """

    run_id: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    meter: Meter
    loss_sum: Tensor
    step: int = 0
    loss_from: int = 0
    val_best: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        state = {
            "run_id": self.run_id,
            "step": self.step,
            "loss_from": self.loss_from,
            "loss_sum": self.loss_sum,
            "val_best": self.val_best,
            "meter": self.meter.state(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.save(folder, state)

    def restore(self, folder: Path) -> list[str]:
        """Go on from the newest whole checkpoint, if there is one. Returns warnings about files that were passed over."""
        state, warnings = checkpoint.load(folder, self.loss_sum.device)
        if state is None:
            return warnings
        if state["run_id"] != self.run_id:
            return [*warnings, f"{folder}: its checkpoint is of run {state['run_id']}; starting from step 0."]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.meter.restore(state["meter"])
        self.loss_sum.copy_(state["loss_sum"])
        self.step, self.loss_from, self.val_best = state["step"], state["loss_from"], state["val_best"]
        return warnings


class MetricsLog:
    """``metrics.jsonl``: one row per evaluation, the truth that trackers mirror.

    Parameters
    ----------
    folder : Path
        The run folder.
    step : int
        Where the run goes on; rows beyond it are of an attempt that was lost, and are made again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / METRICS_FILE
        self.rows = [row for row in read_rows(self.path) if row["step"] <= step]
        self.path.write_text("".join(map(self._line, self.rows)), encoding="utf-8")

    @staticmethod
    def _line(row: dict[str, Any]) -> str:
        return json.dumps(row) + "\n"

    def append(self, row: dict[str, Any]) -> None:
        """Add a row at once to the file."""
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(self._line(row))


class _Checkpoints:
    """Decides when a checkpoint is due: by step where asked for, else by time and cost."""

    def __init__(self, every_steps: int | None) -> None:
        self.every_steps = every_steps
        self._last, self._cost = time.monotonic(), 0.0

    def due(self, step: int) -> bool:
        if self.every_steps is not None:
            return step > 0 and step % self.every_steps == 0
        return time.monotonic() - self._last >= max(CHECKPOINT_SECONDS, self._cost / CHECKPOINT_SHARE)

    def save(self, training: Training, folder: Path) -> None:
        start = time.monotonic()
        training.save(folder)
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
    log: MetricsLog,
    on_row: Callable[[dict[str, Any]], None],
    heartbeat: Heartbeat,
    checkpoint_every_steps: int | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the last step of the recipe. Test data is no argument of this function.

    Raises
    ------
    Interrupted
        After a checkpoint, if `stop_requested` turned true.
    Diverged
        If a training loss is not finite at an evaluation.
    """
    evaluate_at = evaluation_steps(recipe.steps, recipe.evaluations)
    checkpoints = _Checkpoints(checkpoint_every_steps)

    def rate(step: int) -> float:
        return learning_rate(
            step,
            steps=recipe.steps,
            peak=recipe.learning_rate,
            floor=recipe.min_learning_rate,
            warmup_fraction=recipe.warmup_fraction,
        )

    def pause_before(step: int) -> bool:
        heartbeat.beat(step)
        return stop_requested() or (step != training.step and checkpoints.due(step))

    while training.step < recipe.steps:
        boundary = next(step for step in evaluate_at if step > training.step)
        heartbeat.work_begins()
        with training.meter.training():
            training.step = train_steps(
                training.model,
                training.optimizer,
                train,
                range(training.step, boundary),
                rate=rate,
                seed=seed,
                loss_sum=training.loss_sum,
                precision=recipe.precision,
                label_smoothing=recipe.label_smoothing,
                clip_grad_norm=recipe.clip_grad_norm,
                should_stop=pause_before,
            )
        heartbeat.work_ends(training.step)
        if training.step == boundary:
            row = _evaluation_row(training, recipe, val, rate)
            log.append(row)
            on_row(row)
            heartbeat.val_top1 = row["val/top1"]
        if stop_requested():
            checkpoints.save(training, folder)
            raise Interrupted(f"stopped at step {training.step} of {recipe.steps}")
        if training.step < recipe.steps and checkpoints.due(training.step):
            checkpoints.save(training, folder)
            heartbeat.saved()
    checkpoints.save(training, folder)


def _evaluation_row(
    training: Training, recipe: Recipe, val: EvaluationBatches, rate: Callable[[int], float]
) -> dict[str, Any]:
    """Evaluate validation, close the running loss, keep the best, and make the row of ``metrics.jsonl``."""
    device = training.loss_sum.device
    loss = training.loss_sum.item() / (training.step - training.loss_from)
    if not math.isfinite(loss):
        raise Diverged(training.step)
    with training.meter.evaluating():
        logits = evaluate(training.model, val, device=device, precision=recipe.precision)
        metrics = classification_metrics(logits, val.labels.cpu().numpy())
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
