"""Makes the reports of ``results/`` again and puts their tables and figures where the two READMEs show them.

``python -m tests.published [NAME …]``; `tests/test_promises.py` holds them equal.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from unittest import mock

from experiments.__main__ import main
from experiments.config.paths import ROOT

BLOCK = re.compile(r"(<!-- result: (.*?), made from (?:results/)?(\w+);.*?-->\n)(.*?)(<!-- /result -->)", re.DOTALL)


def tables(report: Path, names: str) -> str:
    """The tables of a report without titles and captions."""
    parts = []
    for name in re.findall(r"\w+\.md", names):
        lines = (report / name).read_text(encoding="utf-8").splitlines()
        kept = "\n".join(line for line in lines if not re.match(r"#|\*[^*]|<sup>", line)).strip()
        parts.append(re.sub(r"\n{3,}", "\n\n", kept))
    return "\n\n".join(parts)


def put(text: str, made: str) -> str:
    """A block's text with other tables, between the words before them and those after."""
    lines = text.splitlines()
    at = [number for number, line in enumerate(lines) if re.match(r"\||\*\*.*\*\*$", line)] or [len(lines)]
    before, after = "\n".join(lines[: at[0]]).strip(), "\n".join(lines[at[-1] + 1 :]).strip()
    return "\n" + "\n\n".join(part for part in (before, made, after) if part) + "\n\n"


def write(names: set[str]) -> None:
    """Make again what is shown of the experiments `names`, of all where there are none."""
    for page in (ROOT / "README.md", ROOT / "results" / "README.md"):
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            head, asked, name, shown, tail = block.groups()
            if names and name not in names:
                continue
            with tempfile.TemporaryDirectory() as place, mock.patch.object(sys, "argv", ["experiments", "report", name]):
                with mock.patch.dict(os.environ, {"RUNS_DIR": str(ROOT / "results"), "REPORTS_DIR": place}):
                    assert main() == 0
                for figure in (ROOT / "results" / name).glob("*.svg"):
                    figure.write_bytes((Path(place) / name / "figures" / figure.name).read_bytes())
                text = text.replace(head + shown + tail, head + put(shown, tables(Path(place) / name, asked)) + tail)
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(set(sys.argv[1:]))
