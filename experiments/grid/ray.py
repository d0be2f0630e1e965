"""The engine ``ray``: cells as Ray tasks, on this machine, or on the cluster that `RAY_ADDRESS` names.

A task asks for the cell's CPU threads and its share of a GPU. A worker or node that dies loses no more than what came after
the cell's checkpoint. Where the run folder is on a file system that every node sees, runs are written there; otherwise each
is made in a folder of its node and returned to the driver when it ends.
"""

from __future__ import annotations

import io
import logging
import math
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.config.cells import Cell
from experiments.config.errors import ConfigError, reason
from experiments.config.identity import canonical_hash
from experiments.config.machine import usable_cores
from experiments.config.paths import ROOT, data_dir, runs_dir
from experiments.grid import worker
from experiments.grid.local import gpu_count, requested_jobs
from experiments.training import stop
from experiments.training.outcome import Outcome

CONNECT_SECONDS = 15.0
"""How long a cluster may take to answer."""

STOP_POLL_SECONDS = 1.0
"""How often a task asks whether it should stop."""

PASSED_ON = ("DEVICE", "CONFIGS_DIR", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL")
"""Environment variables that tasks get from the driver. A W&B key is not among them, since Ray shows what it passes on."""


def _ray() -> Any:
    """Ray, which plain installs do not have."""
    if "ray" not in sys.modules:  # both variables are read at the import
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
        if os.environ.get("RAY_ADDRESS") and (Path.home() / ".ray" / "auth_token").is_file():
            # A cluster asks for the token where its user has one; a driver that joins sends it only in this mode.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "ENGINE: `ray` needs Ray, which is not installed. `make experiment ENGINE=ray …` installs it."
        ) from error
    return ray


# --------------------------------------------------------------------------------------------------------------- cluster
def connect() -> None:
    """Start Ray on this machine, or join the cluster at `RAY_ADDRESS`; nothing to do on a second call.

    Raises
    ------
    ConfigError
        If Ray is not installed, or the cluster does not answer within `CONNECT_SECONDS`.
    """
    ray = _ray()
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {"PYTHONPATH": str(ROOT), "DATA_DIR": str(data_dir()), "RUNS_DIR": str(runs_dir())}
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": environment},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if not address:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(address="local", num_cpus=usable_cores(), num_gpus=gpu_count(), include_dashboard=False, **options)
        return
    _knock(address)
    failures: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=address, **options)
        except BaseException as error:
            failures.append(error)

    attempt = threading.Thread(target=join, daemon=True)  # Ray itself waits for minutes
    attempt.start()
    attempt.join(CONNECT_SECONDS)
    if attempt.is_alive():
        raise _away(address, f"no answer within {CONNECT_SECONDS:.0f} s")
    if failures:
        raise _away(address, reason(failures[0])) from failures[0]


def _away(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"RAY_ADDRESS: the cluster {address} cannot be joined ({why}). Start it with `ray start --head`, correct the "
        f"address, copy its ~/.ray/auth_token here if it asks for one, or unset RAY_ADDRESS to run on this machine."
    )


def _knock(address: str) -> None:
    """Refuse an address where nothing listens, in less time than Ray takes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # such as `auto`, which Ray looks up on this machine
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS / 2):
            pass
    except OSError as error:
        raise _away(address, f"{type(error).__name__}: {error.strerror or error}") from error


def _nodes() -> list[dict[str, Any]]:
    return [node for node in _ray().nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def _on_gpu() -> bool:
    return os.environ.get("DEVICE", "auto") != "cpu" and any(node["Resources"].get("GPU", 0) for node in _nodes())


def resolve_jobs(jobs: str, cells: int, threads: int) -> int:
    """``JOBS=auto|n`` → cells at a time on the cluster; `auto` is one for every GPU, or for every `threads` CPUs.

    Raises
    ------
    ConfigError
        If the cluster is away, has no node for a cell, or has no room for `jobs` cells at a time.
    """
    wanted = requested_jobs(jobs)
    connect()
    nodes = _nodes()
    cpus = [int(node["Resources"]["CPU"]) for node in nodes]
    if threads > max(cpus, default=0):
        raise ConfigError(
            f"`threads`: a cell asks for {threads} CPUs, the largest node of the Ray cluster has {max(cpus, default=0)}."
        )
    if os.environ.get("DEVICE", "auto").startswith("cuda") and not _on_gpu():
        raise ConfigError(f"DEVICE: the Ray cluster has no GPU, got {os.environ['DEVICE']!r}. Use DEVICE=auto.")
    room = sum(count // threads for count in cpus)
    if wanted is None:
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in nodes)
        return max(1, min(gpus if _on_gpu() else room, room, cells))
    if wanted > room:
        raise ConfigError(
            f"JOBS: {wanted} cells at a time ask for {wanted * threads} CPUs; the Ray cluster of {len(nodes)} nodes has "
            f"room for {room} cells of {threads}. Use JOBS={room} or JOBS=auto."
        )
    return min(wanted, cells)


def gpu_share(jobs: int, gpus: int) -> float:
    """What a cell asks for of a GPU: a whole one, or 1/k where k cells share it."""
    return 1 / math.ceil(jobs / gpus) if gpus else 0.0


# ----------------------------------------------------------------------------------------------------------------- tasks
class _Stop:
    """An actor: whether the driver was asked to stop."""

    asked = False

    def ask(self) -> None:
        self.asked = True

    def is_asked(self) -> bool:
        return self.asked


class _Polled:
    """The stop flag as a task sees it, asked for at most once in `STOP_POLL_SECONDS`."""

    def __init__(self, flag: Any) -> None:
        self._flag, self._next, self._asked = flag, 0.0, False

    def is_set(self) -> bool:
        if not self._asked and time.monotonic() >= self._next:
            self._asked = bool(_ray().get(self._flag.is_asked.remote()))
            self._next = time.monotonic() + STOP_POLL_SECONDS
        return self._asked


def _sees(token: str) -> bool:
    """In a task: whether this node sees the driver's run folder."""
    return Path(token).exists()


def _check(cells: list[Cell]) -> list[str]:
    """In a task: faults that only a worker can tell."""
    _take_gpu()
    return worker.check(cells)


def _take_gpu() -> None:
    """On a worker Ray alone chooses the GPU: it is the only one that is visible there."""
    if os.environ.get("DEVICE", "auto").startswith("cuda"):
        os.environ["DEVICE"] = "auto"


def _work(cell: Cell, folder: Path, shared: bool, files: bytes | None, flag: Any) -> tuple[Outcome, bytes | None]:
    """In a task: run a cell. Returns its outcome, and its run folder where the driver cannot see it."""
    _take_gpu()
    worker.initialise(_Polled(flag).is_set, cell.execution.threads)
    if shared:
        return worker.work(cell, folder), None
    own = Path(tempfile.gettempdir(), f"vit-bench-{os.getuid()}", f"{folder.name}-{canonical_hash(str(folder))[:8]}")
    run_folder = own / str(cell.run_id)
    if files and not run_folder.exists():  # a checkpoint of this node is newer than what the driver has
        unpack(files, run_folder)
    outcome = worker.work(cell, own)
    content = pack(run_folder)
    if outcome.status in ("done", "failed"):
        shutil.rmtree(run_folder, ignore_errors=True)
    return outcome, content


def pack(folder: Path) -> bytes:
    """A run folder as bytes, without lock and left-over temporary files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.name != "run.lock" and path.suffix != ".tmp":
                archive.add(path, str(path.relative_to(folder)))
    return buffer.getvalue()


def unpack(files: bytes, folder: Path) -> None:
    """Write a packed run folder; the record last, since it says that the run is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name == "record.json")
        archive.extractall(folder, members, filter="data")


# ---------------------------------------------------------------------------------------------------------------- engine
class Cluster:
    """The engine ``ray``: cells as tasks, each given to another worker when its own dies."""

    note = ""

    def __init__(self, cells: list[Cell], folder: Path, jobs: str) -> None:
        threads = cells[0].execution.threads
        self.cells, self.folder, self.slots = cells, folder, resolve_jobs(jobs, len(cells), threads)
        gpus = sum(int(node["Resources"].get("GPU", 0)) for node in _nodes()) if _on_gpu() else 0
        self._options = {"num_cpus": threads, "num_gpus": gpu_share(self.slots, gpus), "max_retries": 0}
        folder.mkdir(parents=True, exist_ok=True)
        ray = _ray()
        self._flag = ray.remote(num_cpus=0)(_Stop).remote()
        self._task = ray.remote(**self._options)(_work)
        self._shared = True
        self._running: dict[Any, Cell] = {}
        self._deaths: Counter[str | None] = Counter()

    @property
    def running(self) -> int:
        return len(self._running)

    def check(self) -> list[str]:
        faults: list[str] = _answer(_ray().remote(**self._options)(_check).remote(self.cells))
        self._shared = _is_shared(self.folder)
        return faults

    def submit(self, cell: Cell) -> None:
        run_folder = self.folder / str(cell.run_id)
        files = None if self._shared or not run_folder.exists() else pack(run_folder)
        self._running[self._task.remote(cell, self.folder, self._shared, files, self._flag)] = cell

    def collect(self) -> Iterable[tuple[Cell, Outcome]]:
        for reference in _ray().wait(list(self._running), timeout=0.2)[0]:
            cell = self._running.pop(reference)
            if outcome := self._outcome(reference, cell):
                yield cell, outcome

    def _outcome(self, reference: Any, cell: Cell) -> Outcome | None:
        """What a task gave back; None where it died and is tried again."""
        ray = _ray()
        try:
            outcome, files = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # a fault of the engine itself: a cell's own faults are outcomes
            return Outcome("failed", f"{type(error.cause).__name__}: {error.cause}")
        except ray.exceptions.RayError:  # the worker or its node died
            self._deaths[cell.run_id] += 1
            if self._deaths[cell.run_id] == 2:
                return worker.record_death(cell, self.folder, "Ray worker")
            if stop.requested():
                return Outcome("interrupted")
            self.submit(cell)
            return None
        if files:
            unpack(files, self.folder / str(cell.run_id))
        return outcome

    def stop(self) -> None:
        self._flag.ask.remote()

    def close(self) -> None:
        _ray().kill(self._flag)


def _answer(reference: Any) -> Any:
    """The result of a task that comes before all work; what the task raises is told as bad input."""
    ray = _ray()
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ModuleNotFoundError):
            raise ConfigError(
                f"ENGINE=ray: a node cannot import {cause.name}. The checkout {ROOT} and its .venv must lie at the same "
                f"place on every node, and Ray must be started from that .venv."
            ) from error
        raise ConfigError(f"ENGINE=ray: a worker failed before any cell ran: {type(cause).__name__}: {cause}.") from error


def _is_shared(folder: Path) -> bool:
    """Whether every node sees the folder."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    ray, token = _ray(), folder / f".seen-{uuid.uuid4().hex}.tmp"
    token.touch()
    try:
        look = ray.remote(num_cpus=0)(_sees)
        asked = [look.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote(str(token)) for node in _nodes()]
        return all(_answer(reference) for reference in asked)
    finally:
        token.unlink(missing_ok=True)
