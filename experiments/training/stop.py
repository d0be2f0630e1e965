"""When this process should end its run: a signal, the command that feeds it, or that command's death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, a terminal that closes, and what batch systems send before a time limit."""

PARENT_POLL_SECONDS = 0.5
"""How often a process looks whether the one that feeds it lives."""

ORPHAN_SECONDS = 60.0
"""How long a process that was left behind may take for its checkpoint."""

at_work = threading.RLock()
"""Held while this process must not simply end."""

_asked = threading.Event()
_shared: Callable[[], bool] = _asked.is_set
_watcher: threading.Thread | None = None


def requested() -> bool:
    """Whether this process should end its run: asked to, told by the command that feeds it, or left behind by it."""
    return _asked.is_set() or _shared()


@contextmanager
def signals_caught(on_signal: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let the stop signals ask for an orderly end: the run in progress writes a checkpoint."""

    def ask(number: int, frame: Any) -> None:
        _asked.set()
        on_signal()

    before = {number: signal.signal(number, ask) for number in _caught()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def after(seconds: float) -> None:
    """Ask for an orderly end of this command when so much time has passed, as Ctrl-C does.

    By an alarm, as a shell's background job ignores Ctrl-C.
    """

    def ask(number: int, frame: Any) -> None:
        _asked.set()
        on_interrupt = signal.getsignal(signal.SIGINT)
        (on_interrupt if callable(on_interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _caught() -> list[signal.Signals]:
    """The stop signals, without a hang-up that was ignored at the start, as under nohup."""
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]


def obey(shared: Callable[[], bool]) -> None:
    """Make this process a worker: it stops when `shared` turns true, and ends with the process that feeds it."""
    global _shared
    _shared = shared
    for number in _caught():
        signal.signal(number, lambda *_: _asked.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; the parent decides
    end_with_parent()


def end_with_parent() -> None:
    """Let this process end soon after the one that feeds it, however that died; a cell writes its checkpoint first.

    For workers and the processes of ``torchrun``: the command itself outlives the shell that started it.
    """
    global _watcher
    if _watcher is None:
        parent = multiprocessing.parent_process()  # known even where it died before this line
        feeds = os.getppid() if parent is None or parent.pid is None else parent.pid
        _watcher = threading.Thread(target=_watch, args=(feeds,), name="end-with-parent", daemon=True)
        _watcher.start()


def _watch(parent: int) -> None:
    """In a thread, as an idle process blocks in a queue: wait until the parent is gone, then for the cell in progress."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    _asked.set()
    at_work.acquire(timeout=ORPHAN_SECONDS)
    os._exit(1)
