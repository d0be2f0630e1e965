"""``make chaos``: attack the harness and write the figures into ``chaos.json`` and ``chaos.md`` below `REPORTS_DIR`.

Everything runs in a temporary folder with the user's own command line. The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.config.paths import reports_dir
from experiments.records.record import atomic_write
from tests.chaos import commands, grids, hostile, inputs, kills, outside, pictures, scale

PROMISED_ZERO = {
    *("lost_runs", "lost_evaluations", "doubled_evaluations", "differing_files", "left_over_files", "stuck_locks"),
    *(
        "tracebacks",
        "not_refused",
        "runs_started",
        "files_outside",
        "runs_started_after_a_refusal",
        "half_records",
        "half_unpacked",
    ),
    *("cells_not_run_once", "hung_or_crashed", "orphans_left", "ends_without_a_checkpoint", "waited_without_end"),
    *("lost_evaluations_in_wandb", "doubled_evaluations_in_wandb", "not_resumed", "refused_without_the_file's_name"),
    *("runs_not_done", "runs_not_finished_in_wandb", "control_characters_printed", "wrong_exits"),
    *("whole_report_refused", "whole_image_refused"),
}
"""Figures that must be 0, or an empty list."""


SLOWED_PERCENT = 1.0
"""How much an outage of W&B may slow a training, beyond the noise of the same run."""


def attacks(place: Path) -> dict[str, Callable[[], Any]]:
    """What is done, in this order; each gives its figures."""
    whole, small = place / "whole", place / "small"

    def in_peace() -> dict[str, Any]:
        began = time.monotonic()
        kills.undisturbed(whole, grids.FULL, processes=2)
        seconds = time.monotonic() - began
        kills.undisturbed(small, grids.SMALL)
        return {"runs": len(grids.run_folders(whole)), "seconds": round(seconds, 1)}

    return {
        "undisturbed": in_peace,
        # Two processes share the grid, one a core; then commands with worker processes of their own.
        "sigkill": lambda: kills.kill_and_resume(place / "kills", whole, grids.FULL, processes=2, kills=56, seed=0),
        "sigkill_workers": lambda: kills.kill_and_resume(
            place / "workers", whole, grids.FULL, jobs=2, fresh=True, kills=4, seed=1
        ),
        "sigterm": lambda: [
            kills.stop_times(place / "stops", grids.FULL, repeats=6, seed=2),
            kills.stop_times(place / "stops2", grids.FULL, repeats=2, seed=3, jobs=2, fresh=True),
            *(
                [kills.stop_times(place / "hangups", grids.FULL, repeats=2, seed=4, number=signal.SIGHUP)]
                if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # as under nohup, which commands must heed
                else []
            ),
        ],
        "orphans": lambda: kills.orphans(place / "orphans", grids.FULL),
        "broken_locks": lambda: outside.broken_locks(place / "locks", grids.SMALL),
        "two_commands": lambda: kills.two_commands(place / "two", whole, grids.FULL),
        "full_disk": lambda: outside.full_disk(place / "disk", small, grids.SMALL, [0, 50_000, 400_000, 900_000, 1_500_000]),
        "configs": lambda: inputs.configs(place / "configs", 400),
        "images": lambda: inputs.images(place / "images", 150),
        "damaged_images": lambda: pictures.damaged_images(place / "damaged_images", 10_000),
        "idx_archives": lambda: inputs.idx_archives(place / "idx_archives", 60),
        "zips": lambda: inputs.zips(place / "zips", 200),
        "large_grid": lambda: scale.large_grid(place / "large_grid"),
        "large_reports": lambda: scale.large_reports(place / "large_reports", ((504, 1000), (2004, 1000), (996, 10_000))),
        "wandb": lambda: [
            outside.service_fault(place / f"wandb-{fault}", small, grids.SMALL, fault) for fault in ("500", "hang", "killed")
        ],
        "wandb_outages": lambda: outside.outages(place / "outages", grids.LONG, evaluations=grids.LONG_EVALUATIONS),
        "fetched_reports": lambda: hostile.fetched_reports(place / "fetched", (*grids.SMALL, *grids.ONE)),
        "damaged_state": lambda: hostile.damaged_state(place / "state", small, grids.SMALL),
        "steering_names": lambda: hostile.steering_names(place / "steering"),
        "endless_images": lambda: hostile.endless_images(place / "endless", small),
        "without_locks": lambda: outside.without_locks(place / "without_locks", small, grids.SMALL),
    }


def small_attacks(place: Path) -> dict[str, Callable[[], Any]]:
    """The same on one cell and a few kills, for ``make test``."""
    whole, two = place / "whole", (*grids.SMALL, "recipe.steps=30", "checkpoint_every_steps=3")
    one = (*two, "recipe.steps=60", "models=[vit_micro_p2]", "reference=vit_micro_p2")

    def in_peace() -> dict[str, Any]:
        kills.undisturbed(whole, one)
        kills.undisturbed(place / "two_whole", two)
        return {"runs": 1}

    return {
        "undisturbed": in_peace,
        "sigkill": lambda: kills.kill_and_resume(
            place / "kills", whole, one, kills=3, seed=1, longest=0.1, after=("checkpoint",)
        ),
        "two_commands": lambda: kills.two_commands(place / "two", place / "two_whole", two),
        "full_disk": lambda: outside.full_disk(place / "disk", whole, one, [50_000]),
    }


def broken(figures: dict[str, Any]) -> list[str]:
    """Promises that these figures break, one sentence each."""
    found = []
    for attack, entries in figures.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            found += [f"{attack}: {key} is {entry[key]}" for key in sorted(PROMISED_ZERO & set(entry)) if entry[key]]
    if not figures["sigkill"]["attempts_from_a_checkpoint"]:
        found.append("sigkill: no attempt went on from a checkpoint")
    if figures["full_disk"].get("told") != figures["full_disk"].get("fillings"):
        found.append("full_disk: a full disk was not told")
    if figures.get("broken_locks", {}).get("told_with_the_path") != figures.get("broken_locks", {}).get("broken_locks"):
        found.append("broken_locks: a broken lock was not told with its path")
    outage = figures.get("wandb_outages", {})
    if outage.get("slowed_by_percent", 0) > SLOWED_PERCENT + outage.get("noise_percent", 0):
        found.append(f"wandb_outages: training was slowed by {outage['slowed_by_percent']}%")
    if "without_locks" in figures and not figures["without_locks"]["told"]:
        found.append("without_locks: that there are no locks was not told")
    found += [
        f"sigterm: exit codes {entry['exit_codes']}"
        for entry in figures.get("sigterm", [])
        if set(entry["exit_codes"]) != {130}
    ]
    return found


def as_markdown(figures: dict[str, Any], faults: list[str]) -> str:
    """The figures as a table a row each."""
    lines = ["# Chaos", "", "Made by `make chaos`.", "", "| attack | figure | value |", "|:--|:--|--:|"]
    for attack, entries in figures.items():
        if attack == "broken":
            continue
        for entry in entries if isinstance(entries, list) else [entries]:
            for key, value in entry.items():
                shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
                lines += [f"| {attack} | {key.replace('_', ' ')} | {shown} |"] if key != "examples" else []
    verdict = [f"- {fault}" for fault in faults] or ["Every promise held."]
    return "\n".join([*lines, "", *verdict, ""])


def main() -> int:
    """Run all attacks; ``--small`` those of the tests, whose figures are printed as JSON alone."""
    small, figures = "--small" in sys.argv, dict[str, Any]()
    commands.import_everything()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        for attack, attempt in (small_attacks if small else attacks)(Path(name)).items():
            began = time.monotonic()
            figures[attack] = attempt()
            if not small:
                print(f"{attack} ({time.monotonic() - began:.0f} s): {json.dumps(figures[attack])}", flush=True)
    faults, target = broken(figures), reports_dir()
    figures["broken"] = faults
    if small:
        print(json.dumps(figures))
        return 0
    target.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(figures, indent=2)), (".md", as_markdown(figures, faults))):
        with atomic_write(target / f"chaos{suffix}") as file:
            file.write(text)
    print(f"\nFigures  {target / 'chaos.md'}")
    for fault in faults:
        print(f"broken: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
