"""What lies in an experiment's folder, read without loading any data: its ledger, and the seeds that were decided on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape

from experiments.config.cells import expand
from experiments.config.paths import runs_dir
from experiments.config.schema import Experiment
from experiments.config.text import printable
from experiments.records.intended import read_decision
from experiments.terminal.screens import err


def say_lost_caches(folder: Path) -> None:
    """Name the caches of an experiment's folder that cannot be used."""
    from experiments.grid.ledger import lost_caches

    for sentence in lost_caches(folder):
        err.print(f"[yellow]damaged:[/] {escape(printable(sentence))}", soft_wrap=True)


def known_ledger(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The ledger from what lies in the folder; no data is loaded."""
    from experiments.grid.driver import trials_for
    from experiments.grid.ledger import known_splits, ledger

    say_lost_caches(folder)
    cells = expand(experiment, known_splits(experiment, folder))
    if decision := read_decision(folder, experiment.args):
        cells = decision.asked_of(cells)
    return ledger(experiment, cells, folder, trials_for(cells))


def as_decided(experiment: Experiment) -> Experiment:
    """The experiment with the seeds and the margin of its decision, where it grew look by look."""
    decision = read_decision(runs_dir() / experiment.name, experiment.args)
    return decision.applied(experiment) if decision else experiment
