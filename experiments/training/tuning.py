"""Tracks `tuned` and `random`: trials, equal for all models; on the first the choice among a model's by validation alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.schema import Recipe, Tuning
from experiments.records.record import RECORD_FILE, Record, read_record


def trial_recipes(recipe: Recipe, tuning: Tuning) -> list[Recipe]:
    """The recipes of the trials: quasi-random points of the space (Halton 1964), a function of the tuning seed alone.

    `recipe` gives everything that is not searched.
    """
    from scipy.stats import qmc

    def log_uniform(bounds: list[float], share: float) -> float:
        low, high = map(math.log, bounds)
        return math.exp(low + share * (high - low))

    kinds = tuning.optimizers or [recipe.optimizer]
    points = qmc.Halton(d=3 + (len(kinds) > 1), rng=tuning.seed).random(tuning.trials)
    return [
        recipe.model_copy(
            update={
                "learning_rate": log_uniform(tuning.learning_rate, rate),
                "weight_decay": log_uniform(tuning.weight_decay, decay),
                "augmentation": tuning.augmentation[int(choice * len(tuning.augmentation))],
                "optimizer": kinds[int(other[0] * len(kinds)) if other else 0],
                "min_learning_rate": min(recipe.min_learning_rate, log_uniform(tuning.learning_rate, rate)),
            }
        )
        for rate, decay, choice, *other in points.tolist()
    ]


def trials_of(cell: Cell) -> list[Cell]:
    """The trial cells of a cell of tracks B and R: its model, data and fraction, with the tuning seed."""
    varied = cell.varied
    if cell.asked.track == "random":
        cell, varied = replace(cell, tuning=cell.asked.tuning), {"track": "random"}
    if cell.tuning is None:
        return []
    split, seed = cell.trial_split_hash, cell.tuning.seed
    return [
        replace(cell, recipe=recipe, seed=seed, split_hash=split, trial=number, varied=varied)
        for number, recipe in enumerate(trial_recipes(cell.recipe, cell.tuning))
    ]


def chosen(cell: Cell, experiment_folder: Path) -> tuple[Cell, list[Record]]:
    """A cell of the track `tuned` with the recipe of its best trial, and its ended trials' records; others as they are.

    Best is the highest validation accuracy of the last checkpoint; among equals the lowest validation NLL, then the first.

    Raises
    ------
    ConfigError
        If no trial ended well.
    """
    if cell.tuning is None or cell.trial is not None:
        return cell, []
    trials = trials_of(cell)
    records: dict[int, Record] = {}
    for number, trial in enumerate(trials):
        path = experiment_folder / str(trial.run_id) / RECORD_FILE
        if path.exists():
            records[number] = read_record(path)
    done = {number: record for number, record in records.items() if record.status == "done"}
    if not done:
        fix = "run the experiment again with FLAGS=--retry-failed"
        raise ConfigError(f"{cell.describe()}: none of its {len(trials)} tuning trials ended well; {fix}.")

    def merit(number: int) -> tuple[float, float]:
        top1, nll = (done[number].metrics[f"val/{name}"] for name in ("top1", "nll"))
        return -(top1 or 0.0), math.inf if nll is None else nll

    best = min(done, key=merit)
    return replace(cell, recipe=trials[best].recipe), list(records.values())
