"""A grid's report in W&B: sent once, and read again on a machine without run folders, with tables equal to the byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.tracking import fetch as wandb_fetch
from experiments.tracking import report as wandb_report
from experiments.tracking.mirror import TrackingError
from tests.experiments.test_wandb_content import call
from tests.standins.wandb_service import Artifact, Run, WandbService

TABLES = [f"{name}{suffix}" for name in ("accuracy", "data_efficiency", "compute") for suffix in (".md", ".tex", ".csv")]


def report_run(service: WandbService) -> Run:
    (run,) = [run for run in service.runs.values() if run.settings["jobType"] == "report"]
    return run


def versions(service: WandbService) -> list[Artifact]:
    return [artifact for artifact in service.artifacts.values() if artifact.name == "report-smoke"]


def test_the_report_is_sent_once_and_read_again_elsewhere(
    service: WandbService, env: pytest.MonkeyPatch, tmp_path: Path, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "reports" / "smoke"
    assert call(env, "sync", "smoke") == 0
    run = report_run(service)
    assert run.settings["displayName"] == "smoke · report" and run.settings["groupName"] == "smoke"
    (row,) = run.history
    shown = {key for key in row if "/" in key or key == "report"}
    assert {"tables/accuracy", "tables/data_efficiency", "tables/compute", "report"} <= shown
    assert any(key.startswith("figures/") for key in shown)
    assert run.summary["cells/done"] == 1 and run.state == "finished"
    (version,) = versions(service)
    (run_id,) = [path.parent.name for path in grid.glob("*/record.json")]
    assert {f"runs/{run_id}/{name}" for name in wandb_report.RUN_FILES} <= set(version.files)
    assert version.files["report/accuracy.csv"] == (here / "accuracy.csv").read_bytes()
    assert service.url in version.files["report/report.html"].decode(), (
        "the page has the addresses that the sync gave the runs"
    )
    ours = [content for name, content in version.files.items() if name != "wandb_manifest.json"]
    assert str(tmp_path).encode() not in b"".join(ours)
    assert "was sent" in capsys.readouterr().out

    assert call(env, "sync", "smoke") == 0
    assert "was there before" in capsys.readouterr().out
    assert len(versions(service)) == 1 and len(report_run(service).history) == 1

    # A machine without run folders.
    env.setenv("RUNS_DIR", str(tmp_path / "elsewhere"))
    env.setenv("REPORTS_DIR", str(tmp_path / "its_reports"))
    assert call(env, "report", "smoke", "--from", "wandb:standin/vit-bench") == 0
    for name in TABLES:
        assert (tmp_path / "its_reports" / "smoke" / name).read_bytes() == (here / name).read_bytes()
    assert not list((tmp_path / "elsewhere").glob("smoke")), "run folders of this machine are not touched"

    # A file that is not what was sent.
    version.files[f"runs/{run_id}/record.json"] += b" "
    with pytest.raises(TrackingError, match=r"FROM: "):
        wandb_fetch.fetch("wandb:standin/vit-bench", "smoke", tmp_path / "third")


def test_new_content_is_a_new_version_in_the_same_run(service: WandbService, tmp_path: Path, grid: Path) -> None:
    report = tmp_path / "reports" / "smoke"
    assert wandb_report.send(grid, report) and not wandb_report.send(grid, report)
    first = report_run(service).name
    record = next(grid.glob("*/record.json"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"note": "new"}))
    assert wandb_report.send(grid, report)
    assert len(versions(service)) == 2
    assert report_run(service).name == first and len(report_run(service).history) == 2
    # The note of what was sent is lost: the row is not shown again, and no version is made.
    note = wandb_report.state_folder(grid) / "wandb" / "mirror.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sent": None}))
    assert wandb_report.send(grid, report)
    assert len(versions(service)) == 2 and len(report_run(service).history) == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("wandb:only", ["FROM: must be wandb:<entity>/<project>", "'wandb:only'"]),
        ("ftp:a/b", ["FROM: must be wandb:<entity>/<project>"]),
        ("wandb:nobody/vit-bench", ["no report of experiment 'smoke' in nobody/vit-bench", "make sync NAME=smoke"]),
        ("wandb:standin/vit-bench", ["no report of experiment 'smoke' in standin/vit-bench"]),
    ],
)
def test_a_wrong_source_is_one_message(
    source: str, words: list[str], service: WandbService, env: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(env, "report", "smoke", "--from", source) == 2
    captured = capsys.readouterr()
    told = " ".join(captured.err.split())
    for word in words:
        assert word in told
    assert told.count("error:") == 1 and "Traceback" not in told


def test_without_a_key_the_way_out_is_told(env: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(env, "report", "smoke", "--from", "wandb:a/b") == 2
    assert "wandb login" in " ".join(capsys.readouterr().err.split())
    assert call(env, "report", "smoke", "seeds=[0]", "--from", "wandb:a/b") == 2
    assert "ARGS: cannot be given with FROM" in capsys.readouterr().err


def test_a_folder_of_photos_is_named_without_the_way_to_it(tmp_path: Path) -> None:
    runs, report = tmp_path / "runs" / "photos", tmp_path / "reports" / "photos"
    (runs / "r1").mkdir(parents=True)
    report.mkdir(parents=True)
    (report / "ledger.json").write_text(json.dumps({"cells": [{"run_id": "r1"}], "counts": {}}))
    (report / "experiment.json").write_text(
        json.dumps({"data": {"mine": {"path": "/home/alice/pets"}}, "args": "data.path=/home/alice/pets seeds=[0]"})
    )
    (runs / "r1" / "record.json").write_text("{}")
    (runs / "r1" / "config.yaml").write_text("data:\n  path: /home/alice/pets\n")
    found = wandb_report.contents(runs, report)
    text = b"".join(value if isinstance(value, bytes) else value.read_bytes() for value in found.values())
    assert b"alice" not in text and text.count(b"pets") == 3
    shutil.rmtree(report)
    with pytest.raises(TrackingError, match="make report NAME=photos"):
        wandb_report.contents(runs, report)


def test_a_report_whose_artifact_fails_shows_its_row_once(
    service: WandbService, env: pytest.MonkeyPatch, tmp_path: Path, grid: Path
) -> None:
    report, log_artifact = tmp_path / "reports" / "smoke", wandb_report._log_artifact

    def fails(*_: object) -> None:
        raise TimeoutError("no answer")

    env.setattr(wandb_report, "_log_artifact", fails)
    for _ in range(2):
        with pytest.raises(TrackingError, match="not sent in full"):
            wandb_report.send(grid, report)
    env.setattr(wandb_report, "_log_artifact", log_artifact)
    assert wandb_report.send(grid, report) and not wandb_report.send(grid, report)
    assert len(report_run(service).history) == 1 and len(versions(service)) == 1
