"""What is read from disk, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.load import NothingDone, load, select, table_order
from experiments.config import loading
from experiments.config.cells import expand
from experiments.config.paths import ROOT
from experiments.config.schema import Experiment
from experiments.grid import ledger
from experiments.metrics import classification_metrics
from experiments.training import tuning


def _load(synthetic_runs):
    return load(synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment)


def test_rows_are_selected_by_all_that_is_given():
    frame = pd.DataFrame({"data": ["a", "a", "b"], "setting": ["", "x", ""], "n": [1, 2, 3]})
    assert select(frame, data="a", setting="")["n"].tolist() == [1] and select(frame, setting="")["n"].tolist() == [1, 3]
    assert select(frame, data="c").empty and select(frame.iloc[:0], data="a").empty and len(select(frame)) == 3


def test_every_run_is_a_row_in_table_order(synthetic_runs):
    results = _load(synthetic_runs)
    assert results.faults == []
    assert len(results.runs) == 36
    # Families as listed, the one with our own model last, our own last in it.
    assert list(dict.fromkeys(results.runs["model"])) == ["resnet", "convnext", "vit_timm", "vit"]
    first = results.runs.iloc[0]
    assert (first["model"], first["train_fraction"], first["seed"], first["n"]) == ("resnet", 1.0, 0, 1000)
    assert (first["data_title"], first["model_title"], first["setting"]) == ("Shapes", "ResNet_18 & co", "")
    # 10% wrong and half a point of seed shift: 10.5% of 400 images are wrong.
    assert first["test/top1"] == pytest.approx(1 - 42 / 400)
    assert first["peak_memory_bytes"] == 3 * 2**29 and np.isnan(first["mfu"])


def test_outcomes_are_the_runs_answers(synthetic_runs):
    results = _load(synthetic_runs)
    run_id = synthetic_runs.run_id("vit", 0.1, 2)
    with np.load(synthetic_runs.folder / run_id / "predictions.npz") as stored:
        logits, labels = stored["logits"].astype(float), stored["labels"]
    outcome = results.per_image[run_id]
    assert np.array_equal(outcome.predicted, logits.argmax(1))
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(outcome.nll, -np.log(probability[np.arange(400), labels]), rtol=1e-5)


def test_images_are_brought_into_the_order_of_their_ids(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    before = _load(synthetic_runs)
    arrays = before.predictions(run_id)
    shuffle = np.random.default_rng(0).permutation(400)
    synthetic_runs.edit_predictions(run_id, **{name: arrays[name][shuffle] for name in ("logits", "labels", "sample_ids")})
    after = _load(synthetic_runs)
    assert np.array_equal(after.per_image[run_id].correct, before.per_image[run_id].correct)
    assert after.runs["test_digest"].nunique() == 1


def test_half_precision_logits_are_accepted_and_ties_forgiven(synthetic_runs):
    run_id = synthetic_runs.run_id("resnet")
    logits = _load(synthetic_runs).predictions(run_id)["logits"].copy()
    logits[0] = [1.0001, 1.0002, 0, 0]
    labels = logits.argmax(1)
    synthetic_runs.edit_predictions(run_id, logits=logits.astype(np.float16), labels=labels)
    claims = {f"test/{name}": value for name, value in classification_metrics(logits, labels).items()}
    assert claims["test/top1"] == 1.0  # before the rounding, which ties the first image's two largest
    synthetic_runs.edit_record(run_id, metrics=claims)
    assert _load(synthetic_runs).faults == []
    synthetic_runs.edit_record(run_id, metrics={"test/top1": 1.0 - 4 / 400})
    assert len(_load(synthetic_runs).faults) == 1


def test_curves(synthetic_runs):
    curve = _load(synthetic_runs).curves(synthetic_runs.run_id("vit"))
    assert curve["step"].tolist() == [25, 50, 75, 100]
    assert curve["val/top1"].tolist() == [0.2, 0.4, 0.6, 0.8]


def _truncate(runs, run_id, name):
    path = runs.folder / run_id / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r, i: (r.folder / i / "record.json").unlink(), ["record.json", "cannot be read"]),
        (lambda r, i: _truncate(r, i, "record.json"), ["record.json", "truncated"]),
        (lambda r, i: r.edit_record(i, schema=0), ["schema 0"]),
        (lambda r, i: r.edit_record(i, model="resnet"), ["foreign", "`model` is 'resnet'", "'vit'"]),
        (lambda r, i: r.edit_record(i, run_id="other"), ["foreign", "`run_id`"]),
        (lambda r, i: r.edit_record(i, status="failed"), ["`status` is 'failed'"]),
        (lambda r, i: r.edit_record(i, metrics={"test/nll": float("nan")}), ["`metrics.test/nll` is nan"]),
        (lambda r, i: r.edit_record(i, metrics={"test/top1": None}), ["`metrics.test/top1` is missing"]),
        (lambda r, i: r.edit_record(i, metrics={"test/macro_f1": 5.0}), ["`metrics.test/macro_f1` is 5", "from the logits"]),
        (lambda r, i: r.edit_record(i, compute={"device_hours": -5.0}), ["`compute.device_hours` is -5", "below zero"]),
        (lambda r, i: r.edit_record(i, metrics={"val/top1": 0.9}), ["`metrics.val/top1` is 0.9", "it is 0.8"]),
        (lambda r, i: r.edit_record(i, metrics={"val/nll": 0.1}), ["`metrics.val/nll` is 0.1"]),
        (lambda r, i: r.edit_record(i, varied={"a": 1}), ["foreign", "`varied`"]),
        (lambda r, i: r.edit_record(i, trial=3), ["foreign", "`trial`"]),
        (lambda r, i: r.edit_record(i, init="pretrained"), ["foreign", "`init` is 'pretrained'"]),
        (lambda r, i: r.edit_record(i, samples_seen=10**400), ["`samples_seen`", "too many digits"]),
        (lambda r, i: r.edit_record(i, compute={"mfu": 7.0}), ["`compute.mfu` is 7"]),
        (lambda r, i: (r.folder / i / "record.json").write_text("[" * 200_000), ["record.json", "not valid JSON"]),
        (lambda r, i: r.edit_predictions(i, class_names=np.array(["a", "b"])), ["`class_names` must name 4"]),
        (lambda r, i: r.edit_record(i, n_val=7), ["`n_val` is 7", "30 validation images"]),
        (lambda r, i: r.edit_record(i, metrics={"test/top1": 0.999}), ["does not match its record", "0.999"]),
        (lambda r, i: (r.folder / i / "predictions.npz").unlink(), ["predictions.npz", "missing"]),
        (lambda r, i: _truncate(r, i, "predictions.npz"), ["predictions.npz", "truncated"]),
        (lambda r, i: r.edit_predictions(i, val_logits=None), ["no array", "val_logits"]),
        (lambda r, i: r.edit_predictions(i, logits=np.full((400, 4), np.nan)), ["`logits`", "not a number"]),
        (lambda r, i: r.edit_predictions(i, labels=np.full(400, 9)), ["`labels` must lie in [0, 4)"]),
        (lambda r, i: r.edit_predictions(i, labels=np.zeros(3, int)), ["do not belong together"]),
        (lambda r, i: r.edit_predictions(i, sample_ids=np.zeros(400, int)), ["twice"]),
    ],
)
def test_a_spoilt_run_is_named_and_left_out(synthetic_runs, spoil, words):
    run_id = synthetic_runs.run_id("vit", 0.3, 1)
    spoil(synthetic_runs, run_id)
    results = _load(synthetic_runs)
    assert len(results.faults) == 1
    for word in [run_id, *words]:
        assert word in results.faults[0]
    assert str(synthetic_runs.folder) not in results.faults[0]
    assert len(results.runs) == 35 and run_id not in set(results.runs["run_id"])
    cell = results.cells.set_index("run_id").loc[run_id]
    assert cell["status"] == "unusable" and words[-1] in cell["reason"]


@pytest.fixture
def tuned_runs(tmp_path: Path) -> tuple[Experiment, dict[str, Any], Path]:
    """The published runs of track B, to be spoilt."""
    folder = tmp_path / "runs" / "vit_small_data_tuned"
    shutil.copytree(ROOT / "results" / "vit_small_data_tuned", folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
    experiment = loading.load_experiment("vit_small_data_tuned")
    cells = expand(experiment, ledger.read_splits(folder))
    trials = [trial for cell in cells for trial in tuning.trials_of(cell)]
    return experiment, ledger.ledger(experiment, cells, folder, list({t.run_id: t for t in trials}.values())), folder


def _charge(folder: Path, run_id: str, **cost: float) -> None:
    record = json.loads((folder / run_id / "record.json").read_text())
    record["compute"] |= cost
    (folder / run_id / "record.json").write_text(json.dumps(record))


def test_the_cost_of_tuning_is_that_of_its_trials(tuned_runs):
    experiment, ledger, folder = tuned_runs
    assert load(ledger, folder, experiment).faults == []
    tuned = next(cell["run_id"] for cell in ledger["cells"] if cell["varied"]["track"] == "tuned")
    _charge(folder, tuned, tuning_device_hours=1.0)
    (fault,) = load(ledger, folder, experiment).faults
    assert tuned in fault and "`compute.tuning_device_hours` is 1, its 5 trials cost" in fault
    cell = next(cell for cell in ledger["cells"] if cell["run_id"] == tuned)
    same = ("model", "data", "train_fraction")
    trial = next(trial for trial in ledger["trials"] if all(trial[key] == cell[key] for key in same))
    path = folder / trial["run_id"] / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": "2999-01-01T00:00:00+00:00"}))
    assert load(ledger, folder, experiment).faults == []  # a trial that was repeated later: the run was charged the first
    shutil.rmtree(folder / trial["run_id"])  # a tuning that is not all there neither proves nor refutes
    assert load(ledger, folder, experiment).faults == []


def test_a_cell_that_the_ledger_calls_failed_for_its_record_is_a_fault(synthetic_runs):
    cell = synthetic_runs.cell("vit", 0.3, 1)
    synthetic_runs.edit_record(cell["run_id"], schema=0)
    cell |= {"status": "failed", "reason": "unreadable"}
    synthetic_runs.lose(synthetic_runs.run_id("vit", 0.3, 2), "missing")
    synthetic_runs.edit_record(synthetic_runs.run_id("vit", 0.3, 0), status="failed")
    synthetic_runs.cell("vit", 0.3, 0).update(status="failed", reason="out of memory")
    results = _load(synthetic_runs)
    assert len(results.faults) == 1 and "schema 0" in results.faults[0]
    assert results.cells["status"].value_counts().to_dict() == {"done": 33, "failed": 1, "missing": 1, "unusable": 1}


def test_a_broken_curve_costs_the_curve_only(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    _truncate(synthetic_runs, run_id, "metrics.jsonl")
    results = _load(synthetic_runs)
    assert len(results.runs) == 36 and results.curves(run_id).empty
    assert "metrics.jsonl" in results.faults[0] and run_id in results.faults[0]


def test_a_metric_does_not_stand_for_a_column_of_the_record(synthetic_runs):
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), metrics={"seed": 5.0})
    assert sorted(set(_load(synthetic_runs).runs["seed"])) == [0, 1, 2]


def test_a_best_evaluation_that_is_none_costs_the_curve_and_itself(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    synthetic_runs.edit_record(run_id, metrics={"val_best/top1": 0.9})
    results = _load(synthetic_runs)
    (fault,) = results.faults
    assert (
        run_id in fault
        and "metrics.jsonl" in fault
        and "`metrics.val_best/top1` is 0.9, its best evaluation has 0.8" in fault
    )
    assert len(results.runs) == 36 and results.curves(run_id).empty
    assert np.isnan(results.runs.set_index("run_id").loc[run_id, "val_best/top1"])


@pytest.mark.parametrize("value", ["NaN", "true", "1" + "0" * 400])
def test_a_curve_with_a_value_that_is_none_is_left_out(synthetic_runs, value):
    run_id = synthetic_runs.run_id("vit")
    path = synthetic_runs.folder / run_id / "metrics.jsonl"
    path.write_text(path.read_text().replace('"val/top1": 0.4', f'"val/top1": {value}'))
    (fault,) = _load(synthetic_runs).faults
    assert run_id in fault and "not a number" in fault


def test_a_curve_that_lost_its_end_is_left_out(synthetic_runs):
    run_id = synthetic_runs.run_id("vit")
    path = synthetic_runs.folder / run_id / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    results = _load(synthetic_runs)
    assert results.curves(run_id).empty and "ends at step 75, its record at 100" in results.faults[0]


def test_nothing_done(synthetic_runs):
    for cell in synthetic_runs.ledger["cells"]:
        cell |= {"status": "missing"}
    with pytest.raises(NothingDone, match=r"no usable run of experiment 'synthetic' .*36 missing"):
        _load(synthetic_runs)


def test_all_spoilt_is_nothing_done_with_the_reasons(synthetic_runs):
    for cell in synthetic_runs.ledger["cells"]:
        synthetic_runs.edit_record(cell["run_id"], schema=99)
    with pytest.raises(NothingDone, match="schema 99"):
        _load(synthetic_runs)


def test_table_order_keeps_families_together(synthetic_runs):
    models = synthetic_runs.experiment.models
    twisted = {name: models[name] for name in ("convnext", "vit", "resnet", "vit_timm")} | {"convnext_2": models["convnext"]}
    assert table_order(twisted) == ["convnext", "convnext_2", "resnet", "vit_timm", "vit"]


def test_analysis_does_without_torch(synthetic_runs):
    code = "import sys, analysis.load, analysis.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
