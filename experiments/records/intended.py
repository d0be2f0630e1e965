"""What was fixed before a grid ran, beside its runs: ``plan.json``, what it will cost and can show, and ``decision.json``,
what a grid that grows until its question is answered was asked.

A plan that was made before the first run ended is kept: reports show it beside what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.schema import Experiment, quoted
from experiments.records.folder import without_path
from experiments.records.record import RECORD_FILE, write_whole
from experiments.records.state import StateError, read_json

PLAN_FILE, DECISION_FILE = "plan.json", "decision.json"
ERROR_RATE = 0.05
"""Of one wrong decision or more, unless another one is asked for."""


class _Values(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


Range = tuple[float, float, float]
"""A figure that is not known exactly: low, likely and high."""


class Rate(_Values):
    """What a model takes for a training image."""

    model: str
    data: str
    parameters: int
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


class _Asked(_Values):
    experiment: str
    args: str
    made: str
    effect: float
    """Difference of accuracies."""


class Plan(_Asked):
    """What a grid will cost and can show, before it runs."""

    budget_hours: float | None
    costs: Costs
    power: list[Power]
    notes: list[str]

    @property
    def over(self) -> list[str]:
        """That the budget is too small, and what it is enough for; empty where it is not, or none was given."""
        low, likely, high = self.costs.device_hours
        if self.budget_hours is None or self.budget_hours >= likely:
            return []
        return [
            f"BUDGET: {self.budget_hours:.3g} device hours; {self.costs.cells} cells take about {likely:.3g} "
            f"({low:.3g} to {high:.3g}), and one seed of them {sum(self.costs.hours_per_seed.values()):.3g}. "
            "Choose fewer seeds, models, fractions or recipe.steps, or a larger budget."
        ]

    @property
    def shows_nothing(self) -> list[str]:
        """That no comparison can show the effect, and how many test images it takes; empty where one can."""
        if not self.power or any(row.seeds[1] for row in self.power):
            return []
        least = min(self.power, key=lambda row: row.test_images)
        return [
            f"EFFECT: {self.effect:g} is below what {least.n_test:,} test images can show with any number of seeds: at "
            f"{100 * least.train_fraction:.4g}% of {least.data} it takes at least {least.test_images:,} (variances from "
            f"{least.source}). Ask for a larger effect, or add test images."
        ]


_Kept = TypeVar("_Kept", bound=_Asked)


def keep_plan(plan: Plan, folder: Path) -> bool:
    """Write ``plan.json`` unless a run has ended that an earlier plan spoke of; whether it was written."""
    path = folder / PLAN_FILE
    if path.is_file() and any(folder.glob(f"*/{RECORD_FILE}")):
        return False
    write_whole(path, f"{plan.model_dump_json(indent=2)}\n")
    return True


def read_plan(folder: Path) -> Plan | None:
    """The plan of an experiment's folder, None where there is none.

    Raises
    ------
    ConfigError
        If the file cannot be used.
    """
    return _read(folder / PLAN_FILE, Plan)


def _read(path: Path, shape: type[_Kept]) -> _Kept | None:
    try:
        return shape.model_validate(read_json(path, dict[str, Any]))
    except FileNotFoundError:
        return None
    except (StateError, ValueError) as error:
        raise ConfigError(f"{path}: not a file of this version ({error}). Restore it, or delete it.") from error


class Pair(_Values):
    """Two models at one data budget, and how their comparison ended."""

    data: str
    setting: str
    train_fraction: float
    first: str
    second: str
    outcome: Literal["first", "second", "equivalent", "open"] = "open"
    seeds: int = 0
    """Seeds that each of the two was asked for."""
    delta: float | None = None
    low: float | None = None
    high: float | None = None
    """Difference at that look, with its interval adjusted for all looks."""

    def has(self, cell: Cell) -> bool:
        """Whether a cell takes part in it."""
        here = (self.data, self.setting, self.train_fraction)
        return any(cell.place == (*here, model) for model in (self.first, self.second))


class Look(_Values):
    """One look at the pairs that were open."""

    made: str
    seeds: int
    failed: int
    """Runs of the open pairs that failed, and are missing from it."""
    device_hours: float
    """Spent so far."""
    open: int
    """Pairs that are open after it."""


class Decision(_Asked):
    """What a sequential grid was to find out, fixed before its first run, and what it has found."""

    margin: float
    """Models that differ by less are equivalent."""
    error_rate: float
    """Of one wrong decision or more, over all pairs and looks."""
    budget_hours: float
    share_per_seed: float
    share_power: float = 1.0
    """A look at S seeds of a pair spends (`share_per_seed` · S) to this power of the pair's error rate."""
    seeds: list[int]
    """All that a pair may get, in their order."""
    looks: list[int]
    """How many of them each look has."""
    pairs: list[Pair]
    history: list[Look] = []
    ended: str = ""
    """Why no look follows; empty while one may."""

    @property
    def spending(self) -> tuple[float, float]:
        """Share per seed, and its power."""
        return self.share_per_seed, self.share_power

    def command(self, reference: str) -> str:
        """What to type to go on; `reference` is that of the experiment."""
        seconds = round(3600 * self.budget_hours)
        budget = next(f"{seconds // unit}{name}" for unit, name in ((3600, "h"), (60, "m"), (1, "s")) if seconds % unit == 0)
        flags = [f"--margin {self.margin}"] * (self.margin != self.effect)
        flags += [f"--error-rate {self.error_rate}"] * (self.error_rate != ERROR_RATE)
        flags += ["--all-pairs"] * any(pair.second != reference for pair in self.pairs)
        words = [f"make decide NAME={self.experiment} EFFECT={self.effect} BUDGET={budget}"]
        words += [f"ARGS={quoted(self.args)}"] * bool(self.args) + [f'FLAGS="{" ".join(flags)}"'] * bool(flags)
        return " ".join(words)

    @property
    def open(self) -> list[Pair]:
        """The pairs that are not decided."""
        return [pair for pair in self.pairs if pair.outcome == "open"]

    def asked_of(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that were asked for, of all that its seeds would make."""
        turns = {seed: turn for turn, seed in enumerate(self.seeds)}
        return [cell for cell in cells if any(pair.has(cell) and turns[cell.seed] < pair.seeds for pair in self.pairs)]

    def applied(self, experiment: Experiment) -> Experiment:
        """The experiment with the seeds that were asked for, and the margin."""
        seeds = self.seeds[: max(pair.seeds for pair in self.pairs)] or self.seeds[: self.looks[0]]
        return experiment.model_copy(update={"seeds": seeds, "equivalence_margin": self.margin})

    def keep(self, folder: Path) -> None:
        """Write ``decision.json``."""
        write_whole(folder / DECISION_FILE, f"{self.model_dump_json(indent=2)}\n")


def read_decision(folder: Path, args: str | None = None) -> Decision | None:
    """The decision of an experiment's folder, if `args` are given that with these overrides; None where there is none.

    Raises
    ------
    ConfigError
        If the file cannot be used.
    """
    found = _read(folder / DECISION_FILE, Decision)
    return found if found and (args is None or without_path(found.args) == without_path(args)) else None


def without_paths(folder: Path) -> dict[str, bytes]:
    """Plan and decision of an experiment's folder by file name, where there are any, for other machines."""
    shapes: dict[str, type[_Asked]] = {PLAN_FILE: Plan, DECISION_FILE: Decision}
    kept = {name: _read(folder / name, shape) for name, shape in shapes.items()}
    plain = {name: one.model_copy(update={"args": without_path(one.args)}) for name, one in kept.items() if one}
    return {name: f"{one.model_dump_json(indent=2)}\n".encode() for name, one in plain.items()}
