"""Records → report, made, remembered and said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from experiments.config.errors import ConfigError
from experiments.config.paths import reports_dir, runs_dir
from experiments.config.schema import Experiment
from experiments.config.text import printable
from experiments.records.record import EXAMPLES_FILE, write_whole
from experiments.terminal.screens import err, other_settings, out, warn

if TYPE_CHECKING:
    from analysis.freshness import Remembered


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
        raise ConfigError(f"REPORTS_DIR: {folder} cannot be written ({reason}). Choose another folder.")


def made_report(
    experiment: Experiment, ledger: dict[str, Any], folder: Path, *, again: bool, allow_unequal: bool = False
) -> Remembered:
    """Make the report; `again` makes it even where nothing changed since it was made."""
    from analysis import freshness
    from experiments.records.reported import EXPERIMENT_FILE
    from experiments.tracking.mirror import pages_of

    target, links = reports_dir() / experiment.name, pages_of(ledger, folder)
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
            write_whole(target / EXPERIMENT_FILE, f"{experiment.model_dump_json(indent=2)}\n")
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


def report_from(source: str, name: str, *, allow_unequal: bool) -> None:
    """Report from the artifact that another machine sent."""
    from experiments.tracking.fetch import fetch

    with err.status(f"Downloading the records of {name}"):
        fetched = fetch(source, name, runs_dir(), warn)
    out.print(f"{len(fetched.ledger['cells'])} cells from {source}", markup=False, soft_wrap=True)
    out.print(f"Made by  {fetched.experiment.command}", markup=False, soft_wrap=True)
    say_report(fetched.experiment, fetched.ledger, fetched.runs, again=True, allow_unequal=allow_unequal)
    out.print(f"\nReport   {reports_dir() / name / 'report.html'}", soft_wrap=True)
