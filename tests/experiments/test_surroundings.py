"""What lies around a run: other repositories, no git, the environment of other tools, folders that cannot be, the umask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.config import paths
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT
from experiments.data import decoding, download
from experiments.grid import local
from experiments.records.record import atomic_write
from experiments.reporting.reports import prepare
from experiments.training import provenance, torchrun

TINY = ["recipe.steps=2", "recipe.evaluations=1", "seeds=[0]", "train_fractions=[0.1]", "models=[resnet_micro]", "expect=[]"]
NOWHERE = {"commit": None, "dirty": None}


# ----------------------------------------------------------------------------------------------------------------- commit
def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], dict[str, object]]]:
    """What `git_facts` says of a project in this folder."""

    def of(project: Path) -> dict[str, object]:
        monkeypatch.setattr(provenance, "ROOT", project)
        provenance.git_facts.cache_clear()
        return provenance.git_facts()

    yield of
    provenance.git_facts.cache_clear()


def unpacked(folder: Path) -> Path:
    """A project's files as an archive leaves them."""
    (folder / "experiments").mkdir(parents=True)
    (folder / provenance.HERE).parent.mkdir()
    shutil.copy(provenance.__file__, folder / provenance.HERE)
    return folder


def committed(folder: Path) -> str:
    git(folder, "init")
    git(folder, "add", ".")
    git(folder, "commit", "--message", "all", "--allow-empty")
    return git(folder, "rev-parse", "HEAD")


def test_a_checkout_knows_its_commit_and_whether_it_was_changed(
    tmp_path: Path, facts: Callable[[Path], dict[str, object]]
) -> None:
    project = unpacked(tmp_path / "my checkout")
    assert (ROOT / provenance.HERE).samefile(provenance.__file__)
    assert facts(project) == NOWHERE
    commit = committed(project)
    (project / "notes.txt").write_text("not of the project", encoding="utf-8")
    assert facts(project) == {"commit": commit, "dirty": False}
    (project / provenance.HERE).write_text("changed", encoding="utf-8")
    assert facts(project) == {"commit": commit, "dirty": True}
    git(project, "worktree", "add", tmp_path / "tree")  # whose .git is a file
    assert facts(tmp_path / "tree") == {"commit": commit, "dirty": False}
    (tmp_path / "link").symlink_to(project)
    assert facts(tmp_path / "link") == {"commit": commit, "dirty": True}


def test_another_repositorys_commit_is_not_the_projects(
    tmp_path: Path, facts: Callable[[Path], dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    committed(other)
    inside = unpacked(other / "vit-bench")
    assert facts(inside) == NOWHERE
    git(other, "add", ".")
    git(other, "commit", "--message", "with the archive")
    assert facts(inside) == NOWHERE
    same = tmp_path / "same"
    same.mkdir()
    committed(same)
    assert facts(unpacked(same)) == NOWHERE  # unpacked over another repository's top, and of no commit of it
    apart = unpacked(tmp_path / "apart")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # as a hook of that repository has it
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert facts(apart) == NOWHERE


@pytest.mark.parametrize(
    "said", [None, "fatal: detected dubious ownership in repository at '/x'", "fatal: ambiguous argument 'HEAD': unknown"]
)
def test_without_git_and_where_it_refuses_there_is_no_commit(
    tmp_path: Path, facts: Callable[[Path], dict[str, object]], monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    project = unpacked(tmp_path / "project")
    committed(project)
    (tmp_path / "bin").mkdir()
    if said:
        (tmp_path / "bin" / "git").write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 128\n', encoding="utf-8")
        (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert (ROOT / provenance.HERE).samefile(provenance.__file__)
    assert facts(project) == NOWHERE


# --------------------------------------------------------------------------------------------------------------- torchrun
WHOLE = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0, 1)),
        ({"WORLD_SIZE": "1"}, (0, 1, 0, 1)),
        ({"RANK": "3", "LOCAL_RANK": ""}, (0, 1, 0, 1)),
        (WHOLE, (1, 2, 1, 1)),
        (WHOLE | {"LOCAL_WORLD_SIZE": "2"}, (1, 2, 1, 2)),
    ],
)
def test_torchrun_says_who_a_process_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[int, ...]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert torchrun.place() == expected


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE: ''"),
        ({"WORLD_SIZE": "2"}, "no RANK, no LOCAL_RANK, no MASTER_PORT, no MASTER_ADDR"),
        (WHOLE | {"WORLD_SIZE": "two"}, "(WORLD_SIZE='two')"),
        (WHOLE | {"WORLD_SIZE": "0"}, "(RANK='1')"),
        (WHOLE | {"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE"),
        (WHOLE | {"RANK": "2"}, "(RANK='2')"),
        (WHOLE | {"RANK": "-1"}, "(RANK='-1')"),
        (WHOLE | {"LOCAL_RANK": "", "LOCAL_WORLD_SIZE": "x"}, "(LOCAL_RANK='', LOCAL_WORLD_SIZE='x')"),
        (WHOLE | {"MASTER_ADDR": ""}, "(MASTER_ADDR='')"),
        (WHOLE | {"MASTER_PORT": "port"}, "(MASTER_PORT='port')"),
    ],
)
def test_left_over_words_of_torchrun_are_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str], words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["experiments", "run", "smoke", *TINY])
    assert main() == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: WORLD_SIZE: ") and words in said
    assert "Unset WORLD_SIZE, or start the command so: .venv/bin/torchrun" in said


# ---------------------------------------------------------------------------------------------------------------- folders
@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("RUNS_DIR", paths.runs_dir),
        ("REPORTS_DIR", paths.reports_dir),
        ("DATA_DIR", paths.data_dir),
        ("CONFIGS_DIR", paths.configs_dir),
    ],
)
def test_folders_are_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, folder: Callable[[], Path]
) -> None:
    monkeypatch.setenv(variable, "")
    assert folder() == ROOT / variable.removesuffix("_DIR").lower()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/my folder #1")
    assert folder() == tmp_path / "my folder #1"
    monkeypatch.setenv(variable, "~nobody-of-this-name/x")
    with pytest.raises(ConfigError, match=f"{variable}: '~nobody-of-this-name/x' leads nowhere"):
        folder()


@pytest.mark.parametrize("variable", ["RUNS_DIR", "REPORTS_DIR"])
def test_a_folder_that_cannot_be_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, variable: str
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    monkeypatch.setattr(sys, "argv", ["experiments", "run", "smoke", *TINY, "--jobs", "1"])
    assert main() == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{variable}: {tmp_path}/file/smoke cannot be written (Not a directory). Choose another folder." in said
    assert not list(tmp_path.rglob("record.json"))


def test_a_folder_of_reports_that_may_not_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=r"REPORTS_DIR: .* cannot be written \(Permission denied\)"):
        prepare("smoke")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_show_a_character_stops_nothing(encoding: str) -> None:
    command = [sys.executable, "-m", "experiments", "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and b"Models" in done.stdout and not done.stderr


def test_hidden_gpus_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local.gpu_count() == 2
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert local.gpu_count() == 0


# ------------------------------------------------------------------------------------------------------------------ umask
@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_users_umask(tmp_path: Path, mask: int, mode: int) -> None:
    import zipfile

    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "record.json") as file:
            file.write("{}")
        with decoding._mapped(tmp_path / "pixels.npy", (1, 1, 2, 2)) as pixels:
            pixels[:] = 7
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as made:
            made.writestr("a/b.txt", "b")
        download.unpack(tmp_path / "photos.zip", tmp_path / "photos", max_bytes=10**6)
    finally:
        os.umask(before)
    assert np.load(tmp_path / "pixels.npy").sum() == 28
    for name in ("record.json", "pixels.npy", "photos/a/b.txt"):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode, name
    for name in ("photos", "photos/a"):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode | (mode & 0o444) >> 2, name
    assert not list(tmp_path.glob(".*"))


# ------------------------------------------------------------------------------------------------------- a bare machine
def test_a_run_needs_no_git_no_compiler_no_home_and_no_short_path(tmp_path: Path) -> None:
    """Python alone: no program, a home that is a file, a temporary folder too long for a socket, a strict umask."""
    long = tmp_path / ("t" * 120)
    long.mkdir()
    (tmp_path / "home").write_text("", encoding="utf-8")
    given = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "XDG"))}
    given |= {"PATH": str(tmp_path / "nothing"), "HOME": str(tmp_path / "home"), "TMPDIR": str(long)}
    command = [sys.executable, "-m", "experiments", "run", "smoke", *TINY]
    done = subprocess.run(
        [*command, "models=[vit_micro_p2,resnet_micro]", "--jobs", "2"],
        cwd=ROOT, capture_output=True, text=True, umask=0o077, env=given | {"WANDB_MODE": "offline"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    made = [path for place in ("runs_dir", "reports_dir") for path in (tmp_path / place).rglob("*")]
    assert "report.html" in done.stdout and len([path for path in made if path.name == "record.json"]) == 2
    assert not [path for path in made if path.stat().st_mode & 0o077]
