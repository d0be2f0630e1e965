"""The dashboard by code: saved once and then updated, over metrics that the runs have, with specifications under review."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis import workspace
from experiments.tracking import dashboard as wandb_dashboard
from experiments.tracking import viewer
from experiments.tracking.mirror import Mirror, TrackingError
from tests.analysis.conftest import make_experiment
from tests.experiments.test_wandb_content import call
from tests.standins.wandb_service import WandbService

KNOWN = frozenset(
    {f"test/{name}" for name in ("top1", "nll", "macro_f1", "ece")}
    | {f"compute/{name}" for name in ("train_pflops", "device_hours", "images_per_second", "peak_memory_bytes", "n_params")}
)


def metrics_of(specification: Any) -> dict[str, set[str]]:
    """What the panels of a specification refer to: ``history``, ``summary``, ``config``, ``tables`` and ``media``."""
    found: dict[str, set[str]] = {kind: set() for kind in ("history", "summary", "config", "tables", "media")}

    def refer(accessor: str) -> None:
        section, _, name = accessor.partition(":")
        found[section].add(name.removesuffix(".value"))

    def panel(kind: str, config: Mapping[str, Any]) -> None:
        history = kind == "Run History Line Plot"
        for metric in [*config.get("metrics", []), *([config["xAxis"]] if history else [])]:
            found["history" if history else "summary"].add(metric)
        if group := config.get("groupBy"):
            found["config"].add(group.removesuffix(".value"))
        for accessor in [config.get("xAxis"), config.get("yAxis"), *(c["accessor"] for c in config.get("columns", []))]:
            if accessor and not history:
                refer(accessor)
        found["media"] |= set(config.get("mediaKeys", []))

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "viewType" in node:
                panel(node["viewType"], node["config"])
            if node.get("name") == "tableKey":
                found["tables"].add(node["value"])
            if node.get("name") == "pick":  # a panel over a table in the summary of each run
                found["tables"].add(node["inputs"]["key"]["val"])
            for accessor in node.get("columnVisible", {}):
                if not accessor.startswith(("run:", "tags:")):
                    refer(accessor)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(specification)
    return found


# ----------------------------------------------------------------------------------------------------------- specifications
def board(**changes: Any) -> workspace.Board:
    return workspace.Board(make_experiment(args="seeds=[0,1,2]"), "team", "vit-bench", KNOWN)


def titles(panels: Sequence[Any]) -> list[str]:
    """Titles of panels; of those without one, the kind."""
    return [getattr(panel, "title", None) or type(panel).__name__ for panel in panels]


CURVES = ["Validation accuracy", "Validation accuracy by images seen", "Training loss", "Validation loss"]
BARS = ["Top-1 accuracy on the test set", "Macro-F1", "Negative log-likelihood (lower is better)",
        "Expected calibration error (lower is better)"]  # fmt: skip
COSTS = ["Device-hours of a training", "Training images per second", "Peak memory in bytes", "Parameters"]
AGAINST = "Test accuracy against"


def test_each_view_answers_its_question(env: pytest.MonkeyPatch) -> None:
    views = workspace.views(board())
    assert {question: view.name for question, view in views.items()} == {
        "accuracy": "synthetic: accuracy, 100% of the data",
        "data_efficiency": "synthetic: data efficiency",
        "compute": "synthetic: compute, 100% of the data",
    }
    shown = {name: {section.name: titles(section.panels) for section in view.sections} for name, view in views.items()}
    assert shown == {
        "accuracy": {"Accuracy": BARS, "Learning curves": CURVES, "Answers": ["CustomChart", "WeavePanelSummaryTable"]},
        "data_efficiency": {
            "Accuracy and labelled images": [
                f"{AGAINST} labelled images", "Test accuracy by labelled images, mean over models", "Model, images, accuracy"
            ],
            "Learning curves": CURVES,
        },
        "compute": {"Accuracy for compute": [f"{AGAINST} training PFLOPs", f"{AGAINST} device-hours"], "Cost": COSTS},
    }  # fmt: skip


def test_runs_of_the_group_alone_are_shown() -> None:
    of_the_grid = "Metric('Group') == 'synthetic' and Metric('JobType') == 'train'"
    assert board().filters(largest_fraction=False) == of_the_grid
    assert board().filters(largest_fraction=True) == f"{of_the_grid} and Config('train_fraction.value') == 1.0"


def test_the_report_tells_the_result_then_shows_it(service: WandbService) -> None:
    tables = {name: f"# {name}\n\n| {name} | x |\n" for name in ("accuracy", "data_efficiency", "compute")}
    made = workspace.report(board(), tables, ["A leads.", "B follows."], ["learning_curves"])
    assert (made.entity, made.project, made.title) == ("team", "vit-bench", "vit-bench: synthetic")
    kinds = [type(block).__name__ for block in made.blocks]
    headings = [block.text for block in made.blocks if type(block).__name__ == "H1"]
    assert headings == ["Result", "Accuracy", "Data efficiency", "Compute", "Figures", "Answers", "Runs", "Repeat it"]
    texts = [block.text for block in made.blocks if type(block).__name__ == "MarkdownBlock"]
    assert texts[:-1] == ["- A leads.\n- B follows.", *(f"| {name} | x |\n" for name in tables)]
    assert made.blocks[-1].text == f"```sh\n{board().experiment.command}\n```"
    assert kinds.count("PanelGrid") == 6
    grids = dict(zip(headings[1:-1], (block for block in made.blocks if type(block).__name__ == "PanelGrid"), strict=True))
    assert titles(grids["Accuracy"].panels) == [*BARS[:2], *CURVES[:2]] and titles(grids["Figures"].panels) == ["Figures"]
    assert [runs.name for runs in grids["Runs"].runsets] == ["All runs", "Report run"]


def test_a_metric_that_no_run_has_gets_no_panel() -> None:
    texts = {name: repr(view.sections) for name, view in workspace.views(board()).items()}
    assert "compute/images_per_second" in texts["compute"]
    assert "compute/energy_joules" not in texts["compute"] and "test/top5" not in texts["accuracy"]


# ------------------------------------------------------------------------------------------------------------------ saving
def test_the_dashboard_is_saved_once_over_metrics_that_exist(
    service: WandbService, env: pytest.MonkeyPatch, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (
        "dashboard",
        "smoke",
        *json.loads((grid.parent.parent / "reports/smoke/experiment.json").read_text())["args"].split(),
    )
    assert call(env, *given) == 0
    first = json.loads(json.dumps(service.views))
    assert sorted(view["displayName"] for view in first.values()) == [
        "smoke: accuracy", "smoke: compute", "smoke: data efficiency", "vit-bench: smoke"
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert all(f"{service.url}/standin/vit-bench" in line for line in printed.splitlines()[-4:])

    train = [run for run in service.runs.values() if run.settings["jobType"] == "train"]
    (report,) = [run for run in service.runs.values() if run.settings["jobType"] == "report"]
    history = {key for run in train for row in run.history for key in row}
    summary = {key for run in train for key, value in run.summary.items() if value is not None}
    config = {key for run in train for key in run.config}
    for view in first.values():
        refers = metrics_of(json.loads(view["spec"]))
        assert refers["history"] <= history and refers["summary"] <= summary and refers["config"] <= config
        assert refers["tables"] | refers["media"] <= summary | set(report.summary)
        assert refers["summary"] and refers["config"]

    assert call(env, *given) == 0
    assert {key: view["spec"] for key, view in service.views.items()} == {key: view["spec"] for key, view in first.items()}
    (grid / wandb_dashboard.STATE_FILE).unlink()  # as on a team mate's machine
    assert call(env, *given) == 0
    assert set(service.views) == set(first)


def test_a_view_that_was_deleted_in_the_browser_is_made_anew(
    service: WandbService, env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = workspace.views(workspace.Board(make_experiment(), "standin", "vit-bench", KNOWN))["accuracy"]
    saved: list[str] = []

    def save(self: Any) -> Any:
        saved.append(self._internal_id)
        if self._internal_id == "gone":
            raise ValueError("no such view")
        return self

    env.setattr(type(made), "save", save)
    env.setattr(wandb_dashboard, "_id_of_view", lambda view: "")
    wandb_dashboard._save(made, "_internal_id", "gone", wandb_dashboard._id_of_view)
    assert saved == ["gone", ""]


def test_a_service_that_is_down_is_one_message(service: WandbService, env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = workspace.Board(make_experiment(), "standin", "vit-bench", KNOWN)
    env.setattr(wandb_dashboard, "_id_of_view", lambda view: (_ for _ in ()).throw(RuntimeError("connection refused")))
    with pytest.raises(TrackingError, match="could not be saved in standin/vit-bench"):
        wandb_dashboard.save(tmp_path, workspace.views(made), workspace.report(made, {}, [], []))


# ------------------------------------------------------------------------------------------------------- without an account
def test_without_a_login_the_runs_and_the_page_are_named(
    env: pytest.MonkeyPatch, grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(env, "dashboard", "smoke") == 0
    printed = capsys.readouterr().out
    assert "no login" in printed and "report.html" in printed and "wandb leet" in printed
    (link,) = (grid / viewer.VIEWER_FOLDER).iterdir()
    assert "-10%_s0_ResNet-micro_Digits_" in link.name and next(link.glob("*.wandb")).is_file()


def test_bad_input_of_the_dashboard(env: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(env, "dashboard", "smoke") == 2
    assert "Run the experiment first: make experiment NAME=smoke" in " ".join(capsys.readouterr().err.split())


def test_runs_have_readable_names_in_the_terminal_viewer(tmp_path: Path) -> None:
    config = {"model_title": "ViT-micro/2 (ours)", "data_title": "Digits", "train_fraction": 1.0, "seed": 3}
    for number, run_id in enumerate(("a-11111111", "b-22222222")):
        session = tmp_path / run_id / "wandb" / f"offline-run-20260101_00000{number}-x"
        session.mkdir(parents=True)
        (session / "run-x.wandb").write_bytes(b"")
        Mirror(id=run_id, experiment="e", run_id=run_id, config=config).save(tmp_path / run_id)
    wanted = [
        f"run-20260101_00000{n}-100%_s3_ViT-micro-2_(ours)_Digits_{tail}" for n, tail in ((1, "22222222"), (0, "11111111"))
    ]
    for _ in range(2):
        assert viewer.link_runs(tmp_path) == wanted
    assert (tmp_path / viewer.VIEWER_FOLDER / wanted[0] / f"{wanted[0].replace('20260101_000001-', '')}.wandb").is_file()
