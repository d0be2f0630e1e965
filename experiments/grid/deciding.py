"""A grid that grows: seeds are added look by look, for the pairs of models that are still open, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.config.cells import Cell, expand
from experiments.config.errors import ConfigError
from experiments.config.schema import Experiment
from experiments.grid import driver
from experiments.grid.ledger import cell_status, left_to_run
from experiments.records.intended import DECISION_FILE, Decision, Look, Pair, read_decision
from experiments.records.progress import now
from experiments.records.record import RECORD_FILE, read_record
from experiments.training import stop

CAN_CHANGE = {"made", "pairs", "history", "ended", "looks", "share_per_seed", "share_power"}
"""Fields of a decision that a later command may have otherwise; its pairs are compared apart."""


def asked_for(experiment: Experiment, all_pairs: bool, **fixed: Any) -> Decision:
    """What a command asks: the pairs of each budget, against the reference or all, and seeds beyond the experiment's own.

    `fixed` are fields of `Decision`.
    """
    others = [model for model in experiment.models if model != experiment.reference]
    twos = list(combinations(experiment.models, 2)) if all_pairs else [(model, experiment.reference) for model in others]
    places = dict.fromkeys(cell.place[:3] for cell in expand(experiment, {}))
    pairs = [
        Pair(data=data, setting=setting, train_fraction=fraction, first=first, second=second)
        for data, setting, fraction in places
        for first, second in twos
    ]
    if not pairs:
        raise ConfigError("decide: one model alone is compared with nothing. List two models.")
    looks, beyond = fixed["looks"], max(experiment.seeds) + 1
    seeds = [*experiment.seeds, *range(beyond, beyond + looks[-1])][: looks[-1]]
    return Decision(experiment=experiment.name, args=experiment.args, made=now(), seeds=seeds, pairs=pairs, **fixed)


def begun(asked: Decision, cells: Sequence[Cell], folder: Path) -> Decision | None:
    """What was fixed before; None where nothing was. `cells` are those of the first look.

    Raises
    ------
    ConfigError
        If something else was fixed before, or runs have ended that nothing was fixed for.
    """
    path = folder / DECISION_FILE
    known = read_decision(folder, asked.args)
    if known:
        before, wanted = (one.model_dump(exclude=CAN_CHANGE) for one in (known, asked))
        before["pairs"], wanted["pairs"] = (
            [f"{pair.first} and {pair.second} at {pair.train_fraction:g}" for pair in one.pairs] for one in (known, asked)
        )
        if changed := [f"{key} was {before[key]}, is now {wanted[key]}" for key in before if before[key] != wanted[key]]:
            raise ConfigError(
                f"{path}: fixed on {known.made}: {'; '.join(changed)}. What was fixed before the first run is not "
                "changed afterwards: ask as before, or decide anew in another RUNS_DIR with other seeds, as in "
                'ARGS="seeds=[100]".'
            )
        return known
    if path.exists():
        raise ConfigError(f"{path}: is of other ARGS. Give the same, or set another RUNS_DIR.")
    if seen := [cell for cell in cells if (folder / str(cell.run_id) / RECORD_FILE).exists()]:
        raise ConfigError(
            f"decide: {len(seen)} of its runs have ended in {folder} before anything was fixed. Take seeds that nobody "
            'has seen, as in ARGS="seeds=[100]".'
        )
    return None


def go_on(
    decision: Decision,
    experiment: Experiment,
    folder: Path,
    *,
    first_hours: float,
    launch: Callable[[list[Cell]], None],
    judge: Callable[[Decision, list[Cell]], list[Pair]],
) -> Decision:
    """Look after look, until every pair is decided, the budget is spent, or a stop; ``decision.json`` follows each step.

    `first_hours` are the device hours that the first look is expected to take. `launch` runs the cells that have no record;
    `judge` gives the pairs, with what these cells say of those that are open.
    """
    for seeds in decision.looks[len(decision.history) :]:
        if not decision.open:
            break
        grown = [pair.model_copy(update={"seeds": seeds}) if pair.outcome == "open" else pair for pair in decision.pairs]
        wanted = decision.model_copy(update={"pairs": grown})
        cells = wanted.asked_of(driver.plan(wanted.applied(experiment)))
        work = [*driver.trials_for(cells), *cells]
        spent, more = _hours(work, folder)
        more = more if decision.history else max(0.0, first_hours - spent)
        if spent + more > decision.budget_hours:
            why = (
                f"budget spent: {spent:.3g} of {decision.budget_hours:.3g} device hours, another look takes about {more:.3g}"
            )
            decision = decision.model_copy(update={"ended": why})
            break
        wanted.keep(folder)
        launch(work)
        if stop.requested() or left_to_run(work, folder):
            return wanted
        pairs = judge(wanted, cells)
        look = Look(
            made=now(),
            seeds=seeds,
            failed=sum(cell_status(cell, folder)[0] == "failed" for cell in cells),
            device_hours=_hours(work, folder)[0],
            open=sum(pair.outcome == "open" for pair in pairs),
        )
        decision = wanted.model_copy(update={"pairs": pairs, "history": [*decision.history, look], "ended": ""})
        decision.keep(folder)
    if not decision.ended:
        left = f"the last look, at {decision.looks[-1]} seeds, left {len(decision.open)} of {len(decision.pairs)} pairs open"
        decision = decision.model_copy(update={"ended": left if decision.open else "every pair is decided"})
    decision.keep(folder)
    return decision


def _hours(cells: Sequence[Cell], folder: Path) -> tuple[float, float]:
    """Device hours that were spent, and those that the cells without a record take if they cost as others of their place."""
    spent: dict[Any, list[float]] = {}
    missing = []
    for cell in cells:
        path = folder / str(cell.run_id) / RECORD_FILE
        if path.exists():
            compute = read_record(path).compute
            hours = (compute.device_hours or 0) + (compute.evaluation_seconds or 0) / 3600
            spent.setdefault(cell.place, []).append(hours)
        else:
            missing.append(cell.place)
    everything = [hours for values in spent.values() for hours in values]
    return sum(everything), sum(fmean(spent.get(place, everything or [0.0])) for place in missing)
