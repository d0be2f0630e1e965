"""Tables: what they say, and that they are valid in each format."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from analysis import captions, latex, render, tables
from analysis import text as numerals
from analysis.columns import COLUMNS
from analysis.fairness.certificate import certify
from analysis.load import load
from analysis.summary import summarise
from experiments.config.schema import DataConfig
from experiments.metrics import classification_metrics
from tests.analysis.conftest import MODELS, make_experiment, write_experiment, write_run


def _tables(runs):
    results = load(runs.ledger, runs.folder, runs.experiment)
    summary = summarise(results, runs.experiment)
    facts = captions.gather(results, summary, runs.experiment, certify(results))
    return {table.name: table for table in tables.all_tables(summary, runs.experiment, facts)}


def _facts(runs):
    results = load(runs.ledger, runs.folder, runs.experiment)
    return captions.gather(results, summarise(results, runs.experiment), runs.experiment, certify(results))


def _texts(table, block=0):
    return [[entry.text for entry in row.entries] for row in table.blocks[block].rows]


@pytest.mark.parametrize(
    ("half_width", "places"),
    [(12.0, 0), (3.6, 0), (3.5, 1), (0.95, 1), (9.6, 0), (0.36, 1), (0.35, 2), (0.0, 4), (float("nan"), 1)],
)
def test_decimals_follow_the_particle_data_group(half_width, places):
    assert numerals.decimals(half_width) == places


def test_numbers():
    assert numerals.number(-0.04, 1) == "0.0" and numerals.number(-1.25, 1, signed=True) == "−1.2"
    assert numerals.number(float("nan"), 1) == "–" == numerals.significant(None)
    assert numerals.plus_minus(90.0, float("nan"), 1) == "90.0"
    assert numerals.bracket(-1.0, 2.0, 1, signed=True) == "[−1.0, +2.0]"
    assert [numerals.significant(v) for v in (1234567.0, 21.28, 0.0123, 0)] == ["1\u202f234\u202f567", "21.3", "0.0123", "0"]
    assert numerals.percent(0.03) == "3%" and numerals.percent(0.125) == "12.5%"


def test_accuracy_rows(synthetic_runs):
    table = _tables(synthetic_runs)["metrics"]
    assert [block.heading for block in table.blocks] == [
        "100% of the training data (n = 1000)",
        "30% of the training data (n = 300)",
        "10% of the training data (n = 100)",
    ]
    rows = _texts(table)
    assert [row[0] for row in rows] == ["ResNet_18 & co", "ConvNeXt", "ViT (timm)", "ViT (ours)"]
    column = table.columns.index
    assert rows[0][column("Top-1 (%) ↑")] == "90.0 ± 0.5"
    assert rows[1][2] == "[84.5, 90.7]"
    assert re.fullmatch(r"−2\.0 \[−\d\.\d, \+0\.0\]", rows[1][3]) and rows[0][3] == "–"
    bold = [[entry.bold for entry in row.entries].count(True) for row in table.blocks[0].rows]
    assert bold == [1, 1, 0, 0] and rows[3][3].endswith("†")
    assert "Top-5 (%) ↑" not in table.columns
    assert table.footnotes == {"a": "not scaled: fewer than 100 validation images"} and table.banner == ""


def test_calibration_columns(synthetic_runs):
    table = _tables(synthetic_runs)["metrics"]
    first = table.columns.index("NLL ↓")
    assert table.columns[first : first + 4] == ["NLL ↓", "Brier ↓", "ECE (%) ↓", "ECE, scaled (%) ↓"]
    full, small = (block.rows[0].entries[first : first + 4] for block in (table.blocks[0], table.blocks[2]))
    assert re.fullmatch(r"0\.\d\d\d?", full[1].text)
    assert re.fullmatch(r"\d\.\d \(null \d\.\d, ≤ \d\.\d\)", full[2].text)
    assert re.fullmatch(r"\d+\.\d", full[3].text) and full[3].note == ""
    assert (small[3].text, small[3].note) == ("–", "a")  # 10 validation images
    frame = pd.read_csv(io.StringIO(render.csv(_tables(synthetic_runs)["accuracy"])))
    assert list(frame.columns[-4:-1]) == ["ece_null", "ece_null_high", "ece_scaled_note"]
    assert (frame["ece_null"] < frame["ece_null_high"]).all()


def test_accuracy_by_budget(synthetic_runs):
    table = _tables(synthetic_runs)["accuracy"]
    assert table.columns == ["Model", "10% (n = 100)", "30% (n = 300)", "100% (n = 1000)"]
    rows = _texts(table)
    assert rows[0][3] == "90.0 ± 0.5" and re.fullmatch(r"80\.0 ± 0\.5\n−10\.0 \[−1\d\.\d, −[78]\.\d\] †", rows[3][3])
    assert [row.entries[3].bold for row in table.blocks[0].rows] == [True, True, False, False]
    assert re.search(r"\| \*\*88\.0 ± 0\.5\*\*<br>−2\.0 \[", render.markdown(table))


def test_every_table_says_under_what_conditions(synthetic_runs):
    facts = _facts(synthetic_runs)
    for table in _tables(synthetic_runs).values():
        for words in ("Seeds 0, 1, 2", "400 test images", "identical", "fp32", "settings "):
            assert words in table.note, (table.name, words)
    said = " ".join(facts.details)
    for words in ("± sample standard deviations", "last checkpoint", "new seeds and new test images", "docs/method.md",
                  "unadjusted", "Holm", "below 3 seeds", "cpu", "3 × forward", "Certificate"):  # fmt: skip
        assert words in said
    # Of 1000, 300 and 100 images 100, 30 and 10 validate; a training set holds 900, 270 and 90 of the pool of 1000.
    assert "the training sets of two seeds have in common: 90% at 100%, 27% at 30%, 9% at 10%; where" in said
    assert "Shapes: test and training images are by the same writers." in said


@pytest.mark.parametrize("change", [{"test_cut": "blocks"}, {"source": "fashion_mnist"}])
def test_captions_speak_of_writers_only_where_they_are_shared(change):
    data = make_experiment().data["shapes"].model_copy(update=change)
    assert captions._writers(make_experiment(data={"shapes": data})) == ""


def test_one_seed_shares_its_training_set_with_none(tmp_path):
    runs = write_experiment(tmp_path / "runs" / "synthetic", make_experiment(seeds=[0], expect=[]))
    assert "training sets of two seeds" not in " ".join(_facts(runs).details)


@pytest.mark.parametrize(("rates", "in_rows"), [(2, False), (12, True)])
def test_settings_side_by_side_are_chosen_by_validation(tmp_path, rates, in_rows):
    vary = {"recipe.learning_rate": [round(0.001 * at, 3) for at in range(1, rates + 1)]}
    models = {name: MODELS[name] for name in ("vit", "resnet")}
    runs = write_experiment(
        tmp_path / "r", make_experiment(vary=vary, models=models, seeds=[0], train_fractions=[1.0], expect=[])
    )
    for cell in runs.ledger["cells"]:  # of the ViT the second rate, of the ResNet the first two alike
        rate, vit = cell["varied"]["recipe.learning_rate"], cell["model"] == "vit"
        right = {0.001: 7 if vit else 9, 0.002: 9}.get(rate, 5)
        labels = np.arange(10) % 4
        logits = np.eye(4, dtype=np.float32)[(labels + (np.arange(10) >= right)) % 4]
        runs.edit_predictions(cell["run_id"], val_logits=logits, val_labels=labels, val_sample_ids=np.arange(10))
        found = {f"val/{name}": value for name, value in classification_metrics(logits, labels).items()}
        runs.edit_record(cell["run_id"], n_val=10, n_train=990, metrics=found)
    table = _tables(runs)["settings"]
    bold = {
        (row.entries[0].text, table.columns[at]): entry.text
        for block in table.blocks for row in block.rows for at, entry in enumerate(row.entries) if entry.bold
    }  # fmt: skip
    expected = [("ResNet_18 & co", "learning_rate = 0.001"), ("ResNet_18 & co", "learning_rate = 0.002"),
                ("ViT (ours)", "learning_rate = 0.002")]  # fmt: skip
    assert set(bold) == {pair[::-1] if in_rows else pair for pair in expected}
    assert all(text.endswith("\nval 90.0") for text in bold.values())
    assert len(table.blocks[0].rows) == (12 if in_rows else 2) and len(table.columns) == 3
    assert table.frame["chosen"].sum() == 3 and "chosen on the test set" in table.caption


def test_a_setting_that_lost_a_seed_is_not_chosen(tmp_path):
    vary = {"recipe.learning_rate": [0.001, 0.002]}
    runs = write_experiment(tmp_path / "r", make_experiment(vary=vary, seeds=[0, 1], train_fractions=[1.0], expect=[]))
    chosen = _tables(runs)["settings"].frame.groupby("model")["chosen"].any()
    assert chosen.all()
    for cell in runs.ledger["cells"]:
        if cell["varied"]["recipe.learning_rate"] == 0.002 and cell["model"] == "vit" and cell["seed"] == 1:
            runs.lose(cell["run_id"])
    chosen = _tables(runs)["settings"].frame.groupby("model")["chosen"].any()
    assert not chosen.pop("vit") and chosen.all()


def test_of_settings_that_change_the_data_none_is_chosen(tmp_path):
    experiment = make_experiment(vary={"data.permute_pixels": [None, 0]}, seeds=[0], train_fractions=[1.0], expect=[])
    runs = write_experiment(tmp_path / "r", experiment)
    table = _tables(runs)["settings"]
    assert not [entry for row in table.blocks[0].rows for entry in row.entries if entry.bold or "val" in entry.text]
    assert table.columns == ["Model", "permute_pixels = None", "permute_pixels = 0"] and not table.frame["chosen"].any()


def test_data_efficiency_rows(synthetic_runs):
    table = _tables(synthetic_runs)["data_efficiency"]
    assert table.columns[:3] == ["Model", "AULC (%) ↑", "Δ AULC [95% CI] ↑"], "no column of crossovers, there is none"
    row = _texts(table)[3]
    assert row[0] == "ViT (ours)" and re.fullmatch(r"4\.0× \[3\.\d, 4\.\d\] more", row[-1])
    assert len(row) == 4 or re.fullmatch(r"≥ 3\.3× more\n1,000 against 300\n−1\.8.*", row[3])
    assert set(_texts(table)[0][2:]) == {"–"}


def test_images_needed_turns_with_the_reference(tmp_path):
    table = _tables(write_experiment(tmp_path / "runs" / "synthetic", make_experiment(reference="vit")))["data_efficiency"]
    assert re.fullmatch(r"4\.0× \[3\.\d, 4\.\d\] fewer", _texts(table)[0][-1])
    assert table.blocks[0].rows[0].entries[-1].value == pytest.approx(1 / 4, rel=0.03)


def test_compute_rows_and_unknowns(synthetic_runs):
    tables_ = _tables(synthetic_runs)
    heads = ["Params (M)", "MACs (M)", "Train GFLOPs ↓", "Device s ↓", "Images/s ↑", "Peak GB ↓", "Top-1 (%) ↑"]
    assert tables_["compute"].columns == ["Model", *heads], "no column of MFU or energy, which nobody measured"
    rows = _texts(tables_["compute"])
    assert rows[3] == ["ViT (ours)", "1.23", "12.3", "236", "3.60", "1\u202f001", "1.61", "80.0 ± 0.5"]
    frame = pd.read_csv(io.StringIO(render.csv(tables_["compute"])))
    assert frame["mfu"].isna().all() and frame["n_params"].iloc[-1] == 1_234_567


def test_mixed_devices_are_a_footnote(synthetic_runs):
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), environment={"device": "NVIDIA H200"})
    table = _tables(synthetic_runs)["compute"]
    assert table.columns == ["Model", "Params (M)", "MACs (M)", "Train GFLOPs ↓", "Top-1 (%) ↑"]
    assert "NVIDIA H200, cpu" in table.footnotes["a"]
    assert {row.entries[0].note for row in table.blocks[0].rows} == {"a"}


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [([0.00007, 0.0003], "Train GFLOPs ↓", "70.0"),
     ([0.002, 3.0], "Train TFLOPs ↓", "2.00"), ([1.5, 2000], "Train PFLOPs ↓", "1.50"),
     ([1e-9], "Train GFLOPs ↓", "0.00100"), ([float("nan")], "Train GFLOPs ↓", "–")],
)  # fmt: skip
def test_units_that_people_read(values, unit, text):
    frame = pd.DataFrame({"train_pflops": values})
    column = next(column for column in COLUMNS if column.key == "train_pflops").in_unit(frame["train_pflops"])
    assert column.title == unit and column.shown(next(frame.itertuples())) == text


def test_incomplete_cells_are_footnotes_in_every_format(synthetic_runs):
    synthetic_runs.lose(synthetic_runs.run_id("vit", 1.0, 1))
    table = _tables(synthetic_runs)["accuracy"]
    assert table.blocks[0].rows[3].entries[3].note == "a"
    assert table.footnotes["a"] == "2 of 3 seeds: seed 1 missing; shares 2 of the reference's 3 seeds"
    assert "1 of 12 cells lack seeds" in table.note
    for text in (render.markdown(table), latex.latex(table), render.plain(table), render.csv(table)):
        assert "2 of 3 seeds: seed 1 missing" in text


def test_the_banner_cannot_be_missed(synthetic_runs):
    synthetic_runs.edit_record(synthetic_runs.run_id("vit"), environment={"precision": "bf16"})
    table = _tables(synthetic_runs)["accuracy"]
    assert "UNEQUAL SETTINGS" in table.banner and "precision" in table.banner
    assert "UNEQUAL SETTINGS" in render.markdown(table).splitlines()[2]
    paper = latex.latex(table)
    assert paper.index("UNEQUAL SETTINGS") < paper.index("{tabular}") and r"\textbf{UNEQUAL" in paper
    frame = pd.read_csv(io.StringIO(render.csv(table)))
    assert frame.columns[0] == "WARNING" and frame["WARNING"].str.startswith("UNEQUAL SETTINGS").all()
    assert render.plain(table).startswith("!!! UNEQUAL SETTINGS")


def test_csv_has_full_precision_and_run_ids(synthetic_runs):
    table = _tables(synthetic_runs)["accuracy"]
    frame = pd.read_csv(io.StringIO(render.csv(table)))
    assert len(frame) == 12
    row = frame[(frame["model"] == "vit") & (frame["train_fraction"] == 0.1)].iloc[0]
    assert row["run_ids"].split() == [synthetic_runs.run_id("vit", 0.1, seed) for seed in range(3)]
    results = load(synthetic_runs.ledger, synthetic_runs.folder, synthetic_runs.experiment)
    summary = summarise(results, synthetic_runs.experiment)
    assert row["delta_low"] == summary.cells.query("model == 'vit' and train_fraction == 0.1")["delta_low"].iloc[0]


def test_top5_from_a_hundred_classes(tmp_path):
    experiment = make_experiment(seeds=[0, 1, 2], train_fractions=[1.0], expect=[])
    folder = tmp_path / "runs" / "synthetic"
    names = tuple(f"class {i}" for i in range(100))
    cells = [write_run(folder, experiment, m, "shapes", 1.0, s, classes=names) for m in experiment.models for s in range(3)]
    runs = write_experiment(tmp_path / "unused", make_experiment(models={"resnet": experiment.models["resnet"]}, expect=[]))
    runs.folder, runs.experiment, runs.ledger = folder, experiment, runs.ledger | {"cells": cells}
    summary = summarise(load(runs.ledger, runs.folder, runs.experiment), runs.experiment)
    assert "Top-5 (%) ↑" in tables.metrics(summary, _facts(runs)).columns


def test_models_by_datasets(tmp_path):
    shapes = make_experiment().data["shapes"]
    data = {"shapes": shapes, "more": DataConfig(**(shapes.model_dump() | {"title": "More & more"}))}
    runs = write_experiment(tmp_path / "runs" / "synthetic", make_experiment(data=data, train_fractions=[1.0]))
    tables_ = _tables(runs)
    table = tables_["datasets"]
    shared = ["Average rank ↓", "Δ across datasets [95% CI] ↑", "for a new dataset [95% PI]"]
    assert table.columns == ["Model", "Shapes ↑", "More & more ↑", *shared]
    rows = _texts(table)
    assert rows[3][:3] == ["ViT (ours)", "80.0 ± 0.5", "80.0 ± 0.5"]
    # Ranks 3 and 4 tie on both; t(.975, 1) = 12.7 makes the interval over two datasets wide, and none varies between them.
    assert rows[3][3] == "3.5" and re.fullmatch(r"−10[.\d]* \[−[.\d]+, [+−][.\d]+\]", rows[3][4])
    assert rows[3][4].partition(" ")[2] == rows[3][5]
    assert rows[0][3:] == ["1.0", "–", "–"]
    frame = pd.read_csv(io.StringIO(render.csv(table))).set_index(["model", "data"])
    assert (
        frame.loc["vit", "across_delta"].tolist() == pytest.approx([-0.1] * 2) and frame.at[("vit", "more"), "across_n"] == 2
    )
    assert "over datasets taken as a random sample, each counting once" in table.method
    assert [block.heading for block in tables_["metrics"].blocks] == [
        "Shapes: 100% of the training data (n = 1000)",
        "More & more: 100% of the training data (n = 1000)",
    ]
    assert "Friedman" not in table.method


def test_a_model_without_a_dataset_is_pooled_over_the_others_and_has_no_rank(tmp_path):
    shapes = make_experiment().data["shapes"]
    data = {name: shapes.model_copy(update={"title": name.title()}) for name in ("one", "two", "three")}
    runs = write_experiment(tmp_path / "runs" / "synthetic", make_experiment(data=data, train_fractions=[1.0], expect=[]))
    for seed in range(3):
        runs.lose(next(c for c in runs.ledger["cells"] if c["run_id"].startswith(f"vit-two-f1-s{seed}"))["run_id"])
    table = _tables(runs)["datasets"]
    assert table.footnotes == {"a": "Two: 0 of 3 seeds: seeds 0, 1, 2 missing; Δ across 2 of 3 datasets"}
    rows = _texts(table)
    assert rows[3][4] == "–" and rows[3][5].startswith("−10") and [row[4] for row in rows[:3]] == ["1.0", "2.0", "3.0"]


def test_friedman_counts_datasets_and_not_settings():
    def largest(datasets):
        keys = [(d, setting, m) for d in range(datasets) for setting in ("identical", "tuned") for m in "abc"]
        frame = pd.DataFrame(keys, columns=["data", "setting", "model"])
        return frame.assign(mean=frame["model"].map({"a": 0.7, "b": 0.8, "c": 0.9}))

    assert tables.friedman_sentences(largest(3)) == "", "3 datasets × 2 tracks are not 6 datasets"
    # Ranks 1, 2, 3 on all of six datasets: χ² = 12 with 2 degrees of freedom, p = exp(−6).
    assert tables.friedman_sentences(largest(6)) == (
        "Friedman test of equal ranks over 6 datasets (identical): p = 0.0025. "
        "Friedman test of equal ranks over 6 datasets (tuned): p = 0.0025. "
    )


def test_friedman_from_six_datasets(tmp_path):
    shapes = make_experiment().data["shapes"]
    data = {f"set{i}": shapes.model_copy(update={"title": f"Set {i}"}) for i in range(6)}
    runs = write_experiment(tmp_path / "runs" / "synthetic", make_experiment(data=data, train_fractions=[1.0], seeds=[0]))
    assert "Friedman test of equal ranks over 6 datasets: p = 0.0" in _tables(runs)["datasets"].method


def test_markdown_is_well_formed(synthetic_runs):
    text = render.markdown(_tables(synthetic_runs)["metrics"])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 3 * (2 + 4)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert r"ResNet\_18 \& co" in text and "**90.0 ± 0.5**" in text


def test_no_address_and_no_path(synthetic_runs):
    for table in _tables(synthetic_runs).values():
        for text in (render.markdown(table), latex.latex(table), render.csv(table)):
            assert "://" not in text and str(synthetic_runs.folder) not in text


def test_latex_escapes():
    assert latex.latex_text(r"a_b & 5% #1 $x$ {y} \z ~ ^ [q] <") == (
        r"a\_b \& 5\% \#1 \$x\$ \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{} {[}q{]} $<$"
    )
