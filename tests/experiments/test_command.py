"""The main job from its command: records, report, skipping, stopping, failing, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import yaml

from experiments.__main__ import main
from experiments.config import loading
from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT, runs_dir
from experiments.config.schema import Execution
from experiments.config.text import duration_in_seconds
from experiments.grid import driver, local, worker
from experiments.grid.driver import GridObserver
from experiments.grid.ledger import ledger
from experiments.records.progress import locked, read_progress
from experiments.records.record import RecordError, read_record
from experiments.training import stop
from experiments.training.outcome import Outcome

TINY = ["recipe.steps=4", "recipe.evaluations=2", "seeds=[0]", "train_fractions=[0.1]"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    return main()


class Seen(GridObserver):
    def __init__(self) -> None:
        self.outcomes: list[tuple[Cell, Outcome]] = []

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        self.outcomes.append((cell, outcome))


def tiny_cells(*more: str) -> tuple[list[Cell], Path]:
    experiment = loading.load_experiment("smoke", loading.parse_overrides([*TINY, *more]))
    return driver.plan(experiment), runs_dir() / experiment.name


def test_run_makes_records_and_a_report_and_then_does_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "run", "smoke", *TINY, "--jobs", "1") == 0
    printed = capsys.readouterr().out
    assert "[2/2] done" in printed and "report.html" in printed
    folders = sorted((tmp_path / "runs_dir" / "smoke").glob("*-s0-*"))
    assert len(folders) == 2
    for folder in folders:
        record = read_record(folder / "record.json")
        assert record.status == "done" and record.run_id == folder.name
        assert record.steps == 4 and record.samples_seen == 4 * 32
        assert record.attempts[-1].reason == "completed"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [row["step"] for row in rows] == [2, 4]
        saved = np.load(folder / "predictions.npz")
        assert saved["logits"].shape == (record.n_test, 10) and saved["logits"].dtype == np.float32
        assert (saved["logits"].argmax(1) == saved["labels"]).mean() == record.metrics["test/top1"]
        assert len(saved["val_logits"]) == record.n_val
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        assert config["requested"]["recipe"]["steps"] == 4
        assert (folder / "last.pt").exists() and (folder / "model.safetensors").exists()
    hashes = {(read_record(f / "record.json").settings_hash, read_record(f / "record.json").split_hash) for f in folders}
    assert len(hashes) == 1
    report = tmp_path / "reports_dir" / "smoke"
    for name in ("accuracy", "data_efficiency", "compute"):
        for suffix in (".md", ".tex", ".csv"):
            assert (report / f"{name}{suffix}").stat().st_size > 0
    for name in ("certificate.json", "ledger.json", "report.html"):
        assert (report / name).stat().st_size > 0

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs_dir").rglob("record.json")}
    assert call(monkeypatch, "run", "smoke", *TINY, "--jobs", "1") == 0
    assert "2 done before, 0 to run" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs_dir").rglob("record.json")}


def test_workers_give_the_same_bits_as_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {}
    for jobs in ("1", "2"):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path / jobs))
        cells, folder = tiny_cells()
        seen = Seen()
        driver.launch(cells, folder, jobs=jobs, observer=seen)
        assert {outcome.status for _, outcome in seen.outcomes} == {"done"}
        weights[jobs] = [(folder / str(cell.run_id) / "model.safetensors").read_bytes() for cell in cells]
    assert weights["1"] == weights["2"]


def test_a_failed_cell_stops_no_other_and_runs_again_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # A rate at which the ViT's loss overflows within two steps; the ResNet's norms keep it finite.
    from experiments.training import run as procedure
    from experiments.training.fit import Diverged

    real = procedure.build_model

    def failing(cell: Cell, n_classes: int) -> Any:
        if cell.model.family == "ViT":
            raise Diverged(2)
        return real(cell, n_classes)

    monkeypatch.setattr(procedure, "build_model", failing)
    assert call(monkeypatch, "run", "smoke", *TINY, "--jobs", "1") == 1
    printed = capsys.readouterr().out
    assert "failed vit_micro_p2" in printed and "done resnet_micro" in printed
    experiment = loading.load_experiment("smoke", loading.parse_overrides(TINY))
    cells, folder = tiny_cells()
    values = ledger(experiment, cells, folder)
    assert values["counts"]["failed"] == 1 and values["counts"]["done"] == 1
    reasons = [cell["reason"] for cell in values["cells"] if cell["status"] == "failed"]
    assert "not finite at step 2" in reasons[0]

    monkeypatch.setattr(procedure, "build_model", real)
    assert call(monkeypatch, "run", "smoke", *TINY, "--jobs", "1") == 1  # failed stays failed
    failed = next(folder.glob("vit_micro_p2*"))
    retry = ["run", "smoke", *TINY, "--jobs", "1", "--retry-failed"]
    monkeypatch.setenv("DEVICE", "cuda:9")
    assert call(monkeypatch, *retry) == 2
    assert (failed / "record.json").exists()  # nothing is deleted before everything is found to be there
    monkeypatch.setenv("DEVICE", "cpu")
    with locked(failed):
        driver.forget_failures(cells, folder)
    assert (failed / "record.json").exists()  # nor while another process has it
    assert call(monkeypatch, "run", "smoke", *TINY, "--jobs", "1", "--retry-failed") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "smok"), ["no experiment named 'smok'", "'smoke'"]),
        (("run", "smoke", "recipe.stepz=5"), ["recipe.stepz", "Did you mean 'steps'"]),
        (("run", "smoke", "--jobs", "many"), ["JOBS", "'many'"]),
        (("run", "smoke", "--engine", "slurm"), ["ENGINE", "'slurm'"]),
        (("run", "smoke", "train_fractions=[0.001]"), ["0.001 leaves class 0", "experiment smoke"]),
        (("run", "smoke", "threads=1000"), ["`threads`: must be at most", "got 1000"]),
        (("run", "smoke", *TINY, "micro_batch_size=8", "--jobs", "1"), ["`micro_batch_size`: resnet_micro"]),
        (("run", "vit_photos", "data.path=/does/not/exist"), ["no folder /does/not/exist"]),
        (("run",), ["Missing argument"]),
        (("runn", "smoke"), ["No such command"]),
        (("status", "nothing"), ["no experiment named"]),
        (("show", "nothing"), ["nothing: no run folder"]),
        (("sync", "smoke"), ["Run the experiment first"]),
    ],
)
def test_bad_input_is_exit_2_and_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: list[str],
) -> None:
    assert call(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    told = " ".join(captured.err.split())
    for word in words:
        assert word in told
    assert "Traceback" not in captured.err + captured.out
    assert "Does everything work here" not in captured.out  # a fault comes before any other line
    assert not list(tmp_path.rglob("record.json"))


def test_unknown_timm_model_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    path = tmp_path / "configs" / "models" / "resnet_micro.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("test_resnet", "test_resent"), encoding="utf-8")
    monkeypatch.setenv("CONFIGS_DIR", str(tmp_path / "configs"))
    assert call(monkeypatch, "run", "smoke", *TINY, "--jobs", "1") == 2
    told = capsys.readouterr().err
    assert "resnet_micro.yaml" in told and "test_resent" in told and "test_resnet" in told
    assert not list((tmp_path / "runs_dir").rglob("record.json"))


def test_missing_device_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DEVICE", "cuda:9")
    assert call(monkeypatch, "run", "smoke", *TINY, "--jobs", "1") == 2
    captured = capsys.readouterr()
    assert "'cuda:9' is not there" in captured.err and captured.out == ""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments", *arguments]


STOPS = (signal.SIGTERM, signal.SIGINT)


def wait_for(condition: object, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGHUP, *(pytest.param(n, marks=pytest.mark.slow) for n in STOPS)])
def test_a_signal_stops_with_a_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["recipe.steps=300", "recipe.evaluations=2", "seeds=[0]", "train_fractions=[0.1]", "models=[resnet_micro]"]
    arguments = ["run", "smoke", *overrides, "--jobs", "1"]
    heeding = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests themselves may run under nohup
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    signal.signal(signal.SIGHUP, heeding)

    def training() -> bool:
        return any(json.loads(path.read_text())["step"] > 5 for path in (tmp_path / "runs_dir").rglob("progress.json"))

    wait_for(training)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130, printed
    assert "The same command goes on from here" in printed
    assert list((tmp_path / "runs_dir").rglob("last.pt"))
    assert not list((tmp_path / "runs_dir").rglob("record.json"))
    assert call(monkeypatch, *arguments) == 0
    record = read_record(next((tmp_path / "runs_dir").rglob("record.json")))
    assert record.attempts[0].reason == "interrupted"
    assert record.attempts[-1].start_step == record.attempts[0].end_step > 0
    assert record.attempts[-1].end_step == 300


TIME_IS_UP_IN_TRAINING = """
import json, os, signal, sys, threading, time
from pathlib import Path

def set_alarm(clock, seconds):
    assert seconds == 5400
    threading.Thread(target=ring).start()

def ring():
    while not any(json.loads(path.read_text())["step"] > 5 for path in folder.rglob("progress.json")):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGALRM)

folder, signal.setitimer = Path(sys.argv.pop(1)), set_alarm
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv.pop(1) == "ignored" else signal.default_int_handler)
from experiments.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("ctrl_c", ["heeded", pytest.param("ignored", marks=pytest.mark.slow)])
def test_a_run_of_limited_time_stops_with_a_checkpoint(tmp_path: Path, ctrl_c: str) -> None:
    """Also as a background job of a shell, which ignores Ctrl-C."""
    start = [sys.executable, "-c", TIME_IS_UP_IN_TRAINING, tmp_path / "runs_dir", ctrl_c]
    arguments = ["run", "smoke", *LONG, "models=[resnet_micro]", "--jobs", "1", "--stop-after", "1h30m"]
    done = subprocess.run([*start, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130, done.stdout + done.stderr
    assert "0 of 1 cells are done." in done.stdout and "The same command goes on from here." in done.stderr
    assert list((tmp_path / "runs_dir").rglob("last.pt")) and not list((tmp_path / "runs_dir").rglob("record.json"))


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_a_bench_of_limited_time_stops_in_order(ctrl_c: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as a background job of a shell, which ignores Ctrl-C: it looks at no flag between its parts."""

    def measured_for_long(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(30)
        raise AssertionError("the command went on")

    monkeypatch.setattr("experiments.bench.everything.write_bench", measured_for_long)
    monkeypatch.setattr(signal, "setitimer", lambda clock, seconds: None)
    monkeypatch.setattr(stop, "_asked", threading.Event())
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
    signal.signal(signal.SIGINT, ctrl_c)
    try:
        assert call(monkeypatch, "bench", "--stop-after", "1h30m") == 130
        assert stop._asked.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("text", ["30", "0m", "", "-5s", "1d", "m", "٣m", "1m2h", "99999999999999h"])
def test_a_time_limit_is_a_time(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", "smoke", "--stop-after", text) == 2
    assert "--stop-after: must be a time such as 30m, 90s or 1h30m, got" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs_dir").exists()


def test_times_are_read_in_seconds() -> None:
    assert [duration_in_seconds(text, "") for text in ("90s", "30m", "8h", "1h30m", "1h1m1s")] == [
        90,
        1800,
        28800,
        5400,
        3661,
    ]


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_command_outlives_the_shell_that_started_it(tmp_path: Path, jobs: str) -> None:
    command = [sys.executable, "-m", "experiments", "run", "smoke", *TINY, "--jobs", jobs]
    printed = tmp_path / "printed.txt"
    shell = 'nohup "$@" > "$PRINTED" 2>&1 & sleep 2'  # as in a session that ends once the command has begun
    subprocess.run(["sh", "-c", shell, "sh", *command], cwd=ROOT, env=os.environ | {"PRINTED": str(printed)}, check=True)
    wait_for(lambda: any(word in printed.read_text(encoding="utf-8") for word in ("Again ", "Stopped", "error")))
    assert "Stopped" not in printed.read_text(encoding="utf-8")
    assert list((tmp_path / "runs_dir").rglob("record.json"))


LONG = ["recipe.steps=20000", "recipe.evaluations=2", "seeds=[0]", "train_fractions=[0.1]"]


def test_workers_end_with_their_parent_idle_or_after_a_checkpoint(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "tests.standins.held", tmp_path], cwd=ROOT)
    try:
        wait_for((tmp_path / "begun").exists)
        below = psutil.Process(process.pid).children(recursive=True)
        assert sum("spawn_main" in " ".join(child.cmdline()) for child in below) == 2
    finally:
        process.kill()
        process.wait()
    assert not psutil.wait_procs(below, timeout=30)[1]
    assert (tmp_path / "checkpoint").exists()


@pytest.mark.slow
def test_no_process_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    """One worker trains, with a process of W&B's client, the other idles in the pool's queue."""
    busy = [*LONG, "models=[resnet_micro]", "reference=resnet_micro", "--jobs", "2"]
    first = (
        "import sys; from experiments.grid import local; local.resolve_jobs = lambda *_: 2; sys.argv[0] = 'experiments'; "
    )
    code = [sys.executable, "-c", first + "from experiments.__main__ import main; sys.exit(main())"]
    given = os.environ | {"WANDB_MODE": "offline"}
    process = subprocess.Popen([*code, "run", "smoke", *busy], cwd=ROOT, env=given, stdout=subprocess.DEVNULL)

    def training() -> bool:
        return any(json.loads(path.read_text())["step"] > 5 for path in tmp_path.rglob("progress.json"))

    try:
        wait_for(lambda: process.poll() is not None or training(), 300)
        below = psutil.Process(process.pid).children(recursive=True)
        assert sum("spawn_main" in " ".join(child.cmdline()) for child in below) == 2
    finally:
        process.kill()
        process.wait()
    assert not psutil.wait_procs(below, timeout=120)[1]
    beat = read_progress(next(tmp_path.rglob("progress.json")).parent)
    assert beat["attempt"]["reason"] == "interrupted"
    assert list(tmp_path.rglob("last.pt"))


def test_an_ignored_hang_up_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(stop, "_asked", asked)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop.signals_caught():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked.is_set()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        asked.clear()
        with stop.signals_caught():
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_dead_worker_is_replaced_and_its_cell_goes_on(tmp_path: Path) -> None:
    arguments = ["run", "smoke", "recipe.steps=300", "recipe.evaluations=2", "seeds=[0]", "train_fractions=[0.1]",
                 "checkpoint_every_steps=20", "--jobs", "2"]  # fmt: skip
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: list((tmp_path / "runs_dir").rglob("last.pt")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(int(workers[0]), signal.SIGKILL)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    records = [read_record(path) for path in (tmp_path / "runs_dir").rglob("record.json")]
    assert len(records) == 2
    resumed = [record for record in records if len(record.attempts) > 1]
    assert any(record.attempts[-1].start_step > 0 for record in resumed)
    assert resumed[0].attempts[0].reason in ("killed", "interrupted")


class Deadly(NamedTuple):
    """A cell that kills the process that it is given to."""

    execution: Execution

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_a_worker_that_dies_before_any_cell_is_a_fault(tmp_path: Path) -> None:
    with contextlib.closing(local.Processes([Deadly(Execution())], tmp_path, 1)) as engine:  # type: ignore[list-item]
        assert engine.check() == [
            "JOBS: a worker process died before any cell ran, most likely killed for memory. Use fewer JOBS."
        ]


def test_jobs_auto_is_one_process_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.setattr(local, "free_memory", lambda: 2**40)
    assert local.resolve_jobs("auto", 100, 1) == 8
    assert local.resolve_jobs("auto", 100, 4) == 2
    assert local.resolve_jobs("auto", 3, 1) == 3
    assert local.resolve_jobs("5", 100, 1) == 5
    monkeypatch.setenv("DEVICE", "auto")
    monkeypatch.setattr(local, "gpu_count", lambda: 1)
    assert local.resolve_jobs("auto", 100, 1) == 1


def test_a_gpu_is_shared_by_as_many_processes_as_are_faster_together() -> None:
    assert local.fastest({1: 10.0}) == 1
    assert local.fastest({1: 10.0, 2: 10.9}) == 1  # a gain that may be chance
    assert local.fastest({1: 10.0, 2: 18.0, 4: 19.0}) == 2
    assert local.fastest({1: 10.0, 2: 18.0, 4: 34.0, 8: 60.0}) == 8


def test_a_gpu_without_room_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVICE", "auto")
    monkeypatch.setattr(local, "gpu_count", lambda: 1)
    monkeypatch.setattr(local, "free_memory", lambda: 2**40)
    monkeypatch.setattr(local, "free_on_gpu", lambda: 3 * 2**30 + 5)
    with pytest.raises(ConfigError, match=r"JOBS: the GPU has 3.0 GiB free, and 4 processes on it need 1 GiB .* Use JOBS=3"):
        local.resolve_jobs("4", 100, 1)
    assert local.resolve_jobs("3", 100, 1) == 3
    monkeypatch.setattr(local, "free_on_gpu", lambda: 0)
    assert local.resolve_jobs("1", 100, 1) == 1


def test_auto_measures_how_many_share_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The measure itself, with processes on the CPU in place of those on a GPU; then all cells run."""
    monkeypatch.setattr(local, "on_gpu", lambda: True)
    monkeypatch.setattr(local, "free_on_gpu", lambda: 2 * 2**30)
    monkeypatch.setattr(local, "WORTH_MEASURING", 2)
    small = ["recipe.steps=2", "recipe.evaluations=1", "seeds=[0]", "train_fractions=[0.1]"]
    monkeypatch.setattr(sys, "argv", ["experiments", "run", "smoke", *small, "--jobs", "auto"])
    assert main() == 0
    printed = capsys.readouterr()
    text = " ".join((printed.out + printed.err).split())
    said = re.search(r"JOBS=auto: (\d) at a time share the GPU \(steps/s together, by processes: 1: [\d.e+]+, 2: ", text)
    assert said and said[1] in "12"
    assert len(list(tmp_path.rglob("record.json"))) == 2


def test_jobs_beyond_memory_are_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.setattr(local, "free_memory", lambda: 3 * local.WORKER_BYTES + 5)
    with pytest.raises(ConfigError, match=r"JOBS: 4 worker processes need 2.9 GiB before any data, 2.2 GiB .* Use JOBS=3"):
        local.resolve_jobs("4", 100, 1)
    assert local.resolve_jobs("3", 100, 1) == local.resolve_jobs("auto", 100, 1) == 3
    assert local.resolve_jobs("9", 2, 1) == 2  # never more workers than cells
    monkeypatch.setattr(local, "free_memory", lambda: 0)
    assert local.resolve_jobs("1", 100, 1) == local.resolve_jobs("auto", 100, 1) == 1


@pytest.mark.parametrize(
    "error", [MemoryError("host"), RuntimeError("[enforce fail] not enough memory: you tried to allocate 9 bytes.")]
)
def test_out_of_memory_says_what_was_tried_and_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from experiments.training import run as procedure

    def full(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(procedure, "fit", full)
    cells, folder = tiny_cells("models=[resnet_micro]")
    outcome = worker.work(cells[0], folder)
    assert outcome.status == "failed"
    assert "batches of 32 images of 8 × 8 pixels" in outcome.message and "lower `recipe.batch_size`" in outcome.message
    record = read_record(folder / str(cells[0].run_id) / "record.json")
    assert record.status == "failed" and record.failure is not None and record.failure.kind == "OutOfMemory"
    assert record.metrics == {}


def test_a_full_disk_leaves_no_half_record_and_the_cell_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from experiments.training import artifacts

    cells, folder = tiny_cells("models=[resnet_micro]")
    real = artifacts.write_predictions

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts, "write_predictions", full)
    outcome = worker.work(cells[0], folder)
    assert outcome.status == "failed" and "No space left on device" in outcome.message and "Free space" in outcome.message
    run_folder = folder / str(cells[0].run_id)
    assert not (run_folder / "record.json").exists() and not list(run_folder.glob("*.tmp"))
    monkeypatch.setattr(artifacts, "write_predictions", real)
    assert worker.work(cells[0], folder).status == "done"
    assert read_record(run_folder / "record.json").attempts[-1].start_step == 4  # went on from the last checkpoint


def test_two_commands_on_one_grid_run_every_cell_once(tmp_path: Path) -> None:
    code = (
        "from experiments.config import loading\nfrom experiments.config.paths import runs_dir\n"
        "from experiments.grid import driver\n"
        "from experiments.grid.driver import GridObserver\n"
        f"e = loading.load_experiment('smoke', loading.parse_overrides({[*TINY, 'recipe.steps=60']!r}))\n"
        "class Say(GridObserver):\n"
        "    def ended(self, cell, outcome): print(outcome.status, cell.run_id, outcome.seconds)\n"
        "driver.launch(driver.plan(e), runs_dir() / e.name, jobs='1', observer=Say())\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    records = [read_record(path) for path in (tmp_path / "runs_dir").rglob("record.json")]
    assert len(records) == 2
    assert all(len(record.attempts) == 1 for record in records)  # nobody ran a cell a second time


def test_a_failed_record_says_what_is_known_and_invents_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.training import fit

    def diverge(*arguments: object) -> None:
        raise fit.Diverged(2)

    monkeypatch.setattr(fit, "_evaluation_row", diverge)
    cells, folder = tiny_cells("models=[resnet_micro]")
    assert worker.work(cells[0], folder).status == "failed"
    path = folder / str(cells[0].run_id) / "record.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    for name in ("n_classes", "n_train", "n_val", "n_test"):
        assert values[name] is None
    assert values["compute"]["n_params"] is None and values["compute"]["forward_gmacs"] is None
    assert values["compute"]["device_hours"] == values["attempts"][0]["seconds"] / 3600 > 0
    assert values["attempts"][0]["reason"] == "failed"
    assert values["environment"]["versions"]["torch"] and values["environment"]["device_type"] == "cpu"
    assert "convolution" in values["geometry"]["stem"]
    assert values["started"] <= values["finished"]

    # Those of earlier versions hold zeros, and are read.
    old = values | dict.fromkeys(("n_classes", "n_train", "n_val", "n_test"), 0)
    old["compute"] |= {"n_params": 0, "forward_gmacs": 0.0}
    path.write_text(json.dumps(old), encoding="utf-8")
    assert read_record(path).n_train == 0
    path.write_text(json.dumps(values | {"status": "done"}), encoding="utf-8")
    with pytest.raises(RecordError, match="`n_classes` is missing, which every finished run knows"):
        read_record(path)


def test_a_death_is_recorded_with_what_its_folder_tells(tmp_path: Path) -> None:
    cells, folder = tiny_cells("models=[resnet_micro]")
    assert worker.work(cells[0], folder).status == "done"
    run_folder = folder / str(cells[0].run_id)
    (run_folder / "record.json").unlink()
    worker.record_death(cells[0], folder, "died")
    record = read_record(run_folder / "record.json")
    assert record.environment["threads"] == 1 and "geometry" not in record.environment
    assert record.geometry and record.attempts


def test_a_stop_before_a_cell_leaves_it_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, folder = tiny_cells("models=[resnet_micro]")
    monkeypatch.setattr(stop, "_shared", lambda: True)
    assert worker.work(cells[0], folder).status == "interrupted"
    assert not (folder / str(cells[0].run_id)).exists()
