"""A lock is held, free, absent from the file system or broken: each is told apart, and nobody waits without a word."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.config.cells import Cell
from experiments.config.paths import ROOT
from experiments.grid import driver, local, worker
from experiments.grid.driver import GridObserver
from experiments.grid.ledger import cell_status
from experiments.records.progress import Busy, LockError, NoLocks, is_running, locked, owner
from experiments.records.record import atomic_write
from experiments.training import run as procedure
from experiments.training.fit import Interrupted
from experiments.training.outcome import Outcome
from tests.experiments.test_grid import cells_of

PUBLISHED = next((ROOT / "results" / "vit_small_data").glob("*/record.json"))


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return cells_of(tmp_path)[0]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "check", lambda cells: [])

    def stopped(*arguments: object) -> None:
        raise Interrupted("no training here")

    monkeypatch.setattr(procedure, "chosen", stopped)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_locks_a_cell_runs_and_its_state_is_unknown(
    tmp_path: Path, cell: Cell, no_training: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def absent(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", absent)
    outcome = worker.work(cell, tmp_path)
    assert (outcome.status, outcome.message) == ("interrupted", "no training here")
    (said,) = outcome.says
    assert said.startswith(f"{tmp_path}: this file system has no file locks ({os.strerror(number)})")
    assert "one command at a time" in said and str(cell.run_id) not in said  # equal for all cells: shown once
    assert cell_status(cell, tmp_path) == ("unknown", said)
    with pytest.raises(NoLocks):
        is_running(tmp_path / str(cell.run_id))


def test_only_a_held_lock_is_busy(tmp_path: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / str(cell.run_id)
    folder.mkdir()
    with locked(folder):
        assert owner(folder).startswith(f"process {os.getpid()} on ")
        with pytest.raises(Busy), locked(folder):
            pass
        assert worker.work(cell, tmp_path).status == "busy"

    def broken(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(LockError, match="Input/output error"), locked(folder):
        pass


def lock_is_a_folder(run: Path) -> Path:
    (run / "run.lock").mkdir(parents=True)
    return run / "run.lock"


def lock_is_a_loop(run: Path) -> Path:
    run.mkdir()
    (run / "run.lock").symlink_to("run.lock")
    return run / "run.lock"


def run_is_a_file(run: Path) -> Path:
    run.write_text("", encoding="utf-8")
    return run


@pytest.mark.parametrize("spoil", [lock_is_a_folder, lock_is_a_loop, run_is_a_file])
def test_a_broken_lock_fails_its_cell_with_its_path_and_nobody_waits(
    tmp_path: Path, cell: Cell, no_training: None, spoil: Callable[[Path], Path]
) -> None:
    path = spoil(tmp_path / str(cell.run_id))
    status, reason = cell_status(cell, tmp_path)
    assert status == "unknown" and str(reason).startswith(f"{path}: the run's lock cannot be used (")
    ended = list[Outcome]()

    class Seen(GridObserver):
        def ended(self, cell: Cell, outcome: Outcome) -> None:
            ended.append(outcome)

    driver.launch([cell], tmp_path, jobs="1", observer=Seen())
    assert [(outcome.status, outcome.message) for outcome in ended] == [("failed", reason)]


def test_what_is_waited_for_is_said(tmp_path: Path, cell: Cell, no_training: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(driver, "SAY_WAITING_SECONDS", 0.05)
    said, held = list[str](), ExitStack()
    (tmp_path / str(cell.run_id)).mkdir()
    held.enter_context(locked(tmp_path / str(cell.run_id)))

    class Seen(GridObserver):
        def says(self, sentence: str) -> None:
            said.append(sentence)
            if len(said) == 2:
                held.close()

    driver.launch([cell], tmp_path, jobs="1", observer=Seen())
    assert len(said) == 2 and said[0] == said[1]
    assert said[0].startswith(f"Waiting for a cell that another command runs: {cell.run_id} (process {os.getpid()} on ")


def test_what_another_command_finished_is_told_from_its_record(tmp_path: Path, cell: Cell) -> None:
    folder = tmp_path / str(cell.run_id)
    folder.mkdir()
    shutil.copy(PUBLISHED, folder / "record.json")
    outcome = worker.work(cell, tmp_path)
    assert outcome.status == "done" and outcome.seconds is None
    assert outcome.images_per_second and outcome.val_top1 and 0 < outcome.val_top1 <= 1


def test_a_failed_write_names_the_file_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "report.html"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as `write` raises it
    assert caught.value.filename == str(tmp_path / "report.html")
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "absent" / "report.html"):
        pass
    assert caught.value.filename == str(tmp_path / "absent" / "report.html")


def test_cells_that_did_not_end_are_not_called_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "check", lambda cells: [])

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "last.pt")

    monkeypatch.setattr(procedure, "chosen", full)
    monkeypatch.setattr("sys.argv", ["experiments", "run", "smoke", "--jobs", "1"])
    assert main() == 1
    printed = capsys.readouterr().out
    assert "--retry-failed" not in printed and "The same command runs the cells that have not ended." in printed
    assert "'last.pt'" in printed


def test_one_measure_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.config import machine
    from experiments.data import source

    assert local.free_memory is source.free_memory is machine.free_memory
