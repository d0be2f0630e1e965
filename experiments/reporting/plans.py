"""What is fixed before a grid runs: its costs and its power, or the question that it grows until it has answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT, runs_dir
from experiments.config.schema import Experiment
from experiments.records.intended import Decision, Pair, Plan, keep_plan
from experiments.reporting.endings import after_run
from experiments.terminal.screens import out, warn


def checked_effect(effect: float) -> float:
    """A difference of accuracies that can be asked for.

    Raises
    ------
    ConfigError
        If it does not lie between 0 and 1.
    """
    if not 0 < effect < 1:
        raise ConfigError(f"EFFECT: must be a difference of accuracies between 0 and 1, such as 0.01, got {effect:g}.")
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


def begin_decision(experiment: Experiment, *, all_pairs: bool, **fixed: float) -> tuple[Decision, float]:
    """Fix what is to be decided, or take what was fixed before; and the device hours that the first look may take.

    `fixed` are effect, margin, error rate and budget, as `Decision` has them.

    Raises
    ------
    ConfigError
        If something else was fixed before, the test images cannot show the effect, or the budget is below one look.
    """
    from analysis.statistics.sequential import LEAST_FAMILY, LOOKS, SPENDING
    from experiments.grid import deciding, driver

    folder = runs_dir() / experiment.name
    spending = dict(zip(("share_per_seed", "share_power"), SPENDING, strict=True))
    asked = deciding.asked_for(experiment, all_pairs, looks=list(LOOKS), **spending, **fixed)
    first = experiment.model_copy(update={"seeds": asked.seeds[: asked.looks[0]]})
    cells = driver.plan(first)
    decision = deciding.begun(asked, cells, folder)
    if decision and decision.history:
        return decision, 0.0
    plan, _ = make_plan(
        first,
        cells,
        driver.trials_for(cells),
        effect=asked.effect,
        budget_hours=asked.budget_hours,
        alpha=asked.error_rate / max(len(asked.pairs), LEAST_FAMILY),  # as the last look tests
    )
    if decision is None:
        for note in plan.notes:
            warn(note)
        if faults := [*plan.shows_nothing, *plan.over]:
            raise ConfigError(*faults)
        asked.keep(folder)
    return decision or asked, plan.costs.device_hours[1]


def decide(experiment: Experiment, decision: Decision, first_hours: float, launch: Callable[[list[Cell]], None]) -> int:
    """Look after look until the question is answered, then the report. Returns the command's exit code."""
    from analysis.decided import judged
    from analysis.load import load
    from experiments.grid import deciding, driver
    from experiments.grid.ledger import ledger

    folder = runs_dir() / experiment.name

    def judge(wanted: Decision, cells: list[Cell]) -> list[Pair]:
        grown = wanted.applied(experiment)
        return judged(wanted, load(ledger(grown, cells, folder, driver.trials_for(cells)), folder, grown))

    decision = deciding.go_on(decision, experiment, folder, first_hours=first_hours, launch=launch, judge=judge)
    grown = decision.applied(experiment)
    cells = decision.asked_of(driver.plan(grown))
    code = after_run(grown, cells, driver.trials_for(cells), folder)
    if decision.ended:
        out.print(f"Ended    {decision.ended}", soft_wrap=True, markup=False)
    return code
