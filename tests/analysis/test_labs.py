"""Whether labs agree: nothing is found where they do, and a model that does worse in one lab is."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from analysis import captions, efficiency
from analysis.groups import groups_of
from analysis.load import load
from analysis.statistics.comparisons import Comparisons
from analysis.statistics.contrasts import Layout
from analysis.statistics.intervals import holm
from analysis.summary import summarise
from tests.analysis.conftest import make_experiment, write_experiment


def _labs(folder: Path, of: dict[str, str]) -> None:
    runs = {run_id: {"lab": lab, "source": "runs"} for run_id, lab in of.items()}
    (folder / "merged.json").write_text(json.dumps({"runs": runs}), encoding="utf-8")


def test_a_model_that_does_worse_in_one_lab_is_found(tmp_path: Path) -> None:
    runs = write_experiment(tmp_path / "synthetic", make_experiment(seeds=[0, 1, 2, 3, 4, 5], train_fractions=[1.0]))
    results = load(runs.ledger, runs.folder, runs.experiment)
    assert efficiency.labs(groups_of(results, runs.experiment)).empty
    lab = {run["run_id"]: "ab"[run["seed"] % 2] for _, run in results.runs.iterrows()}
    _labs(runs.folder, lab)
    found = efficiency.labs(groups_of(results, runs.experiment))
    others = [model for model in runs.experiment.models if model != runs.experiment.reference]
    assert sorted(found["model"]) == sorted(others) and set(found["before"] + found["after"]) == {"ab"}
    np.testing.assert_allclose(found["change"], found["gap_after"] - found["gap_before"])
    assert (found["changed"] == "lab").all() and found["p"].min() > 0.05 / len(found)

    per_image = dict(results.per_image)
    for run_id, run in results.runs.set_index("run_id").iterrows():
        if run["model"] == others[0] and lab[run_id] == "b":
            correct = per_image[run_id].correct.copy()
            correct[::4] = False
            per_image[run_id] = replace(per_image[run_id], correct=correct)
    found = efficiency.labs(groups_of(replace(results, per_image=per_image), runs.experiment)).set_index("model")
    assert found.loc[others[0], "p"] < 0.05 / len(found) and found.loc[others[0], "change"] < -0.1
    assert (found.loc[others[1:], "p"] > 0.05 / len(found)).all()


def test_labs_of_one_seed_have_no_interval_and_runs_without_a_lab_belong_to_none(tmp_path: Path) -> None:
    runs = write_experiment(tmp_path / "synthetic", make_experiment(seeds=[0, 1, 2], train_fractions=[1.0]))
    results = load(runs.ledger, runs.folder, runs.experiment)
    _labs(runs.folder, {run["run_id"]: ("a", "b", "")[run["seed"]] for _, run in results.runs.iterrows()})
    found = efficiency.labs(groups_of(results, runs.experiment))
    assert len(found) and found[["low", "high", "p"]].isna().all(axis=None) and found["change"].notna().all()


def test_what_is_said_of_labs_is_of_the_rows_that_can_be_tested(tmp_path: Path) -> None:
    """One cell that lacks a seed once hid the p-values of all others."""
    runs = write_experiment(tmp_path / "synthetic", make_experiment(seeds=[0, 1, 2, 3], train_fractions=[1.0]))
    _labs(runs.folder, {cell["run_id"]: "ab"[cell["seed"] % 2] for cell in runs.ledger["cells"]})
    runs.lose(runs.run_id("vit", 1.0, 3))
    summary = summarise(load(runs.ledger, runs.folder, runs.experiment), runs.experiment)
    assert summary.interactions["p"].isna().sum() == 1
    assert "heterogeneity is not shown (smallest p, adjusted over all their rows, 1.000)" in captions.labs(summary)


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 5])
def test_labs_that_agree_are_said_to_differ_in_less_than_one_table_of_twenty(n_seeds: int) -> None:
    """Two labs, a reference and two models, 400 images, seeds that move an accuracy by a point or two; 2,000 tables."""
    rng, wrong, repeats = np.random.default_rng(0), 0, 2000
    for _ in range(repeats):
        image = rng.normal(1.3, 1, 400)
        answers = {}
        for model, shift in (("cnn", 0.2), ("vit", -0.2), ("other", 0.0)):
            of_model = image + shift + 0.5 * rng.normal(size=400)
            for lab, first in (("a", 0), ("b", n_seeds)):
                right = rng.random((n_seeds, 400)) < special.ndtr(of_model + 0.12 * rng.normal(size=(n_seeds, 1)))
                answers[lab, model, 1.0] = [*range(first, first + n_seeds)], right
        found = Comparisons.of(Layout.of(answers))
        build = partial(efficiency._change, before=("a", 1.0), after=("b", 1.0))
        prior = found.prior("b", build)
        p = found.differences(prior, *(build(model, "cnn") for model in ("vit", "other"))).p
        wrong += holm(p).min() < 0.05
    assert 0 < wrong / repeats <= 0.05
