"""What a grid will cost and can tell, before it runs."""

from __future__ import annotations

from pathlib import Path

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT, runs_dir
from experiments.config.schema import Experiment
from experiments.records.intended import Plan, keep_plan


def checked_effect(effect: float, what: str = "EFFECT") -> float:
    """A difference of accuracies that can be asked for; `what` names the option that it was given for.

    Raises
    ------
    ConfigError
        If it does not lie between 0 and 1.
    """
    if not 0 < effect < 1:
        raise ConfigError(f"{what}: must be a difference of accuracies between 0 and 1, such as 0.01, got {effect:g}.")
    return effect


def make_plan(
    experiment: Experiment,
    cells: list[Cell],
    trials: list[Cell],
    *,
    effect: float,
    budget_hours: float | None,
    jobs: str = "auto",
    alpha: float = 0.05,
) -> tuple[Plan, bool]:
    """What a grid will cost and can tell, kept as ``plan.json``; whether it was kept, as runs may have ended before."""
    from analysis import power
    from experiments.bench.plan import estimate
    from experiments.data import datasets
    from experiments.records.progress import now

    folder, here = runs_dir() / experiment.name, _experiments_in(runs_dir())
    costs = estimate(cells, trials, jobs, here, folder)
    n_test = {name: len(datasets.load(data).test) for name, data in experiment.data.items()}
    before = [folder, *(other for other in here if other != folder), *_experiments_in(ROOT / "results")]
    found, faults = power.powers(experiment, effect, n_test, costs.hours_per_seed, before, alpha)
    plan = Plan(
        experiment=experiment.name,
        args=experiment.args,
        made=now(),
        effect=effect,
        budget_hours=budget_hours,
        costs=costs,
        power=found,
        notes=faults,
    )
    return plan, keep_plan(plan, folder)


def _experiments_in(place: Path) -> list[Path]:
    """Folders of experiments, by name."""
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
