"""Cells, intervals, marks and expectations against the synthetic truth."""

import json
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest

from analysis import tables
from analysis.columns import OF_DEVICE
from analysis.load import load
from analysis.statistics.learning_curves import aulc_weights
from analysis.summary import summarise
from experiments.config.schema import Expectation
from tests.analysis.conftest import (
    DATA_MULTIPLIER,
    FULL_ERROR,
    MODELS,
    SyntheticRuns,
    make_experiment,
    truth,
    write_experiment,
    write_run,
)


def _summarise(runs):
    results = load(runs.ledger, runs.folder, runs.experiment)
    return results, summarise(results, runs.experiment)


def _cell(summary, model, fraction=1.0):
    cells = summary.cells
    return cells[(cells["model"] == model) & (cells["train_fraction"] == fraction)].iloc[0]


def test_means_are_the_truth(synthetic_runs):
    _, summary = _summarise(synthetic_runs)
    assert len(summary.cells) == 12
    for model in ("vit", "resnet", "convnext"):
        for fraction in (0.1, 0.3, 1.0):
            cell = _cell(summary, model, fraction)
            assert cell["mean"] == pytest.approx(truth(model, fraction), abs=1 / 400)
            assert cell["std"] == pytest.approx(0.005, abs=5e-4)  # of a sample: over S would be .0041
            assert (cell["n"], cell["n_seeds"], cell["n_expected"], cell["note"]) == (1000 * fraction, 3, 3, "")
    assert _cell(summary, "vit")["delta"] == pytest.approx(-0.10)
    assert _cell(summary, "vit")["images_per_second"] == pytest.approx(1001.0)
    assert np.isnan(_cell(summary, "vit")["mfu"])


def test_intervals_are_those_of_the_answers_on_disk(synthetic_runs):
    _, summary = _summarise(synthetic_runs)

    def correct(model):
        rows = []
        for seed in range(3):
            with np.load(synthetic_runs.folder / synthetic_runs.run_id(model, 0.3, seed) / "predictions.npz") as stored:
                rows.append(stored["logits"].argmax(1) == stored["labels"])
        return np.array(rows, dtype=float)

    cell = _cell(summary, "vit", 0.3)
    assert cell["delta"] == pytest.approx((correct("vit") - correct("resnet")).mean())
    # The seeds of a pair share their shift here, so the spread is that of the images: an interval near the normal one.
    by_image = (correct("vit") - correct("resnet")).mean(0)
    normal = 1.96 * by_image.std(ddof=1) / 20
    assert (cell["delta_high"] - cell["delta_low"]) / 2 == pytest.approx(normal, rel=0.25)
    assert cell["delta_low"] < cell["delta"] < cell["delta_high"] and cell["low"] < cell["mean"] < cell["high"]


def test_marks(synthetic_runs):
    _, summary = _summarise(synthetic_runs)
    best, second = _cell(summary, "resnet"), _cell(summary, "convnext")
    assert best["best"] and best["bold"] and best["state"] == ""
    # Two points on 400 images, one of 18 comparisons: too little to be told apart; ten points are told.
    assert second["bold"] and second["state"] == "inconclusive" and second["p"] < 0.06 < second["p_holm"]
    assert _cell(summary, "vit")["state"] == "different" and not _cell(summary, "vit")["bold"]
    assert len(summary.pairs) == 6 * 3  # one family: every pair of 4 models at 3 budgets
    assert (summary.cells.groupby("train_fraction")["best"].sum() == 1).all()
    # Holm over the table can only raise a p-value.
    compared = summary.cells.dropna(subset=["p"])
    assert len(compared) == 9 and (compared["p_holm"] >= compared["p"]).all()


def test_twins_are_not_called_different_and_share_the_bold(tmp_path):
    experiment = make_experiment(
        reference="vit_timm", models={m: make_experiment().models[m] for m in ("vit", "vit_timm")}, expect=[]
    )
    _, summary = _summarise(write_experiment(tmp_path / "runs" / "synthetic", experiment))
    assert set(summary.cells[summary.cells["model"] == "vit"]["state"]) <= {"inconclusive", "equivalent"}
    assert summary.cells["bold"].all()


def test_differences_are_those_of_the_printed_means_whatever_seeds_are_missing(tmp_path):
    runs = write_experiment(tmp_path / "runs" / "synthetic", make_experiment(seeds=[0, 1, 2, 3], expect=[]))
    runs.lose(runs.run_id("resnet", 1.0, 0))
    runs.lose(runs.run_id("vit", 1.0, 3))
    _, summary = _summarise(runs)
    cells = summary.cells[summary.cells["train_fraction"] == 1.0].set_index("model")
    assert cells.at["resnet", "best"] and cells.at["vit", "n_seeds"] == 3 and cells.at["vit", "n_paired"] == 2
    assert cells.at["vit", "tested"] and cells.at["vit", "state"] == "different"
    assert cells.at["vit", "delta"] == pytest.approx(cells.at["vit", "mean"] - cells.at["resnet", "mean"])
    row = summary.efficiency.set_index("model").loc["vit"]
    means = summary.cells[summary.cells["model"] == "vit"].sort_values("n")["mean"]
    assert row["aulc"] == pytest.approx(means @ aulc_weights(np.array([100.0, 300.0, 1000.0])))
    assert row["multiplier_target"] == pytest.approx(cells.at["vit", "mean"])


def test_efficiency(synthetic_runs):
    _, summary = _summarise(synthetic_runs)
    row = summary.efficiency.set_index("model").loc["vit"]
    assert row["multiplier"] == pytest.approx(DATA_MULTIPLIER, rel=0.03)
    assert row["multiplier_low"] < DATA_MULTIPLIER < row["multiplier_high"]
    assert row["multiplier_ahead"] == "resnet" and row["multiplier_target"] == pytest.approx(0.8)
    # Trapezoid over ln n of .3675, .635 and .8 at 100, 300 and 1000 images.
    step = np.log(3), np.log(1000 / 300)
    area = ((0.3675 + 0.635) / 2 * step[0] + (0.635 + 0.8) / 2 * step[1]) / np.log(10)
    assert row["aulc"] == pytest.approx(area)
    assert row["crossover_text"] == ""
    reference = summary.efficiency.set_index("model").loc["resnet"]
    assert reference["multiplier_text"] == "" and np.isnan(reference["aulc_delta"])


def test_a_missing_and_a_failed_run_are_noted(synthetic_runs):
    synthetic_runs.lose(synthetic_runs.run_id("vit", 0.3, 1))
    address = "RuntimeError: see https://example.org/x and /home/me/file. Ask somebody."
    synthetic_runs.lose(synthetic_runs.run_id("vit", 0.3, 2), "failed", address)
    _, summary = _summarise(synthetic_runs)
    cell = _cell(summary, "vit", 0.3)
    assert cell["n_seeds"] == 1 and np.isnan(cell["low"]) and cell["state"] == ""
    assert cell["note"] == (
        "1 of 3 seeds: seed 1 missing; seed 2 failed (RuntimeError: see … and …); shares 1 of the reference's 3 seeds"
    )
    row = summary.efficiency.set_index("model").loc["vit"]
    assert row["seeds"] == [0] and row["aulc"] == pytest.approx(0.6, abs=0.02) and np.isnan(row["aulc_low"])


def test_two_seeds_give_an_interval_but_no_mark(synthetic_runs):
    for model in ("vit", "resnet", "convnext", "vit_timm"):
        synthetic_runs.lose(synthetic_runs.run_id(model, 1.0, 2))
    _, summary = _summarise(synthetic_runs)
    full = summary.cells[summary.cells["train_fraction"] == 1.0]
    assert full["low"].notna().all() and not full["bold"].any() and set(full["state"]) == {""}
    assert full["p_holm"].isna().all()


def test_an_absent_reference_leaves_the_rest(synthetic_runs):
    for fraction in (0.1, 0.3, 1.0):
        for seed in range(3):
            synthetic_runs.lose(synthetic_runs.run_id("resnet", fraction, seed))
    _, summary = _summarise(synthetic_runs)
    cell = _cell(summary, "vit")
    assert cell["mean"] == pytest.approx(0.8) and np.isnan(cell["delta"])
    assert cell["note"] == "no run of the reference to compare with"
    absent = _cell(summary, "resnet")
    assert absent["n_seeds"] == 0 and absent["n"] == 1000 and "0 of 3 seeds: seeds 0, 1, 2 missing" in absent["note"]
    assert summary.expectations[1].outcome == "cannot be told" and "no run" in summary.expectations[1].observed


def test_an_expectation_of_two_models_is_of_the_seeds_that_both_have(synthetic_runs):
    """Its value once was of all seeds and could lie outside its interval; one seed of the second was said to scatter."""
    claims = [Expectation(claim=metric, models=["vit"], against="resnet", metric=metric, at_least=0) for metric in
              ("test/top1", "test/nll")]  # fmt: skip
    synthetic_runs.experiment = synthetic_runs.experiment.model_copy(update={"expect": claims})
    synthetic_runs.lose(synthetic_runs.run_id("resnet", 1.0, 2))
    results = load(synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment)
    far = (results.runs["model"] == "vit") & (results.runs["seed"] == 2)
    results.runs.loc[far, "test/nll"] = 9.0
    _, loss = summarise(results, synthetic_runs.experiment).expectations
    value, low, high = map(float, re.findall(r"[+−][\d.]+", loss.observed))
    assert low < value < high < 1 and loss.observed.endswith(", 2 of 3 seeds")
    synthetic_runs.lose(synthetic_runs.run_id("resnet", 1.0, 1))
    _, summary = _summarise(synthetic_runs)
    assert all(claim.observed.endswith(", 1 of 3 seeds, one seed has no interval") for claim in summary.expectations)
    synthetic_runs.lose(synthetic_runs.run_id("vit", 1.0, 0))
    _, summary = _summarise(synthetic_runs)
    assert summary.expectations[1].observed == "ViT (ours) − ResNet_18 & co: no seed in common"


def test_a_metric_unknown_for_one_seed_is_not_averaged_over_the_others(synthetic_runs):
    run_id = synthetic_runs.run_id("vit", 1.0, 1)
    synthetic_runs.edit_record(run_id, compute={"images_per_second": None}, metrics={"test/brier": None})
    _, summary = _summarise(synthetic_runs)
    assert np.isnan(_cell(summary, "vit")["images_per_second"]) and np.isnan(_cell(summary, "vit")["brier"])
    assert _cell(summary, "vit")["mean"] == pytest.approx(0.8)


def test_mixed_devices_blank_the_time_columns(synthetic_runs):
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), environment={"device": "NVIDIA H200"})
    _, summary = _summarise(synthetic_runs)
    assert summary.mixed_devices == {("shapes", ""): ["NVIDIA H200", "cpu"]}
    assert summary.cells[list(OF_DEVICE)].isna().all(axis=None)
    assert summary.cells["train_pflops"].notna().all()


def test_expectations(tmp_path):
    claims = [
        Expectation(claim="yes", models=["resnet", "convnext"], at_least=0.85, at_most=0.95),
        Expectation(claim="no", models=["resnet", "vit"], at_least=0.85),
        Expectation(claim="pair", models=["vit"], against="convnext", train_fraction=0.3, at_most=-0.12),
        Expectation(claim="far", models=["vit"], against="convnext", train_fraction=0.3, at_most=-0.1),
        Expectation(claim="unknown fraction", models=["vit"], train_fraction=0.5, at_least=0.1),
        Expectation(claim="loss", models=["vit"], metric="val/nll", at_most=0.75),
    ]
    _, summary = _summarise(write_experiment(tmp_path / "runs" / "synthetic", make_experiment(expect=claims)))
    held = {claim: verdict for claim, verdict, _ in summary.expectations}
    assert held == {
        "yes": "not contradicted", "no": "failed", "pair": "not contradicted", "far": "held",
        "unknown fraction": "cannot be told", "loss": "held",
    }  # fmt: skip
    texts = {claim: text for claim, _, text in summary.expectations}
    assert re.fullmatch(
        r"ResNet_18 & co: 90\.0% \[8\d\.\d, 9\d\.\d\]; ViT \(ours\): 80\.0% \[7\d\.\d, 8\d\.\d\]", texts["no"]
    )
    assert re.fullmatch(r"ViT \(ours\) − ConvNeXt: −14\.5 points \[−\d\d\.\d, −1\d\.\d\]", texts["pair"])
    assert texts["loss"] == "ViT (ours): 0.7392 [0.7392, 0.7392]"


def test_expectations_about_one_setting_and_about_a_change_between_two(tmp_path):
    """Under the other setting the ViT is given the ResNet's accuracy, so that the gap of 10 points closes."""
    low, high = {"recipe.steps": 100}, {"recipe.steps": 400}
    claims = [
        Expectation(claim="gap", models=["vit"], against="resnet", where=low, at_most=-0.05),
        Expectation(claim="no gap", models=["vit"], against="resnet", where=high, at_least=-0.03),
        Expectation(claim="everywhere", models=["vit"], against="resnet", at_least=-0.03),
        Expectation(claim="closes", models=["vit"], against="resnet", where=high, minus=low, at_least=0.05),
        Expectation(claim="opens", models=["vit"], against="resnet", where=low, minus=high, at_least=0.05),
        Expectation(claim="gains", models=["vit"], where=high, minus=low, at_least=0.05),
        Expectation(claim="loss", models=["vit"], metric="test/nll", where=high, minus=low, at_most=-0.05),
        Expectation(claim="data", models=["resnet"], where={"data": "shapes"} | low, at_least=0.8),
        Expectation(claim="never run", models=["vit"], where={"recipe.steps": 900}, at_least=0.8),
    ]
    models = {name: MODELS[name] for name in ("vit", "resnet")}
    experiment = make_experiment(models=models, vary={"recipe.steps": [100, 400, 900]}, expect=claims)
    cells = []
    for steps, model, fraction, seed in product((100, 400), models, experiment.train_fractions, experiment.seeds):
        recipe = experiment.recipe.model_copy(update={"steps": steps})
        error = FULL_ERROR["resnet"] if (steps, model) == (400, "vit") else FULL_ERROR[model]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(FULL_ERROR, model, error)
            cells.append(
                write_run(
                    tmp_path / "r", experiment, model, "shapes", fraction, seed, recipe=recipe,
                    varied={"recipe.steps": steps},
                )
            )  # fmt: skip
    ledger = {"experiment": experiment.name, "counts": {}, "cells": cells, "other": []}
    _, summary = _summarise(SyntheticRuns(tmp_path / "r", experiment, ledger))
    assert {claim: outcome for claim, outcome, _ in summary.expectations} == {
        "gap": "held", "no gap": "held", "everywhere": "failed", "closes": "held", "opens": "failed", "gains": "held",
        "loss": "held", "data": "held", "never run": "cannot be told",
    }  # fmt: skip
    texts = {claim: text for claim, _, text in summary.expectations}
    change = summary.interactions[summary.interactions["changed"] == "setting"].set_index("train_fraction").loc[1.0]
    shown = f"{100 * change['change']:+.1f} points [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"
    assert texts["closes"] == f"ViT (ours) − ResNet_18 & co, minus that at recipe.steps=100: {shown} (recipe.steps=400)"
    assert texts["gains"].startswith("ViT (ours), minus that at recipe.steps=100: +10.")
    assert texts["never run"] == "no run of it"


def test_other_test_images_are_not_paired(synthetic_runs):
    results = load(synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment)
    for seed in range(3):
        run_id = synthetic_runs.run_id("vit", 1.0, seed)
        synthetic_runs.edit_predictions(run_id, sample_ids=results.predictions(run_id)["sample_ids"] + 1)
    _, summary = _summarise(synthetic_runs)
    cell = _cell(summary, "vit")
    assert pd.isna(cell["delta"]) and "not compared" in cell["note"] and pd.isna(cell["low"])
    assert not pd.isna(_cell(summary, "vit_timm")["delta"])


def _evaluate(runs, model, curves):
    """Give a model's runs at full data their validation accuracies after 10, 20, 30 and 40 s, each seed 1 s later."""
    for seed, curve in enumerate(curves):
        rows = [
            {"step": 25 * k, "train_seconds": 10.0 * k + seed, "val/top1": top1, "val/loss": 1.0}
            for k, top1 in enumerate(curve, 1)
        ]
        path = runs.folder / runs.run_id(model, 1.0, seed) / "metrics.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("curves", "seconds", "is_bound", "text"),
    [
        # Reached at 20, 21 and 32 s: the median run was seen below the target before.
        ([(0.2, 0.6, 0.7, 0.8), (0.2, 0.6, 0.7, 0.8), (0.2, 0.3, 0.7, 0.8)], 21, False, "21.0 (100%)"),
        # Two runs of three meet it at once, at 10 and 11 s at the latest.
        ([(0.6, 0.6, 0.7, 0.8), (0.6, 0.6, 0.7, 0.8), (0.2, 0.3, 0.7, 0.8)], 11, True, "≤ 11.0 (100%)"),
        # One run does: however early, the median stays.
        ([(0.6, 0.6, 0.7, 0.8), (0.2, 0.6, 0.7, 0.8), (0.2, 0.3, 0.7, 0.8)], 21, False, "21.0 (100%)"),
        # Two runs never reach it: no median, whatever the third did.
        ([(0.6, 0.6, 0.7, 0.8), (0.2, 0.2, 0.2, 0.4), (0.2, 0.3, 0.3, 0.4)], np.nan, None, "– (33%)"),
    ],
)
def test_time_to_target_is_a_bound_where_the_first_evaluation_meets_it(synthetic_runs, curves, seconds, is_bound, text):
    synthetic_runs.experiment = synthetic_runs.experiment.model_copy(update={"target_val_top1": 0.5})
    for model in synthetic_runs.experiment.models:
        for seed, curve in enumerate(curves):
            synthetic_runs.edit_record(synthetic_runs.run_id(model, 1.0, seed), metrics={"val_best/top1": max(curve)})
        _evaluate(synthetic_runs, model, curves)
    _, summary = _summarise(synthetic_runs)
    cell = _cell(summary, "vit")
    assert cell["seconds_to_target"] == pytest.approx(seconds, nan_ok=True)
    assert cell["target_is_bound"] is is_bound
    assert tables.target_text(cell) == text
