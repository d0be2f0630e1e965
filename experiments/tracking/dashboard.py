"""Save an experiment's views and report in Weights & Biases: made once, updated ever after, never copied.

Ids are remembered beside the run folders. Where they are not, as on a team mate's machine, the view is found by its internal
name and the report by its title.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from experiments.records.record import write_json
from experiments.records.state import read_cache
from experiments.tracking.client import destination, long_wait_said, one_line, require_login, wandb_module
from experiments.tracking.mirror import TrackingError

STATE_FILE = ".wandb/dashboard.json"
TIMEOUT_SECONDS = 15


class Saved(NamedTuple):
    """Where W&B shows what was saved: addresses of the views by question, and of the report."""

    views: dict[str, str]
    report: str


def place(experiment_folder: Path, say: Callable[[str], None] = lambda sentence: None) -> tuple[str, str]:
    """Entity and project that the runs of this environment go to. `say` is told where the wait is long.

    Raises
    ------
    TrackingError
        If nobody is logged in or W&B does not answer.
    """
    require_login(experiment_folder)
    entity, project = destination().split("/")
    if entity:
        return entity, project
    try:
        with long_wait_said(say):
            return str(wandb_module().Api(timeout=TIMEOUT_SECONDS).default_entity), project
    except Exception as error:
        raise TrackingError(f"W&B does not say who is logged in ({one_line(error)}). Set WANDB_ENTITY.") from error


def save(
    experiment_folder: Path, views: Mapping[str, Any], report: Any, say: Callable[[str], None] = lambda sentence: None
) -> Saved:
    """Save views, ``wandb_workspaces.workspaces.Workspace`` by question, and a ``wandb_workspaces.reports.v2.Report``.

    Each goes where it was saved before. `say` is told where the wait is long.

    Raises
    ------
    TrackingError
        If W&B refuses or does not answer.
    """
    where = f"{report.entity}/{report.project}"
    state = read_cache(experiment_folder / STATE_FILE, dict[str, dict[str, str]]) or {}
    ids = state.get(where, {})
    urls: dict[str, str] = {}
    try:
        with long_wait_said(say):
            for question, view in views.items():
                _save(view, "_internal_id", ids.get(question), _id_of_view)
                ids[question], urls[question] = view._internal_id, view.url
            _save(report, "id", ids.get("report"), _id_of_report)
            ids["report"] = report.id
    except Exception as error:
        raise TrackingError(f"W&B: the dashboard could not be saved in {where} ({one_line(error)}).") from error
    finally:
        write_json(experiment_folder / STATE_FILE, state | {where: ids})
    return Saved(urls, report.url)


def _save(specification: Any, field: str, known: str | None, find: Callable[[Any], str]) -> None:
    """Update what is there; where the id that is remembered was deleted in the meantime, look for it and make it anew."""
    setattr(specification, field, known or find(specification))
    try:
        specification.save()
    except Exception:
        if not known:
            raise
        setattr(specification, field, find(specification))
        specification.save()


def _id_of_view(view: Any) -> str:
    """Id of the view with this internal name; empty where there is none."""
    from wandb_workspaces.workspaces.internal import get_view_dict

    with suppress(ValueError):
        name = view._internal_name.removeprefix("nw-").removesuffix("-v")
        return str(get_view_dict(view.entity, view.project, name)["id"])
    return ""


def _id_of_report(report: Any) -> str:
    """Id of the report with this title; empty where there is none."""
    api = wandb_module().Api(timeout=TIMEOUT_SECONDS)
    found = [old for old in api.reports(f"{report.entity}/{report.project}") if old.display_name == report.title]
    return str(found[0].id) if found else ""
