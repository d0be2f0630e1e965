"""Report and dashboard in Weights & Biases, or in the terminal where nobody is logged in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from experiments.config.paths import reports_dir, runs_dir
from experiments.config.schema import Experiment
from experiments.config.text import printable
from experiments.records.record import RECORD_FILE, read_record
from experiments.reporting.known import known_ledger
from experiments.reporting.reports import made_report
from experiments.terminal.screens import err, out, warn

if TYPE_CHECKING:
    from experiments.tracking.dashboard import Saved


def send_report(name: str) -> None:
    """Send the report that lies there to W&B, made again first where the addresses of its runs are new."""
    from experiments.records.reported import EXPERIMENT_FILE, read_report
    from experiments.tracking import report as wandb_report

    folder, target = runs_dir() / name, reports_dir() / name
    if not (target / EXPERIMENT_FILE).is_file():
        out.print(f"There is no report to send yet: make report NAME={name}", markup=False)
        return
    experiment, _ = read_report(target, name, f"Make it again: make report NAME={name}")
    made_report(experiment, known_ledger(experiment, folder), folder, again=False)
    with err.status("Sending the report to W&B"):
        sent = wandb_report.send(folder, target, warn)
    out.print(f"The report {'was sent' if sent else 'was there before'}: {wandb_report.page(folder)}", soft_wrap=True)


def mirror_report(experiment: Experiment, ledger: dict[str, Any], folder: Path) -> None:
    """Send the report where the runs are online; a failure to send never fails the run."""
    from experiments.tracking.mirror import TrackingError, pages_of, unsent
    from experiments.tracking.report import send

    if not pages_of(ledger, folder) or unsent(folder) or os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
        return
    try:
        with err.status("Sending the report to W&B"):
            send(folder, reports_dir() / experiment.name, warn)
    except TrackingError as error:
        err.print(f"[yellow]W&B:[/] the report was not sent ({escape(printable(error))})", soft_wrap=True)


def save_dashboard(experiment: Experiment, ledger: dict[str, Any], folder: Path, verdict: list[str]) -> Saved:
    """Build views and report, and save them."""
    from analysis import workspace as boards
    from experiments.tracking import dashboard as wandb_dashboard

    entity, project = wandb_dashboard.place(folder, warn)
    done = [cell["run_id"] for cell in ledger["cells"] if cell["status"] == "done"]
    known = boards.known_metrics(read_record(folder / run_id / RECORD_FILE) for run_id in done)
    target = reports_dir() / experiment.name
    tables = {path.stem: path.read_text(encoding="utf-8") for path in sorted(target.glob("*.md"))}
    figures = [path.stem for path in sorted((target / "figures").glob("*.png"))]
    board = boards.Board(experiment, entity, project, known)
    return wandb_dashboard.save(folder, boards.views(board), boards.report(board, tables, verdict, figures), warn)


def view_offline(name: str, folder: Path, reason: str) -> None:
    """Open the terminal viewer, or say where to look where there is no terminal."""
    from experiments.tracking import viewer

    links = viewer.link_runs(folder)
    page = reports_dir() / name / "report.html"
    out.print(f"No dashboard in W&B: {reason}.", markup=False, soft_wrap=True)
    if page.is_file():
        out.print(f"Report   {page}", markup=False, soft_wrap=True)
    else:
        out.print(f"Report   not made yet: make report NAME={name}", markup=False, soft_wrap=True)
    if not links:
        out.print("Runs     none was logged for W&B, offline or online (WANDB_MODE=disabled logs nothing).", soft_wrap=True)
    elif viewer.on_terminal():
        viewer.show(folder)
    else:
        out.print(f"Runs     {len(links)}, in a terminal: {sys.executable} -m wandb leet {folder / viewer.VIEWER_FOLDER}",
                  markup=False, soft_wrap=True)  # fmt: skip
