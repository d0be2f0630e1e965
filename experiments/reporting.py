"""Records → report and dashboard: the bridge from the command line to the analysis."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT, reports_dir, runs_dir
from experiments.config.schema import Experiment
from experiments.config.text import checked_name, printable
from experiments.records.intended import Decision, Pair, Plan, keep_plan, read_decision
from experiments.records.record import EXAMPLES_FILE, RECORD_FILE, atomic_write, read_record
from experiments.terminal.screens import err, ledger_table, other_settings, out, verification_lines

if TYPE_CHECKING:
    from analysis.freshness import Remembered
    from experiments.tracking.dashboard import Saved


SOME_FAILED, STOPPED = 1, 130
"""Exit codes of a run that did not get through."""


def say_lost_caches(folder: Path) -> None:
    """Name the caches of an experiment's folder that cannot be used."""
    from experiments.grid.ledger import lost_caches

    for sentence in lost_caches(folder):
        err.print(f"[yellow]damaged:[/] {escape(printable(sentence))}", soft_wrap=True)


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


def begin_decision(experiment: Experiment, *, all_pairs: bool, **fixed: float) -> tuple[Decision, float]:
    """Fix what is to be decided, or take what was fixed before; and the device hours that the first look may take.

    `fixed` are effect, margin, error rate and budget, as `Decision` has them.

    Raises
    ------
    ConfigError
        If something else was fixed before, the test images cannot show the effect, or the budget is below one look.
    """
    from analysis.statistics.sequential import LOOKS, SPENDING
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
        alpha=asked.error_rate / len(asked.pairs),  # the last look spends all of it
    )
    if decision is None:
        for note in plan.notes:
            err.print(printable(note), style="yellow", markup=False, soft_wrap=True)
        if faults := [*plan.shows_nothing, *plan.over]:
            raise ConfigError(faults)
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


def as_decided(experiment: Experiment) -> Experiment:
    """The experiment with the seeds and the margin of its decision, where it grew look by look."""
    decision = read_decision(runs_dir() / experiment.name, experiment.args)
    return decision.applied(experiment) if decision else experiment


def checked_effect(effect: float) -> float:
    """A difference of accuracies that can be asked for.

    Raises
    ------
    ConfigError
        If it does not lie between 0 and 1.
    """
    if not 0 < effect < 1:
        raise ConfigError([f"EFFECT: must be a difference of accuracies between 0 and 1, such as 0.01, got {effect:g}."])
    return effect


def _experiments_in(place: Path) -> list[Path]:
    """Folders of experiments, by name."""
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def known_ledger(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The ledger from what lies in the folder; no data is loaded."""
    from experiments.config.cells import expand
    from experiments.grid.driver import trials_for
    from experiments.grid.ledger import known_splits, ledger

    say_lost_caches(folder)
    cells = expand(experiment, known_splits(experiment, folder))
    if decision := read_decision(folder, experiment.args):
        cells = decision.asked_of(cells)
    return ledger(experiment, cells, folder, trials_for(cells))


def prepare(name: str) -> None:
    """Make the folder of a report, so that nothing is trained whose report could not be written.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    folder = reports_dir() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ConfigError([f"REPORTS_DIR: {folder} cannot be written ({reason}). Choose another folder."])


def made_report(
    experiment: Experiment, ledger: dict[str, Any], folder: Path, *, again: bool, allow_unequal: bool = False
) -> Remembered:
    """Make the report; `again` makes it even where nothing changed since it was made."""
    from analysis import freshness
    from experiments.records.reported import EXPERIMENT_FILE

    target, links = reports_dir() / experiment.name, pages_of_runs(ledger, folder)
    key = freshness.key_of(ledger, folder, experiment, links)
    memory = None if again else freshness.recall(target, key)
    if memory is None:
        from analysis import report

        freshness.forget(target)
        with err.status("Making the report"):
            images = embedded_images(experiment, folder)
            made = report.build(
                ledger, folder, experiment, target, allow_unequal=allow_unequal, links=links, embedded=images
            )
            with atomic_write(target / EXPERIMENT_FILE) as file:
                file.write(experiment.model_dump_json(indent=2) + "\n")
        files = sorted(str(path.relative_to(target)) for path in [*made.paths, target / EXPERIMENT_FILE])
        memory = freshness.Remembered(key, made.accuracy_text, made.verdict, made.faults, files)
        if made.equal:  # a report of unequal runs is shown to those who ask for it, and to nobody later
            freshness.remember(target, memory)
    return memory


def embedded_images(experiment: Experiment, folder: Path) -> dict[str, dict[str, Any]]:
    """Test images of digits, which come with the installation, where no run folder keeps any, as published ones do not."""
    if any(folder.glob(f"*/{EXAMPLES_FILE}")):
        return {}
    from experiments.data import datasets

    sets = {name: datasets.load(data).test for name, data in experiment.data.items() if data.source == "digits"}
    return {name: {"pixels": test.pixels, "sample_ids": test.ids} for name, test in sets.items()}


def say_report(
    experiment: Experiment, ledger: dict[str, Any], folder: Path, *, again: bool, allow_unequal: bool = False
) -> None:
    """Make the report and say what it says."""
    memory = made_report(experiment, ledger, folder, again=again, allow_unequal=allow_unequal)
    for fault in memory.faults:
        err.print(f"[yellow]left out:[/] {escape(printable(fault))}", soft_wrap=True)
    for line in other_settings(ledger, folder):
        err.print(line, style="dim", markup=False, soft_wrap=True)
    out.print(memory.accuracy_text, markup=False, soft_wrap=True)
    reference = experiment.models[experiment.reference].title
    marks = {
        " *": "the best, or not told apart from it",
        "†": f"differs from {reference}",
        "≡": f"equivalent to {reference}",
    }
    if shown := [f"{mark.strip()} {words}" for mark, words in marks.items() if mark in memory.accuracy_text]:
        out.print("; ".join(shown), style="dim", markup=False, soft_wrap=True)
    for sentence in memory.verdict:
        out.print(sentence, markup=False, soft_wrap=not out.is_terminal)


def say_waiting(sentence: str) -> None:
    """Say what the command waits for."""
    err.print(printable(sentence), style="yellow", markup=False, soft_wrap=True)


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
        sent = wandb_report.send(folder, target, say_waiting)
    out.print(f"The report {'was sent' if sent else 'was there before'}: {wandb_report.page(folder)}", soft_wrap=True)


def mirror_report(experiment: Experiment, ledger: dict[str, Any], folder: Path) -> None:
    """Send the report where the runs are online; a failure to send never fails the run."""
    from experiments.tracking.mirror import TrackingError, unsent
    from experiments.tracking.report import send

    if (
        not pages_of_runs(ledger, folder)
        or unsent(folder)
        or os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")
    ):
        return
    try:
        with err.status("Sending the report to W&B"):
            send(folder, reports_dir() / experiment.name, say_waiting)
    except TrackingError as error:
        err.print(f"[yellow]W&B:[/] the report was not sent ({escape(printable(error))})", soft_wrap=True)


def pages_of_runs(ledger: dict[str, Any], folder: Path) -> dict[str, str]:
    """W&B pages of the runs that have one."""
    from experiments.tracking.mirror import page_of

    pages = {cell["run_id"]: page_of(folder / cell["run_id"]) for cell in ledger["cells"] if cell["run_id"]}
    return {run_id: page for run_id, page in pages.items() if page}


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


def say_verification(folder: Path, number: int, images: str | None, jobs: str) -> int:
    """Train published runs again, say what came of it and write ``verification.json``. Returns the command's exit code."""
    from experiments.grid import driver, verify
    from experiments.terminal.display import progress

    def launch(cells: list[Cell], place: Path) -> None:
        with progress(cells[0].asked, cells, place, [], False) as shown:
            driver.launch(cells, place, jobs=jobs, observer=shown)

    prepare(folder.name)
    os.environ["WANDB_MODE"] = "disabled"
    found = verify.repeat(folder, number, images, runs_dir() / ".verify" / folder.name, launch)
    target = reports_dir() / folder.name / "verification.json"
    with atomic_write(target) as file:
        json.dump(found, file, indent=2, ensure_ascii=False)
    for line in verification_lines(found):
        out.print(printable(line), soft_wrap=True, markup=False)
    if not found["SHA256SUMS"]:
        out.print(f"{folder} has no SHA256SUMS, so that a changed byte is not found. Who published it can add it: --seal")
    out.print(f"\nVerified {target}", soft_wrap=True, markup=False)
    return 0 if all(cell["verdict"] in ("equal", "within rounding") for cell in found["cells"]) else SOME_FAILED


def report_from(source: str, name: str, *, allow_unequal: bool) -> None:
    """Report from the artifact that another machine sent."""
    from experiments.tracking.fetch import fetch, parse_source

    checked_name(name)
    parse_source(source)
    with err.status(f"Downloading the records of {name}"):
        fetched = fetch(source, name, runs_dir(), say_waiting)
    out.print(f"{len(fetched.ledger['cells'])} cells from {source}", markup=False, soft_wrap=True)
    out.print(f"Made by  {fetched.experiment.command}", markup=False, soft_wrap=True)
    say_report(fetched.experiment, fetched.ledger, fetched.runs, again=True, allow_unequal=allow_unequal)
    out.print(f"\nReport   {reports_dir() / name / 'report.html'}", soft_wrap=True)


def save_dashboard(experiment: Experiment, ledger: dict[str, Any], folder: Path, verdict: list[str]) -> Saved:
    """Build views and report, and save them."""
    from analysis import workspace as boards
    from experiments.tracking import dashboard as wandb_dashboard

    entity, project = wandb_dashboard.place(folder, say_waiting)
    done = [cell["run_id"] for cell in ledger["cells"] if cell["status"] == "done"]
    known = boards.known_metrics(read_record(folder / run_id / RECORD_FILE) for run_id in done)
    target = reports_dir() / experiment.name
    tables = {path.stem: path.read_text(encoding="utf-8") for path in sorted(target.glob("*.md"))}
    figures = [path.stem for path in sorted((target / "figures").glob("*.png"))]
    board = boards.Board(experiment, entity, project, known)
    return wandb_dashboard.save(folder, boards.views(board), boards.report(board, tables, verdict, figures), say_waiting)


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
