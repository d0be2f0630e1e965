"""What the README, the Makefile and the published results promise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.config import loading
from experiments.config.paths import ROOT
from tests import dashboard_picture, reference

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


def test_the_page_of_config_keys_is_made_from_the_schema() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()
    undescribed = re.findall(r"^\| `(\w+)` \|.*\|  \|$", reference.page(), re.M)
    assert undescribed == []


def test_the_picture_of_the_dashboard_is_made_from_its_specification() -> None:
    assert dashboard_picture.PICTURE.read_text(encoding="utf-8") == dashboard_picture.picture()


def test_links_of_the_guides_lead_somewhere() -> None:
    for guide in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "results" / "README.md"):
        for link in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", guide.read_text(encoding="utf-8")):
            assert (guide.parent / link.partition("#")[0]).exists(), f"{guide}: {link}"


def test_tree_of_the_architecture_is_the_tree() -> None:
    rooms = set(re.findall(r"^(\w+)/ ", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.M))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert rooms == {path.partition("/")[0] for path in tracked if "/" in path and not path.startswith(".")}


def test_paths_of_the_guides_exist() -> None:
    guides = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    guides = re.sub(r"`[\w./]+`:\n\n(?=```yaml)", "", guides)  # a file that "Add your own" makes
    made_by_use = {"runs", "reports", "data"}
    for path in re.findall(r"`((?:configs|vit_scratch|baselines|experiments|analysis|tests|results)/[\w/.]*)`", guides):
        assert (ROOT / path).exists() or path.partition("/")[0] in made_by_use, path


RESULTS = re.findall(
    r"<!-- result: (.*?), made from (?:results/)?(\w+);(.*?)<!-- /result -->",
    README + (ROOT / "results" / "README.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


def _rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(("tables", "name", "shown"), RESULTS, ids=[name for _, name, _ in RESULTS])
def test_results_are_made_from_the_published_records(
    tables: str, name: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNS_DIR", str(ROOT / "results"))
    monkeypatch.setenv("REPORTS_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["experiments", "report", name])
    assert main() == 0
    printed = capsys.readouterr().out.splitlines()
    explained = [line for line in printed if line.startswith("* the best, or not told apart from it")]
    made = [(tmp_path / name / table).read_text(encoding="utf-8") for table in re.findall(r"\w+\.md", tables)]
    marked = any("| **" in row for row in _rows("\n".join(made)))  # which takes three seeds
    assert len(explained) == marked
    assert not marked or ("† differs from" in explained[0]) == any("†" in line for line in printed[:12])
    assert _rows(shown) == _rows("\n".join(made)) and len(_rows(shown)) > 3  # a head and two models
    for figure in (ROOT / "results" / name).glob("*.svg"):
        assert (tmp_path / name / "figures" / figure.name).read_bytes() == figure.read_bytes()


def test_every_published_result_is_shown() -> None:
    assert {name for _, name, _ in RESULTS} == {folder.name for folder in (ROOT / "results").iterdir() if folder.is_dir()}


def test_the_bench_that_is_shown_was_measured() -> None:
    from experiments.bench.costs import costs_table
    from experiments.bench.everything import table

    measured = json.loads((ROOT / "results" / "bench.json").read_text(encoding="utf-8"))
    del measured["settings"]
    costs = measured.pop("costs")
    published = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{table(measured)}\n{costs_table(costs)}\n```" in published


@pytest.mark.parametrize("target", ["experiment", "status", "report", "verify", "sync"])
def test_a_missing_name_is_told(target: str) -> None:
    done = make("-o", "install", target)
    assert done.returncode == 2
    assert "NAME is missing" in done.stderr and f"make {target} NAME=vit_small_data" in done.stderr
