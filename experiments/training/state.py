"""A run in training: what changes from step to step, saved and restored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from experiments.training import checkpoint
from experiments.training.cost import Meter
from experiments.training.distributed import ALONE, Group


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
