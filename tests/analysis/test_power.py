"""What a plan says a grid can tell: by hand, and from records of which the truth is known."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis import planned
from analysis.groups import groups_of
from analysis.load import load
from analysis.power import Known, Spread, chosen, known, pair_of, powers
from experiments.config.schema import Recipe
from experiments.records.intended import Costs, Plan
from tests.analysis.conftest import FULL_ERROR, MODELS, SyntheticRuns, make_experiment, write_experiment, write_run

REACH = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)


def spread(images: float, residual: float, shift: float, kappa: float = 0.01, pairs: int = 1) -> Spread:
    columns = (np.full(pairs, value) for value in (images, residual, shift))
    return Spread(*columns, kappa * np.array([0.5, 1.0, 2.0])[:, None].repeat(pairs, 1))


def test_told_seeds_and_images_by_hand() -> None:
    # 3 seeds, 400 images: variance .04/400 + (.02/400 + .01 · .03)/3.
    one = spread(0.04, 0.02, 0.03)
    assert one.told(3, 400) == pytest.approx(REACH * np.sqrt(1e-4 + 3.5e-4 / 3))
    room = (0.05 / REACH) ** 2 - 1e-4
    wanted = [np.ceil((0.02 / 400 + kappa * 0.03) / room) for kappa in (0.005, 0.01, 0.02)]
    assert one.seeds(0.05, 400)[:, 0].tolist() == [max(3, value) for value in wanted]
    least = one.test_images(0.02)[0]
    assert np.isinf(one.seeds(0.02, int(least) - 1)).all() and np.isfinite(one.seeds(0.02, int(least))).all()
    assert one.seeds(0.9, 400)[:, 0].tolist() == [3, 3, 3]  # marks need three


def test_a_stricter_level_takes_more_seeds() -> None:
    one = spread(0.001, 0.02, 0.3)
    assert one.test_images(0.05, alpha=0.001) > one.test_images(0.05)
    assert (one.seeds(0.05, 400, alpha=0.001) > one.seeds(0.05, 400)).all()


def test_pairs_are_taken_as_they_are_else_from_the_nearest_fraction_else_from_other_data() -> None:
    own = Known("runs/a", "d", [("a", "b", 1.0), ("a", "b", 0.1)], Spread.together([spread(1, 1, 1), spread(2, 2, 2)]))
    other = Known("results/z", "z", [("x", "y", 1.0)], spread(9, 9, 9))
    found, source = chosen([("a", "b", 0.1), ("a", "c", 0.2)], [own], [own])
    assert found.images.tolist() == [2, 2] and source == "runs/a; 1 of 2 pairs as others vary"
    found, source = chosen([("a", "b", 1.0)], [], [other])
    assert found.images.tolist() == [9] and source == "results/z (other data)"


def test_records_show_their_variances(synthetic_runs: SyntheticRuns) -> None:
    root, faults = synthetic_runs.folder, list[str]()
    (one,) = known(root, "shapes", faults)
    assert one.name == "runs/synthetic" and pair_of("vit", "resnet", 0.1) in one.pairs and not faults
    assert len(one.pairs) == 18 and known(root, "others", faults) == []
    victim = next(root.glob("vit-*-s0-*")) / "predictions.npz"
    victim.write_bytes(b"damaged")
    known(root, "shapes", faults)
    assert len(faults) == 1 and str(victim) in faults[0] and "No variance is taken from it" in faults[0]


def test_seeds_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    """A short first try lay in the same folder, and its seeds were once taken for seeds of the whole runs."""
    whole = write_experiment(tmp_path / "whole", make_experiment(train_fractions=[1.0]))
    (alone,) = known(whole.folder, "shapes", [])
    short = Recipe(steps=20, batch_size=32, learning_rate=1e-3)
    for model, seed in product(MODELS, (0, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(FULL_ERROR, model, 0.7)
            write_run(whole.folder, whole.experiment, model, "shapes", 1.0, seed, recipe=short)
    (mixed,) = known(whole.folder, "shapes", [])
    assert mixed.pairs == alone.pairs
    np.testing.assert_array_equal(mixed.spread.shift, alone.spread.shift)
    np.testing.assert_array_equal(mixed.spread.images, alone.spread.images)


def test_a_small_effect_says_how_many_images_and_no_record_says_so(synthetic_runs: SyntheticRuns) -> None:
    experiment, root = synthetic_runs.experiment, synthetic_runs.folder
    hours = {f"shapes/{label}": 2.0 for label in ("0.1", "0.3", "1")}
    found, faults = powers(experiment, 0.0005, {"shapes": 400}, hours, [root])
    assert [row.train_fraction for row in found] == [1.0, 0.3, 0.1] and not faults
    for row in found:
        assert row.seeds == (None, None, None) and row.seed_hours is None and row.test_images > 400
    found, _ = powers(experiment, 0.3, {"shapes": 400}, hours, [root])
    assert all(row.seeds[1] == 3 and row.seed_hours == 6.0 and row.test_images < 400 for row in found)
    found, faults = powers(experiment, 0.3, {"shapes": 400}, hours, [])
    assert found == [] and "no folder of runs or of results/" in faults[0] and "shapes" in faults[0]


def test_what_was_planned_stands_beside_what_came(synthetic_runs: SyntheticRuns) -> None:
    experiment, root, ledger = synthetic_runs.experiment, synthetic_runs.folder, synthetic_runs.ledger
    hours = {f"shapes/{label}": 2.0 for label in ("0.1", "0.3", "1")}
    power, _ = powers(experiment, 0.01, {"shapes": 400}, hours, [root])
    costs = Costs(
        cells=36, trials=0, images=1, pflops=2.0, device="a", device_hours=(1, 2, 3), jobs=2,
        hours=(1, 1, 1), hours_per_seed=hours, disk_bytes=1, disk_free_bytes=1, memory_bytes=2**31,
        memory_free_bytes=1, rates=[],
    )  # fmt: skip
    plan = Plan(experiment="synthetic", args="", made="", effect=0.01, budget_hours=1, costs=costs, power=power, notes=[])
    results = load(ledger, root, experiment)
    shown = {row.what: row for row in planned.rows(plan, results, groups_of(results, experiment))}
    assert shown["Runs, tuning trials included"][1:] == ("36", "36")
    assert shown["Device hours, evaluation included"].planned == "2 (1 to 3)"
    assert shown["Memory of one run at its peak"].planned == "1.00 GiB"
    told = shown["Shapes, 100%: difference that is told in 80% of grids (points)"]
    assert float(told.came.split()[0]) == pytest.approx(float(told.planned.split()[0]), rel=0.5)
    assert planned.rows(None, results, []) == []
    assert "BUDGET: 1 device hours; 36 cells take about 2 (1 to 3), and one seed of them 6" in plan.over[0]
    assert plan.model_copy(update={"budget_hours": 2.0}).over == []
