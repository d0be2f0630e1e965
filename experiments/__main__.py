"""The command line: ``python -m experiments run|plan|decide|status|list|show|report|verify|merge|predict|export …``.

Exit codes of ``run``: 0 all cells done; 1 some cells failed, the rest done, the report made; 2 bad input, nothing was run;
130 stopped by the user or by ``--stop-after``, to be continued by the same command.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from experiments.config import loading
from experiments.config.cells import Cell
from experiments.config.errors import ConfigError, UserError
from experiments.config.paths import ROOT, reports_dir, runs_dir
from experiments.config.schema import Experiment, join_words
from experiments.config.text import checked_name, duration_in_seconds, printable
from experiments.records.digests import SUMS_FILE, add_digests
from experiments.records.intended import ERROR_RATE
from experiments.reporting import BAD_INPUT, SOME_FAILED, STOPPED, decisions, endings, online, plans, reports
from experiments.reporting.known import as_decided, known_ledger, say_lost_caches
from experiments.reporting.verification import say_verification
from experiments.terminal import screens
from experiments.terminal.screens import err, out

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Name = Annotated[str, typer.Argument(help="Stem of a file in configs/experiments.")]
Overrides = Annotated[list[str] | None, typer.Argument(help='Dotted keys: "recipe.steps=200 seeds=[0,1]".')]


def _stop_after(text: str | None) -> None:
    if text is not None:
        from experiments.training import stop  # which Windows cannot import

        stop.after(duration_in_seconds(text, "--stop-after"))


def _engine(name: str) -> str:
    from experiments.grid import driver

    if name not in driver.ENGINES:
        raise ConfigError(f"ENGINE: must be {' or '.join(f'`{known}`' for known in driver.ENGINES)}, got {name!r}.")
    return name


Engine = Annotated[str, typer.Option(callback=_engine, help="Where cells run.")]
StopAfter = Annotated[
    str | None,
    typer.Option(callback=_stop_after, help="End after 30m, 90s or 1h30m as Ctrl-C does: with checkpoints, to go on later."),
]


def _load(name: str, overrides: list[str] | None) -> Experiment:
    try:
        words = [word for text in overrides or [] for word in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(
            f"ARGS: {' '.join(overrides or [])!r} cannot be split into words ({error}). Close the quotes."
        ) from error
    experiment = loading.load_experiment(name, loading.parse_overrides(words))
    for note in experiment.notes:
        err.print(f"Note: {note}", markup=False, soft_wrap=True)
    return experiment.model_copy(update={"args": join_words(words)})


@app.command()
def run(
    name: Name,
    overrides: Overrides = None,
    engine: Engine = "local",
    jobs: Annotated[str, typer.Option(help="Worker processes: a number, or auto.")] = "auto",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")] = False,
    stop_after: StopAfter = None,
) -> None:
    """Run what is missing of an experiment, then make its report. Under torchrun all its processes share each cell."""
    from experiments.grid import driver
    from experiments.terminal import display

    with driver.leading() as leads:
        if not leads:
            return
        experiment = _load(name, overrides)
        folder = runs_dir() / name
        say_lost_caches(folder)
        with err.status("Loading the data"):
            cells = driver.plan(experiment)
            trials = driver.trials_for(cells)
        reports.prepare(name)
        headline = display.headline(experiment, cells, folder)
        for batch in filter(None, (trials, cells)):
            with display.progress(experiment, batch, folder, headline, retry_failed) as progress:
                driver.launch(batch, folder, jobs=jobs, observer=progress, retry_failed=retry_failed, engine=engine)
            headline = []
        if code := endings.after_run(experiment, cells, trials, folder):
            raise typer.Exit(code)


@app.command()
def plan(
    name: Name,
    overrides: Overrides = None,
    effect: Annotated[
        float | None, typer.Option(help="Difference of accuracies to detect; by default the equivalence margin.")
    ] = None,
    budget: Annotated[str, typer.Option(help="Device time, such as 30m or 8h.")] = "",
    jobs: Annotated[str, typer.Option(help="Worker processes: a number, or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what an experiment will cost and what it can tell, before anything runs."""
    from experiments.grid import driver

    hours = duration_in_seconds(budget, "BUDGET") / 3600 if budget else None
    experiment = _load(name, overrides)
    effect = plans.checked_effect(experiment.equivalence_margin if effect is None else effect)
    say_lost_caches(runs_dir() / name)
    with err.status("Loading the data, timing steps"):
        cells = driver.plan(experiment)
        trials = driver.trials_for(cells)
        made, kept = plans.make_plan(experiment, cells, trials, jobs=jobs, effect=effect, budget_hours=hours)
    if as_json:
        typer.echo(made.model_dump_json(indent=2))
    else:
        out.print(screens.plan_table(made))
    for note in made.notes:
        screens.warn(note)
    if not kept:
        err.print("The plan that was made before the first run stays in plan.json.", style="dim", soft_wrap=True)
    if made.over:
        raise ConfigError(*made.over)


@app.command()
def decide(
    name: Name,
    overrides: Overrides = None,
    effect: Annotated[float | None, typer.Option(help="Difference of accuracies that matters.")] = None,
    budget: Annotated[str, typer.Option(help="Device time, such as 30m or 8h.")] = "",
    margin: Annotated[
        float | None, typer.Option(help="Models that differ by less are equivalent; by default EFFECT.")
    ] = None,
    error_rate: Annotated[float, typer.Option(help="Of one wrong decision or more.", min=0.0001, max=0.2)] = ERROR_RATE,
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Every two models, not each with the reference.")] = False,
    jobs: Annotated[str, typer.Option(help="Worker processes: a number, or auto.")] = "auto",
    engine: Engine = "local",
    stop_after: StopAfter = None,
) -> None:
    """Add seeds, look by look, until every pair of models is decided or the budget is spent."""
    from experiments.grid import driver
    from experiments.terminal import display

    if effect is None or not budget:
        raise ConfigError(
            "decide: EFFECT and BUDGET are fixed before the first run: make decide NAME=… EFFECT=0.01 BUDGET=8h"
        )
    fixed = {"effect": plans.checked_effect(effect)}
    fixed["margin"] = effect if margin is None else plans.checked_effect(margin, "--margin")
    hours = duration_in_seconds(budget, "BUDGET") / 3600
    experiment = _load(name, overrides)
    folder = runs_dir() / name
    reports.prepare(name)
    with err.status("Loading the data, timing steps"):
        decision, first_hours = decisions.begin(
            experiment, all_pairs=all_pairs, error_rate=error_rate, budget_hours=hours, **fixed
        )

    def launch(cells: list[Cell]) -> None:
        for batch in filter(None, ([cell for cell in cells if (cell.trial is None) == last] for last in (False, True))):
            with display.progress(experiment, batch, folder, [], False) as progress:
                driver.launch(batch, folder, jobs=jobs, observer=progress, engine=engine)

    if code := decisions.decide(experiment, decision, first_hours, launch):
        raise typer.Exit(code)


@app.command()
def report(
    name: Name,
    overrides: Overrides = None,
    allow_unequal: Annotated[
        bool, typer.Option("--allow-unequal", help="Make tables of unequal runs, with a banner.")
    ] = False,
    source: Annotated[
        str, typer.Option("--from", help="wandb:entity/project: report from what W&B holds instead of from run folders.")
    ] = "",
) -> None:
    """Make an experiment's report again from its records."""
    if source:
        if overrides:
            raise ConfigError("ARGS: cannot be given with FROM; the report in W&B knows the settings that it was made with.")
        reports.report_from(source, name, allow_unequal=allow_unequal)
        return
    experiment = as_decided(_load(name, overrides))
    folder = runs_dir() / name
    ledger = known_ledger(experiment, folder)
    try:
        reports.say_report(experiment, ledger, folder, again=True, allow_unequal=allow_unequal)
    except Exception:
        if not ledger["counts"]["done"]:  # what lies there instead may be what was meant
            for line in screens.other_settings(ledger, folder):
                err.print(line, markup=False, soft_wrap=True)
        raise
    out.print(f"\nReport   {reports_dir() / name / 'report.html'}", soft_wrap=True)


@app.command()
def status(
    name: Name,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show which cells are done, running, failed or missing."""
    experiment = as_decided(_load(name, overrides))
    values = known_ledger(experiment, runs_dir() / name)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        out.print(screens.ledger_table(values, runs_dir() / name))


@app.command(name="list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List experiments, models, data and recipes."""
    lines = {kind: loading.first_lines(kind) for kind in ("experiments", "models", "data", "recipes")}
    if as_json:
        typer.echo(json.dumps(lines, indent=2))
        return
    for kind, entries in lines.items():
        if out.is_terminal:
            out.print(screens.name_table(kind.capitalize(), entries.items()))
        else:
            out.print(screens.name_lines(kind.capitalize(), entries.items()), markup=False, soft_wrap=True)


@app.command()
def show(
    run_folder: Annotated[Path, typer.Argument(help="A run folder, or a run id.")],
    as_json: Annotated[bool, typer.Option("--json", help="The whole record, for programs.")] = False,
) -> None:
    """Show one run."""
    from experiments.records.folder import find_run
    from experiments.records.record import RECORD_FILE, read_record

    found = find_run(run_folder)
    record = read_record(found / RECORD_FILE)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    else:
        out.print(screens.record_table(record, found))
        if command := screens.command_of(found):  # one line, however long, to be typed again
            out.print(f"made by      {command}", markup=False, soft_wrap=True)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder, or a run id.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(help="How many classes to show.", min=1)] = 3,
    attention: Annotated[Path | None, typer.Option(help="Picture to write: where the project's own ViT looked.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Classify images with a trained model."""
    from experiments.inference import predict as prediction
    from experiments.inference.trained import load_run

    images, trained = prediction.image_files(images), load_run(run)
    guesses = prediction.predict(trained, images, top)
    if attention:
        prediction.draw_attention(trained, images, [own[0] for own in guesses], attention)
    if as_json:
        typer.echo(json.dumps(prediction.as_json(images, guesses), indent=2, ensure_ascii=False))
        return
    for path, own in zip(images, guesses, strict=True):
        shown = ", ".join(f"{guess.name} {guess.probability:.1%}" for guess in own)
        out.print(f"{printable(path)}: {shown}", markup=False, soft_wrap=True)
    if attention:
        out.print(f"\nAttention  {attention}", markup=False, soft_wrap=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, or a run id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .safetensors, .npz or .pt2.")],
    form: Annotated[str, typer.Option("--format", help="safetensors (weights) or torch-export (program).")] = "safetensors",
    layout: Annotated[
        str | None, typer.Option(help="Names of the weights of the project's own ViT: timm, torchvision, hf or npz.")
    ] = None,
) -> None:
    """Write a trained model to a file that needs nothing of this project."""
    from experiments.inference.export import export as write
    from experiments.inference.trained import load_run

    write(load_run(run), form, output, layout)
    out.print(f"Model    {output}", markup=False, soft_wrap=True)


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="Stem of a file in configs/models.")],
    image_size: Annotated[int, typer.Option(help="Pixels of a side.", min=1)] = 224,
    batch_size: Annotated[int, typer.Option(help="Images of a step.", min=2)] = 64,
    channels: Annotated[int, typer.Option(help="Channels of an image.", min=1, max=4)] = 3,
    classes: Annotated[int, typer.Option(help="Classes of the head.", min=2)] = 10,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Measure a model's cost without training it."""
    config = loading.load_part("models", model)
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"--precision: must be fp32 or bf16, got {precision!r}.")
    from experiments.training.device import check_precision, resolve_device
    from experiments.training.profile import profile as measure

    device = resolve_device()
    check_precision(precision, device)
    with err.status(f"Measuring {model}"):
        row = measure(
            model,
            config,
            shape=(batch_size, channels, image_size),
            n_classes=classes,
            precision=precision,
            threads=threads,
            device=device,
        )
    if as_json:
        typer.echo(json.dumps(row, indent=2))
    else:
        out.print(screens.profile_table(row))


@app.command()
def bench(
    models: Annotated[list[str] | None, typer.Argument(help="Names of models; three of vit_small_data by default.")] = None,
    data: Annotated[str, typer.Option(help="Name of the data.")] = "digits",
    recipe: Annotated[str, typer.Option(help="Name of the recipe.")] = "digits",
    steps: Annotated[int, typer.Option(help="Steps of one timed stretch.", min=1)] = 100,
    repeats: Annotated[int, typer.Option(help="Timed stretches of each way.", min=1)] = 15,
    grid_cells: Annotated[int, typer.Option(help="Trivial cells of the grid that is timed.", min=2)] = 200,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16, instead of the recipe's.")] = None,
    compile_: Annotated[str | None, typer.Option("--compile", help="Mode, instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images of a step, instead of the recipe's.", min=2)] = None,
    stop_after: StopAfter = None,
) -> None:
    """Measure what the harness costs over bare computation, and what a DataLoader costs over the harness."""
    from experiments.bench.costs import costs_table
    from experiments.bench.everything import table, write_bench

    names = models or ["vit_micro_p2", "timm_vit_micro_p2", "resnet_micro"]
    reports.prepare("bench")
    target = reports_dir() / "bench"
    with out.status("Measuring") as line:
        rows, costs = write_bench(
            names,
            data,
            recipe,
            steps=steps,
            repeats=repeats,
            grid_cells=grid_cells,
            settings=loading.checked_settings(recipe, precision=precision, compile=compile_, batch_size=batch_size),
            target=target,
            on_part=lambda part: line.update(f"Measuring: {part}"),
        )
    out.print(table(rows), markup=False, soft_wrap=True)
    out.print(costs_table(costs), markup=False, soft_wrap=True)
    out.print(f"\nBench    {target / 'bench.json'}", soft_wrap=True)


@app.command()
def sync(name: Name, stop_after: StopAfter = None) -> None:
    """Send to W&B what it has not seen: runs, then the report."""
    if not _sync(name):
        raise typer.Exit(SOME_FAILED)


def _sync(name: str) -> bool:
    """Send what W&B has not seen and say what was sent. Returns whether all of it arrived."""
    from experiments.tracking.sync import sync as send

    folder = runs_dir() / checked_name(name)
    if not folder.is_dir():
        raise ConfigError(f"sync: {folder} does not exist. Run the experiment first: make experiment NAME={name}")
    with err.status("Sending runs to W&B") as line:
        sent = send(
            folder,
            on_progress=lambda done, total, run_id: line.update(f"Sending runs to W&B: {done} of {total}"),
            say=screens.warn,
        )
    out.print(f"{sent.sent} runs sent, {sent.already} were there before, {len(sent.failed)} failed.")
    if sent.running:
        out.print(f"{len(sent.running)} runs are still in work; sync again when they are done.")
    for sentence in sent.failed:
        out.print(printable(sentence), markup=False, soft_wrap=True)
    if not sent.failed and not sent.running:
        online.send_report(name)
    return not sent.failed


@app.command()
def publish(
    name: Name,
    overrides: Overrides = None,
    to: Annotated[Path, typer.Option(help="Folder that gets <experiment>/<run_id>/.")] = ROOT / "results",
) -> None:
    """Copy finished runs without weights and checkpoints, logits in half precision: to keep, or to go beside a paper."""
    from experiments.grid.publish import publish as copy

    folder = runs_dir() / name
    published = copy(known_ledger(as_decided(_load(name, overrides)), folder), folder, to)
    for fault in published.faults:
        err.print(printable(fault), soft_wrap=True, markup=False)
    out.print(f"{published.runs} runs, {published.size / 1e6:.1f} MB, in {to / name}", soft_wrap=True, markup=False)
    if published.faults:
        raise typer.Exit(SOME_FAILED)


@app.command()
def verify(
    name: Name,
    source: Annotated[Path, typer.Option("--from", help="Folder that holds <experiment>/<run_id>/.")] = ROOT / "results",
    cells: Annotated[int, typer.Option(help="Runs to train again, the cheapest of each kind first.", min=1)] = 3,
    images: Annotated[str | None, typer.Option(help="The folder of images, where the data are one.")] = None,
    jobs: Annotated[str, typer.Option(help="Worker processes: a number, or auto.")] = "auto",
    seal: Annotated[bool, typer.Option("--seal", help="Train nothing: list the digests of files in SHA256SUMS.")] = False,
    stop_after: StopAfter = None,
) -> None:
    """Train published runs again from their own settings: equal bits, or no farther than rounding explains?"""
    folder = source / checked_name(name)
    if seal:
        out.print(f"{add_digests(folder)} files are listed in {folder / SUMS_FILE}", soft_wrap=True, markup=False)
        return
    if code := say_verification(folder, cells, images, jobs):
        raise typer.Exit(code)


@app.command()
def merge(
    sources: Annotated[
        list[Path], typer.Argument(help="Folders of runs, as runs or results; lab=folder names who ran them.")
    ],
    to: Annotated[Path, typer.Option(help="Folder that gets <experiment>/<run_id>/.")],
) -> None:
    """Join the runs of several machines or labs: each once, what contradicts another left out by name."""
    from experiments.grid import merge as merging

    found = merging.merge(merging.parse_sources(list(map(str, sources))), to)
    for merged in found:
        for sentence in merged.left_out:
            screens.warn(f"left out: {sentence}")
        again = f"make report NAME={merged.experiment} RUNS_DIR={shlex.quote(str(to))}"
        out.print(f"{merged.runs} runs, {merged.repeated} of them found more than once. Report: {again}", soft_wrap=True)
    if any(merged.left_out for merged in found):
        raise typer.Exit(SOME_FAILED)


@app.command()
def dashboard(name: Name, overrides: Overrides = None) -> None:
    """Lay the comparison out in W&B; without a login, open the terminal viewer on the runs."""
    from experiments.tracking.client import choose_mode, point_client_at

    experiment = as_decided(_load(name, overrides))
    folder = runs_dir() / name
    if not folder.is_dir():
        raise ConfigError(f"dashboard: {folder} does not exist. Run the experiment first: make experiment NAME={name}")
    point_client_at(folder)
    mode, reason = choose_mode()
    if mode != "online":
        online.view_offline(name, folder, reason)
        return
    if not _sync(name):
        raise typer.Exit(SOME_FAILED)
    ledger = known_ledger(experiment, folder)
    memory = reports.made_report(experiment, ledger, folder, again=False)
    with err.status("Saving the dashboard"):
        saved = online.save_dashboard(experiment, ledger, folder, memory.verdict)
    for question, address in saved.views.items():
        out.print(f"{question.replace('_', ' '):<16} {address}", soft_wrap=True, markup=False)
    out.print(f"{'report':<16} {saved.report}", soft_wrap=True, markup=False)


def main() -> int:
    """Run the command line. Returns the exit code; bad input is one message and 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character shows its number
            stream.reconfigure(errors="backslashreplace")
    if sys.platform == "win32":
        err.print("[bold red]error:[/] Windows itself is not supported; run this in WSL (wsl --install).", soft_wrap=True)
        return BAD_INPUT
    try:
        code: int = app(standalone_mode=False) or 0  # an Exit arrives as the code it carries, Ctrl-C as an Exit
        if code == STOPPED:
            err.print("Stopped. The same command goes on from here.")
        return code
    except ConfigError as error:
        screens.show_faults(err, error)
        return BAD_INPUT
    except UserError as error:
        err.print(Text.assemble(("error: ", "bold red"), printable(error, keep="\n")), soft_wrap=True)
        return BAD_INPUT
    except OSError as error:
        where = printable(error.filename or "a file")
        err.print(
            Text(f"error: {where}: {error.strerror or error}. Check RUNS_DIR, REPORTS_DIR and the disk."), soft_wrap=True
        )
        return BAD_INPUT
    except Exception as error:
        if not hasattr(error, "format_message"):  # a wrong call, as the command-line library tells it
            raise
        err.print(f"[bold red]error:[/] {escape(error.format_message())} See python -m experiments --help.", soft_wrap=True)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
