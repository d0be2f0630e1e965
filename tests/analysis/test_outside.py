"""Records that lie, titles that are formulas or code: each is named, or stays a text."""

from __future__ import annotations

import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert
from pydantic import ValidationError

from analysis import render
from analysis.figures import style
from analysis.load import load
from analysis.render import Table
from experiments.config.schema import DataConfig
from experiments.config.text import control_character, printable
from experiments.records.record import RecordError, read_record
from tests.analysis.conftest import MODELS, SyntheticRuns

HOSTILE = "a\\\"'] ${datum} datum.x` b"


def _load(runs: SyntheticRuns) -> Any:
    return load(runs.ledger, runs.folder, runs.experiment)


def test_predictions_of_another_seed_are_named(synthetic_runs: SyntheticRuns) -> None:
    first, copy = (synthetic_runs.run_id("vit", 1.0, seed) for seed in (0, 1))
    for name in ("predictions.npz",):
        shutil.copy(synthetic_runs.folder / first / name, synthetic_runs.folder / copy / name)
    with np.load(synthetic_runs.folder / first / "predictions.npz") as stored:
        assert stored["logits"].size
    synthetic_runs.edit_record(copy, metrics=read_record(synthetic_runs.folder / first / "record.json").metrics)
    results = _load(synthetic_runs)
    assert len(results.runs) == 34 and len(results.faults) == 2
    for own, other, fault in zip((first, copy), (copy, first), results.faults, strict=True):
        assert fault.removeprefix("runs/").startswith(
            f"synthetic/{own}: predictions.npz: its test logits are those of {other}"
        )


def test_validation_images_are_those_of_the_split(synthetic_runs: SyntheticRuns) -> None:
    runs = [synthetic_runs.run_id(model, 1.0, seed) for seed in (0, 1) for model in MODELS]
    theirs = _load(synthetic_runs).predictions(runs[-1])["val_sample_ids"]
    synthetic_runs.edit_predictions(runs[0], val_sample_ids=np.arange(100) + 2000)
    (fault,) = _load(synthetic_runs).faults
    assert runs[0] in fault and "3 of 4 runs of its split have other validation images" in fault
    for run_id in runs[:4]:  # all of seed 0 claim the images of seed 1
        synthetic_runs.edit_predictions(run_id, val_sample_ids=theirs)
    results = _load(synthetic_runs)
    assert len(results.faults) == 8 and all("its validation images are those of" in fault for fault in results.faults)


def test_class_names_are_those_of_the_data(synthetic_runs: SyntheticRuns) -> None:
    run_id = synthetic_runs.run_id("vit")
    synthetic_runs.edit_predictions(run_id, class_names=np.array(["cat", "dog", "owl", "PWN"]))
    (fault,) = _load(synthetic_runs).faults
    assert run_id in fault and "35 of 36 runs of its data have other `class_names`" in fault


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("name", ["top1", "top5", "nll", "brier", "macro_f1", "ece"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_every_metric_is_computed_again(synthetic_runs: SyntheticRuns, split: str, name: str, kind: type) -> None:
    run_id, key = synthetic_runs.run_id("vit"), f"{split}/{name}"
    arrays = _load(synthetic_runs).predictions(run_id)
    synthetic_runs.edit_predictions(run_id, **{name: arrays[name].astype(kind) for name in ("logits", "val_logits")})
    assert _load(synthetic_runs).faults == []
    before = read_record(synthetic_runs.folder / run_id / "record.json").metrics.get(key) or 0.0
    # In half precision many of these 400 images may move to another bin of confidence.
    synthetic_runs.edit_record(run_id, metrics={key: before + (0.5 if kind is np.float16 and name == "ece" else 0.1)})
    (fault,) = _load(synthetic_runs).faults
    assert run_id in fault and f"metrics.{key}` is" in fault


def test_an_accuracy_is_a_count_of_images_and_has_no_tolerance(synthetic_runs: SyntheticRuns) -> None:
    run_id = synthetic_runs.run_id("vit")
    top1 = read_record(synthetic_runs.folder / run_id / "record.json").metrics["test/top1"] or 0.0
    synthetic_runs.edit_record(run_id, metrics={"test/top1": top1 + 5e-5})
    (fault,) = _load(synthetic_runs).faults
    assert run_id in fault and "metrics.test/top1` is" in fault


@pytest.mark.parametrize("text", ["a\x1b[2J", "a\nb", "a\x00", "a\u202eb", "a\u2066b", "\x85"])
def test_control_characters_are_refused_and_spelled_out(synthetic_runs: SyntheticRuns, text: str) -> None:
    shapes = synthetic_runs.experiment.data["shapes"].model_dump()
    with pytest.raises(ValidationError, match="holds the control character"):
        DataConfig(**(shapes | {"title": text}))
    with pytest.raises(ValidationError, match="holds the control character"):
        type(MODELS["vit"])(**(MODELS["vit"].model_dump() | {"family": text}))
    run_id = synthetic_runs.run_id("vit")
    synthetic_runs.edit_record(run_id, family=text)
    with pytest.raises(RecordError, match=r"record\.json: holds the control character"):
        read_record(synthetic_runs.folder / run_id / "record.json")
    assert not control_character(printable(text))


def test_a_failure_may_have_several_lines(synthetic_runs: SyntheticRuns) -> None:
    run_id = synthetic_runs.run_id("vit")
    synthetic_runs.edit_record(run_id, status="failed")
    path: Path = synthetic_runs.folder / run_id / "record.json"
    path.write_text(path.read_text().replace('"failure": null', '"failure": {"kind": "x", "message": "one\\ntwo"}'))
    assert read_record(path).failure is not None


def test_a_title_stays_a_text_in_a_drawing() -> None:
    rows = [{"model": HOSTILE, "value": 1.0}, {"model": "b", "value": 2.0}]
    look = style.Style(HOSTILE, "#000000", "circle", [1, 0], 1.0)
    chart = (
        alt.Chart(style.inline(rows))
        .mark_point()
        .encode(x=alt.X("value:Q", title=f"Δ to {HOSTILE}"), y=alt.Y("model:N", sort=[HOSTILE, "b"]),
                color=style.colour({"a": look, "b": replace(look, label="b")}))
        .properties(title=HOSTILE)
    )  # fmt: skip
    svg = vl_convert.vegalite_to_svg(style.specification(chart, "A figure"))
    drawn = [re.sub("&quot;", '"', text) for text in re.findall(r"<text[^>]*>([^<]*)<", svg)]
    assert f"Δ to {HOSTILE}" in drawn and drawn.count(HOSTILE) >= 2


def test_no_text_of_a_csv_is_a_formula() -> None:
    texts = ["=1+1", "+1", "-1", "@x", "\tx", "plain", "a=b"]
    frame = pd.DataFrame({"model_title": texts, "delta": [-1.5] * 7})
    table = Table("t", "T", "", [], [], {}, frame, "")
    rows = list(csv.reader(io.StringIO(render.csv(table), newline="")))[1:]
    assert [row[0] for row in rows] == [f"'{text}" for text in texts[:5]] + texts[5:]
    assert {row[1] for row in rows} == {"-1.5"}
