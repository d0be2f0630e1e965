"""Weights & Biases as a mirror of the run folder.

The run folder is the truth: ``metrics.jsonl`` and ``record.json`` are written whether or not W&B answers, and nothing here
may stop, slow or change a training. `experiments.tracking.client.Session` gives W&B every evaluation exactly once, at a
start, a resume and a later sync alike. Offline fragments are never uploaded; they are there for the terminal viewer.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.identity import flattened
from experiments.tracking import client
from experiments.tracking.client import Mode, Session, choose_mode, one_line
from experiments.tracking.mirror import (
    About,
    Ending,
    Mirror,
    TrackingError,
    load_mirror,
    ordered,
    renewed,
    summary_of,
    weights_asked,
)

__all__ = ["About", "Mode", "Tracker", "TrackingError", "choose_mode"]

INIT_TIMEOUT_SECONDS = 7.0
FINISH_TIMEOUT_SECONDS = 7.0
"""Short, since a batch system waits about 10 s between a signal and a kill; what was not sent then is sent by a sync."""
WEIGHTS_TIMEOUT_SECONDS = 120.0
"""Where weights are asked for, their upload may take longer."""
RETRY_AFTER_SECONDS = 600.0
"""After W&B failed to answer, runs of this process start offline for so long: a grid waits once and not in every cell."""


@dataclass
class _Outage:
    """What this process knows about a service that does not answer."""

    until: float = 0.0
    reason: str = ""

    def begin(self, reason: str, seconds: float = RETRY_AFTER_SECONDS) -> None:
        self.until, self.reason = time.monotonic() + seconds, reason

    def current(self) -> str | None:
        return self.reason if time.monotonic() < self.until else None


_outage = _Outage()


class Tracker:
    """One run's mirror in Weights & Biases. Never asks, never blocks for long, never raises into training.

    ``wandb/`` is made in the run folder. `history` are the rows of ``metrics.jsonl`` that earlier attempts wrote and that
    the run goes on from. With `system_metrics` the client samples the machine, which is worth its cost on a GPU.

    Attributes
    ----------
    mode : {"online", "offline", "disabled"}
    url : str or None
        Where the service shows the run, as the client names it.
    message : str or None
        One sentence for the user. Equal for all runs that share its cause: show it once.
    """

    def __init__(
        self, folder: Path, about: About, *, history: Sequence[Mapping[str, float | None]] = (), system_metrics: bool = False
    ) -> None:
        self.mode: Mode = "disabled"
        self.url: str | None = None
        self.message: str | None = None
        self._folder = folder
        self._rows = [dict(row) for row in history]
        self._session: Session | None = None
        self._broken = False  # after a row that could not be given no other is, so that W&B holds a gapless beginning
        self._later = f"runs are logged offline, `make sync NAME={about.experiment}` sends them later"
        self._rest = f"`make sync NAME={about.experiment}` sends the rest"
        try:
            client.point_client_at(folder.parent)
            self.mode, reason = choose_mode()
            if self.mode == "disabled":
                return
            if self.mode == "offline" and os.environ.get("WANDB_MODE") not in ("offline", "dryrun"):
                self.message = f"W&B: {reason}; {self._later}."
            self._mirror = self._prepare(about)
            self._session = self._opened(system_metrics)
            for row in ordered(self._rows):
                self._session.give(row)
        except Exception as error:  # go on without a mirror
            self.mode, self._session = "disabled", None
            self.message = f"W&B: cannot be used here ({one_line(error)}); the runs are complete without it."

    def _prepare(self, about: About) -> Mirror:
        """The mirror of earlier attempts with what is asked for now, or a new one."""
        try:
            before = load_mirror(self._folder)
        except TrackingError as error:
            before = None
            self.message = f"W&B: {error}; it was made again."
        config = flattened(about.config, "/")
        mirror = renewed(self._folder, about, before, config=json.loads(json.dumps(config, default=str)))
        mirror.save(self._folder)
        return mirror

    def _opened(self, system_metrics: bool) -> Session:
        """A session: online where that is possible, else offline."""

        def opened() -> Session:
            finish = WEIGHTS_TIMEOUT_SECONDS if weights_asked() else FINISH_TIMEOUT_SECONDS
            limits = {"init_timeout": INIT_TIMEOUT_SECONDS, "finish_timeout": finish}
            return Session(self._folder, self._mirror, self.mode, **limits, system_metrics=system_metrics)

        if self.mode == "online":
            reason = _outage.current()
            if reason is None:
                try:
                    session = opened()
                    self.url = self._mirror.url
                    self._mirror.save(self._folder)
                    return session
                except Exception as error:
                    reason = client.why(error)
                    _outage.begin(reason)
                    client.wandb_module().teardown()  # the client still holds the id of the attempt that failed
            self.mode = "offline"
            self.message = f"W&B: {reason}; {self._later}."
        client.clear_fragments(self._folder)
        return opened()

    def log(self, row: Mapping[str, float | None]) -> None:
        """Mirror one evaluation, a row of ``metrics.jsonl``; a step that W&B holds already is passed over."""
        if self._session is None:
            return
        try:
            self._rows.append(dict(row))
            if not self._broken:
                self._session.give(*ordered([row]))
        except Exception as error:
            self._broken = True
            self.message = f"W&B: a row could not be logged ({one_line(error)}); {self._rest}."

    def finish(self, summary: Mapping[str, Any], *, failed: bool = False) -> None:
        """End the run for good, with its record as `summary`. The wait is bounded by `FINISH_TIMEOUT_SECONDS`."""
        self._close("failed" if failed else "done", summary)

    def interrupt(self) -> None:
        """End this attempt of a run that will be resumed."""
        self._close("interrupted", {})

    def _close(self, ended: Ending, summary: Mapping[str, Any]) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            self._mirror.ended = ended
            self._mirror.summary = json.loads(json.dumps(summary_of(summary), default=str))
            self._mirror.save(self._folder)  # first, so that a sync can tell the ending should the service not take it
            session.close()
            if self.mode == "online" and ended != "interrupted" and not session.confirm(ordered(self._rows)):
                raise RuntimeError("the service does not show all rows")
        except TimeoutError:
            _outage.begin("the service stopped answering")
            self.message = f"W&B: the service stopped answering; {self._rest}."
        except Exception as error:
            self.message = f"W&B: not everything could be sent ({one_line(error)}); {self._rest}."
