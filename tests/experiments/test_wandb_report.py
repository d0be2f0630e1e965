"""A grid's report in W&B: sent once, and read again on a machine without run folders, with tables equal to the byte."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.records.record import RecordError
from experiments.records.reported import read_report
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


def test_a_folder_of_photos_is_named_without_the_way_to_it(grid: Path, tmp_path: Path) -> None:
    report = tmp_path / "reports" / "smoke"
    experiment = json.loads((report / "experiment.json").read_text())
    experiment["data"]["digits"]["path"] = "/home/alice/pets"
    experiment["args"] = "data.path=/home/alice/pets seeds=[0]"
    (report / "experiment.json").write_text(json.dumps(experiment))
    (config,) = grid.glob("*/config.yaml")
    config.write_text("data:\n  path: /home/alice/pets\n")
    found = wandb_report.contents(grid, report)
    sent = [found["report/experiment.json"], found[f"runs/{config.parent.name}/config.yaml"]]
    text = b"".join(value for value in sent if isinstance(value, bytes))
    assert b"alice" not in text and text.count(b"pets") == 3
    shutil.rmtree(report)
    with pytest.raises(RecordError, match="make report NAME=smoke"):
        wandb_report.contents(grid, report)


def _edit(path: Path, *keys: str | int) -> Callable[[Any], None]:
    """Set a value deep in a JSON file."""

    def change(value: Any) -> None:
        values = json.loads(path.read_text())
        inner = values
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        path.write_text(json.dumps(values))

    return change


@pytest.mark.parametrize(
    ("file", "keys", "value", "word"),
    [
        ("experiment.json", ("name",), "../../../../PWN", "'../../../../PWN' is not a name"),
        ("experiment.json", ("name",), "other", "`name` is 'other', not 'smoke'"),
        ("experiment.json", ("reference",), "nobody", "`reference` must be one of `models`"),
        ("experiment.json", ("train_fractions",), [0.0], "train_fractions.0"),
        ("experiment.json", ("seeds",), "many", "seeds"),
        ("experiment.json", ("question",), "a\x1b[2Jb", "control character '\\x1b'"),
        ("experiment.json", ("vary",), {"recipe.nothing": [1]}, "unknown key `recipe.nothing`"),
        ("ledger.json", ("cells",), "text", "`cells`: Input should be a valid array"),
        ("ledger.json", ("cells",), [], "cells` are not those of the grid: resnet_micro digits 0.1 0 is missing"),
        ("ledger.json", ("cells", 0, "model"), "nobody", "nobody digits 0.1 0 is none of them"),
        ("ledger.json", ("cells", 0, "seed"), True, "`cells.0.seed`"),
        ("ledger.json", ("cells", 0, "seed"), 7, "resnet_micro digits 0.1 7 is none of them"),
        ("ledger.json", ("cells", 0, "run_id"), "../../etc", "`run_id` is '../../etc'"),
        (
            "ledger.json",
            ("cells", 0, "run_id"),
            "resnet_micro-digits-f0.1-s1-00000000",
            "begins with 'resnet_micro-digits-f0",
        ),
        ("ledger.json", ("cells", 0, "run_id"), None, "`run_id` is None"),
        ("ledger.json", ("cells", 0, "more"), 1, "`cells.0.more`: Extra inputs"),
        ("ledger.json", ("other",), ["../../etc"], "`other` names '../../etc'"),
        ("ledger.json", ("counts",), None, "`counts`"),
        ("ledger.json", ("experiment",), "other", "`experiment` is 'other'"),
    ],
)
def test_what_a_report_says_of_itself_is_checked(
    file: str, keys: tuple[str | int, ...], value: Any, word: str, grid: Path, tmp_path: Path
) -> None:
    report = tmp_path / "reports" / "smoke"
    read_report(report, "smoke", "Mend it.")
    _edit(report / file, *keys)(value)
    with pytest.raises(RecordError) as told:
        read_report(report, "smoke", "Mend it.")
    assert word in str(told.value) and file in str(told.value) and str(told.value).endswith("Mend it.")


def test_counts_are_made_anew_and_broken_files_are_one_message(grid: Path, tmp_path: Path) -> None:
    report = tmp_path / "reports" / "smoke"
    _edit(report / "ledger.json", "counts")({"done": 99})
    assert read_report(report, "smoke", "")[1]["counts"] == {
        "expected": 1,
        "done": 1,
        "failed": 0,
        "running": 0,
        "missing": 0,
    }
    for text in (b"[" * 100_000, b"\xff", b"", b"null"):
        (report / "ledger.json").write_bytes(text)
        with pytest.raises(RecordError, match=r"ledger\.json: not of a report"):
            read_report(report, "smoke", "")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "report/../x", "../x", "report\\x", "other/x", "runs/a/b/record.json", "report/a\x1b"]
)
def test_names_of_a_download_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(TrackingError, match="FROM: the download holds what no report of this project does"):
        wandb_fetch.verify(tmp_path)


def test_links_repeated_names_and_files_that_were_not_sent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    sums = ""
    for name in ("ledger.json", "experiment.json"):
        (tmp_path / "report" / name).write_bytes(b"{}")
        sums += f"{hashlib.sha256(b'{}').hexdigest()}  report/{name}\n"
    (tmp_path / "SHA256SUMS").write_text(sums)
    wandb_fetch.verify(tmp_path)
    (tmp_path / "report" / "more.md").write_text("more")
    with pytest.raises(TrackingError, match=r"does: report/more\.md"):
        wandb_fetch.verify(tmp_path)
    (tmp_path / "report" / "more.md").unlink()
    (tmp_path / "SHA256SUMS").write_text(sums + sums.splitlines()[0] + "\n")
    with pytest.raises(TrackingError, match=r"does: report/ledger\.json"):
        wandb_fetch.verify(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(sums)
    (tmp_path / "report" / "ledger.json").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path.parent / "elsewhere")
    (tmp_path / "report" / "ledger.json").symlink_to(tmp_path.parent / "elsewhere")
    with pytest.raises(TrackingError, match=r"does: report/ledger\.json"):
        wandb_fetch.verify(tmp_path)


def test_a_poisoned_artifact_writes_nothing_outside(
    service: WandbService, env: pytest.MonkeyPatch, tmp_path: Path, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "reports" / "smoke"
    found = wandb_report.contents(grid, report)
    poisoned = json.loads((report / "experiment.json").read_text()) | {"name": "../../PWN"}
    found["report/experiment.json"] = json.dumps(poisoned).encode()
    env.setattr(wandb_report, "contents", lambda *_: found)
    assert wandb_report.send(grid, report)
    for name in ("RUNS_DIR", "REPORTS_DIR"):
        env.setenv(name, str(tmp_path / "deep" / "deeper" / name.lower()))
    before = {path for path in tmp_path.rglob("*") if tmp_path / "deep" not in path.parents}
    assert call(env, "report", "smoke", "--from", "wandb:standin/vit-bench") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "FROM: " in told and "'../../PWN' is not a name" in told and told.count("error:") == 1
    outside = {path for path in tmp_path.rglob("*") if tmp_path / "deep" not in path.parents} - before
    assert outside <= {tmp_path / "deep"}
    assert {path.name for path in (tmp_path / "deep" / "deeper").iterdir()} == {"runs_dir"}


@pytest.mark.parametrize("verb", [["report", "../../x", "--from", "wandb:a/b"], ["sync", "../../x"], ["sync", "a\x1b"]])
def test_a_name_that_is_none_is_refused_before_anything(
    verb: list[str], env: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RUNS_DIR", "REPORTS_DIR"):
        env.setenv(name, str(tmp_path / "deep" / "deeper" / name.lower()))
    assert call(env, *verb) == 2
    assert "is not the name of an experiment" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


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
