"""Decisions look by look: what a look says, by the p-values of the report, and how a report says that it was sequential."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis import report
from analysis.decided import judged, sentences
from analysis.groups import compare
from analysis.load import load
from analysis.statistics.comparisons import Comparisons
from analysis.statistics.contrasts import Layout
from analysis.statistics.intervals import ALPHA, KAPPA, Estimates
from analysis.statistics.sequential import LOOKS, SPENDING, outcomes
from experiments.records.intended import Decision, Pair
from tests.analysis.conftest import SyntheticRuns
from tests.coverage.looks import (
    BEGIN,
    DOCUMENT,
    FIGURES,
    as_markdown,
    counted,
    fixed_seeds,
    grow,
    planned_seeds,
    simulate_looks,
    tasks,
    world,
)
from tests.coverage.tables import cell

FIRST, SECOND = cell(1, 0), cell(0, 0)


def compared(first: float, second: float, seeds: int = 5, images: int = 20_000, moved: float = 0.0) -> Comparisons:
    """Two models that are right on these shares of the images, the easy ones, apart from a thousandth by chance."""
    generator = np.random.default_rng(0)

    def answers(share: float) -> tuple[list[int], np.ndarray]:
        shift = moved * generator.standard_normal((seeds, 1))
        return list(range(seeds)), np.linspace(0, 1, images) + generator.normal(0, 0.001, (seeds, images)) + shift < share

    return Comparisons.of(Layout.of({SECOND: answers(second), FIRST: answers(first)}))


def test_each_outcome_and_its_direction() -> None:
    assert outcomes(compared(0.9, 0.8), [(FIRST, SECOND)], 0.01, 0.05, 1) == ["first"]
    assert outcomes(compared(0.9, 0.8), [(SECOND, FIRST)], 0.01, 0.05, 1) == ["second"]
    assert outcomes(compared(0.8, 0.9), [(FIRST, SECOND)], 0.01, 0.05, 1) == ["second"]
    assert outcomes(compared(0.9, 0.9), [(FIRST, SECOND)], 0.02, 0.05, 1) == ["equivalent"]
    assert outcomes(compared(0.9, 0.9), [(FIRST, SECOND)], 0.0001, 0.05, 1) == ["open"]
    assert outcomes(compared(0.9, 0.8, seeds=2), [(FIRST, SECOND)], 0.01, 0.05, 1) == ["open"]


def test_the_level_is_shared_by_looks_and_pairs() -> None:
    table = compared(0.9, 0.83, images=300, moved=0.004)
    p, share = table.gap(FIRST, SECOND).p[0], (5 / 30) ** 1.5
    table = replace(table, layout=replace(table.layout, spending=SPENDING))
    assert p < share / 12
    for rate, found in ((p / share * 12 * 1.001, ["first"]), (p / share * 12 * 0.999, ["open"])):
        assert outcomes(table, [(FIRST, SECOND)], 0.0001, rate, 12) == found


@pytest.mark.parametrize("family", [1, 2, 3, 4])
def test_few_pairs_take_their_share_as_of_four(family: int) -> None:
    table = compared(0.9, 0.83, images=300, moved=0.004)
    p = table.gap(FIRST, SECOND).p[0]
    for rate, found in ((4.004 * p, ["first"]), (3.996 * p, ["open"])):
        assert outcomes(table, [(FIRST, SECOND)], 0.0001, rate, family) == found


def test_the_last_look_spends_all_and_no_look_more() -> None:
    for seeds in (30, 40):
        layout = replace(compared(0.9, 0.83, seeds=seeds, images=300).layout, spending=SPENDING)
        assert Comparisons.of(layout).gap(FIRST, SECOND).share == 1


def test_where_seeds_fail_nothing_is_decided() -> None:
    table = compared(0.9, 0.8)
    prior = np.zeros_like(table.of_pairs)
    prior[:, -1] = 1  # κ far above what marks are trusted at
    assert outcomes(replace(table, of_pairs=prior), [(FIRST, SECOND)], 0.01, 0.05, 1) == ["open"]


def test_adjusted_intervals_and_p_values_are_those_of_the_share() -> None:
    posterior = np.eye(KAPPA.size)[[60]]
    one = [np.array([value]) for value in (0.01, 0.01, 2e-5, 5e-5, 0.0, -1.0, 1.0)]
    plain, adjusted = Estimates(*one, posterior), Estimates(*one, posterior, share=0.3)
    sd = np.sqrt(5e-5)
    assert adjusted.half_width[0] == pytest.approx(2.4323790585844468 * sd)  # the normal's 1 − .015/2 point
    assert plain.half_width[0] == pytest.approx(1.959963984540054 * sd)
    assert adjusted.p[0] == pytest.approx(plain.p[0] / 0.3) and adjusted[:1].share == 0.3
    several = replace(Estimates(*(part.repeat(2) for part in one), posterior.repeat(2, axis=0)), share=np.array([1.0, 0.3]))
    assert several.half_width == pytest.approx([plain.half_width[0], adjusted.half_width[0]])
    assert several[np.array([1])].p == pytest.approx(adjusted.p)
    at_limit = replace(adjusted, centre=adjusted.half_width)
    assert at_limit.p[0] == pytest.approx(ALPHA)  # an interval that ends at 0 goes with p = .05
    assert replace(adjusted, centre=np.zeros(1)).p_beyond(float(adjusted.half_width[0]))[0] == pytest.approx(ALPHA)


def decision_of(runs: SyntheticRuns, **changes: object) -> Decision:
    pairs = [
        Pair(data="shapes", setting="", train_fraction=fraction, first=model, second="resnet", seeds=3)
        for fraction in (1.0, 0.1)
        for model in ("vit", "convnext")
    ]
    values = {
        "experiment": "synthetic", "args": runs.experiment.args, "made": "2026-01-01T00:00:00+00:00", "effect": 0.01,
        "margin": 0.01, "error_rate": 0.05, "budget_hours": 1.0, "share_per_seed": 0.03, "seeds": [0, 1, 2],
        "looks": [3], "pairs": pairs,
    }  # fmt: skip
    return Decision.model_validate(values | changes)


def test_a_look_decides_by_the_comparisons_of_the_report_and_the_report_adjusts(synthetic_runs: SyntheticRuns) -> None:
    runs = synthetic_runs
    plain = load(runs.ledger, runs.folder, runs.experiment)
    before = compare(plain, "shapes")
    decision_of(runs).keep(runs.folder)
    results = load(runs.ledger, runs.folder, runs.experiment)
    assert before.layout.spending is None
    assert compare(results, "shapes").layout.spending == (0.03, 1.0)  # as decisions of earlier versions have it
    pairs = judged(decision_of(runs), results)
    assert before is not None
    for pair in pairs:
        gap = before.gap(("", pair.first, pair.train_fraction), ("", "resnet", pair.train_fraction))
        assert pair.delta == gap.estimate[0] and pair.low is not None and pair.low < gap.low[0]
        assert (pair.outcome == "second") == (gap.p[0] < 3 * 0.03 * 0.05 / 4 and gap.estimate[0] < 0)
    assert pairs[0].outcome == "second"
    decided = decision_of(runs, pairs=pairs, ended="every pair is decided")
    decided.keep(runs.folder)
    assert judged(decided, results)[0] == pairs[0]  # what was decided stays
    made = report.build(runs.ledger, runs.folder, runs.experiment, runs.folder.parent / "report")
    assert made.verdict[1:5] == sentences(decided, runs.experiment)
    assert "ResNet_18 & co is better than ViT (ours)" in made.verdict[1] and "adjusted for all looks" in made.verdict[1]
    page = (made.folder / "report.html").read_text(encoding="utf-8")
    assert "Sequential: seeds were added in looks (3)" in page and "fixed on 2026-01-01" in page
    other = runs.experiment.model_copy(update={"args": "recipe.steps=9"})
    assert load(runs.ledger, runs.folder, other).decision is None  # it is of other settings


def test_sentences_for_pairs_that_stay_open(synthetic_runs: SyntheticRuns) -> None:
    assert sentences(None, synthetic_runs.experiment) == []
    spent = decision_of(synthetic_runs, ended="budget spent: 1 of 1 device hours")
    assert "ViT (ours) and ResNet_18 & co: budget spent, not decided." in sentences(spent, synthetic_runs.experiment)[0]
    assert ": open, not decided." in sentences(decision_of(synthetic_runs), synthetic_runs.experiment)[0]


# ---------------------------------------------------------------------------------------------------------------- simulated
COMMITTED = json.loads(FIGURES.read_text(encoding="utf-8"))


def test_seeds_are_added_for_open_pairs_alone() -> None:
    drawn = world((0.0, 0.3), 2000, 0.003)
    pairs = [(cell(m, f), cell(0, f)) for f in range(2) for m in (1, 2)]
    found, runs = grow(drawn.answers(np.random.default_rng(3)), pairs, 0.02)
    assert found[1] == found[3] == "second"  # 30 points below, at the first look
    assert 6 * LOOKS[0] <= runs < 4 * LOOKS[-1] + 2 * LOOKS[0] + 1


def test_fixed_seeds_are_read_between_looks() -> None:
    rising = (0, 1, 2, 2, 3, 4, 6, 8, 8, 8, 9, 9, 9, 10)
    counts = {f"fixed {seeds}": [hits, 10] for seeds, hits in zip(LOOKS, rising, strict=True)}
    assert fixed_seeds(counts | {"right": [7, 10]}) == pytest.approx(np.sqrt(10 * 12))
    assert fixed_seeds(counts | {"right": [8, 10]}) == pytest.approx(12)
    assert np.isnan(fixed_seeds({name: [0, 10] for name in counts} | {"right": [1, 10]}))


def test_plans_are_held_against_the_seeds_that_their_own_budget_takes() -> None:
    shares = (0, 10, 20, 30, 40, 50, 80, 90, 90, 90, 90, 90, 90, 90)
    counts = {f"found 0.75 {seeds}": [hits, 100] for seeds, hits in zip(LOOKS, shares, strict=True)}
    counts |= {f"found 0.92 {seeds}": [100, 100] for seeds in LOOKS}
    counts |= {"planned 0.75 15 4 20": [2, 2], "planned 0.75 16 11 30": [1, 1], "planned 0.75 6 3 9": [1, 1]}
    assert planned_seeds(counts | {"planned 0.92 9 3 12": [4, 4]}, 0.75) == pytest.approx((10, 15, 0.5, 0.5))
    assert planned_seeds(counts | {"planned 0.92 9 4 12": [4, 4]}, 0.92) == pytest.approx((3, 9, 0, 0))


def test_a_simulation_of_looks_can_be_repeated() -> None:
    drawn = world((0.0, 0.06), 75, 0.02)
    first, second = (simulate_looks(drawn, 3, 7, 0.06, fixed=True) for _ in range(2))
    assert first == second and first["right"][1] == 12 and first["wrong"][1] == 3


def test_the_document_shows_what_was_simulated_and_wrong_decisions_stay_below_the_error_rate() -> None:
    assert DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1] == as_markdown(COMMITTED)
    assert [row[:2] for row in COMMITTED] == [[task[0], task[1]] for task in tasks(1)]
    wrong = [counts["wrong"] for table, _, counts in COMMITTED if table == "wrong"]
    hits, grids = np.sum(wrong, axis=0)
    assert grids == 10_000 and hits / grids <= 0.05
    assert max(one / of for one, of in wrong) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)


@pytest.mark.slow
def test_the_first_regime_comes_out_again() -> None:
    assert counted(next(iter(tasks(1)))) == COMMITTED[0]
