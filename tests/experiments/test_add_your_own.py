"""`docs/add_your_own.md`, carried out word for word in a copy of the repository; each change shows where it should."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.config.paths import ROOT

SECTION = (
    (ROOT / "docs" / "add_your_own.md").read_text(encoding="utf-8").partition("## Five changes\n")[2].partition("\n## ")[0]
)
BLOCKS = re.findall(r"`([\w./]+)`:\n\n```\w+\n(.*?)```\n", SECTION, re.DOTALL)
"""File and text of each block."""
COMMAND = re.search(r"`(make experiment NAME=\w+)`\.\n*$", SECTION)
FOLDERS = ("analysis", "baselines", "configs", "experiments", "vit_scratch")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with every block applied."""
    copy = tmp_path_factory.mktemp("repository")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS, "Makefile"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in [name for name in files if (ROOT / name).is_file()]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for name, text in BLOCKS:
        assert (copy / name).exists() == name.endswith(".py"), f"{name}: code goes to a file that is there, a config is new"
        with open(copy / name, "a", encoding="utf-8") as file:
            file.write(f"\n\n{text}" if name.endswith(".py") else text)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


def run(changed: Path, *command: str) -> str:
    given = {name: value for name, value in os.environ.items() if not name.endswith("_DIR") and not name.startswith("WANDB")}
    given |= {"WANDB_MODE": "offline", "DEVICE": "cpu", "HOME": str(changed), "DATA_DIR": str(changed / "data")}
    done = subprocess.run(command, cwd=changed, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_change_is_one_file_and_at_most_one_config() -> None:
    files = [name for name, _ in BLOCKS]
    assert files == [
        "configs/models/my_vit.yaml",
        *("experiments/data/datasets.py", "configs/data/stripes.yaml"),
        *("experiments/training/optim.py", "configs/recipes/stripes.yaml"),
        "configs/experiments/my_question.yaml",
        *("experiments/metrics.py", "analysis/columns.py"),
    ]
    assert len(re.findall("^```", SECTION, re.M)) == 2 * len(BLOCKS), "every block belongs to a file"


def test_what_was_added_is_run_and_shown(changed: Path) -> None:
    assert COMMAND
    printed = run(changed, *COMMAND[1].split(), "-o", "install", "JOBS=1")
    runs, report = changed / "runs" / "my_question", changed / "reports" / "my_question"
    records = [json.loads(path.read_text(encoding="utf-8")) for path in runs.glob("*/record.json")]
    assert sorted((record["model"], record["data"], record["seed"], record["status"]) for record in records) == [
        (model, "stripes", seed, "done") for model in ("my_vit", "resnet_micro") for seed in (0, 1)
    ]
    assert all(1 / 3 < record["metrics"]["test/confidence"] <= 1 for record in records)
    config = yaml.safe_load(next(runs.glob("my_vit-*/config.yaml")).read_text(encoding="utf-8"))
    assert config["requested"]["recipe"]["schedule"] == "one_minus_sqrt"
    assert config["requested"]["recipe"]["optimizer"] == "sgd"

    with open(report / "accuracy.csv", encoding="utf-8", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    means = {
        model: sum(r["metrics"]["test/confidence"] for r in records if r["model"] == model) / 2
        for model in ("my_vit", "resnet_micro")
    }
    assert {model: float(row["confidence"]) for model, row in rows.items()} == pytest.approx(means)
    for name in ("metrics.md", "metrics.tex", "report.html"):
        text = (report / name).read_text(encoding="utf-8")
        assert "ViT-test/4" in text and "Confidence" in text and f"{100 * means['my_vit']:.1f}" in text, name
    caption = "Confidence: mean probability of the predicted class."
    assert caption in (report / "report.html").read_text(encoding="utf-8")
    assert "Both are better than chance." in (report / "report.html").read_text(encoding="utf-8")
    assert "ViT-test/4 (timm)" in printed

    mirrors = [json.loads(path.read_text(encoding="utf-8")) for path in runs.glob("*/wandb/mirror.json")]
    assert len(mirrors) == 4
    for mirror in mirrors:
        assert 1 / 3 < mirror["summary"]["test/confidence"] <= 1
        assert mirror["config"]["recipe/schedule"] == "one_minus_sqrt"
    panels = run(changed, sys.executable, "-c", "from analysis.workspace import ACCURACY_BARS; print(ACCURACY_BARS)")
    assert "'test/confidence': 'Mean confidence'" in panels
