"""An experiment's workspace views and report in Weights & Biases as specifications; nothing is sent from here.

Three views, one per question (accuracy, data efficiency, compute), and a report that lays tables, verdict and panels out. A
panel is made for a metric only where some run has a value for it, so that none stays empty: energy on a CPU, for example.
Names, ids and the order of everything follow from the experiment alone: the same experiment gives the same specification.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.expr as ex
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from analysis.columns import COLUMNS
from analysis.text import percent
from experiments.config.schema import Experiment
from experiments.records.record import Record

MODEL, IMAGES = "model_title", "n"
RUN_COLUMNS = (
    *("config:model_title.value", "config:n.value", "config:seed.value", "summary:test/top1", "summary:test/nll"),
    *("summary:compute/train_pflops", "summary:compute/device_hours", "summary:compute/images_per_second"),
)
"""Columns of the run tables, from the left."""
_PANELS = [column for column in COLUMNS if column.panel]
ACCURACY_BARS = {"test/top1": "Top-1 accuracy on the test set"} | {
    column.source if "/" in column.source else f"test/{column.source}": column.panel
    for column in _PANELS
    if "compute" not in column.tables
}
COST_BARS = {
    f"compute/{column.source}": column.panel
    for column in sorted(_PANELS, key=lambda column: not column.of_device)
    if "compute" in column.tables
}
COST_AXES = {"compute/train_pflops": "training PFLOPs", "compute/device_hours": "device-hours"}


@dataclass(frozen=True)
class Board:
    """What the specifications are made from: an experiment, and where its runs lie in W&B."""

    experiment: Experiment
    entity: str
    project: str
    known: frozenset[str]
    """Summary keys that have a value in some run."""

    def filters(self, *, largest_fraction: bool) -> str:
        """The runs of a panel: those that are trained for the tables, at all fractions or at the largest."""
        text = f"Metric('Group') == '{self.experiment.name}' and Metric('JobType') == 'train'"
        if largest_fraction:
            text += f" and Config('train_fraction.value') == {max(self.experiment.train_fractions)}"
        return text


def known_metrics(records: Iterable[Record]) -> frozenset[str]:
    """Summary keys with a value in at least one record: ``test/top1``, ``compute/device_hours`` …"""
    found: set[str] = set()
    for record in records:
        found |= {key for key, value in record.metrics.items() if value is not None}
        found |= {f"compute/{key}" for key, value in record.compute.model_dump().items() if value is not None}
    return frozenset(found)


# ---------------------------------------------------------------------------------------------------------------- panels
def _over_runs(by: str = MODEL, spread: str = "stddev") -> dict[str, Any]:
    """One line or bar per model, or per value of another setting: the mean over runs and their spread."""
    return {"groupby": wr.Config(by), "groupby_aggfunc": "mean", "groupby_rangefunc": spread, "max_runs_to_show": 500}


def _bars(board: Board, titles: Mapping[str, str]) -> list[Any]:
    return [
        wr.BarPlot(title=title, metrics=[metric], **_over_runs())
        for metric, title in titles.items()
        if metric in board.known
    ]


def _scatter(x: Any, x_title: str) -> Any:
    return wr.ScatterPlot(title=f"Test accuracy against {x_title}", x=x, y=wr.SummaryMetric("test/top1"), log_x=True)


def _training_curves() -> list[Any]:
    curves = (
        ("val/top1", "Validation accuracy", "step", "optimiser steps"),
        ("val/top1", "Validation accuracy by images seen", "samples_seen", "images seen"),
        ("train/loss", "Training loss", "step", "optimiser steps"),
        ("val/loss", "Validation loss", "step", "optimiser steps"),
    )
    return [wr.LinePlot(title=title, x=x, y=[y], title_x=x_title, **_over_runs()) for y, title, x, x_title in curves]


def _answers() -> list[Any]:
    confusion = wr.CustomChart(
        query={"summaryTable": {"tableKey": "confusion_matrix"}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
        chart_strings={"title": "Confusion matrix"},
    )
    return [confusion, wr.WeavePanelSummaryTable(table_name="predictions")]


def _accuracy_by_images() -> list[Any]:
    by_images = "Test accuracy by labelled images, mean over models"
    axes = ((wr.Config(MODEL), "model"), (wr.Config(IMAGES), "labelled images"), (wr.SummaryMetric("test/top1"), "top-1"))
    columns = [wr.ParallelCoordinatesPlotColumn(metric=metric, display_name=name) for metric, name in axes]
    return [
        _scatter(wr.Config(IMAGES), "labelled images"),
        wr.BarPlot(title=by_images, metrics=["test/top1"], **_over_runs(IMAGES, "minmax")),
        wr.ParallelCoordinatesPlot(title="Model, images, accuracy", columns=columns),
    ]


def _cost_scatters(board: Board) -> list[Any]:
    return [_scatter(wr.SummaryMetric(metric), title) for metric, title in COST_AXES.items() if metric in board.known]


# ----------------------------------------------------------------------------------------------------------------- views
def views(board: Board) -> dict[str, Any]:
    """The saved views of the workspace, one per question: ``accuracy``, ``data_efficiency`` and ``compute``.

    The internal name of each follows from experiment and question, so that saving it again, from whatever machine, meets the
    same view.
    """
    accuracy = {"Accuracy": _bars(board, ACCURACY_BARS), "Learning curves": _training_curves(), "Answers": _answers()}
    by_images = {"Accuracy and labelled images": _accuracy_by_images(), "Learning curves": _training_curves()}
    cost = {"Accuracy for compute": _cost_scatters(board), "Cost": _bars(board, COST_BARS)}
    many = len(board.experiment.train_fractions) > 1
    return {
        "accuracy": _view(board, "accuracy", accuracy),
        "data_efficiency": _view(board, "data efficiency", by_images, every_fraction=many),
        "compute": _view(board, "compute", cost),
    }


def _view(board: Board, question: str, sections: Mapping[str, list[Any]], *, every_fraction: bool = False) -> Any:
    groups: list[Any] = [ex.Config(MODEL), *([ex.Config(IMAGES)] if every_fraction else [])]
    fraction = percent(max(board.experiment.train_fractions))
    note = "" if every_fraction or len(board.experiment.train_fractions) == 1 else f", {fraction} of the data"
    workspace = ws.Workspace(
        entity=board.entity,
        project=board.project,
        name=f"{board.experiment.name}: {question}{note}",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items() if panels],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=board.filters(largest_fraction=not every_fraction),
            groupby=groups,
            order=[ex.Ordering(ex.Summary("test/top1"), ascending=False)],
            pinned_columns=list(RUN_COLUMNS),
        ),
    )
    workspace._internal_name = f"nw-{_stable(board.experiment.name, question)}-v"
    workspace._internal_runset_id = _stable(board.experiment.name, question, "runs")
    for section, panels in sections.items():
        _name_panels(panels, board.experiment.name, question, section)
    return workspace


def _stable(*parts: str) -> str:
    """An id of 11 characters that follows from what it stands for, in the alphabet that W&B uses."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:11]


def _name_panels(panels: Sequence[Any], *place: str) -> None:
    for number, panel in enumerate(panels):
        panel._id = _stable(*place, str(number))


# ---------------------------------------------------------------------------------------------------------------- report
def report(board: Board, tables: Mapping[str, str], verdict: Sequence[str], figures: Sequence[str]) -> Any:
    """The report: verdict, each table with its panels, figures, runs, and the command that repeats it all.

    `tables` are the Markdown of ``accuracy``, ``data_efficiency`` and ``compute``, `figures` the names of those that the
    report run shows.
    """
    everything = _runs_of(board, "All runs", largest_fraction=False)
    of_report = _report_run(board)
    full = _runs_of(board, f"{percent(max(board.experiment.train_fractions))} of the data", largest_fraction=True)
    sections = {
        "accuracy": ("Accuracy", [*_bars(board, ACCURACY_BARS)[:2], *_training_curves()[:2]], [full]),
        "data_efficiency": ("Data efficiency", [_curves_of_report(), *_accuracy_by_images()[:1]], [everything, of_report]),
        "compute": ("Compute", [*_cost_scatters(board), *_bars(board, COST_BARS)[:4]], [full]),
    }
    blocks: list[Any] = [
        wr.TableOfContents(),
        wr.H1(text="Result"),
        wr.MarkdownBlock(text="\n".join(f"- {sentence}" for sentence in verdict)),
    ]
    for name, (title, panels, runsets) in sections.items():
        blocks.append(wr.H1(text=title))
        if name in tables:
            blocks.append(wr.MarkdownBlock(text=re.sub(r"\A# .*\n+", "", tables[name])))
        blocks.append(_grid(board, title, panels, runsets))
    if figures:
        shown = wr.MediaBrowser(title="Figures", media_keys=[f"figures/{name}" for name in figures], num_columns=2)
        blocks += [wr.H1(text="Figures"), _grid(board, "Figures", [shown], [of_report], wide=True)]
    blocks += [wr.H1(text="Answers"), _grid(board, "Answers", _answers(), [full])]
    blocks += [wr.H1(text="Runs"), _grid(board, "Runs", [], [everything, of_report])]
    blocks += [wr.H1(text="Repeat it"), wr.MarkdownBlock(text=f"```sh\n{board.experiment.command}\n```")]
    return wr.Report(
        entity=board.entity,
        project=board.project,
        title=report_title(board.experiment),
        description=board.experiment.question,
        blocks=blocks,
        width="fluid",
    )


def report_title(experiment: Experiment) -> str:
    """Title of an experiment's report."""
    return f"vit-bench: {experiment.name}"[:128]


def _runs_of(board: Board, name: str, *, largest_fraction: bool) -> Any:
    runs = wr.Runset(
        entity=board.entity,
        project=board.project,
        name=name,
        filters=board.filters(largest_fraction=largest_fraction),
        order=[wr.OrderBy("test/top1", ascending=False)],
        pinned_columns=["run:displayName"],
        visible_columns=list(RUN_COLUMNS),
    )
    runs._id = _stable(board.experiment.name, "runs", name)
    return runs


def _report_run(board: Board) -> Any:
    """The one run that holds tables and figures of the whole grid."""
    filters = f"Metric('Group') == '{board.experiment.name}' and Metric('JobType') == 'report'"
    runs = wr.Runset(entity=board.entity, project=board.project, name="Report run", filters=filters)
    runs._id = _stable(board.experiment.name, "report run")
    return runs


def _curves_of_report() -> Any:
    """A line per model out of the accuracy table of the report run."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": "tables/accuracy"}},
        chart_name="wandb/lineseries/v0",
        chart_fields={"step": "n", "lineVal": "mean", "lineKey": "model_title"},
        chart_strings={"title": "Mean test accuracy against labelled images", "xname": "labelled images"},
    )


def _grid(board: Board, title: str, panels: Sequence[Any], runsets: Sequence[Any], *, wide: bool = False) -> Any:
    """Panels in two columns of a report's 24 units."""
    width, height = (24, 14) if wide else (12, 8)
    columns = 24 // width
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=number % columns * width, y=number // columns * height, w=width, h=height)
    _name_panels(panels, board.experiment.name, "report", title)
    return wr.PanelGrid(runsets=list(runsets), panels=list(panels))
