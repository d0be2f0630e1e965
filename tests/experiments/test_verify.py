"""Published files carry digests; published runs come out again, or are told apart from those that do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.__main__ import main
from experiments.config.cells import Cell
from experiments.config.errors import ConfigError
from experiments.config.paths import ROOT
from experiments.grid import verify
from experiments.records.digests import SUMS_FILE, add_digests, changed_files
from experiments.records.record import RecordError, read_record
from experiments.training.run import nudge

RESULTS = ROOT / "results"
TINY = [
    "recipe.steps=4",
    "recipe.evaluations=2",
    "seeds=[0,1]",
    "train_fractions=[0.1]",
    "models=[vit_micro_p2,resnet_micro]",
]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    return main()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Some published runs of digits, as a reviewer has them."""
    folder = tmp_path / "paper" / "vit_small_data"
    for run in (RESULTS / "vit_small_data").glob("resnet_micro-digits-f0.1-*"):
        shutil.copytree(run, folder / run.name)
    add_digests(folder)
    return folder


# ---------------------------------------------------------------------------------------------------------------- digests
@pytest.mark.parametrize("name", [folder.name for folder in RESULTS.iterdir() if folder.is_dir()])
def test_what_is_published_here_is_sealed_and_unchanged(name: str) -> None:
    listed = (RESULTS / name / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    assert len(listed) == 4 * len(list((RESULTS / name).glob("*/record.json"))) and changed_files(RESULTS / name) == {}


@pytest.mark.parametrize("file", ["record.json", "predictions.npz", "config.yaml", "metrics.jsonl"])
def test_a_changed_byte_is_found_by_verify_and_by_the_report(
    file: str, published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sorted(published.glob(f"*/{file}"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert call(monkeypatch, "verify", "vit_small_data", "--from", str(published.parent)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{path}: changed after it was published" in said and said.count("error:") == 1 and "Restore" in said
    assert not (tmp_path / "runs_dir").exists()
    monkeypatch.setenv("RUNS_DIR", str(published.parent))
    shutil.copy(RESULTS / "vit_small_data" / "splits.json", published)
    assert call(monkeypatch, "report", "vit_small_data", "models=[resnet_micro]", "train_fractions=[0.1]") == 0
    assert f"{path.relative_to(published.parent.parent)}: changed after it was published" in capsys.readouterr().err


def test_digests_are_those_of_sha256sum_and_are_not_renewed_by_sealing(published: Path) -> None:
    assert subprocess.run(["sha256sum", "--check", "--quiet", SUMS_FILE], cwd=published).returncode == 0
    first, second, _ = sorted(published.glob("*/record.json"))
    first.write_text("{}", encoding="utf-8")
    second.unlink()
    assert add_digests(published) == 12
    assert [sentence.partition(": ")[0] for sentence in changed_files(published).values()] == [str(first), str(second)]
    (published / SUMS_FILE).write_text("0123  ../../etc/passwd\n", encoding="utf-8")
    with pytest.raises(RecordError, match=f"{SUMS_FILE}, line 1: not a digest and a file"):
        changed_files(published)


# ------------------------------------------------------------------------------------------------------------------ cells
def test_cells_are_cheap_and_unlike_each_other_and_more_of_them_hold_the_fewer() -> None:
    records = verify.finished(RESULTS / "vit_small_data")
    four = verify.choose(records, 4)
    assert {len({getattr(record, key) for record in four}) for key in ("model", "train_fraction")} == {4}
    assert verify.choose(records[::-1], 3) == four[:3]
    assert four[0].compute.train_pflops == min(record.compute.train_pflops or 0 for record in records)
    assert len(verify.choose(records, 100)) == 48
    assert all(record.trial is None for record in verify.choose(verify.finished(RESULTS / "vit_small_data_tuned"), 100))


@pytest.mark.parametrize("name", [folder.name for folder in RESULTS.iterdir() if folder.is_dir()])
def test_the_configuration_of_every_published_run_gives_its_cell(name: str) -> None:
    records = verify.finished(RESULTS / name)
    for record in verify.choose(records, len(records)):
        cell = verify.cell_of(RESULTS / name, record, records, "photos" if "pizza" in name else None)
        assert cell.run_id == record.run_id
        if record.track == "tuned":
            from experiments.training.tuning import trials_of

            assert {trial.run_id for trial in trials_of(cell)} <= {other.run_id for other in records}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("learning_rate: 0.003", "learning_rate: 0.004", "its settings are those of resnet_micro-digits-f0.1-s0-"),
        ("learning_rate: 0.003", "learning_rate: fast", "does not say how the run was made"),
        ("requested:", "asked:", "does not say how the run was made (KeyError: 'requested')"),
    ],
)
def test_settings_that_do_not_give_the_run_are_named(published: Path, old: str, new: str, words: str) -> None:
    record = verify.finished(published)[0]
    path = published / record.run_id / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        verify.cell_of(published, record, [record], None)
    assert words in str(caught.value) and str(path) in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- verdicts
def played(folder: Path, change: Callable[[np.ndarray, int], np.ndarray]) -> verify.Launch:
    """Training that gives what was published, with logits that `change` makes of them and the number of the nudge."""

    def launch(cells: list[Cell], place: Path) -> None:
        for cell in cells:
            shutil.copytree(folder / str(cell.run_id), place / str(cell.run_id))
            path = place / str(cell.run_id) / "predictions.npz"
            with np.load(path) as stored:
                arrays = {name: stored[name] for name in stored.files}
            nudge = cell.execution.nudge
            arrays["logits"] = change(arrays["logits"].astype(np.float32), -1 if nudge is None else nudge)
            np.savez(path, **arrays)

    return launch


def moved(all_runs: float, each_run: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """Logits moved by noise that all runs share, as where the code is another one, and by noise of each run's own."""

    def change(logits: np.ndarray, nudge: int) -> np.ndarray:
        shared, own = (np.random.default_rng(seed).normal(size=logits.shape) for seed in (99, nudge + 1))
        return logits + all_runs * shared + each_run * own

    return change


@pytest.mark.parametrize(
    ("all_runs", "each_run", "verdict"), [(0, 0, "equal"), (0, 0.3, "within rounding"), (0.9, 0.1, "differs")]
)
def test_a_verdict_follows_from_bits_or_from_rounding(
    published: Path, tmp_path: Path, all_runs: float, each_run: float, verdict: str
) -> None:
    found = verify.repeat(published, 2, None, tmp_path / "scratch", played(published, moved(all_runs, each_run)))
    assert [cell["verdict"] for cell in found["cells"]] == [verdict] * 2
    assert not (tmp_path / "scratch").exists()
    for cell in found["cells"]:
        assert ("bound" in cell) == (verdict != "equal")
        if "bound" in cell:
            assert len(cell["nudged"]) == verify.NUDGES and (cell["distance"] <= cell["bound"]) == (verdict != "differs")


def test_the_bound_is_a_prediction_limit_with_a_pooled_spread() -> None:
    rows = [
        {"nudged": own, "distance": 0.1, "other_seeds": None, "reason": ""} for own in ([0.1, 0.2, 0.4], [0.01, 0.01, 0.01])
    ]
    verify.judge(rows)
    spread = np.sqrt(2 * np.log(2) ** 2 / 4)
    reach = stats.t.ppf(0.975, 4) * spread * np.sqrt(4 / 3)
    assert [row["bound"] for row in rows] == pytest.approx([0.2 * np.exp(reach), 0.01 * np.exp(reach)])
    assert [row["verdict"] for row in rows] == ["within rounding", "differs"]
    rows[0]["other_seeds"] = 0.3
    verify.judge(rows[:1])
    assert "this shows little" in rows[0]["reason"]


def test_a_record_that_its_predictions_contradict_differs(published: Path, tmp_path: Path) -> None:
    path = sorted(published.glob("*/record.json"))[0]
    launch = played(published.rename(tmp_path / "honest"), moved(0, 0))
    shutil.copytree(tmp_path / "honest", published)
    (published / SUMS_FILE).unlink()
    values = json.loads(path.read_text(encoding="utf-8"))
    for key, value in (("test/top1", 1.0), ("test/nll", 0.01)):
        path.write_text(json.dumps(values | {"metrics": values["metrics"] | {key: value}}), encoding="utf-8")
        found = verify.repeat(published, 3, None, tmp_path / "scratch", launch)
        cell = next(cell for cell in found["cells"] if cell["run_id"] == path.parent.name)
        assert cell["verdict"] == "differs" and key in cell["reason"] and found[SUMS_FILE] is None


def test_missing_settings_are_a_verdict_and_the_others_are_verified(published: Path, tmp_path: Path) -> None:
    first, *_ = verify.choose(verify.finished(published), 1)
    (published / first.run_id / "config.yaml").unlink()
    add = published / SUMS_FILE
    add.write_text("".join(line for line in add.open() if f"{first.run_id}/config.yaml" not in line), encoding="utf-8")
    found = verify.repeat(published, 2, None, tmp_path / "scratch", played(published, moved(0, 0)))
    assert [cell["verdict"] for cell in found["cells"]] == ["settings missing", "equal"]
    assert "config.yaml" in found["cells"][0]["reason"]


def test_predictions_that_cannot_be_read_are_named(published: Path, tmp_path: Path) -> None:
    launch = played(shutil.copytree(published, tmp_path / "honest"), moved(0, 0))
    path = published / verify.choose(verify.finished(published), 1)[0].run_id / "predictions.npz"
    (published / SUMS_FILE).unlink()
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(ConfigError, match=r"predictions.npz: cannot be read"):
        verify.repeat(published, 1, None, tmp_path / "scratch", launch)


def test_a_folder_without_runs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert call(monkeypatch, "verify", "smoke", "--from", str(tmp_path)) == 2
    assert f"FROM: {tmp_path / 'smoke'} holds no finished run" in " ".join(capsys.readouterr().err.split())
    assert call(monkeypatch, "verify", "smoke", "--from", str(tmp_path), "--seal") == 2 and not (tmp_path / "smoke").exists()
    assert f"FROM: {tmp_path / 'smoke'} holds no finished run" in " ".join(capsys.readouterr().err.split())


# ------------------------------------------------------------------------------------------------------------ in the whole
def test_a_published_run_comes_out_again_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", "smoke", *TINY, "--jobs", "1") == 0
    assert call(monkeypatch, "publish", "smoke", *TINY, "--to", str(tmp_path / "paper")) == 0
    assert len((tmp_path / "paper" / "smoke" / SUMS_FILE).read_text(encoding="utf-8").splitlines()) == 16
    before = sorted((tmp_path / "runs_dir").rglob("*"))
    capsys.readouterr()
    assert call(monkeypatch, "verify", "smoke", "--from", str(tmp_path / "paper"), "--cells", "2", "--jobs", "1") == 0
    said = capsys.readouterr().out
    assert said.count("equal ") == 2 and "in another class" not in said
    found = json.loads((tmp_path / "reports_dir" / "smoke" / "verification.json").read_text(encoding="utf-8"))
    assert {cell["model"] for cell in found["cells"]} == {"vit_micro_p2", "resnet_micro"}
    assert [path for path in sorted((tmp_path / "runs_dir").rglob("*")) if ".verify" not in path.parts] == before


def test_a_nudge_moves_every_weight_to_its_neighbour() -> None:
    model = torch.nn.Linear(40, 50)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    nudge(model, 0)
    for old, new in zip(before, model.parameters(), strict=True):
        up, down = (torch.nextafter(old, torch.full_like(old, sign * torch.inf)) for sign in (1, -1))
        assert (((new == up) | (new == down)).all()) and 0 < (new == up).float().mean() < 1
    other = torch.nn.Linear(40, 50)
    other.load_state_dict({"weight": before[0], "bias": before[1]})
    nudge(other, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_nudge_is_recorded_and_renames_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = []
    for place, more in (("a", []), ("b", ["nudge=3"])):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path / place))
        one = [*TINY, "seeds=[0]", "models=[resnet_micro]", "reference=resnet_micro"]
        assert call(monkeypatch, "run", "smoke", *one, *more, "--jobs", "1") == 0
        records.append(read_record(next((tmp_path / place).glob("smoke/*/record.json"))))
    assert records[0].run_id == records[1].run_id
    assert records[0].metrics["test/nll"] != records[1].metrics["test/nll"]
    assert "nudge" not in records[0].environment and records[1].environment["nudge"] == 3
