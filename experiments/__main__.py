"""The command line: ``python -m experiments run|status|list|show|report|sync|predict|export …``.

Exit codes of ``run``: 0 all cells done; 1 some cells failed, the rest done, the report made; 2 bad input, nothing was run;
130 stopped by the user, to be continued by the same command.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from experiments import display, loading
from experiments.config import ConfigError, Experiment, reports_dir, runs_dir

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

BAD_INPUT, SOME_FAILED, STOPPED = 2, 1, 130

Name = Annotated[str, typer.Argument(help="Stem of a file in configs/experiments.")]
Overrides = Annotated[list[str] | None, typer.Argument(help='Dotted keys: "recipe.steps=200 seeds=[0,1]".')]


def _load(name: str, overrides: list[str] | None) -> Experiment:
    try:
        words = [word for text in overrides or [] for word in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(
            [f"ARGS: {' '.join(overrides or [])!r} cannot be split into words ({error}). Close the quotes."]
        ) from error
    return loading.load_experiment(name, loading.parse_overrides(words))


@app.command()
def run(
    name: Name,
    overrides: Overrides = None,
    engine: Annotated[str, typer.Option(help="Where cells run.")] = "local",
    jobs: Annotated[str, typer.Option(help="Worker processes: a number, or auto.")] = "auto",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")] = False,
) -> None:
    """Run what is missing of an experiment, then make its report. Under torchrun all its processes share each cell."""
    from experiments.engine import distributed_processes

    if distributed_processes() > 1:
        from experiments.launch import together

        together(lambda: _run(name, overrides, engine, jobs, retry_failed))
    else:
        _run(name, overrides, engine, jobs, retry_failed)


def _run(name: str, overrides: list[str] | None, engine: str, jobs: str, retry_failed: bool) -> None:
    from experiments.grid import ledger
    from experiments.launch import experiment_folder, launch, plan, trials_for
    from experiments.worker import stop_requested

    if engine != "local":
        raise ConfigError([f"ENGINE: must be `local`, got {engine!r}."])
    experiment = _load(name, overrides)
    folder = experiment_folder(experiment)
    cells = plan(experiment)
    trials = trials_for(cells)
    headline = [f"[bold]{escape(name)}[/]: {escape(experiment.question)}"]
    for batch, kind in ((trials, "tuning trials"), (cells, "cells")):
        if not batch or stop_requested():
            continue
        counts = ledger(experiment, batch, folder)["counts"]
        ended = 0 if retry_failed else counts["failed"]
        headline.append(f"{len(batch)} {kind}, {counts['done']} done before, {len(batch) - counts['done'] - ended} to run.")
        with display.Progress(out, folder, total=len(batch), done=counts["done"] + ended, headline=headline) as progress:
            launch(batch, folder, jobs=jobs, observer=progress, retry_failed=retry_failed)
        headline = []
    after = ledger(experiment, cells, folder, trials)
    if stop_requested() and after["counts"]["done"] < len(cells):
        out.print(f"Stopped: {after['counts']['done']} of {len(cells)} cells are done. The same command goes on from here.")
        raise typer.Exit(STOPPED)
    if after["counts"]["done"]:
        _report(experiment, after, folder, again=False)
    _where_to_look(experiment, folder)
    if after["counts"]["done"] < len(cells):
        out.print(display.ledger_table(after))
        out.print("Failed cells are run again with FLAGS=--retry-failed.")
        raise typer.Exit(SOME_FAILED)


def _report(
    experiment: Experiment, ledger: dict[str, Any], folder: Path, *, again: bool, allow_unequal: bool = False
) -> None:
    """Make the report and say what it says; `again` makes it even where nothing changed since it was made."""
    from analysis import freshness

    target, links = reports_dir() / experiment.name, _links(ledger, folder)
    key = freshness.key_of(ledger, folder, experiment, links)
    memory = None if again else freshness.recall(target, key)
    if memory is None:
        from analysis import report

        freshness.forget(target)
        with out.status("Making the report"):
            made = report.build(ledger, folder, experiment, target, allow_unequal=allow_unequal, links=links)
        files = sorted(str(path.relative_to(target)) for path in made.paths)
        memory = freshness.Remembered(key, made.accuracy_text, made.verdict, made.faults, files)
        if made.equal:  # a report of unequal runs is shown to those who ask for it, and to nobody later
            freshness.remember(target, memory)
    for fault in memory.faults:
        err.print(f"[yellow]left out:[/] {escape(fault)}", soft_wrap=True)
    out.print(memory.accuracy_text, markup=False, soft_wrap=True)
    for sentence in memory.verdict:
        out.print(sentence, markup=False, soft_wrap=True)


def _links(ledger: dict[str, Any], folder: Path) -> dict[str, str]:
    """W&B pages of the runs that have one."""
    from experiments.mirror import page_of

    pages = {cell["run_id"]: page_of(folder / cell["run_id"]) for cell in ledger["cells"] if cell["run_id"]}
    return {run_id: page for run_id, page in pages.items() if page}


def _where_to_look(experiment: Experiment, folder: Path) -> None:
    """The last lines: what lies where, and how to send what W&B has not seen."""
    from experiments.mirror import unsent

    out.print(f"\nReport   {reports_dir() / experiment.name / 'report.html'}", soft_wrap=True, markup=False)
    out.print(f"Records  {folder}", soft_wrap=True, markup=False)
    waiting = unsent(folder)
    if waiting:
        out.print(
            f"W&B      {waiting} runs are logged offline; `make sync NAME={experiment.name}` sends them.", soft_wrap=True
        )


def _known_ledger(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The ledger from what lies in the folder; no data is loaded."""
    from experiments.grid import expand, ledger, read_splits
    from experiments.launch import trials_for

    cells = expand(experiment, read_splits(folder))
    return ledger(experiment, cells, folder, trials_for(cells))


@app.command()
def report(
    name: Name,
    overrides: Overrides = None,
    allow_unequal: Annotated[
        bool, typer.Option("--allow-unequal", help="Make tables of unequal runs, with a banner.")
    ] = False,
) -> None:
    """Make an experiment's report again from its records."""
    experiment = _load(name, overrides)
    folder = runs_dir() / name
    _report(experiment, _known_ledger(experiment, folder), folder, again=True, allow_unequal=allow_unequal)
    out.print(f"\nReport   {reports_dir() / name / 'report.html'}", soft_wrap=True)


@app.command()
def status(
    name: Name,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show which cells are done, running, failed or missing."""
    experiment = _load(name, overrides)
    values = _known_ledger(experiment, runs_dir() / name)
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        out.print(display.ledger_table(values))


@app.command(name="list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List experiments, models, data and recipes."""
    lines = {kind: loading.first_lines(kind) for kind in ("experiments", "models", "data", "recipes")}
    if as_json:
        typer.echo(json.dumps(lines, indent=2))
        return
    for kind, entries in lines.items():
        out.print(display.name_table(kind.capitalize(), entries.items()))


@app.command()
def show(run_folder: Annotated[Path, typer.Argument(help="A run folder, or a run id.")]) -> None:
    """Show one run's record."""
    from experiments.record import RECORD_FILE, read_record
    from experiments.run_folder import find_run

    out.print_json(read_record(find_run(run_folder) / RECORD_FILE).to_json())


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder, or a run id.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(help="How many classes to show.", min=1)] = 3,
    attention: Annotated[Path | None, typer.Option(help="Picture to write: where the project's own ViT looked.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Classify images with a trained model."""
    from experiments import predict as prediction
    from experiments.trained import load_run

    trained = load_run(run)
    guesses = prediction.predict(trained, images, top)
    if attention:
        prediction.draw_attention(trained, images, attention)
    if as_json:
        typer.echo(json.dumps(prediction.as_json(images, guesses), indent=2, ensure_ascii=False))
        return
    for path, own in zip(images, guesses, strict=True):
        shown = ", ".join(f"{guess.name} {guess.probability:.1%}" for guess in own)
        out.print(f"{path}: {shown}", markup=False, soft_wrap=True)
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
    from experiments.export import export as write
    from experiments.trained import load_run

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
    """Measure a model's cost without training it, and keep the row for the records of later runs."""
    config = loading.load_part("models", model)
    if precision not in ("fp32", "bf16"):
        raise ConfigError([f"--precision: must be fp32 or bf16, got {precision!r}."])
    from experiments.profile import profile as measure
    from experiments.run import check_precision, resolve_device

    device = resolve_device()
    check_precision(precision, device)
    with err.status(f"Measuring {model}"):
        row = measure(
            model,
            config,
            image_size=image_size,
            channels=channels,
            batch_size=batch_size,
            n_classes=classes,
            precision=precision,
            threads=threads,
            device=device,
        )
    if as_json:
        typer.echo(json.dumps(row, indent=2))
    else:
        out.print(display.profile_table(row))


@app.command()
def bench(
    models: Annotated[list[str] | None, typer.Argument(help="Names of models; those of vit_small_data by default.")] = None,
    data: Annotated[str, typer.Option(help="Name of the data.")] = "digits",
    recipe: Annotated[str, typer.Option(help="Name of the recipe.")] = "digits",
    steps: Annotated[int, typer.Option(help="Steps of one timed stretch.")] = 300,
    repeats: Annotated[int, typer.Option(help="Timed stretches of each way.")] = 5,
) -> None:
    """Measure what the harness costs over bare computation, and what a DataLoader costs over the harness."""
    from experiments.bench import table, write_bench

    names = models or ["vit_micro_p2", "resnet_micro"]
    target = reports_dir() / "bench"
    with out.status("Measuring") as line:
        rows = write_bench(
            names,
            data,
            recipe,
            steps=steps,
            repeats=repeats,
            target=target,
            on_model=lambda m: line.update(f"Measuring {m}"),
        )
    out.print(table(rows), markup=False, soft_wrap=True)
    out.print(f"\nBench    {target / 'bench.json'}", soft_wrap=True)


@app.command()
def sync(name: Name) -> None:
    """Send to W&B what it has not seen."""
    from experiments.wandb_sync import sync as send

    folder = runs_dir() / name
    if not folder.is_dir():
        raise ConfigError([f"sync: {folder} does not exist. Run the experiment first: make experiment NAME={name}"])
    with out.status("Sending runs to W&B") as line:
        sent = send(folder, on_progress=lambda done, total, run_id: line.update(f"Sending runs to W&B: {done} of {total}"))
    out.print(f"{sent.sent} runs sent, {sent.already} were there before, {len(sent.failed)} failed.")
    if sent.running:
        out.print(f"{len(sent.running)} runs are still in work; sync again when they are done.")
    for sentence in sent.failed:
        out.print(sentence, markup=False, soft_wrap=True)
    if sent.failed:
        raise typer.Exit(SOME_FAILED)


def main() -> int:
    """Run the command line. Returns the exit code; bad input is one message and 2, never a traceback."""
    try:
        return app(standalone_mode=False) or 0  # an Exit arrives as the code it carries
    except ConfigError as error:
        display.show_faults(err, error)
        return BAD_INPUT
    except KeyboardInterrupt:
        err.print("Stopped. The same command goes on from here.")
        return STOPPED
    except OSError as error:
        where = error.filename or "a file"
        err.print(
            Text(f"error: {where}: {error.strerror or error}. Check RUNS_DIR, REPORTS_DIR and the disk."), soft_wrap=True
        )
        return BAD_INPUT
    except Exception as error:
        if hasattr(error, "format_message"):  # a wrong call, as the command-line library tells it
            err.print(
                f"[bold red]error:[/] {escape(error.format_message())} See python -m experiments --help.", soft_wrap=True
            )
            return BAD_INPUT
        if not type(error).__module__.startswith(("analysis.", "experiments.")):
            raise
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
