"""Names of runs, and the ledger of what became of them."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.config import loading
from experiments.config.cells import Cell, expand
from experiments.grid.ledger import SPLITS_FILE, cell_status, compute_splits, ledger, read_splits
from experiments.records.progress import locked


def cells_of(folder: Path, **overrides: object) -> list[Cell]:
    experiment = loading.load_experiment("smoke", overrides)
    return expand(experiment, compute_splits(experiment, folder))


def test_run_ids_say_what_they_are_and_differ(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    ids = [cell.run_id for cell in cells]
    assert len(set(ids)) == 8
    assert all(id_ and id_.startswith(f"{c.model_name}-digits-f") for id_, c in zip(ids, cells, strict=True))
    assert any(id_ and "-f0.1-s1-" in id_ for id_ in ids)
    assert all(id_ and len(id_.rpartition("-")[2]) == 8 for id_ in ids)


def test_adding_a_seed_or_a_model_renames_no_run(tmp_path: Path) -> None:
    before = {cell.run_id for cell in cells_of(tmp_path)}
    more = cells_of(tmp_path, seeds=[0, 1, 2], models=["vit_micro_p2", "resnet_micro", "convnext_micro"])
    assert before < {cell.run_id for cell in more}


def test_other_settings_are_other_runs(tmp_path: Path) -> None:
    before = {cell.run_id for cell in cells_of(tmp_path)}
    assert not before & {cell.run_id for cell in cells_of(tmp_path, **{"recipe.steps": 50})}
    assert not before & {cell.run_id for cell in cells_of(tmp_path, **{"data.image_size": 16})}


def test_splits_are_shared_by_models_and_cached(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    by_place: dict[tuple[float, int], set[str | None]] = {}
    for cell in cells:
        by_place.setdefault((cell.train_fraction, cell.seed), set()).add(cell.split_hash)
    assert all(len(hashes) == 1 for hashes in by_place.values())
    assert len(set.union(*by_place.values())) == 4
    assert set(json.loads((tmp_path / SPLITS_FILE).read_text(encoding="utf-8")).values()) == set.union(*by_place.values())


def test_status_needs_no_data(tmp_path: Path) -> None:
    experiment = loading.load_experiment("smoke", {})
    unknown = expand(experiment, {})
    assert {cell.run_id for cell in unknown} == {None}
    assert ledger(experiment, unknown, tmp_path)["counts"] == {
        "expected": 8,
        "done": 0,
        "failed": 0,
        "running": 0,
        "missing": 8,
    }
    compute_splits(experiment, tmp_path)
    assert None not in {cell.run_id for cell in expand(experiment, read_splits(tmp_path))}


def test_a_held_lock_is_a_running_cell_and_a_dead_one_is_not(tmp_path: Path) -> None:
    cell = cells_of(tmp_path)[0]
    folder = tmp_path / str(cell.run_id)
    folder.mkdir()
    with locked(folder):
        assert cell_status(cell, tmp_path) == ("running", None)
    assert cell_status(cell, tmp_path) == ("missing", None)


def test_an_unreadable_record_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    cell = cells_of(tmp_path)[0]
    folder = tmp_path / str(cell.run_id)
    folder.mkdir()
    (folder / "record.json").write_text('{"schema": 1, "run_id"', encoding="utf-8")
    status, reason = cell_status(cell, tmp_path)
    assert status == "failed" and reason is not None and "not valid JSON" in reason


def test_a_budget_of_epochs_takes_fewer_steps_with_fewer_images() -> None:
    changes = {"recipe.budget": "epochs", "recipe.steps": 100, "recipe.evaluations": 4, "train_fractions": [0.03, 0.1, 1.0]}
    cells = expand(loading.load_experiment("vit_small_data", changes | {"expect": []}), {})
    assert {(cell.train_fraction, cell.trained.steps) for cell in cells} == {(0.03, 4), (0.1, 10), (1.0, 100)}
    assert len({cell.settings_hash for cell in cells}) == 1
