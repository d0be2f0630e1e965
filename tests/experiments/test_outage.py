"""A service that goes away and comes back: nothing is lost, nothing doubled, no wait without an end or a word."""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.records.record import read_rows
from experiments.terminal import display
from experiments.tracking import client as wandb_client
from experiments.tracking import fetch as wandb_fetch
from experiments.tracking import report as wandb_report
from experiments.tracking import sync as wandb_sync
from experiments.tracking import tracker
from experiments.tracking.client import LONG_WAIT
from experiments.tracking.mirror import MIRROR_FILE, About, TrackingError, load_mirror
from experiments.tracking.tracker import Tracker
from experiments.training.outcome import Outcome
from tests.experiments.test_grid import cells_of
from tests.experiments.test_tracking import open_tracker, record, row, steps, wait_for, write_row
from tests.standins.wandb_service import WandbService

QUICK = {
    "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "1",
}
"""A client that meets the service between any two evaluations, where it else sends every 15 s; it takes whole seconds."""


# --------------------------------------------------------------------------------------------------------- a running cell
@pytest.mark.parametrize("last", ["up", "closed"])
def test_service_that_comes_and_goes_between_evaluations(
    last: Any, service: WandbService, env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env.setattr(tracker, "FINISH_TIMEOUT_SECONDS", 2.0 if last != "up" else 30.0)
    for name, value in QUICK.items():
        env.setenv(name, value)
    folder = tmp_path / "runs" / "digits" / "vit-s0"
    run = open_tracker(folder)

    def evaluate(step: int) -> None:
        write_row(folder, step)
        run.log(row(step))

    evaluate(0)
    wait_for(lambda: service.runs and steps(service, "vit-s0") == [0])
    for fault, step in (("500", 10), ("hang", 20), ("closed", 30)):
        service.refused = service.held = 0
        with service.failing(fault):  # type: ignore[arg-type]
            evaluate(step)
            wait_for(lambda: service.refused + service.held > 0)
            assert steps(service, "vit-s0")[-1] < step
        wait_for(lambda: steps(service, "vit-s0")[-1] == step)  # noqa: B023
    service.fail = None if last == "up" else last
    evaluate(40)
    run.finish(record())
    service.fail = None
    stopped = "W&B: the service stopped answering; `make sync NAME=digits` sends the rest."
    assert run.message == (None if last == "up" else stopped)
    report = wandb_sync.sync(folder.parent)
    assert (report.sent, report.already, report.failed) == ((0, 1, []) if last == "up" else (1, 0, []))
    assert steps(service, "vit-s0") == [0, 10, 20, 30, 40]
    assert service.find("vit-s0").state == "finished"


# --------------------------------------------------------------------------------------------- a hang after CreateArtifact
def held_tables(service: WandbService) -> list[str]:
    return sorted(version.name.rpartition("-")[2] for version in service.artifacts.values() if version.state == "COMMITTED")


def test_a_service_that_hangs_after_the_first_table_holds_up_neither_run_nor_sync(
    service: WandbService, env: pytest.MonkeyPatch, grid: Path, tmp_path: Path
) -> None:
    """The end of an online run, then a sync in the same outage, then one after it."""
    (done,) = [path.parent for path in grid.glob("*/record.json")]
    known = load_mirror(done)
    assert known is not None
    folder = tmp_path / "online" / "smoke" / done.name
    shutil.copytree(done, folder, ignore=shutil.ignore_patterns("wandb"))
    rows = read_rows(folder / "metrics.jsonl")
    env.setattr(tracker, "FINISH_TIMEOUT_SECONDS", 2.0)
    env.setattr("wandb.apis.public.Api._HTTP_TIMEOUT", 1)
    run = Tracker(folder, About(experiment="smoke", run_id=folder.name, config=known.config))
    for evaluation in rows:
        run.log(evaluation)
    service.fail_after = ("CreateArtifact", "hang")
    ended = within(60, lambda: run.finish(json.loads((folder / "record.json").read_text())))
    assert ended and run.mode == "online"
    assert run.message is not None and run.message.endswith("`make sync NAME=smoke` sends the rest.")

    env.setattr(wandb_client, "SAID_AFTER_SECONDS", 0.2)
    env.setattr(wandb_client, "ANSWER_SECONDS", 3.0)
    said = list[str]()
    service.fail = None
    assert within(60, sys.modules["wandb"].teardown), "a new command has a new client"
    service.fail_after = ("CreateArtifact", "hang")
    reports = list[wandb_sync.SyncReport]()
    assert within(60, lambda: reports.append(wandb_sync.sync(folder.parent, say=said.append)))
    assert reports[0].failed == [f"{folder.name}: the service did not answer"] and said == [LONG_WAIT]

    service.fail = service.fail_after = None
    env.setattr(wandb_client, "ANSWER_SECONDS", 30.0)
    report = wandb_sync.sync(folder.parent)
    assert (report.sent, report.failed) == (1, [])
    assert steps(service, folder.name) == [evaluation["step"] for evaluation in rows]
    assert held_tables(service) == ["confusion_matrix", "predictions"], "each table once"
    assert wandb_sync.sync(folder.parent).already == 1


def within(seconds: float, do: Any) -> bool:
    """Whether something ends at all; a generous limit for a loaded machine."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def test_a_cell_that_waits_for_wandb_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SAID_AFTER_SECONDS", 0.0)
    printed, cell = io.StringIO(), cells_of(tmp_path)[0]
    folder = tmp_path / str(cell.run_id)
    folder.mkdir()
    with display.Display(Console(file=printed, width=200), tmp_path, total=1, done=0) as progress:
        progress.started(cell)
        assert LONG_WAIT not in printed.getvalue(), "a cell without a record trains"
        (folder / "record.json").touch()
        wait_for(lambda: LONG_WAIT in printed.getvalue())
        progress.ended(cell, Outcome("done", says=(LONG_WAIT, "a file called \x1b[2J")))
    assert printed.getvalue().count(LONG_WAIT) == 1
    assert "a file called \\x1b[2J" in printed.getvalue() and "\x1b" not in printed.getvalue()


# ---------------------------------------------------------------------------------------------------------------- reading
def test_a_download_that_gets_no_answer_ends_and_leaves_no_process(
    service: WandbService, env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env.setattr(wandb_fetch, "FOUND_SECONDS", 0.5)
    env.setattr(wandb_client, "SAID_AFTER_SECONDS", 0.1)
    said = list[str]()
    with service.failing("hang"), pytest.raises(TrackingError, match="FROM: the service did not answer"):
        wandb_fetch.fetch("wandb:standin/vit-bench", "smoke", tmp_path, said.append)
    assert said == [LONG_WAIT] and not multiprocessing.active_children()


def test_a_key_that_could_not_be_checked_is_no_wrong_key() -> None:
    class AuthenticationError(Exception):
        """As the client raises it."""

    busy = "Failed to verify credentials: the service process is busy and did not respond in time."
    assert wandb_client.why(AuthenticationError(busy)) == wandb_client.NO_ANSWER
    assert wandb_client.why(AuthenticationError("user is not logged in")) == wandb_client.KEY_REFUSED


# ------------------------------------------------------------------------------------------------------ mirrors made again
@pytest.mark.parametrize("damage", [None, b"{", b"[" * 100_000, b'{"id": "../x"}'])
def test_a_mirror_that_was_lost_is_made_again_and_joins_the_same_run(
    damage: bytes | None, service: WandbService, env: pytest.MonkeyPatch, grid: Path
) -> None:
    assert wandb_sync.sync(grid).sent == 1
    (run,) = service.runs.values()
    shown = (run.summary["test/top1"], run.config["model"], [entry["_step"] for entry in run.history])
    (path,) = grid.glob(f"*/{MIRROR_FILE}")
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    said = list[str]()
    report = wandb_sync.sync(grid, say=said.append)
    assert (report.sent, report.failed) == (1, [])
    assert len(said) == 1 and said[0].startswith(str(path)) and said[0].endswith("; made again from the run's record.")
    assert list(service.runs.values()) == [run], "the client's session names the run"
    assert (run.summary["test/top1"], run.config["model"], [entry["_step"] for entry in run.history]) == shown
    assert wandb_sync.sync(grid).already == 1

    (record_file,) = grid.glob("*/record.json")
    record_file.unlink()
    path.unlink()
    (failure,) = wandb_sync.sync(grid).failed
    assert "mirror.json is lost. Run the experiment again" in failure


# --------------------------------------------------------------------------------------------------------- temporary files
def test_temporary_files_lie_beside_the_runs_and_those_of_dead_processes_go(
    service: WandbService, env: pytest.MonkeyPatch, grid: Path, tmp_path: Path
) -> None:
    places, log_artifact = list[Path](), wandb_report._log_artifact

    def noting(*given: Any) -> None:
        places.append(Path(tempfile.gettempdir()))
        log_artifact(*given)

    env.setattr(wandb_report, "_log_artifact", noting)
    before = tempfile.gettempdir()
    assert wandb_report.send(grid, tmp_path / "reports" / "smoke")
    (own,) = places
    assert own.parent == grid / ".wandb" / "tmp" and tempfile.gettempdir() == before
    host = own.name.rpartition("-")[0]
    dead, strange = own.with_name(f"{host}-{2**22 + 1}"), own.with_name("elsewhere-1")  # beyond the kernel's largest pid
    for folder in (dead, strange):
        (folder / "left").mkdir(parents=True)
    wandb_client.point_client_at(grid)
    assert own.is_dir() and strange.is_dir() and not dead.exists()
