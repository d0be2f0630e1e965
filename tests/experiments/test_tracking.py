"""The W&B mirror, with the real client against a stand-in service: every evaluation exactly once, whatever happens."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.records.progress import locked
from experiments.tracking import client as wandb_client
from experiments.tracking import mirror, tracker
from experiments.tracking import sync as wandb_sync
from experiments.tracking.mirror import TrackingError
from experiments.tracking.tracker import About, Tracker
from tests.experiments.conftest import KEY, PRIVATE, go_online
from tests.standins.wandb_service import WandbService

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "digits"


def row(step: int) -> dict[str, float | None]:
    return {"step": step, "samples_seen": step * 64, "train/loss": 1 / (step + 1), "val/top1": step / 100, "val/top5": None}


def open_tracker(folder: Path, history: tuple[int, ...] = (), **changes: Any) -> Tracker:
    given = {"config": {"model": "vit", "recipe": {"steps": 50}}, "tags": ["smoke"], "notes": "again: make …"} | changes
    about = About(experiment="digits", run_id=folder.name, **given)
    return Tracker(folder, about, history=[row(step) for step in history])


def train(folder: Path, *steps: int, history: tuple[int, ...] = (), ending: str = "done") -> Tracker:
    """One attempt of a run: log to the file and to W&B, then end."""
    tracker = open_tracker(folder, history)
    for step in steps:
        write_row(folder, step)
        tracker.log(row(step))
    if ending == "interrupted":
        tracker.interrupt()
    else:
        tracker.finish(record(ending), failed=ending == "failed")
    return tracker


def write_row(folder: Path, step: int) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(step)) + "\n")


def record(status: str = "done") -> dict[str, Any]:
    return {"status": status, "metrics": {"test/top1": 0.5}, "compute": {"n_params": 7}, "finished": "2026-01-01T00:00:00"}


def steps(service: WandbService, run: str) -> list[int]:
    return [entry["_step"] for entry in service.history(run)]


def fragments(folder: Path) -> list[str]:
    return sorted(path.name.split("-20")[0] for path in (folder / "wandb").iterdir() if "run-20" in path.name)


def offline_steps(folder: Path) -> list[int]:
    """Steps in the one offline fragment of a run, read by W&B's own viewer."""
    (fragment,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(fragment)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records = [json.loads(line) for line in found.splitlines()]
    return [int(entry["history"]["step"]["num"]) for entry in records if "history" in entry]


# ------------------------------------------------------------------------------------------------------- a run, online
def test_online_run_arrives_once_with_its_values(service: WandbService, runs: Path) -> None:
    state = random.getstate()
    tracker = train(runs / "vit-s0", 0, 10, 20)
    assert random.getstate() == state, "a tracker must not draw from the training's generators"

    run = service.find("vit-s0")
    assert (tracker.mode, tracker.message) == ("online", None)
    assert tracker.url == f"{service.url}/standin/vit-bench/runs/{run.name}"
    assert steps(service, "vit-s0") == [0, 10, 20]
    assert run.history[1]["samples_seen"] == 640
    assert run.history[1]["train/loss"] == pytest.approx(1 / 11)
    assert run.history[2]["val/top1"] == 0.2
    assert "val/top5" not in run.history[0]
    assert {key: entry["value"] for key, entry in run.config.items() if key != "_wandb"} == {
        "model": "vit",
        "recipe/steps": 50,
    }
    assert run.settings["groupName"] == "digits"
    assert run.settings["jobType"] == "train"
    assert (run.settings["tags"], run.settings["notes"]) == (["smoke"], "again: make …")
    assert run.summary["test/top1"] == 0.5
    assert run.summary["compute/n_params"] == 7
    assert run.state == "finished"
    assert run.name.startswith("vit-s0-") and run.name != "vit-s0"


def test_nothing_of_the_machine_is_sent_or_kept(service: WandbService, runs: Path) -> None:
    train(runs / "vit-s0", 0)
    sent = service.everything()
    kept = b"".join(path.read_bytes() for path in runs.rglob("*") if path.is_file() and path.suffix != ".log")
    for private in (KEY, PRIVATE, socket.gethostname(), str(runs)):
        assert private.encode() not in sent
    assert KEY.encode() not in kept and PRIVATE.encode() not in kept
    assert not (Path(os.environ["HOME"]) / ".cache").exists(), "the client's cache belongs beside the runs"


def test_failed_run_is_marked_as_failed(service: WandbService, runs: Path) -> None:
    train(runs / "vit-s0", 0, ending="failed")
    assert service.find("vit-s0").state == "failed"


# -------------------------------------------------------------------------------------------------------------- resume
def test_resume_joins_the_run_without_gap_or_double(service: WandbService, runs: Path) -> None:
    folder = runs / "vit-s0"
    train(folder, 0, 10, ending="interrupted")
    assert service.find("vit-s0").state == "preempted"

    # Back from a checkpoint at step 5, with an evaluation at 10 that W&B has and one at 15 that it never saw.
    resumed = open_tracker(folder, history=(0, 10, 15))
    for step in (15, 20, 30):
        resumed.log(row(step))
    resumed.finish(record())

    assert len(service.runs) == 1
    assert steps(service, "vit-s0") == [0, 10, 15, 20, 30]
    assert service.find("vit-s0").state == "finished"


def test_killed_run_goes_on_where_the_service_stands(service: WandbService, runs: Path) -> None:
    folder = runs / "vit-s0"
    program = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.experiments.test_tracking import open_tracker, row
tracker = open_tracker(Path({str(folder)!r}))
for step in (0, 10, 20):
    tracker.log(row(step))
print("logged", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "logged\n"
        child.send_signal(signal.SIGKILL)
    train(folder, 20, 30, history=(0, 10))
    assert len(service.runs) == 1
    assert steps(service, "vit-s0") == [0, 10, 20, 30]


def test_same_run_id_elsewhere_is_another_run(service: WandbService, tmp_path: Path) -> None:
    train(tmp_path / "mine" / "digits" / "vit-s0", 0, 10)
    train(tmp_path / "yours" / "digits" / "vit-s0", 0, 10)
    assert [len(run.history) for run in service.runs.values()] == [2, 2]


# ------------------------------------------------------------------------------------------------------------- offline
def test_offline_run_sends_nothing_until_synced(service: WandbService, env: pytest.MonkeyPatch, runs: Path) -> None:
    env.setenv("WANDB_MODE", "offline")
    folder = runs / "vit-s0"
    train(folder, 0, 10, ending="interrupted")
    tracker = train(folder, 20, history=(0, 10))
    assert (tracker.mode, tracker.url, tracker.message) == ("offline", None, None)
    assert service.log == []
    assert fragments(folder) == ["offline-run"]
    assert offline_steps(folder) == [0, 10, 20], "a resumed run is one whole fragment"
    with pytest.raises(TrackingError, match="WANDB_MODE=online"):
        wandb_sync.sync(runs)

    go_online(env)
    progress: list[tuple[int, int, str]] = []
    report = wandb_sync.sync(runs, on_progress=lambda *now: progress.append(now))
    assert (report.sent, report.already, report.failed, report.running) == (1, 0, [], [])
    assert progress == [(0, 1, "vit-s0")]
    assert steps(service, "vit-s0") == [0, 10, 20]
    assert service.summary("vit-s0")["test/top1"] == 0.5
    assert service.find("vit-s0").state == "finished"
    assert fragments(folder) == ["run"], "no fragment is left that a raw `wandb sync` could send again"

    received = len(service.log)
    assert wandb_sync.sync(runs).already == 1
    assert len(service.log) == received, "what W&B holds is not sent, nor asked for, again"


def test_no_login_logs_offline_and_sync_says_how_to_log_in(env: pytest.MonkeyPatch, runs: Path) -> None:
    tracker = train(runs / "vit-s0", 0)
    assert tracker.mode == "offline"
    assert tracker.message is not None
    assert "no login" in tracker.message and "make sync NAME=digits" in tracker.message
    with pytest.raises(TrackingError, match="wandb login"):
        wandb_sync.sync(runs)


def test_login_in_netrc_is_found(service: WandbService, env: pytest.MonkeyPatch) -> None:
    env.delenv("WANDB_API_KEY")
    assert wandb_client.choose_mode()[0] == "offline"
    Path(os.environ["NETRC"]).write_text(f"machine {service.url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
    Path(os.environ["NETRC"]).chmod(0o600)
    assert wandb_client.choose_mode() == ("online", "")


@pytest.mark.parametrize("key", ["short", KEY])
def test_bad_key_logs_offline(key: str, service: WandbService, env: pytest.MonkeyPatch, runs: Path) -> None:
    env.setenv("WANDB_API_KEY", key)
    service.fail = "401"
    tracker = train(runs / "vit-s0", 0)
    assert tracker.mode == "offline"
    assert tracker.message is not None
    assert ("40+ characters" if key == "short" else "refused the key") in tracker.message
    assert KEY not in tracker.message
    with pytest.raises(TrackingError, match="WANDB_API_KEY"):
        wandb_sync.sync(runs)


@pytest.mark.parametrize("variable", [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")])
def test_disabled_neither_imports_nor_writes(variable: tuple[str, str], env: pytest.MonkeyPatch, runs: Path) -> None:
    env.setenv(*variable)
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from experiments.tracking.tracker import About, Tracker
tracker = Tracker(Path({str(runs / "vit-s0")!r}), About(experiment="digits", run_id="vit-s0", config={{}}))
tracker.log({{"step": 0, "train/loss": 1.0}})
tracker.finish({{"status": "done"}})
print(tracker.mode, tracker.message, "wandb" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["disabled", "None", "False"]
    assert not runs.exists()


# ------------------------------------------------------------------------------------------------------------- outages
@pytest.mark.parametrize("fault", ["500", "hang", "closed"])
def test_service_down_at_start(fault: Any, service: WandbService, env: pytest.MonkeyPatch, runs: Path) -> None:
    env.setattr(tracker, "INIT_TIMEOUT_SECONDS", 1.0)
    if fault == "closed":
        env.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    else:
        service.fail = fault
    first = train(runs / "a-s0", 0, 10)
    assert first.mode == "offline"
    assert first.message == (
        "W&B: the service did not answer; runs are logged offline, `make sync NAME=digits` sends them later."
    )
    assert fragments(runs / "a-s0") == ["offline-run"]

    env.setattr(wandb_client, "open_run", forbid_online(wandb_client.open_run))
    second = train(runs / "b-s0", 0, 10)
    assert (second.mode, second.message) == ("offline", first.message), "a grid waits for a dead service once"


def forbid_online(open_run: Any) -> Any:
    def offline_only(folder: Path, mirror: Any, mode: str, **given: Any) -> Any:
        assert mode == "offline"
        return open_run(folder, mirror, mode, **given)

    return offline_only


def test_the_wait_at_a_start_stays_below_ten_seconds() -> None:
    # The client's import and the change to offline take about 2 s more.
    assert tracker.INIT_TIMEOUT_SECONDS <= 7.5
    assert tracker.FINISH_TIMEOUT_SECONDS <= 8, "batch systems kill about 10 s after their signal"


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_service_lost_in_the_middle(fault: Any, service: WandbService, env: pytest.MonkeyPatch, runs: Path) -> None:
    env.setattr(tracker, "FINISH_TIMEOUT_SECONDS", 1.0)
    folder = runs / "vit-s0"
    train(folder, 0, 10, ending="interrupted")
    lose_and_sync(fault, service, folder, open_tracker(folder, history=(0, 10)))


@pytest.mark.slow
def test_service_lost_within_a_session(service: WandbService, env: pytest.MonkeyPatch, runs: Path) -> None:
    """The client's first transmission comes after 15 s."""
    folder = runs / "vit-s0"
    tracker = open_tracker(folder)
    for step in (0, 10):
        write_row(folder, step)
        tracker.log(row(step))
    wait_for(lambda: service.runs and service.find("vit-s0").history)
    lose_and_sync("hang", service, folder, tracker)


def lose_and_sync(fault: Any, service: WandbService, folder: Path, tracker: Tracker) -> None:
    """Lose the service while a run goes on from step 10 to its end; sync twice when it is back."""
    with service.failing(fault):
        for step in (20, 30):
            write_row(folder, step)
            tracker.log(row(step))
        tracker.finish(record())
        assert tracker.message == "W&B: the service stopped answering; `make sync NAME=digits` sends the rest."
        assert steps(service, "vit-s0") in ([0], [0, 10])

    assert wandb_sync.sync(folder.parent).sent == 1
    assert steps(service, "vit-s0") == [0, 10, 20, 30]
    assert service.find("vit-s0").state == "finished"
    assert wandb_sync.sync(folder.parent).already == 1
    assert len(service.runs) == 1


def wait_for(condition: Any) -> None:
    """Wait until the client's own thread has sent something; a generous limit for a loaded machine."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "the client sent nothing"
        time.sleep(0.05)


def test_rows_refused_for_good_are_noticed(service: WandbService, runs: Path) -> None:
    """The client ends such a session without an error; only asking the service tells."""
    service.fail = "refuse-stream"
    tracker = train(runs / "vit-s0", 0, 10)
    assert tracker.message is not None and "does not show all rows" in tracker.message
    service.fail = None
    assert wandb_sync.sync(runs).sent == 1
    assert steps(service, "vit-s0") == [0, 10]


def test_client_that_breaks_never_reaches_training(service: WandbService, env: pytest.MonkeyPatch, runs: Path) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no room left in the client")

    env.setattr(wandb_client, "open_run", broken)
    tracker = train(runs / "vit-s0", 0, 10)
    assert tracker.mode == "disabled"
    assert tracker.message is not None and "no room left in the client" in tracker.message


# ---------------------------------------------------------------------------------------------------------------- sync
def test_sync_sends_what_is_there_of_every_run(service: WandbService, env: pytest.MonkeyPatch, runs: Path) -> None:
    env.setenv("WANDB_MODE", "offline")
    train(runs / "done-s0", 0, 10)
    train(runs / "failed-s0", 0, ending="failed")
    train(runs / "interrupted-s0", 0, 10, ending="interrupted")
    train(runs / "busy-s0", 0)
    killed = open_tracker(runs / "killed-s0")  # never ended; its last row was cut short
    write_row(runs / "killed-s0", 0)
    with (runs / "killed-s0" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "train/lo')
    recorded = open_tracker(runs / "recorded-s0")  # killed between its record and the end of its mirror
    write_row(runs / "recorded-s0", 0)
    (runs / "recorded-s0" / "record.json").write_text(json.dumps(record()))
    train(runs / "broken-s0", 0)
    (runs / "broken-s0" / "metrics.jsonl").write_text('garbage\n{"step": 0}\n')
    assert killed.mode == recorded.mode == "offline"

    go_online(env)
    with locked(runs / "busy-s0"):
        report = wandb_sync.sync(runs)
    assert (report.sent, report.already, report.running) == (5, 0, ["busy-s0"])
    (failure,) = report.failed
    assert failure.startswith("broken-s0: ") and "metrics.jsonl: line 1" in failure
    assert {run.settings["displayName"]: run.state for run in service.runs.values()} == {
        "done-s0": "finished",
        "failed-s0": "failed",
        "interrupted-s0": "preempted",
        "killed-s0": "preempted",
        "recorded-s0": "finished",
    }
    assert steps(service, "killed-s0") == [0]
    assert service.summary("recorded-s0")["test/top1"] == 0.5

    # The interrupted run goes on, and is then finished in the same W&B run.
    train(runs / "interrupted-s0", 20, history=(0, 10))
    assert steps(service, "interrupted-s0") == [0, 10, 20]
    again = wandb_sync.sync(runs)
    assert (again.sent, again.already) == (1, 5), "only the run that was busy is new"


def test_sync_in_an_outage_waits_once_and_can_be_repeated(
    service: WandbService, env: pytest.MonkeyPatch, runs: Path
) -> None:
    env.setattr(wandb_client, "SEND_INIT_TIMEOUT_SECONDS", 1.0)
    env.setenv("WANDB_MODE", "offline")
    for seed in range(3):
        train(runs / f"vit-s{seed}", 0, 10)
    go_online(env)
    opened: list[str] = []
    with service.failing("500"):

        def noting(folder: Path, *given: Any, **named: Any) -> Any:
            opened.append(folder.name)
            return wandb_client.open_to_send(folder, *given, **named)

        env.setattr(wandb_sync, "open_to_send", noting)
        report = wandb_sync.sync(runs)
    assert opened == ["vit-s0"]
    assert report.failed == [f"vit-s{seed}: the service did not answer" for seed in range(3)]
    assert wandb_sync.sync(runs).sent == 3
    assert [steps(service, f"vit-s{seed}") for seed in range(3)] == [[0, 10]] * 3


def test_sync_of_another_project_sends_there(service: WandbService, env: pytest.MonkeyPatch, runs: Path) -> None:
    train(runs / "vit-s0", 0)
    assert wandb_sync.sync(runs).already == 1
    env.setenv("WANDB_PROJECT", "elsewhere")
    assert wandb_sync.sync(runs).sent == 1


def test_a_slash_in_a_project_is_told(env: pytest.MonkeyPatch) -> None:
    env.setenv("WANDB_PROJECT", "team/vit")
    with pytest.raises(TrackingError, match="WANDB_PROJECT: 'team/vit' holds a slash"):
        wandb_client.destination()


def test_sync_without_runs_says_so(env: pytest.MonkeyPatch, runs: Path) -> None:
    with pytest.raises(TrackingError, match="make experiment NAME=digits"):
        wandb_sync.sync(runs)


# ---------------------------------------------------------------------------------------------------- rows and records
def test_rows_are_ordered_unique_and_without_nulls() -> None:
    rows: list[dict[str, float | None]] = [{"step": 20, "a": 1.0}, {"step": 10, "a": None}, {"step": 20, "a": 2.0}]
    assert mirror.ordered(rows) == [{"step": 10}, {"step": 20, "a": 2.0}]


def test_summary_is_one_level_with_metrics_under_their_own_names() -> None:
    values = {"seed": 0, "metrics": {"test/top1": 0.5}, "compute": {"energy": {"joules": 3}}}
    assert mirror.summary_of(values) == {"seed": 0, "test/top1": 0.5, "compute/energy/joules": 3}


def test_unusable_mirror_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / mirror.MIRROR_FILE).write_text("{")
    with pytest.raises(TrackingError, match=r"mirror\.json: cannot be used"):
        mirror.load_mirror(tmp_path)
    assert mirror.load_mirror(tmp_path / "none") is None


# ------------------------------------------------------------------------------------------- the stand-in's other rooms
def test_standin_takes_artifacts(service: WandbService, tmp_path: Path) -> None:
    import wandb

    (tmp_path / "table.csv").write_text("model,top1\nvit,0.9\n")
    with wandb.init(project="vit-bench", dir=tmp_path, settings=wandb.Settings(silent=True, console="off")) as run:
        artifact = wandb.Artifact("report", type="report")
        artifact.add_file(str(tmp_path / "table.csv"))
        run.log_artifact(artifact)
    (kept,) = [artifact for artifact in service.artifacts.values() if artifact.name == "report"]
    assert (kept.type, kept.state) == ("report", "COMMITTED")
    assert kept.files["table.csv"] == b"model,top1\nvit,0.9\n"


def test_standin_saves_a_workspace_once(service: WandbService) -> None:
    import wandb_workspaces.workspaces as ws

    workspace = ws.Workspace(entity="standin", project="vit-bench", name="accuracy")
    workspace.save()
    workspace.save()
    (view,) = service.views.values()
    assert view["displayName"] == "accuracy"
    assert json.loads(view["spec"])


def test_a_killed_process_leaves_nothing_in_the_temporary_folder(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place, run = tmp_path / "tmp", tmp_path / "smoke" / "a-s0"
    place.mkdir()
    run.mkdir(parents=True)
    code = (
        "import os, signal, sys, pathlib\nfrom experiments.tracking import tracker\n"
        "t = tracker.Tracker(pathlib.Path(sys.argv[1]), tracker.About(experiment='smoke', run_id='a-s0', config={}))\n"
        "t.log({'step': 1})\nprint(t.mode, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    given = os.environ | {"TMPDIR": str(place), "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, "-c", code, run], cwd=ROOT, env=given, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL and done.stdout.strip() == "offline"
    tmp = run.parent / ".wandb" / "tmp"
    (own,) = tmp.iterdir()
    assert {path.name[-11:] for path in own.iterdir()} == {"wandb-media", "b-artifacts"}
    end = time.monotonic() + 60
    while (left := list(place.iterdir())) and time.monotonic() < end:  # the client's service sees that it is alone
        time.sleep(0.1)
    assert not left
    wandb_client.point_client_at(run.parent)
    assert not list(tmp.iterdir()), "the next command sweeps what it left beside the runs"
