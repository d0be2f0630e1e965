"""What the README, the Makefile and the published results promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import loading
from experiments.__main__ import main
from experiments.config import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M)) - {"named"}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-s", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_every_target_has_one_line_of_help() -> None:
    shown = make().stdout
    for target in TARGETS:
        assert re.search(rf"^  make {target} +\S", shown, re.M), target


def test_commands_of_the_readme_exist() -> None:
    commands = re.findall(r"^make(?: ([a-z-]+))?(?: NAME=(\w+))?", README, re.M)
    assert len(commands) > 8
    for target, name in commands:
        assert not target or target in TARGETS
        assert not name or name in loading.names("experiments")


def test_tree_of_the_readme_is_the_tree() -> None:
    rooms = set(re.findall(r"^(\w+)/ ", README, re.M))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert rooms == {path.partition("/")[0] for path in tracked if "/" in path and not path.startswith(".")}


def test_paths_of_the_guides_exist() -> None:
    guides = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    made_by_use = {"runs", "reports", "data"}
    for path in re.findall(r"`((?:configs|vit_scratch|baselines|experiments|analysis|tests|results)/[\w/.]*)`", guides):
        assert (ROOT / path).exists() or path.partition("/")[0] in made_by_use, path


def _report_again(name: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make a published experiment's report again; headings and lines of its table of data efficiency."""
    monkeypatch.setenv("RUNS_DIR", str(ROOT / "results"))
    monkeypatch.setenv("REPORTS_DIR", str(target))
    monkeypatch.setattr(sys, "argv", ["experiments", "report", name])
    assert main() == 0
    made = (target / name / "data_efficiency.md").read_text(encoding="utf-8")
    return [line for line in made.splitlines() if line.startswith(("|", "**"))]


def test_result_of_the_readme_is_made_from_the_published_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = [line for line in _report_again("vit_small_data", tmp_path, monkeypatch) if line.startswith("|")]
    assert len(table) == 6 and "\n".join(table) in README
    figure = "learning_curves.svg"
    drawn = (tmp_path / "vit_small_data" / "figures" / figure).read_bytes()
    assert drawn == (ROOT / "results" / "vit_small_data" / figure).read_bytes()


def test_other_results_are_made_from_the_published_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    results = published.split("<!-- result: ")[1:]
    assert len(results) == len(list((ROOT / "results").glob("*/"))) - 1  # all but the one of the main README
    for result in results:
        name = re.search(r"made from (\w+);", result)[1]
        shown = [line for line in result.partition("<!-- /result -->")[0].splitlines() if line.startswith(("|", "**"))]
        assert _report_again(name, tmp_path, monkeypatch) == shown


@pytest.mark.parametrize("target", ["experiment", "status", "report", "sync"])
def test_a_missing_name_is_told(target: str) -> None:
    done = make("-o", "install", target)
    assert done.returncode == 2
    assert "NAME is missing" in done.stderr and f"make {target} NAME=vit_small_data" in done.stderr
