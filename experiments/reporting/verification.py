"""Published runs trained again, and what came of it."""

from __future__ import annotations

import os
from pathlib import Path

from experiments.config.cells import Cell
from experiments.config.paths import reports_dir, runs_dir
from experiments.config.text import printable
from experiments.records.record import write_json
from experiments.reporting import SOME_FAILED
from experiments.reporting.reports import prepare
from experiments.terminal.screens import out, verification_lines


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
    write_json(target, found, indent=2)
    for line in verification_lines(found):
        out.print(printable(line), soft_wrap=True, markup=False)
    if not found["SHA256SUMS"]:
        out.print(f"{folder} has no SHA256SUMS, so that a changed byte is not found. Who published it can add it: --seal")
    out.print(f"\nVerified {target}", soft_wrap=True, markup=False)
    return 0 if all(cell["verdict"] in ("equal", "within rounding") for cell in found["cells"]) else SOME_FAILED
