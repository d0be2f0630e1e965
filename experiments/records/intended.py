"""What was fixed before a grid ran, beside its runs: ``plan.json``, what it will cost and can show.

A plan that was made before the first run ended is kept: reports show it beside what came.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from experiments.config.errors import ConfigError
from experiments.records.record import RECORD_FILE, atomic_write
from experiments.records.state import StateError, read_json

PLAN_FILE = "plan.json"


class _Values(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Range(_Values):
    """A figure that is not known exactly; `high` is infinite as None."""

    low: float
    likely: float
    high: float


class Rate(_Values):
    """How long a model takes for a training image."""

    model: str
    data: str
    gmacs: float
    seconds_per_image: Range
    source: str
    """Where the seconds come from, in words."""
    peak_memory_bytes: int | None


class Costs(_Values):
    """What a grid costs."""

    cells: int
    trials: int
    images: int
    """Images trained on, over all cells and trials."""
    pflops: float
    device: str
    device_hours: Range
    """Training and evaluation, over all cells and trials."""
    jobs: int
    hours: Range
    """By the clock, with `jobs` cells at a time."""
    hours_per_seed: dict[str, float]
    """Device hours of one seed of all models, by ``<data>/<train fraction>``."""
    disk_bytes: int
    disk_free_bytes: int
    memory_bytes: int | None
    """Of all jobs together at their peak; None where a step was too large to be timed whole."""
    memory_free_bytes: int
    rates: list[Rate]


class Power(_Values):
    """What the comparisons of one data budget can tell: ranges are over pairs of models, `likely` is their median."""

    data: str
    train_fraction: float
    n_test: int
    n_seeds: int
    source: str
    """What the variances were taken from."""
    told: Range
    """Differences that are found in 80% of grids by the 95% interval of the pair."""
    seeds: tuple[float | None, float | None, float | None]
    """Seeds that the effect takes: low, likely and high; None where no number of seeds is enough on these test images."""
    seed_hours: float | None
    """Device hours of the likely number of seeds, all models."""
    test_images: int
    """Test images from which on some number of seeds is enough for the median pair."""


class Plan(_Values):
    """What a grid will cost and can show, before it runs."""

    experiment: str
    args: str
    made: str
    effect: float
    budget_hours: float | None
    costs: Costs
    power: list[Power]
    notes: list[str]

    @property
    def over(self) -> str:
        """That the budget is too small, and what it is enough for; empty where it is not, or none was given."""
        hours = self.costs.device_hours
        if self.budget_hours is None or self.budget_hours >= hours.low:
            return ""
        per_seed = sum(self.costs.hours_per_seed.values())
        return (
            f"BUDGET: {self.budget_hours:.3g} device hours, the grid takes {hours.low:.3g} to {hours.high:.3g}, and one "
            f"seed of it {per_seed:.3g}. Choose fewer seeds, models or fractions, fewer recipe.steps, or a larger budget."
        )


def keep_plan(plan: Plan, folder: Path) -> bool:
    """Write ``plan.json`` unless a run has ended that an earlier plan spoke of; whether it was written."""
    path = folder / PLAN_FILE
    if path.is_file() and any(folder.glob(f"*/{RECORD_FILE}")):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(plan.model_dump_json(indent=2) + "\n")
    return True


def read_plan(folder: Path) -> Plan | None:
    """The plan of an experiment's folder, None where there is none.

    Raises
    ------
    ConfigError
        If the file cannot be used.
    """
    path = folder / PLAN_FILE
    try:
        return Plan.model_validate(read_json(path, dict))
    except FileNotFoundError:
        return None
    except (StateError, ValueError) as error:
        raise ConfigError([f"{path}: not a plan of this version ({error}). Delete it, or restore the file."]) from error
