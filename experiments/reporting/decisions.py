"""A question that a grid grows until it has answered: fixed before the first run, then asked look by look."""

from __future__ import annotations

from collections.abc import Callable

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.paths import runs_dir
from experiments.config.schema import Experiment
from experiments.records.intended import Decision, Pair
from experiments.reporting.endings import after_run
from experiments.reporting.plans import make_plan
from experiments.terminal.screens import out, warn


def begin(experiment: Experiment, *, all_pairs: bool, **fixed: float) -> tuple[Decision, float]:
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
