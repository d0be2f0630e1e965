"""How a command that ran a grid ends: the report, what is left to run, what lies where."""

from __future__ import annotations

from pathlib import Path

from experiments.config.cells import Cell
from experiments.config.paths import reports_dir
from experiments.config.schema import Experiment
from experiments.records.intended import read_decision
from experiments.reporting import SOME_FAILED, STOPPED
from experiments.reporting.online import mirror_report
from experiments.reporting.reports import say_report
from experiments.terminal.screens import ledger_table, out


def after_run(experiment: Experiment, cells: list[Cell], trials: list[Cell], folder: Path) -> int:
    """Make and send the report of a grid that has just run, and say what is left. Returns the command's exit code."""
    from experiments.grid.ledger import ledger
    from experiments.training import stop

    after = ledger(experiment, cells, folder, trials)
    done, failed = after["counts"]["done"], after["counts"]["failed"]
    if stop.requested() and done < len(cells):
        out.print(f"{done} of {len(cells)} cells are done.")
        return STOPPED
    if done:
        say_report(experiment, after, folder, again=False)
        mirror_report(experiment, after, folder)
    where_to_look(experiment, folder)
    if done == len(cells):
        return 0
    out.print(ledger_table(after, folder))
    if failed:
        out.print("Failed cells are run again with FLAGS=--retry-failed.")
    if failed + done < len(cells):
        out.print("The same command runs the cells that have not ended.")
    return SOME_FAILED


def where_to_look(experiment: Experiment, folder: Path) -> None:
    """The last lines: what lies where, how it was made, and what to do next."""
    from experiments.tracking import report as wandb_report
    from experiments.tracking.mirror import unsent

    name, waiting, page = experiment.name, unsent(folder), wandb_report.page(folder)
    decision = read_decision(folder, experiment.args)
    again = decision.command(experiment.reference) if decision else experiment.command
    report = reports_dir() / name / "report.html"
    lines = [("Report", report), ("Records", folder), ("Again", again), *([("W&B", page)] if page else [])]
    if waiting:  # a line each, so that a narrow terminal breaks no command
        lines.append(("Next", f"make dashboard NAME={name}  # view the {waiting} runs logged offline"))
        lines.append(("", f"make sync NAME={name}  # send them"))
    elif page:
        lines.append(("View", f"make dashboard NAME={name}  # the comparison laid out in W&B"))
    out.print()
    for title, text in lines:
        out.print(f"{title:<8} {text}", soft_wrap=True, markup=False)
