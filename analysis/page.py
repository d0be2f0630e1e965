"""``report.html``: one file that holds its tables, figures and scripts and opens without network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import vl_convert
from markupsafe import Markup

from analysis import gallery, mistakes, planned
from analysis.captions import Facts
from analysis.fairness.certificate import Certificate
from analysis.figures import Figure
from analysis.load import Results
from analysis.render import Table
from analysis.summary import Summary
from analysis.text import number, percent
from experiments.config.schema import Experiment

TEMPLATES = Path(__file__).parent / "templates"
LEDGER = {
    "Model": "model", "Data": "data", "Setting": "setting", "Fraction": "fraction", "Seed": "seed", "Status": "status",
    "Top-1 (%)": "accuracy", "Run": "run_id", "W&B": "address", "Reason": "reason",
}  # fmt: skip
"""Columns of the ledger; empty ones are left out, as is that of the data where there is one set."""


@dataclass(frozen=True)
class Content:
    """What the page shows."""

    experiment: Experiment
    results: Results
    summary: Summary
    certificate: Certificate
    facts: Facts
    tables: list[Table]
    figures: list[Figure]
    verdict: list[str]
    faults: list[str]
    planned: list[planned.Row]
    counts: dict[str, int]
    links: dict[str, str]
    runs_from_page: Path
    embedded: Mapping[str, gallery.Kept]


def render(content: Content) -> str:
    """The page as text. Everything that comes from records or configurations is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    proof = content.certificate.content
    ledger = ledger_rows(content)
    shown = vars(content) | {
        "answer": content.verdict[0],
        "sure": content.verdict[1:],
        "hero": content.figures[0] if content.figures else None,
        "cost": cost(sum(one.device_hours or 0 for one in content.results.costs)),
        "details": content.facts.details,
        "gallery": gallery.gather(content.results, content.experiment, content.embedded),
        "reference": content.facts.reference,
        "banner": content.facts.banner,
        "expectations": content.summary.expectations,
        "descriptions": list(content.results.descriptions.values()),
        "mistakes": mistakes.tables(content.summary.groups),
        "certificate": proof,
        "differences": [str(difference) for difference in content.certificate.differences],
        "certificate_json": json.dumps(proof, indent=2, ensure_ascii=False),
        "ledger": ledger,
        "ledger_columns": [
            (title, key)
            for title, key in LEDGER.items()
            if any(row[key] != "" for row in ledger) and (key != "data" or len(content.experiment.data) > 1)
        ],
        "style": _trusted((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        "script": _trusted((TEMPLATES / "report.js").read_text(encoding="utf-8")),
        "vega": _trusted(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")) if content.figures else "",
        "script_json": script_json,
    }
    return environment.get_template("report.html.j2").render(shown)


def cost(hours: float) -> str:
    """Device time of all runs, with a comma before it; empty where it is unknown."""
    if not hours > 0:
        return ""
    if hours < 1 / 60:
        return f", {3600 * hours:,.0f} device-seconds"
    return f", {60 * hours:,.0f} device-minutes" if hours < 3 else f", {hours:,.1f} device-hours"


def _trusted(text: str) -> Markup:
    """Text of this project's own files or made safe by `script_json`, which goes into the page as it is."""
    return Markup(text)  # noqa: S704


def script_json(value: Any) -> Markup:
    """JSON that may stand in a ``<script>`` element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return _trusted(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def ledger_rows(content: Content) -> list[dict[str, Any]]:
    """Every cell with its status and, where there is one, a link to its run folder and its page in Weights & Biases."""
    accuracy = dict(zip(content.results.runs["run_id"], content.results.runs["test/top1"], strict=True))
    rows = []
    for cell in content.results.cells.itertuples():
        run_id = cell.run_id if isinstance(cell.run_id, str) else ""
        there = bool(run_id) and (content.results.folder / run_id).is_dir()
        address = content.links.get(run_id, "")
        rows.append(
            {
                "model": content.experiment.models[cell.model].title,
                "data": content.experiment.data[cell.data].title,
                "setting": cell.setting,
                "fraction": cell.train_fraction,
                "fraction_text": percent(cell.train_fraction),
                "seed": int(cell.seed),
                "status": cell.status,
                "reason": cell.reason if isinstance(cell.reason, str) else "",
                "accuracy": number(100 * accuracy[run_id], 2) if run_id in accuracy else "",
                "run_id": run_id,
                "folder": quote(f"{content.runs_from_page.as_posix()}/{run_id}/") if there else "",
                "address": address if address.startswith(("http://", "https://")) else "",
            }
        )
    return rows
