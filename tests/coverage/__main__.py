"""``make coverage``: simulate every regime and write ``docs/coverage.json`` and the tables of ``docs/coverage.md``.

``python -m tests.coverage STUDY …`` renews some studies alone.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from typing import Any

from experiments.config.paths import ROOT
from experiments.records.record import atomic_write
from tests.coverage.studies import STUDIES

FIGURES, DOCUMENT = ROOT / "docs" / "coverage.json", ROOT / "docs" / "coverage.md"
BEGIN, END = "<!-- coverage: made by `make coverage` from coverage.json -->\n", "<!-- /coverage -->\n"

Figures = dict[str, list[dict[str, Any]]]


def share(hits: int, of: int) -> str:
    """Three decimals without the leading 0, such as ``.953``."""
    return f"{hits / of:.3f}".removeprefix("0")


def as_markdown(figures: Figures) -> str:
    """A table a study; a blank where nothing was counted."""
    lines = []
    for name, rows in figures.items():
        study = STUDIES[name]
        regime = list(rows[0]["regime"])
        lines += ["", f"**{study.title}**", "", f"| {' | '.join([*regime, *study.columns, 'tables'])} |"]
        lines += [f"|{':--|' * len(regime)}{'--:|' * (len(study.columns) + 1)}"]
        for row in rows:
            shown = list(map(str, row["regime"].values()))
            for pattern in study.columns.values():
                shown.append(min((share(*n) for key, n in row["counts"].items() if re.fullmatch(pattern, key)), default=""))
            lines.append(f"| {' | '.join([*shown, format(row['tables'], ',')])} |")
    return "\n".join([*lines[1:], ""])


def with_tables(document: str, figures: Figures) -> str:
    """The document with its tables made new."""
    before, rest = document.split(BEGIN)
    return before + BEGIN + as_markdown(figures) + END + rest.split(END)[1]


def write(figures: Figures) -> None:
    """Write both files, one row of JSON a line: a difference then shows which regime changed."""
    rows = {
        name: ",\n".join(json.dumps(row, ensure_ascii=False) for row in figures[name]) for name in STUDIES if name in figures
    }
    text = ",\n".join(f"{json.dumps(name)}: [\n{lines}\n]" for name, lines in rows.items())
    ordered = json.loads(f"{{{text}}}")
    document = with_tables(DOCUMENT.read_text(encoding="utf-8"), ordered)
    for path, content in ((FIGURES, f"{{\n{text}\n}}\n"), (DOCUMENT, document)):
        with atomic_write(path) as file:
            file.write(content)


def main() -> None:
    """Simulate the studies that are named, or all; each is written when it is done."""
    figures: Figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for name in sys.argv[1:] or STUDIES:
        figures[name] = []
        for row in STUDIES[name].rows(1.0):
            figures[name].append(asdict(row))
            shown = ", ".join(f"{key} {share(*entry)}" for key, entry in row.counts.items())
            print(f"{name} {row.regime}: {shown}", flush=True)
        write(figures)


if __name__ == "__main__":
    main()
