"""Bold, †, ≡ and the words of the verdict say one thing, whatever the results are."""

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import tables, verdict
from analysis.load import Results
from analysis.run_folder import PerImage
from analysis.summary import summarise
from experiments.records.record import Record
from tests.analysis.conftest import MODELS, make_experiment


def results_of(accuracy, n_images, jitter, missing, seed):
    """Results in memory: models × budgets × seeds that answer rightly as often as told, give or take."""
    models = list(MODELS)[: len(accuracy)]
    experiment = make_experiment(
        models={name: MODELS[name] for name in models}, reference=models[0], train_fractions=[0.1, 1.0], expect=[]
    )
    generator = np.random.default_rng(seed)
    hardness = generator.random(n_images)
    rows, cells, per_image = [], [], {}
    for model, curve in zip(models, accuracy, strict=True):
        for fraction, share in zip((0.1, 1.0), curve, strict=True):
            for run in range(3):
                run_id = f"{model}-{fraction}-{run}"
                place = {"data": "shapes", "setting": "", "model": model, "train_fraction": fraction, "seed": run}
                lost = (models.index(model), fraction, run) in missing
                cells.append({**place, "run_id": run_id, "status": "missing" if lost else "done", "reason": None})
                if lost:
                    continue
                correct = (
                    hardness + 0.05 * generator.standard_normal(n_images) < share + jitter * generator.standard_normal()
                )
                per_image[run_id] = PerImage(correct, np.zeros(n_images, np.uint16), np.ones(n_images, np.float32))
                rows.append({
                    **place, "run_id": run_id, "test/top1": correct.mean(), "test_digest": "one", "track": "identical",
                    "n": 1000 * fraction, "n_train": 900 * fraction, "n_test": n_images, "n_classes": 4,
                    "ece_scaled_note": "", "precision": "fp32", "device": "cpu",
                })  # fmt: skip
    records = {row["run_id"]: Record.model_construct(environment={"device": "cpu"}, attempts=[]) for row in rows}
    frames = pd.DataFrame(rows), pd.DataFrame(cells)
    nothing = MappingProxyType({})
    return Results(Path("no folder"), *frames, records, per_image, nothing, nothing, [], nothing), experiment


SHARES = st.sampled_from([0.0, 0.3, 0.6, 0.8, 0.85, 0.99, 1.2])
CURVES = st.lists(st.lists(SHARES, min_size=2, max_size=2), min_size=2, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    accuracy=CURVES,
    n_images=st.sampled_from([1, 2, 75, 2000]),
    jitter=st.sampled_from([0.0, 0.01, 0.3]),
    missing=st.sets(st.tuples(st.integers(0, 3), st.sampled_from([0.1, 1.0]), st.integers(0, 2)), max_size=6),
    seed=st.integers(0, 5),
)
def test_marks_and_words_never_contradict_each_other(accuracy, n_images, jitter, missing, seed):
    results, experiment = results_of(accuracy, n_images, jitter, missing, seed)
    if not len(results.runs):
        return
    summary = summarise(results, experiment)
    cells = summary.cells
    for fraction, block in cells.groupby("train_fraction"):
        best = block[block["best"]]
        assert len(best) == int(block["tested"].any())
        assert not (block["bold"] & ~block["tested"]).any()
        if best.empty:
            assert set(block["state"]) == {""}
            continue
        winner = best.iloc[0]
        assert winner["mean"] == block.loc[block["tested"], "mean"].max() and winner["bold"]
        pairs = summary.pairs[summary.pairs["train_fraction"] == fraction]
        for _, cell in block[block["tested"]].iterrows():
            rivals = pairs[pairs[["a", "b"]].isin([cell["model"], winner["model"]]).all(axis=1)]
            if cell["model"] != winner["model"]:
                assert cell["bold"] == (rivals["state"].iloc[0] != "different")
            if winner["model"] == experiment.reference and cell["state"]:
                assert cell["bold"] == (cell["state"] != "different")  # † below the best is never bold, ≡ always
            if cell["state"] == "different":
                assert not cell["delta_low"] <= 0 <= cell["delta_high"]
            if cell["state"] == "equivalent":
                assert n_images > 100 and -0.005 < cell["delta_low"] <= cell["delta_high"] < 0.005
    # No interval without width, none that leaves what an accuracy can be, and none without the estimate.
    known = cells.dropna(subset=["low"])
    assert ((known["high"] - known["low"]) > 0).all() and (known["low"] >= 0).all() and (known["high"] <= 1).all()
    assert ((known["low"] <= known["mean"] + 1e-9) & (known["mean"] <= known["high"] + 1e-9)).all()
    compared = cells.dropna(subset=["delta_low"])
    assert ((compared["delta_high"] - compared["delta_low"]) > 0).all()
    assert ((compared["delta_low"] <= compared["delta"]) & (compared["delta"] <= compared["delta_high"])).all()
    for row in summary.efficiency.itertuples():
        assert "nan" not in row.multiplier_text and "[0" not in row.multiplier_text
        if row.multiplier_text and "more" in tables.images_needed(row):
            assert row.multiplier_low > 1
        if row.crossover_text:
            assert row.crossover_low <= row.crossover <= row.crossover_high
        if row.bound_ahead:
            at = cells[(cells["model"] == row.model) & (cells["train_fraction"] == 1.0)].iloc[0]
            assert at["state"] == "different" and (at["delta"] > 0) == (row.bound_ahead == row.model)
    for sentence in verdict.sentences(summary):
        assert "nan" not in sentence and "inf" not in sentence.replace("infer", "")


@pytest.mark.parametrize("accuracy", [-1.0, 2.0])
def test_all_right_or_all_wrong_on_few_images_is_no_certainty(accuracy):
    results, experiment = results_of([[accuracy] * 2] * 2, 75, 0.0, set(), 0)
    summary = summarise(results, experiment)
    cell = summary.cells[summary.cells["model"] != experiment.reference].iloc[0]
    assert cell["state"] == "inconclusive" and cell["p"] == 1 and cell["delta_low"] < -0.02 < 0.02 < cell["delta_high"]
    assert cell["high"] - cell["low"] > 0.03  # three over N, at least
    row = summary.efficiency[summary.efficiency["model"] != experiment.reference].iloc[0]
    assert row["multiplier_text"] == "1.0× [not bounded]" and row["crossover_text"] == ""
    assert row["multiplier_target"] == max(min(accuracy, 1.0), 0.0)
    noise = verdict.sentences(summary)[-1]
    assert "it takes more test images" in noise


def test_where_some_seeds_fail_to_learn_there_is_no_mark_and_no_interval_of_an_accuracy():
    results, experiment = results_of([[0.8, 0.9], [0.7, 0.85], [0.75, 0.8]], 364, 2.0, set(), 1)
    assert results.runs["test/top1"].between(0.1, 0.9).mean() < 0.5  # seeds are nearly all right or all wrong
    summary = summarise(results, experiment)
    assert set(summary.cells["state"]) == {""} and not summary.cells["bold"].any()
    assert summary.cells["low"].isna().all() and summary.cells["std"].notna().all()
    across = summary.budgets["fraction"] != summary.budgets["reference_fraction"]
    assert summary.budgets.loc[across, "low"].isna().all()
    said = " ".join(verdict.sentences(summary))
    assert "no intervals of accuracies" in said and "nan" not in said
    assert said.count("is not tested, as seeds differ too much.") == 3 and "takes 3 seeds" not in said
