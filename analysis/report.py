"""Everything that is written into ``reports/<experiment>``: tables, figures, certificate, ledger and one HTML page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from analysis import captions, figures, gallery, latex, page, planned, render, tables, verdict
from analysis.fairness.certificate import Certificate, Unequal, certify
from analysis.fairness.strangers import Strangers, examine
from analysis.load import Results, load
from analysis.summary import summarise
from experiments.config.schema import Experiment
from experiments.records.intended import read_plan
from experiments.records.record import write_whole

FORMATS: dict[str, Callable[[render.Table], str]] = {
    ".md": render.markdown, ".tex": latex.latex, "_wide.tex": partial(latex.latex, wide=True), ".csv": render.csv,
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What was made."""

    folder: Path
    paths: list[Path]
    """Every file that was written."""
    accuracy_text: str
    """The accuracy table for a terminal: plain text without markup."""
    verdict: list[str]
    """The result in sentences."""
    faults: list[str]
    """Records that could not be used, or only in part; run folders of other settings are not among them."""
    equal: bool
    """Whether the certificate found all settings equal."""


def build(
    ledger: Mapping[str, Any],
    folder: Path,
    experiment: Experiment,
    out: Path,
    *,
    allow_unequal: bool = False,
    links: Mapping[str, str] | None = None,
    embedded: Mapping[str, gallery.Kept] | None = None,
) -> Report:
    """Turn an experiment's records, the run folders in `folder`, into its report in the folder `out`.

    Parameters
    ----------
    allow_unequal : bool
        Make the tables although settings differ, with a warning in each of them.
    links : mapping of str to str, optional
        Run id → address of the run in Weights & Biases. They stand in ``report.html`` alone.
    embedded : mapping of str to mapping, optional
        Dataset → its test images, for the page, where runs keep none.

    Raises
    ------
    NothingDone, Unequal
        If there is no usable run; if settings differ and `allow_unequal` is not given. Nothing is written then.
    """
    strangers = examine(ledger, folder, experiment)
    ledger = strangers.adopt(ledger)
    results, certificate = _certified(ledger, folder, experiment, strangers, allow_unequal)
    summary = summarise(results, experiment)
    facts = captions.gather(results, summary, experiment, certificate)
    made = tables.all_tables(summary, experiment, facts)
    words = verdict.sentences(summary)
    faults = [*results.faults, *certificate.faults]
    drawn = figures.draw(results, summary, experiment)
    content = page.Content(
        experiment=experiment,
        results=results,
        summary=summary,
        certificate=certificate,
        facts=facts,
        tables=made,
        figures=drawn,
        verdict=words,
        faults=faults,
        planned=planned.rows(read_plan(folder), results, summary.groups),
        counts=dict(ledger["counts"]),
        links=dict(links or {}),
        runs_from_page=Path(os.path.relpath(folder, out)),
        embedded=embedded or {},
    )
    texts = _table_texts(made, facts.details) | {
        "certificate.json": _json(certificate.content),
        "ledger.json": _json(_without_paths(ledger, folder)),
        "report.html": page.render(content),
    }
    paths = _write(out, texts, drawn)
    overview = render.plain(tables.overview(summary, facts))
    return Report(out, paths, overview, words, faults[len(strangers.sentences) :], certificate.equal)


def _certified(
    ledger: Mapping[str, Any], folder: Path, experiment: Experiment, strangers: Strangers, allow_unequal: bool
) -> tuple[Results, Certificate]:
    """The records, and the proof that their settings are equal, or that unequal ones are wanted."""
    if strangers.differences and not allow_unequal:
        raise Unequal(strangers.differences, strangers.advice)
    results = load(ledger, folder, experiment, strangers.sentences)
    certificate = certify(results, strangers.differences)
    if not certificate.equal and not allow_unequal:
        raise Unequal(certificate.differences)
    return results, certificate


def _table_texts(made: list[render.Table], details: list[str]) -> dict[str, str]:
    """Every table in every format, and what explains them, by file name; without those that would be empty."""
    texts = {f"{table.name}{suffix}": write(table) for table in made for suffix, write in FORMATS.items()}
    texts |= {"appendix.tex": latex.appendix(made, details), "conditions.md": render.conditions(made, details)}
    return {name: text for name, text in texts.items() if text}


def _write(out: Path, texts: Mapping[str, str], drawn: list[figures.Figure]) -> list[Path]:
    """Write all files at the end, when nothing can fail any more but the disk; remove those that older results left."""
    contents = {out / name: text.encode() for name, text in texts.items()}
    contents |= {
        out / "figures" / f"{figure.name}{suffix}": data for figure in drawn for suffix, data in figure.files.items()
    }
    for path, content in contents.items():
        write_whole(path, content)
    for stale in {*(out / "figures").glob("*.*"), *(out.glob("*.*"))} - set(contents):
        if stale.stem.removesuffix("_wide") in (*figures.TITLES, *tables.OPTIONAL):
            stale.unlink()
    return list(contents)


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _without_paths(ledger: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The ledger with reasons that name files from the folder of all runs on, as they read the same on every machine."""
    prefix = f"{folder.parent.parent}{os.sep}"
    cells = [
        {**cell, "reason": cell["reason"].replace(prefix, "") if isinstance(cell["reason"], str) else None}
        for cell in ledger["cells"]
    ]
    return {**ledger, "cells": cells}
