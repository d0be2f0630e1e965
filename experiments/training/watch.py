"""Who follows a training: its rows, its heartbeat, its mirror in W&B, and whoever may stop it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.config.cells import Cell
from experiments.config.schema import Recipe, repeat_command
from experiments.records.folder import without_path
from experiments.records.progress import Heartbeat
from experiments.records.record import METRICS_FILE, Record, RecordError, atomic_write, read_rows
from experiments.tracking.tracker import About, Tracker
from experiments.training import artifacts, stop
from experiments.training.artifacts import Facts, Predictions
from experiments.training.state import Training


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


class Written:
    """Who follows a training: told what happens, which the run folder gets as rows and heartbeat, and asked whether to stop.

    `training` is at its checkpoint; `device` names the hardware, for the list of attempts.
    """

    def __init__(self, folder: Path, training: Training, recipe: Recipe, device: str = "") -> None:
        self.log = MetricsLog(folder, training.step, training.rows)
        self.heartbeat = Heartbeat(
            folder,
            device=device,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            start_step=training.step,
            kept=training.ledger,
            devices=training.group.size,
        )

    def stop_requested(self) -> bool:
        """Asked before every step; true makes the run write a checkpoint and raise `fit.Interrupted`."""
        return False

    def works(self) -> None:
        """A stretch of training begins; evaluations and checkpoints lie between stretches."""
        self.heartbeat.work_begins()

    def rests(self, step: int) -> None:
        """A stretch ended before `step`."""
        self.heartbeat.work_ends(step)

    def beat(self, step: int) -> None:
        """A step is about to be taken."""
        self.heartbeat.beat(step)

    def out_of_memory(self, sentence: str) -> None:
        """Batches had no room and are trained in parts from now on."""

    def evaluated(self, row: dict[str, Any]) -> None:
        """Validation was evaluated: a row of ``metrics.jsonl``."""
        self.log.append(row)
        self.heartbeat.val_top1 = row["val/top1"]

    def kept(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What a checkpoint keeps of the attempts, and the rows of ``metrics.jsonl`` up to it."""
        return self.heartbeat.ledger(), self.log.rows


class Watch(Written):
    """A run of a grid: its rows are mirrored in W&B as well, and whoever stops the command stops it."""

    def __init__(
        self, cell: Cell, folder: Path, training: Training, facts: Facts, says: Callable[[str | None], None]
    ) -> None:
        super().__init__(folder, training, cell.trained, facts.environment["device"])
        self.cell, self.training, self.facts, self.says = cell, training, facts, says
        self.tracker = open_tracker(cell, folder, facts, self.log.rows)
        for sentence in (*self.log.warnings, self.tracker.message):
            says(sentence)

    def stop_requested(self) -> bool:
        return stop.requested()

    def evaluated(self, row: dict[str, Any]) -> None:
        super().evaluated(row)
        self.tracker.log(row)

    def out_of_memory(self, sentence: str) -> None:
        self.says(f"{self.cell.model_name}: {sentence}")

    def interrupted(self) -> None:
        """The attempt ends before the run does."""
        self.heartbeat.end("interrupted")
        self.tracker.interrupt()

    def failed(self, error: BaseException) -> None:
        """The run ends without a result."""
        self.heartbeat.end("failed")
        self.tracker.finish({"failure": str(error)}, failed=True)

    def completed(self, predictions: Predictions, trials: list[Record]) -> Record:
        """The run has its result: what goes into its record."""
        return artifacts.make_record(
            self.cell,
            self.facts,
            self.training,
            predictions,
            rows=self.log.rows,
            trials=trials,
            attempts=self.heartbeat.end("completed"),
            started=self.heartbeat.started,
        )

    def finished(self, record: Record) -> None:
        """The run's record is written."""
        self.tracker.finish(json.loads(record.to_json()))
        self.says(self.tracker.message)


def open_tracker(cell: Cell, folder: Path, facts: Facts, rows: list[dict[str, Any]]) -> Tracker:
    """The run's mirror in W&B, with a config that dashboards can group and filter by."""
    command = repeat_command(cell.experiment, without_path(cell.args))  # no path of this machine leaves it
    config = artifacts.identity(cell) | {
        "model_title": cell.model.title,
        "data_title": cell.data.title,
        "n": facts.n_pool,
        "recipe_name": cell.recipe_name,
        "recipe": cell.recipe.model_dump(),
        "image_size": cell.data.image_size,
        "geometry": facts.geometry,
        "environment": facts.environment,
        "command": command,
    }
    about = About(
        experiment=cell.experiment,
        run_id=str(cell.run_id),
        config=config,
        name=cell.title,
        job_type="train" if cell.trial is None else "trial",
        tags=[cell.data_name, cell.model.family, cell.track],
        notes=f"Repeat it: {command}",
    )
    return Tracker(folder, about, history=rows, system_metrics=facts.environment["device_type"] == "cuda")
