"""The W&B client as this project uses it: slim, silent, bounded in time, and never asking anything.

``wandb`` is imported inside functions alone: the import costs a second, which a disabled mirror must not pay.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from experiments.tracking import content
from experiments.tracking.mirror import Mirror, TrackingError

Mode = Literal["online", "offline", "disabled"]

DEFAULT_PROJECT = "vit-bench"
CONFIRM_TIMEOUT_SECONDS = 5
HTTP_TIMEOUT_SECONDS = 7
"""Of each question that the client asks by itself, as before it takes an artifact; 19 by its default."""
SEND_INIT_TIMEOUT_SECONDS = 20.0
ANSWER_SECONDS = 15.0
SLOWEST_BYTES_PER_SECOND = 250_000
"""The pace that a transfer must keep; a line that is slower sends it another time."""
SAID_AFTER_SECONDS = 4.0
LONG_WAIT = "W&B takes long to answer; the wait ends by itself."
NO_ANSWER = "the service did not answer"
KEY_REFUSED = "the service refused the key"

_NO_ANSWER_SIGNS = ("deadline", "timed out", "did not respond", "giving up", "connection refused", "no such host")
_TAG_LENGTH, _NAME_LENGTH = 64, 128  # W&B refuses longer ones
_temporary: Path | None = None
_pointed: dict[str, str] = {}  # W&B folders that this module chose, to be told from those that the user chose


def choose_mode() -> tuple[Mode, str]:
    """How runs are mirrored here, and why, as a part of a sentence; empty where the mode is online. Never asks.

    The environment decides, then W&B's own settings; offline where W&B's client finds no login for its host.
    """
    wished = os.environ.get("WANDB_MODE", "").strip().lower()
    if wished == "disabled":
        return "disabled", "WANDB_MODE=disabled"
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in ("", "0", "false", "no", "off"):
        return "disabled", "WANDB_DISABLED is set"
    if wished in ("offline", "dryrun"):
        return "offline", f"WANDB_MODE={wished}"
    try:
        wandb = wandb_module()
        settings = wandb.setup().settings
        if settings.mode == "disabled":
            return "disabled", "the W&B settings file says so"
        if settings.mode in ("offline", "dryrun"):
            return "offline", "the W&B settings file says so"
        if wandb.login(prompt=False, verify=False):
            return "online", ""
        return "offline", "no login for Weights & Biases was found"
    except Exception as error:  # any failure of a third party's client must leave the training alone
        return "offline", f"the login for Weights & Biases cannot be used ({one_line(error)})"


def wandb_module() -> Any:
    """The wandb package, told to be silent. Imported late: it costs a second, and a disabled mirror must not pay it."""
    with own_temporary_folder():  # two are made at the import, for the life of the process
        import wandb

    wandb.setup(wandb.Settings(silent=True))
    return wandb


@contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Let the client's temporary files lie beside the runs, so that a killed process leaves none elsewhere."""
    before = tempfile.tempdir
    if _temporary is not None:
        _temporary.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(_temporary)
    try:
        yield
    finally:
        tempfile.tempdir = before


def one_line(error: BaseException) -> str:
    """An error as a part of a sentence: its first line, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def why(error: BaseException) -> str:
    """Why a session could not be opened, in words that are equal for all runs that meet the same trouble."""
    text = str(error)
    if any(sign in text for sign in _NO_ANSWER_SIGNS):  # first: the client takes a key that it cannot check for a wrong one
        return NO_ANSWER
    if "error 401" in text or type(error).__name__ == "AuthenticationError":
        return KEY_REFUSED
    return f"the service cannot be used ({one_line(error)})"


def transfer_seconds(*parts: Path | int) -> float:
    """How long files, or so many bytes, may be on their way: what a slow line needs, and some seconds for the answers."""
    size = sum(part if isinstance(part, int) else part.stat().st_size if part.is_file() else 0 for part in parts)
    return ANSWER_SECONDS + size / SLOWEST_BYTES_PER_SECOND


@contextmanager
def long_wait_said(say: Callable[[str], None]) -> Iterator[None]:
    """Say once that W&B is waited for, where that takes more than a few seconds."""
    timer = threading.Timer(SAID_AFTER_SECONDS, say, [LONG_WAIT])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class KeyRefused(TrackingError):
    """Nothing can be sent with this key."""


class Unreachable(TrackingError):
    """The service does not answer."""


def open_to_send(folder: Path, mirror: Mirror, *, finish_timeout: float) -> Session:
    """Begin an online session for what was made before; training does not wait for it, so it may take its time.

    Raises
    ------
    TrackingError
        If the service does not answer in time or refuses.
    """
    try:
        return Session(folder, mirror, "online", init_timeout=SEND_INIT_TIMEOUT_SECONDS, finish_timeout=finish_timeout)
    except Exception as error:
        wandb_module().teardown()  # the client forgets the attempt
        reason = why(error)
        if reason == KEY_REFUSED:
            raise KeyRefused(
                f"W&B: {KEY_REFUSED}. Log in again with `wandb login --relogin`, or correct WANDB_API_KEY, then try again."
            ) from error
        raise (Unreachable if reason == NO_ANSWER else TrackingError)(reason) from error


def require_login(experiment_folder: Path) -> None:
    """Go on only where W&B can be reached from here.

    Raises
    ------
    TrackingError
        With the way out, where the user's own choice or a missing login forbids it.
    """
    point_client_at(experiment_folder)
    mode, reason = choose_mode()
    if mode == "online":
        return
    if os.environ.get("WANDB_MODE") or mode == "disabled":
        raise TrackingError(f"W&B is switched off here ({reason}). Unset it, or run with WANDB_MODE=online.")
    raise TrackingError(f"W&B: {reason}. Log in once with `wandb login`, or set WANDB_API_KEY, then try again.")


def point_client_at(experiment_folder: Path) -> None:
    """Keep the client's staging, cache and temporary files beside the runs, unless the user chose places for them.

    What processes of this machine left there that are gone is deleted. ``WANDB_CONFIG_DIR`` is left alone: the address of a
    self-hosted service and the user's choices are read from there.
    """
    global _temporary
    own, host = experiment_folder.absolute() / ".wandb", socket.gethostname()
    _temporary = own / "tmp" / f"{host}-{os.getpid()}"
    for left in (own / "tmp").glob(f"{host}-*"):
        if not _lives(left.name.removeprefix(f"{host}-")):
            rmtree(left, ignore_errors=True)
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(HTTP_TIMEOUT_SECONDS))  # the client reads it at its import
    for name, part in (("WANDB_DATA_DIR", "data"), ("WANDB_CACHE_DIR", "cache")):
        if os.environ.get(name) == _pointed.get(name):
            os.environ[name] = _pointed[name] = str(own / part)


def _lives(pid: str) -> bool:
    """Whether a process of this machine lives; true where that cannot be told."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        return True
    return True


def destination() -> str:
    """Entity and project that the user's environment names, ``/vit-bench`` where it names none.

    Raises
    ------
    TrackingError
        If one of them holds a slash.
    """
    named = {
        "WANDB_ENTITY": os.environ.get("WANDB_ENTITY") or "",
        "WANDB_PROJECT": os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
    }
    for name, value in named.items():
        if "/" in value:
            raise TrackingError(
                f"{name}: {value!r} holds a slash. Set WANDB_ENTITY to the team, WANDB_PROJECT to the project."
            )
    return "/".join(named.values())


class Session:
    """An open session of a mirror's W&B run. It takes each evaluation once, ends the run, and notes what W&B holds.

    The evaluation at training step ``s`` is W&B's step ``s``. W&B says at the start which step it expects next; rows below
    it are passed over. Given in ascending order, rows make a gapless beginning of the run, however often sending breaks off.

    Raises
    ------
    wandb.errors.Error
        If the service does not answer in time or refuses.
    """

    def __init__(
        self,
        folder: Path,
        mirror: Mirror,
        mode: Mode,
        *,
        init_timeout: float,
        finish_timeout: float,
        system_metrics: bool = False,
    ) -> None:
        self.folder, self.mirror = folder, mirror
        with own_temporary_folder():
            self.run = open_run(folder, mirror, mode, settings=_settings(init_timeout, finish_timeout, system_metrics))
        self.run.define_metric("step")
        self.run.define_metric("samples_seen", step_metric="step")  # itself an axis: panels draw any metric against it
        self.run.define_metric("*", step_metric="step")
        self._next_step = self.run.starting_step
        if mode == "online":
            mirror.url = self.run.url

    def give(self, row: Mapping[str, Any]) -> None:
        """Hand one row to the client, unless W&B holds its step."""
        step = int(row["step"])
        if step >= self._next_step:
            self.run.log(dict(row), step=step, commit=True)  # else it is held back until the next one
            self._next_step = step + 1

    def close(self) -> None:
        """End it as the mirror says: done, failed, or interrupted (W&B shows a run that is to be resumed as preempted).

        A run that is done and online gets its tables and, where asked for, its weights. They are part of the summary and of
        a version named by content: sending them again changes nothing.

        Raises
        ------
        TimeoutError
            If the service did not take everything within the session's ``finish_timeout``.
        """
        run, mirror = self.run, self.mirror
        try:
            if mirror.ended in ("done", "failed"):
                run.summary.update(mirror.summary)
                if mirror.ended == "done" and not run.offline:
                    with own_temporary_folder():
                        content.add(run, mirror, self.folder)
            else:
                run.mark_preempting()
        finally:  # a session that is left open goes on asking the service, and holds up the end of the process
            run.finish(exit_code=0 if mirror.ended == "done" else 1)

    def confirm(self, rows: Sequence[Mapping[str, Any]], *, tries: int = 1) -> bool:
        """Ask the service whether it holds a run's last row and its ending, and note it if so.

        The end of a session is no proof: where the service keeps refusing a row, the client gives up without an error.
        """
        entity, project, _ = self.run.path.split("/")
        for attempt in range(tries):
            if attempt:  # the service may show what it took a moment later
                time.sleep(0.2 * 2**attempt)
            api = wandb_module().Api(timeout=CONFIRM_TIMEOUT_SECONDS, overrides={"entity": entity, "project": project})
            seen = api.run(self.run.path)
            ended = self.mirror.ended not in ("done", "failed") or seen.state in ("finished", "failed")
            if ended and (not rows or seen.lastHistoryStep >= int(rows[-1]["step"])):
                self.mirror.sent = self.mirror.progress(rows, destination())
                self.mirror.save(self.folder)
                clear_fragments(self.folder, keep=Path(self.run.dir).parent)
                return True
        return False


def _settings(init_timeout: float, finish_timeout: float, system_metrics: bool) -> Any:
    """The client's settings: silent, bounded in time, and with nothing of this machine."""
    return wandb_module().Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        host="",  # neither the machine's name nor paths on it leave it
        program="experiments",
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=not system_metrics,
        x_disable_viewer=True,
        x_save_requirements=False,
        x_transaction_log_flush_interval=2,
    )


def open_run(folder: Path, mirror: Mirror, mode: Mode, *, settings: Any) -> Any:
    """Begin the mirror's W&B run, online (joined where it exists) or offline."""
    for place in _pointed.values():
        Path(place).mkdir(parents=True, exist_ok=True)
    entity, project = destination().split("/")
    return wandb_module().init(
        project=project,
        entity=entity or None,
        id=mirror.id,
        name=(mirror.name or mirror.run_id)[:_NAME_LENGTH],
        group=mirror.experiment[:_NAME_LENGTH],
        job_type=mirror.job_type,
        tags=[tag[:_TAG_LENGTH] for tag in mirror.tags],
        notes=mirror.notes,
        config=mirror.config,
        dir=folder,
        mode=mode,
        resume="allow",
        reinit="create_new",
        settings=settings,
    )


def clear_fragments(folder: Path, *, keep: Path | None = None) -> None:
    """Delete the client's session folders of a run, so that no raw ``wandb sync`` can send an evaluation a second time."""
    for pattern in ("offline-run-*", "run-*"):
        for fragment in (folder / "wandb").glob(pattern):
            if keep is None or fragment.resolve() != keep.resolve():
                rmtree(fragment, ignore_errors=True)
