"""Weights & Biases as a mirror of the run folder.

The run folder is the truth: ``metrics.jsonl`` and ``record.json`` are written whether or not W&B answers, and nothing here
may stop, slow or change a training. See `experiments.tracking.mirror` for what is kept, `experiments.tracking.sync` for
sending later.

Every evaluation reaches W&B exactly once and in order by one rule, used at a start, a resume and a later sync alike: the
evaluation at training step ``s`` is W&B's step ``s``; W&B says at the start of a session which step it expects next; rows
below it are passed over and all others are emitted from our own rows. Offline fragments are therefore never uploaded. They
are there for the terminal viewer, and a resume writes them anew.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.tracking import client
from experiments.tracking.client import Mode, choose_mode, one_line
from experiments.tracking.mirror import (
    Ending,
    Mirror,
    TrackingError,
    flat,
    load_mirror,
    ordered,
    summary_of,
    wandb_id,
    weights_asked,
)

__all__ = ["Mode", "Tracker", "TrackingError", "choose_mode"]

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

    Parameters
    ----------
    folder : Path
        The run folder; ``wandb/`` is made in it.
    experiment, run_id : str
        Group and name of the W&B run.
    config : mapping
        What the run was asked for. Nested mappings are flattened, ``recipe/steps``.
    name : str, optional
        The run's name for people; the run id by default.
    job_type : str, default "train"
    tags : sequence of str, optional
    notes : str, optional
        Such as the command that repeats the run.
    history : sequence of mapping, optional
        The rows of ``metrics.jsonl`` that earlier attempts wrote and that the run goes on from.
    system_metrics : bool, default False
        Let the client sample the machine; worth its cost on a GPU.

    Attributes
    ----------
    mode : {"online", "offline", "disabled"}
    url : str or None
        Where the service shows the run, as the client names it.
    message : str or None
        One sentence for the user. Equal for all runs that share its cause: show it once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        experiment: str,
        run_id: str,
        config: Mapping[str, Any],
        name: str = "",
        job_type: str = "train",
        tags: Sequence[str] = (),
        notes: str = "",
        history: Sequence[Mapping[str, float | None]] = (),
        system_metrics: bool = False,
    ) -> None:
        self.mode: Mode = "disabled"
        self.url: str | None = None
        self.message: str | None = None
        self._folder = folder
        self._rows = {int(row["step"] or 0): dict(row) for row in history}
        self._next_step = 0
        self._run: Any = None
        self._broken = False  # after a row that could not be emitted no other is, so that W&B holds a gapless beginning
        self._later = f"runs are logged offline, `make sync NAME={experiment}` sends them later"
        self._rest = f"`make sync NAME={experiment}` sends the rest"
        try:
            client.point_client_at(folder.parent)
            self.mode, reason = choose_mode()
            if self.mode == "disabled":
                return
            if self.mode == "offline" and os.environ.get("WANDB_MODE") not in ("offline", "dryrun"):
                self.message = f"W&B: {reason}; {self._later}."
            self._mirror = self._prepare(
                experiment, run_id, config, name=name, job_type=job_type, tags=list(tags), notes=notes
            )
            self._start(system_metrics)
            for row in ordered(self._rows.values()):
                self._emit(row)
        except Exception as error:
            self._give_up(error)

    def _prepare(self, experiment: str, run_id: str, config: Mapping[str, Any], **about: Any) -> Mirror:
        """The mirror of earlier attempts with what is asked for now, or a new one."""
        try:
            before = load_mirror(self._folder)
        except TrackingError as error:
            before = None
            self.message = f"W&B: {error}; it was made again."
        mirror = Mirror(
            id=before.id if before else wandb_id(self._folder, run_id),
            experiment=experiment,
            run_id=run_id,
            config=json.loads(json.dumps(flat(config), default=str)),
            sent=before.sent if before else None,
            url=before.url if before else None,
            **about,
        )
        mirror.save(self._folder)
        return mirror

    def _start(self, system_metrics: bool) -> None:
        """Open the session: online where that is possible, else offline."""

        def opened(mode: Mode) -> Any:
            return client.open_run(
                self._folder,
                self._mirror,
                mode,
                init_timeout=INIT_TIMEOUT_SECONDS,
                finish_timeout=WEIGHTS_TIMEOUT_SECONDS if weights_asked() else FINISH_TIMEOUT_SECONDS,
                system_metrics=system_metrics,
            )

        if self.mode == "online":
            reason = _outage.current()
            if reason is None:
                try:
                    self._run = opened("online")
                    self._next_step = self._run.starting_step
                    self.url = self._mirror.url = self._run.url
                    self._mirror.save(self._folder)
                    return
                except Exception as error:
                    reason = client.why(error)
                    _outage.begin(reason)
                    client.wandb_module().teardown()  # the client still holds the id of the attempt that failed
            self.mode = "offline"
            self.message = f"W&B: {reason}; {self._later}."
        client.clear_fragments(self._folder)
        self._run = opened("offline")

    def log(self, row: Mapping[str, float | None]) -> None:
        """Mirror one evaluation.

        Parameters
        ----------
        row : mapping of str to float or None
            A row of ``metrics.jsonl``: ``step``, ``samples_seen``, ``train/loss``, ``val/top1`` … A step that W&B holds
            already is passed over.
        """
        if self._run is None:
            return
        try:
            self._rows[int(row["step"] or 0)] = dict(row)
            if not self._broken:
                self._emit({key: value for key, value in row.items() if value is not None})
        except Exception as error:
            self._broken = True
            self.message = f"W&B: a row could not be logged ({one_line(error)}); {self._rest}."

    def _emit(self, row: Mapping[str, Any]) -> None:
        """Hand one row to the client, unless W&B holds its step."""
        step = int(row["step"])
        if step >= self._next_step:
            self._run.log(dict(row), step=step)
            self._next_step = step + 1

    def finish(self, summary: Mapping[str, Any], *, failed: bool = False) -> None:
        """End the run for good. Returns after `FINISH_TIMEOUT_SECONDS` at the latest.

        Parameters
        ----------
        summary : mapping
            The run's record, see `summary_of`.
        failed : bool, default False
            Mark the run as failed.
        """
        self._close("failed" if failed else "done", summary)

    def interrupt(self) -> None:
        """End this attempt of a run that will be resumed."""
        self._close("interrupted", {})

    def _close(self, ended: Ending, summary: Mapping[str, Any]) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        try:
            self._mirror.ended = ended
            self._mirror.summary = json.loads(json.dumps(summary_of(summary), default=str))
            self._mirror.save(self._folder)  # first, so that a sync can tell the ending should the service not take it
            path, session = run.path, Path(run.dir).parent
            client.close_run(run, self._mirror, self._folder)
            if self.mode == "online" and ended != "interrupted":
                self._confirm(path, session)
        except TimeoutError:
            _outage.begin("the service stopped answering")
            self.message = f"W&B: the service stopped answering; {self._rest}."
        except Exception as error:
            self.message = f"W&B: not everything could be sent ({one_line(error)}); {self._rest}."

    def _confirm(self, path: str, session: Path) -> None:
        """Note what W&B holds now, so that a sync need not look at this run."""
        rows = ordered(self._rows.values())
        if not client.confirmed(path, self._mirror, rows):
            raise RuntimeError("the service does not show all rows")
        self._mirror.sent = self._mirror.progress(rows, client.destination())
        self._mirror.save(self._folder)
        client.clear_fragments(self._folder, keep=session)

    def _give_up(self, error: Exception) -> None:
        """Go on without a mirror."""
        self.mode = "disabled"
        self.message = f"W&B: cannot be used here ({one_line(error)}); the runs are complete without it."
        self._run = None
