"""The command line of a grid, as a user gives it, in processes that can be killed.

Importing torch takes most of a short command's time. A command that is to be killed often is therefore forked from this
process, which has imported everything and must never have trained anything: autograd does not survive a fork. A `fresh` one
is a new interpreter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from experiments.config.paths import ROOT
from tests.chaos.grids import environment

PATIENCE_SECONDS = 600.0


class Command:
    """Processes of one process group. They print to ``printed.txt``."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self.codes: dict[int, int] = {}

    def alive(self) -> bool:
        """Whether any of the processes runs."""
        for pid in self.pids:
            if pid not in self.codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self.codes) < len(self.pids)

    def wait(self) -> list[int]:
        """Wait for all of them. Returns their exit codes."""
        self.wait_until(lambda: False)
        return [self.codes[pid] for pid in self.pids]

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; false if all processes ended before it came true."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.alive():
            if condition():
                return True
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"a command did not end within {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.02)
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, workers included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pids[0], number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is done."""
        self.send(signal.SIGKILL)
        self.wait()


def start(
    place: Path, overrides: tuple[str, ...], *, jobs: int = 1, processes: int = 1, fresh: bool = False, **variables: str
) -> Command:
    """Give the command, or the same command several times at once, with its places below `place`."""
    place.mkdir(parents=True, exist_ok=True)
    arguments = ["run", "smoke", *overrides, "--jobs", str(jobs)]
    variables = environment(place, **variables)
    with open(place / "printed.txt", "a", encoding="utf-8") as printed:
        if fresh:
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments", *arguments],
                cwd=ROOT,
                env=variables,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            return Command([process.pid])
        leader = 0
        pids = []
        for _ in range(processes):
            pid = os.fork()
            if pid == 0:
                _be(arguments, variables, printed.fileno(), leader)
            with contextlib.suppress(PermissionError, ProcessLookupError):  # the child does it too: whoever is first
                os.setpgid(pid, leader or pid)
            leader = leader or pid
            pids.append(pid)
    return Command(pids)


def import_everything() -> None:
    """What a command imports on its way, once for all that are forked."""
    import analysis.report  # noqa: F401
    import experiments.training.run  # noqa: F401


def _be(arguments: list[str], variables: dict[str, str], printed: int, leader: int) -> None:
    """Become the command in a forked child. Does not return."""
    code = 70
    try:
        os.setpgid(0, leader)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.environ.clear()
        os.environ.update(variables)
        sys.argv = ["experiments", *arguments]
        from experiments.__main__ import main

        code = main()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
