"""What a run leaves in its folder: config, predictions, weights and the values of its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.torch import save as safetensors_bytes
from torch import nn

from experiments.config.cells import Cell
from experiments.config.identity import PROTOCOL, requested_settings, searched
from experiments.metrics import classification_metrics
from experiments.records.progress import now
from experiments.records.record import (
    CONFIG_FILE,
    PREDICTIONS_FILE,
    SCHEMA,
    WEIGHTS_FILE,
    Compute,
    Record,
    atomic_write,
    write_whole,
)
from experiments.training import cost, pretrained
from experiments.training.state import Training

_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The safe dumper in C where PyYAML was built with it, several times as fast."""


class Predictions(NamedTuple):
    """Logits and labels of the test and validation sets under the last weights; no test set for a tuning trial."""

    logits: NDArray[np.float32] | None
    labels: NDArray[np.int64] | None
    sample_ids: NDArray[np.str_] | None
    val_logits: NDArray[np.float32]
    val_labels: NDArray[np.int64]
    val_sample_ids: NDArray[np.str_]


class Facts(NamedTuple):
    """What is known of a run before its first step."""

    geometry: dict[str, Any]
    environment: dict[str, Any]
    """The machine, and what was decided on the way."""
    gmacs: float
    """Multiply–accumulates of the model on one image, in 1e9."""
    n_train: int
    n_pool: int
    """Images of the budget: training and validation."""
    n_test: int
    test_split: str


def make_record(
    cell: Cell,
    facts: Facts,
    training: Training,
    predictions: Predictions,
    *,
    rows: list[dict[str, Any]],
    trials: list[Record],
    attempts: list[dict[str, Any]],
    started: str,
) -> Record:
    """Everything that is known about a finished run.

    `rows` are those of ``metrics.jsonl``; `trials`, on the track `tuned`, are all that ended, whose cost the run is charged.
    """
    test: dict[str, float | None] = {}
    if predictions.logits is not None and predictions.labels is not None:
        test = classification_metrics(predictions.logits, predictions.labels)
    val = classification_metrics(predictions.val_logits, predictions.val_labels)
    return Record(
        schema_=SCHEMA,
        **identity(cell),
        status="done",
        tuned=cell.recipe.model_dump(include=searched(cell.tuning)) if cell.tuning else None,
        n_classes=predictions.val_logits.shape[1],
        n_train=facts.n_train,
        n_val=len(predictions.val_labels),
        n_test=facts.n_test,
        test_split=facts.test_split,
        steps=training.step,
        samples_seen=training.step * cell.recipe.batch_size,
        metrics={
            **{f"test/{name}": value for name, value in test.items()},
            **{f"val/{name}": value for name, value in val.items()},
            **{f"val_best/{name}": value for name, value in training.val_best.items()},
        },
        compute=_compute(cell, facts, training, rows, trials, device_hours(attempts)),
        environment=facts.environment,
        geometry=facts.geometry,
        attempts=attempts,
        started=started,
        finished=now(),
    )


def _compute(
    cell: Cell, facts: Facts, training: Training, rows: list[dict[str, Any]], trials: list[Record], hours: float
) -> Compute:
    """What a run cost."""
    meter, samples = training.meter, training.step * cell.recipe.batch_size
    rate = samples / meter.train_seconds if meter.train_seconds > 0 else None
    passes = cost.FORWARD_AND_BACKWARD if cell.model.train == "all" else cost.FORWARD
    of_one = rate / training.group.size if rate and facts.environment["precision"] == "bf16" else None
    return Compute(
        n_params=sum(parameter.numel() for parameter in training.model.parameters()),
        forward_gmacs=facts.gmacs,
        train_pflops=cost.train_pflops(facts.gmacs, samples, passes),
        images_per_second=rate,
        train_seconds=meter.train_seconds,
        evaluation_seconds=meter.evaluation_seconds,
        compile_seconds=meter.compile_seconds if cell.recipe.compile != "off" else None,
        device_hours=hours,
        peak_memory_bytes=meter.peak_bytes,
        reserved_memory_bytes=meter.reserved_bytes,
        micro_batches=training.micro_batches,
        mfu=cost.mfu(facts.gmacs, of_one, facts.environment["device"], passes) if of_one else None,
        energy_joules=meter.energy_joules if training.group.size == 1 else None,
        seconds_to_target=seconds_to_target(rows, cell.asked.target_val_top1),
        tuning_pflops=sum(trial.compute.train_pflops or 0 for trial in trials) if trials else None,
        tuning_device_hours=sum(trial.compute.device_hours or 0 for trial in trials) if trials else None,
        **pretrained.cost_of(cell.model),
    )


def device_hours(attempts: list[dict[str, Any]]) -> float:
    """Training time of all attempts times their devices."""
    return sum(attempt["seconds"] * attempt.get("devices", 1) for attempt in attempts) / 3600


def seconds_to_target(rows: list[dict[str, Any]], target: float | None) -> float | None:
    """Training seconds up to the first evaluation at or above a validation accuracy; None if there is none."""
    if target is None:
        return None
    return next((row["train_seconds"] for row in rows if row["val/top1"] >= target), None)


def identity(cell: Cell) -> dict[str, Any]:
    """What a record says about the cell itself."""
    return {
        "run_id": cell.run_id,
        "experiment": cell.experiment,
        "model": cell.model_name,
        "family": cell.model.family,
        "source": cell.model.source,
        "data": cell.data_name,
        "recipe": cell.recipe_name,
        "track": cell.track,
        "init": cell.model.init_label,
        "settings_hash": cell.settings_hash,
        "split_hash": cell.split_hash,
        "protocol": PROTOCOL,
        "seed": cell.seed,
        "train_fraction": cell.train_fraction,
        "trial": cell.trial,
        "varied": cell.varied,
    }


def write_config(cell: Cell, folder: Path, facts: Facts) -> None:
    """``config.yaml``: what was requested and what it resolved to, complete."""
    values = {
        "experiment": cell.experiment,
        "command": cell.command,
        "cell": identity(cell) | cell.execution.model_dump(),
        "requested": requested_settings(cell.recipe, cell.data, cell.tuning, cell.track),
        "data": cell.data.model_dump(),
        "recipe": cell.recipe.model_dump(),
        "model": cell.model.model_dump(),
        "resolved": {"geometry": facts.geometry, **facts.environment},
    }
    with atomic_write(folder / CONFIG_FILE) as file:
        yaml.dump(values, file, Dumper=_SafeDumper, sort_keys=False, allow_unicode=True)


def read_resolved(folder: Path) -> dict[str, Any]:
    """What a run's ``config.yaml`` says under ``resolved``; empty where there is none."""
    try:
        resolved = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))["resolved"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return {}
    return resolved if isinstance(resolved, dict) else {}


def write_predictions(folder: Path, predictions: Predictions, class_names: tuple[str, ...]) -> None:
    """``predictions.npz``: any metric can be computed again from it."""
    with atomic_write(folder / PREDICTIONS_FILE, "wb") as file:
        arrays = {name: array for name, array in predictions._asdict().items() if array is not None}
        np.savez_compressed(file, class_names=np.array(class_names), **arrays)


def write_weights(folder: Path, model: nn.Module) -> None:
    """``model.safetensors``: the final weights."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_whole(folder / WEIGHTS_FILE, safetensors_bytes(tensors))
