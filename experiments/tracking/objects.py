"""A finished run's tables and weights as objects of W&B's client, given to a session that is open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.records.record import WEIGHTS_FILE
from experiments.tracking.content import Rows, confusion_table, predictions_table
from experiments.tracking.mirror import Mirror, weights_asked

PREDICTIONS_KEY, CONFUSION_KEY = "predictions", "confusion_matrix"


def add(run: Any, mirror: Mirror, folder: Path) -> None:
    """Put a run's predictions and confusion matrix into its summary, and its weights into a version where asked for."""
    import wandb

    if confusion := confusion_table(folder):
        run.summary[CONFUSION_KEY] = table(confusion)
    if found := predictions_table(folder):
        rows, images = found
        shown = [[row[0], wandb.Image(image), *row[1:]] for row, image in zip(rows.rows, images, strict=True)]
        run.summary[PREDICTIONS_KEY] = table(Rows(["id", "image", *rows.columns[1:]], shown))
    weights = folder / WEIGHTS_FILE
    if weights_asked() and weights.is_file():
        artifact = wandb.Artifact(f"weights-{mirror.id}"[:128], type="model", metadata={"run_id": mirror.run_id})
        artifact.add_file(str(weights))
        run.log_artifact(artifact)


def table(rows: Rows) -> Any:
    """Rows as a ``wandb.Table``."""
    import wandb

    return wandb.Table(columns=[*rows.columns], data=rows.rows, allow_mixed_types=True)
