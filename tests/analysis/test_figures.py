"""Figures: the numbers in them are those of the frames, files are reproducible, and what is unknown is not drawn."""

import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import figures
from analysis.figures import budgets, cost, errors, files, style
from analysis.load import Results, load
from analysis.summary import Summary, summarise
from experiments.config.schema import DataConfig, Experiment
from tests.analysis.conftest import (
    DATA_MULTIPLIER,
    MODELS,
    N_FULL,
    N_TEST,
    SyntheticRuns,
    make_experiment,
    write_experiment,
    write_run,
)


@dataclass
class Drawn:
    """Everything that went into a drawing and came out of it."""

    results: Results
    summary: Summary
    experiment: Experiment
    figures: dict[str, figures.Figure]

    def rows(self, name: str, *fields: str) -> list[dict[str, Any]]:
        """The one data set of a figure whose rows have these fields."""
        found = [rows for rows in self.figures[name].spec["datasets"].values() if rows and set(fields) <= set(rows[0])]
        assert len(found) == 1
        return found[0]

    def cell(self, model: str, fraction: float = 1.0) -> pd.Series:
        cells = self.summary.cells
        return cells[(cells["model"] == model) & (cells["train_fraction"] == fraction)].iloc[0]


def drawn(runs: SyntheticRuns) -> Drawn:
    results = load(runs.ledger, runs.folder, runs.experiment)
    summary = summarise(results, runs.experiment)
    found = figures.draw(results, summary, runs.experiment)
    return Drawn(results, summary, runs.experiment, {figure.name: figure for figure in found})


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """4 models × 3 fractions × 3 seeds of one data set."""
    root = tmp_path_factory.mktemp("figures")
    return drawn(write_experiment(root / "synthetic", make_experiment()))


def numbers(value: Any) -> list[float]:
    """Every number in a specification."""
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [value] if isinstance(value, float) else []


DRAWN = [name for name in figures.TITLES if name != "recipes"]
"""Random recipes are of track R alone; `test_random_recipes` draws them."""


# ---------------------------------------------------------------------------------------------------------------- files
def test_all_figures_are_drawn_in_order_in_every_format(full: Drawn) -> None:
    assert list(full.figures) == DRAWN
    for figure in full.figures.values():
        assert list(figure.files) == [".svg", ".pdf", ".png", "_wide.pdf"]
        svg = figure.files[".svg"].decode()
        width, height = (float(re.search(rf'<svg[^>]* {side}="([\d.]+)"', svg)[1]) for side in ("width", "height"))
        with Image.open(io.BytesIO(figure.files[".png"])) as image:
            assert image.size == (round(2 * width), round(2 * height))
        assert width <= 345, "wider than one column can show legibly"
        assert figure.files[".pdf"].startswith(b"%PDF-")


def test_second_drawing_gives_the_same_bytes(full: Drawn) -> None:
    again = figures.draw(full.results, full.summary, full.experiment)
    assert [json.dumps(figure.spec) for figure in again] == [json.dumps(figure.spec) for figure in full.figures.values()]
    for figure in again:
        assert figure.files == full.figures[figure.name].files, figure.name


@pytest.mark.parametrize("name", DRAWN)
def test_specifications_keep_to_the_schema_of_vega_lite(full: Drawn, name: str) -> None:
    alt.Root.validate(full.figures[name].spec)


def test_files_lose_what_depends_on_the_process() -> None:
    assert files.same_gradients('id="gradient_7" fill="url(#gradient_7)" id="gradient_3"') == (
        'id="gradient_0" fill="url(#gradient_0)" id="gradient_1"'
    )
    pdf = b"<<\n  /XObject <<\n    /xo2 9 0 R\n    /xo0 8 0 R\n  >>\n  /Contents 6 0 R\n>>\n"
    assert files.same_order(pdf) == b"<<\n  /XObject <<\n    /xo0 8 0 R\n    /xo2 9 0 R\n  >>\n  /Contents 6 0 R\n>>\n"


def test_drawing_changes_no_frame(full: Drawn) -> None:
    before = full.summary.cells.copy(deep=True)
    figures.draw(full.results, full.summary, full.experiment)
    pd.testing.assert_frame_equal(full.summary.cells, before)


def test_specifications_hold_their_data_and_no_nan(full: Drawn) -> None:
    for figure in full.figures.values():
        text = json.dumps(figure.spec, allow_nan=False)
        assert '"url"' not in text
        assert np.isfinite(numbers(figure.spec["datasets"])).all()
        assert figure.spec["description"] == figure.title


# ------------------------------------------------------------------------------------------------------ learning curves
def test_learning_curves_show_means_seeds_and_intervals(full: Drawn) -> None:
    means = full.rows("learning_curves", "runs")
    assert len(means) == 12
    for row in means:
        model = next(name for name, config in MODELS.items() if config.title == row["model"])
        cell = full.cell(model, row["n"] / N_FULL)
        assert row["mean"] == pytest.approx(100 * cell["mean"])
        assert row["runs"] == ", ".join(cell["run_ids"])
    dots = full.rows("learning_curves", "seed")
    assert sorted(row["run"] for row in dots) == sorted(full.results.runs["run_id"])
    line = [row for row in full.rows("learning_curves", "dash", "low") if row["model"] == "ViT (ours)"]
    at_end = max(line, key=lambda row: row["n"])
    cell = full.cell("vit")
    assert (at_end["low"], at_end["high"]) == pytest.approx((100 * cell["low"], 100 * cell["high"]), rel=1e-6)


def test_lines_are_straight_in_log_error() -> None:
    # Errors 0.4 at 100 and 0.1 at 10,000 images: at 1,000, half way in log n, the error is √(0.4·0.1) = 0.2.
    cells = pd.DataFrame({"n": [100, 10_000], "n_test": 1000, "mean": [0.6, 0.9], "low": [np.nan] * 2, "high": [np.nan] * 2})
    look = style.Style("ViT", "#000000", "circle", [1, 0], 1.0)
    line = figures.curves.curve_points(cells, look, steps=3)
    assert [row["n"] for row in line] == pytest.approx([100, 1000, 10_000])
    assert [row["mean"] for row in line] == pytest.approx([60, 80, 90])
    assert all(np.isnan(row["low"]) for row in line)


def test_arrow_runs_from_the_vits_last_point_to_the_references_curve(full: Drawn) -> None:
    [arrow] = full.rows("learning_curves", "multiplier")
    row = full.summary.efficiency.set_index("model").loc["vit"]
    assert arrow["start"] == N_FULL
    assert arrow["end"] == pytest.approx(N_FULL / row["multiplier"])
    assert arrow["level"] == pytest.approx(100 * full.cell("vit")["mean"], abs=0.5)
    # The truth that the records were made with: the ResNet needs a quarter of the images.
    assert N_FULL / arrow["end"] == pytest.approx(DATA_MULTIPLIER, rel=0.15)
    line = [point for point in full.rows("learning_curves", "dash", "low") if point["model"] == MODELS["resnet"].title]
    crossed = np.interp(np.log(arrow["end"]), np.log([point["n"] for point in line]), [point["mean"] for point in line])
    assert crossed == pytest.approx(arrow["level"], abs=0.1)
    assert (
        f"ViT (ours) needs {arrow['text']} the images that ResNet_18 & co needs" in full.figures["learning_curves"].caption
    )


def test_no_arrow_where_the_multiplier_is_no_number(full: Drawn) -> None:
    efficiency = full.summary.efficiency.assign(multiplier=np.nan, multiplier_text="> 10×")
    found = figures.draw(full.results, replace(full.summary, efficiency=efficiency), full.experiment)
    assert "Arrow" not in found[0].caption
    assert not any("multiplier" in rows[0] for rows in found[0].spec["datasets"].values())


# ----------------------------------------------------------------------------------------------------------------- cost
def _at_full_data(full: Drawn, costs: dict[str, float]) -> pd.DataFrame:
    cells = style.full_data(full.summary.cells)
    cells = cells[cells["model"].isin(list(costs))]
    return cells.assign(price=cells["model"].map(costs))


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({"vit": 2.0, "resnet": 1.0}, {"vit"}),  # dearer and 10 points worse
        ({"vit": 1.0, "resnet": 1.0}, {"vit"}),  # no cheaper
        ({"vit": 0.5, "resnet": 1.0}, set()),  # cheaper: on the front
        ({"vit": 2.0, "vit_timm": 1.0}, set()),  # equal truth: the interval holds 0
    ],
)
def test_dominated_needs_cost_and_a_mark(full: Drawn, costs: dict[str, float], expected: set[str]) -> None:
    assert cost.dominated(full.summary.pairs, _at_full_data(full, costs), "price") == expected


def test_step_climbs_over_the_best_so_far() -> None:
    cells = pd.DataFrame({"price": [4.0, 1.0, 2.0, 3.0], "mean": [0.9, 0.6, 0.5, 0.8]})
    corners = cost.pareto_step(cells, "price", 10.0)
    assert [corner["cost"] for corner in corners] == [1, 3, 4, 10]
    assert [corner["mean"] for corner in corners] == pytest.approx([60, 80, 90, 90])


def test_equal_costs_stand_side_by_side() -> None:
    costs, means = pd.Series([2.0, 8.0, 2.0], index=[5, 6, 7]), pd.Series([0.1, 0.1, 0.9], index=[5, 6, 7])
    assert style.side_by_side(costs, means, gap=4.0) == pytest.approx([1.0, 8.0, 4.0])
    assert style.side_by_side(costs, means, gap=4.0, near=0.5) == costs.tolist()


def test_unknown_cost_is_left_out(full: Drawn) -> None:
    cells = full.summary.cells.assign(device_hours=np.nan)
    cells.loc[cells["model"] == "convnext", "train_pflops"] = np.nan
    found = figures.draw(full.results, replace(full.summary, cells=cells), full.experiment)
    assert "accuracy_vs_device_hours" not in [figure.name for figure in found]
    assert found[1].name == "accuracy_vs_pflops"
    assert found[1].caption.endswith("Left out, cost unknown: ConvNeXt.")


# ------------------------------------------------------------------------------------------------------ other figures
def test_forest_has_every_difference_to_the_reference(full: Drawn) -> None:
    rows = full.rows("forest", "delta", "state")
    assert len(rows) == 9
    assert MODELS["resnet"].title not in {row["model"] for row in rows}
    cell = full.cell("vit")
    row = next(row for row in rows if row["model"] == "ViT (ours)" and row["n"] == N_FULL)
    assert (row["delta"], row["low"], row["high"]) == pytest.approx(
        (100 * cell["delta"], 100 * cell["delta_low"], 100 * cell["delta_high"]), rel=1e-6
    )
    assert row["state"] == cell["state"] == "different"
    assert row["text"].startswith("−")


def _budgets(*fractions: float, data: str = "digits", models: tuple[str, ...] = ("vit", "vit_timm")) -> pd.DataFrame:
    """Every pair of budgets; Δ is twice the gap in fractions, minus .1, with an interval of ±.05."""
    pairs = [(m, own, other) for m in models for own in fractions for other in fractions]
    frame = pd.DataFrame(pairs, columns=["model", "fraction", "reference_fraction"])
    delta = (frame["fraction"] - frame["reference_fraction"]) / 5 - 0.1
    return frame.assign(
        data=data, data_title=data.title(), setting="", model_title=frame["model"].str.upper(), reference="resnet",
        reference_title="ResNet", n=1000 * frame["fraction"], reference_n=1000 * frame["reference_fraction"], delta=delta,
        low=delta - 0.05, high=delta + 0.05, p=0.5,
    )  # fmt: skip


def _draw_budgets(frame: pd.DataFrame) -> tuple[dict[str, Any], str] | None:
    looks = style.styles(_models(("vit", "ViT", "ViT", "scratch"), ("vit_timm", "ViT (timm)", "ViT", "timm")))
    summary = SimpleNamespace(budgets=frame, cells=pd.DataFrame({"n_seeds": [3], "n_expected": [3]}))
    if (made := budgets.budgets(summary, looks)) is None:
        return None
    spec = style.specification(made[0], "Budgets")
    alt.Root.validate(spec)
    return spec, made[1]


def test_budgets_have_a_square_per_pair_and_a_border_where_the_interval_excludes_0() -> None:
    spec, caption = _draw_budgets(_budgets(0.1, 0.5, 1.0))
    assert [chart["title"] for chart in spec["concat"]] == ["ViT", "ViT (timm)"]
    tables = [pd.DataFrame(rows).pivot(index="n", columns="reference_n") for rows in spec["datasets"].values()]
    assert len(tables) == 2
    for table in tables:
        assert table["text"].loc[1000].tolist() == ["+8.0", "+0.0", "−10.0"]
        assert table["delta"].loc[100].tolist() == pytest.approx([-10, -18, -28])
        assert table["clear"].loc[1000].tolist() == [True, False, True]
        assert table["interval"].at[1000, 100] == "[+3.00, +13.00]"
    color = spec["concat"][0]["layer"][0]["encoding"]["color"]["scale"]
    assert color["domain"] == pytest.approx([-28, 0, 28]) and color["range"] == list(style.DIVERGING)
    assert caption.startswith("Each square compares a model trained on one number of images (its row) with ResNet trained")
    assert "unadjusted 95% interval" in caption and caption.endswith("3 seeds per point.")


@pytest.mark.parametrize(("count", "columns"), [(2, 2), (5, 2), (6, 1), (10, 1)])
def test_budgets_fit_a_column_of_print(count: int, columns: int) -> None:
    frame = _budgets(*np.linspace(0.1, 1, count))
    spec, _ = _draw_budgets(frame.assign(n=60 * frame["n"], reference_n=60 * frame["reference_n"]))
    assert spec["columns"] == columns
    svg = files.contents(spec)[".svg"].decode()
    assert float(re.search(r'<svg[^>]* width="([\d.]+)"', svg)[1]) <= 345
    assert files.contents(spec) == files.contents(json.loads(json.dumps(spec)))


def test_budgets_are_panels_by_data_and_lack_what_is_unknown() -> None:
    frame = pd.concat([_budgets(0.1, 1.0), _budgets(0.1, 1.0, data="fashion", models=("vit",))], ignore_index=True)
    frame.loc[0, ["delta", "low", "high"]] = np.nan
    frame.loc[1, ["low", "high"]] = np.nan
    spec, _ = _draw_budgets(frame)
    assert [panel["title"] for panel in spec["vconcat"]] == ["Digits", "Fashion"]
    first, *others = spec["datasets"].values()
    assert [len(first), *map(len, others)] == [3, 4, 4]
    assert first[0]["interval"] == "–" and not first[0]["clear"]


def test_one_budget_or_none_is_no_figure() -> None:
    assert _draw_budgets(_budgets(1.0)) is None
    assert _draw_budgets(_budgets(0.1, 1.0).iloc[:0]) is None


def test_training_curves_are_means_over_seeds(full: Drawn) -> None:
    # The fixture logs val/top1 = k/5 at the k-th of four evaluations, for every run.
    rows = [row for row in full.rows("training_curves", "step") if row["model"] == "ConvNeXt"]
    assert [(row["step"], row["mean"], row["low"], row["high"]) for row in rows] == [
        (25, 20, 20, 20), (50, 40, 40, 40), (75, 60, 60, 60), (100, 80, 80, 80),
    ]  # fmt: skip


def test_reliability_is_pooled_over_predictions_of_all_runs() -> None:
    # Two classes with logits (z, 0): confidence is 1 / (1 + exp(−z)). z = ln 3 gives 0.75, z = ln 9 gives 0.9.
    def predictions(z: float, labels: list[int]) -> dict[str, np.ndarray]:
        return {"logits": np.array([[z, 0.0]] * len(labels)), "labels": np.array(labels)}

    runs = {"a": predictions(np.log(3), [0, 0, 0, 1]), "b": predictions(np.log(3), [0, 1]), "c": predictions(np.log(9), [0])}
    bins = errors.pooled_bins(SimpleNamespace(predictions=runs.__getitem__), list(runs))
    filled = bins[bins["images"] > 0]
    # 0.75 lies in the bin (11/15, 12/15], 0.9 in (13/15, 14/15]; of the six predictions at 0.75 four are right.
    assert filled.index.tolist() == [11, 13]
    assert filled["images"].tolist() == [6, 1]
    assert filled["confidence"].tolist() == pytest.approx([0.75, 0.9])
    assert filled["accuracy"].tolist() == pytest.approx([4 / 6, 1])


def test_confusion_rows_sum_to_one_and_errors_fall_where_they_were_made(full: Drawn) -> None:
    # The fixture's wrong answers are the next class in order.
    matrices = [rows for rows in full.figures["confusion"].spec["datasets"].values() if "predicted" in rows[0]]
    assert [rows[0]["model"] for rows in matrices] == ["ViT (ours)", MODELS["resnet"].title]
    table = pd.DataFrame(matrices[0]).pivot(index="true", columns="predicted", values="share")
    assert table.sum(axis=1).tolist() == pytest.approx([100] * 4, abs=1e-4)
    assert table.loc["cat", "dog"] > 5
    assert table.loc["cat", "owl"] == 0
    assert sum(row["images"] for row in matrices[0]) == 3 * N_TEST


def test_many_classes_give_bars_of_the_most_confused_pairs(tmp_path: Path) -> None:
    experiment = make_experiment(
        train_fractions=[1.0], seeds=[0, 1], models={k: MODELS[k] for k in ("vit", "resnet")}, expect=[]
    )
    classes = tuple(f"kind_{index:02d}" for index in range(25))
    cells = [
        write_run(tmp_path / "r", experiment, m, "shapes", 1.0, s, classes=classes)
        for m in experiment.models
        for s in (0, 1)
    ]
    ledger = {"experiment": experiment.name, "counts": {}, "cells": cells, "other": []}
    found = drawn(SyntheticRuns(tmp_path / "r", experiment, ledger))
    assert not {"learning_curves", "budgets"} & set(found.figures), "one fraction is no curve"
    rows = found.rows("confusion", "pair")
    assert len(rows) == 15 * 2
    assert all(int(re.findall(r"\d+", row["pair"])[1]) == (int(re.findall(r"\d+", row["pair"])[0]) + 1) % 25 for row in rows)
    both = pd.DataFrame(rows).groupby("pair", sort=False)["share"].sum()
    assert both.is_monotonic_decreasing
    # Two seeds are too few for a mark.
    assert {row["state"] for row in found.rows("forest", "delta", "state")} == {"under 3 seeds"}


def test_one_seed_has_points_without_intervals_and_lost_runs_are_named(tmp_path: Path) -> None:
    models = {name: MODELS[name] for name in ("vit", "vit_timm", "resnet")}
    runs = write_experiment(tmp_path / "r", make_experiment(models=models, seeds=[0], train_fractions=[0.1, 1.0], expect=[]))
    runs.lose(runs.run_id("vit_timm"), "failed", "out of memory")
    runs.lose(runs.run_id("vit_timm", 0.1), "failed", "out of memory")
    found = drawn(runs)
    assert "1 seed per point." in found.figures["learning_curves"].caption
    assert {row["interval"] for row in found.rows("learning_curves", "runs")} == {"–"}
    assert not any("ViT (timm)" in row["model"] for row in found.rows("learning_curves", "runs"))
    assert {row["low"] for row in found.rows("accuracy_vs_pflops", "cost", "low")} == {None}


def test_incomplete_cells_are_named_in_the_caption(synthetic_runs: SyntheticRuns) -> None:
    synthetic_runs.lose(synthetic_runs.run_id("convnext", 0.3, 1))
    caption = drawn(synthetic_runs).figures["learning_curves"].caption
    assert "2 to 3 seeds per point. Incomplete: ConvNeXt, Shapes at 30%: 2 of 3." in caption


def test_data_sets_and_settings_are_panels(tmp_path: Path) -> None:
    data = {
        name: DataConfig(title=name.title(), source="digits", image_size=8, channels=1, mean=[0.5], std=[0.5])
        for name in ("shapes", "letters")
    }
    experiment = make_experiment(
        models={name: MODELS[name] for name in ("vit", "resnet")}, data=data, expect=[], seeds=[0, 1],
        vary={"recipe.learning_rate": [0.001, 0.002]}, train_fractions=[0.3, 1.0],
    )  # fmt: skip
    cells = [
        write_run(
            tmp_path / "r", experiment, model, name, fraction, seed, varied={"recipe.learning_rate": rate},
            recipe=experiment.recipe.model_copy(update={"learning_rate": rate}), n_test=60,
        )
        for name in data for rate in (0.001, 0.002)
        for model in experiment.models for fraction in (0.3, 1.0) for seed in (0, 1)
    ]  # fmt: skip
    ledger = {"experiment": experiment.name, "counts": {}, "cells": cells, "other": []}
    found = drawn(SyntheticRuns(tmp_path / "r", experiment, ledger))
    titles = [panel["title"] for panel in found.figures["learning_curves"].spec["concat"]]
    assert titles == [f"{name}, recipe.learning_rate={rate}" for name in ("Shapes", "Letters") for rate in (0.001, 0.002)]
    assert len(found.figures["confusion"].spec["vconcat"]) == 4


# ---------------------------------------------------------------------------------------------------------------- style
def _models(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["model", "model_title", "family", "source"])


def test_families_share_a_colour_and_ours_stands_out() -> None:
    looks = style.styles(
        _models(("r18", "ResNet-18", "ResNet", "timm"), ("t", "ViT (timm)", "ViT", "timm"), ("s", "ViT", "ViT", "scratch"))
    )
    assert list(looks) == ["r18", "t", "s"]
    assert looks["t"].colour == looks["s"].colour != looks["r18"].colour
    assert len({look.shape for look in looks.values()}) == len({tuple(look.dash) for look in looks.values()}) == 3
    assert looks["s"].dash == [1, 0]
    assert looks["s"].width > looks["t"].width == looks["r18"].width


def test_equal_titles_are_told_apart() -> None:
    looks = style.styles(_models(("a", "ViT", "ViT", "timm"), ("b", "ViT", "ViT", "scratch")))
    assert [look.label for look in looks.values()] == ["ViT (a)", "ViT (b)"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 2000.0, [1, 10, 100, 1000]),
        (0.8, 40.0, [1, 3, 10, 30]),
        (2.0, 12.0, [2, 5, 10]),
        (0.0014, 0.0052, [0.0015, 0.002, 0.003, 0.005]),
        (8.5, 18.4, [10, 12, 14, 16, 18]),
    ],
)
def test_log_ticks_are_round_and_at_least_three(low: float, high: float, expected: list[float]) -> None:
    assert style.log_ticks(low, high) == expected
