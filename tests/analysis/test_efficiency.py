"""Images needed, crossover and bounds: hand-computed curves; what their limits cover is in tests/coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import learning_curves
from analysis.statistics.comparisons import Comparisons
from analysis.statistics.contrasts import Layout

BUDGETS = np.array([100.0, 1000.0, 10_000.0])


def compared(curves, n_images=2000, seeds=3, jitter=0.0, seed=0):
    """Two models, "a" and "b", that answer rightly on a share of images as their curves say, seed by seed."""
    generator = np.random.default_rng(seed)
    answers = {}
    hardness = np.linspace(0, 1, n_images, endpoint=False)
    for model, curve in zip("ab", curves, strict=True):
        for fraction, accuracy in enumerate(curve):
            own = accuracy + jitter * generator.standard_normal(seeds)
            answers["", model, float(fraction)] = (range(seeds), np.array([hardness < share - 1e-9 for share in own]))
    first, second = ([cell for cell in answers if cell[1] == model] for model in "ab")
    return Comparisons.of(Layout.of(answers)), first, second


def test_aulc_weights_are_the_trapezoid():
    assert learning_curves.aulc_weights(BUDGETS) == pytest.approx([0.25, 0.5, 0.25])
    assert learning_curves.aulc_weights(np.array([10.0, 100.0, 10_000.0])) == pytest.approx([1 / 6, 1 / 2, 1 / 3])


def test_a_level_between_two_budgets_is_read_on_logarithms():
    # Errors .4, .2, .1 against .4, .3, .2: the first comes down to .2 at 1,000 images, the second at 10,000.
    found = learning_curves.multiplier(*_arguments([0.6, 0.8, 0.9], [0.6, 0.7, 0.8]))
    assert found.estimate == pytest.approx(10) and found.target == pytest.approx(0.8)
    # Down to √(.2 · .1): half-way in log n between 1,000 and 10,000.
    found = learning_curves.multiplier(*_arguments([0.6, 0.8, 0.9], [0.6, 0.7, 1 - math.sqrt(0.02)]))
    assert found.estimate == pytest.approx(math.sqrt(10), rel=0.02)
    assert found.low < found.estimate < found.high and found.directed
    assert found.text.startswith("3.1× [")


def _arguments(a, b, **options):
    comparisons, first, second = compared([a, b], **options)
    return comparisons, BUDGETS, first, second


def test_more_than_the_budgets_can_tell_is_a_bound():
    found = learning_curves.multiplier(*_arguments([0.9, 0.91, 0.92], [0.6, 0.7, 0.8]))
    assert math.isnan(found.estimate) and (found.low, found.high) == (100, math.inf) and found.text == "> 100×"


def test_flat_curves_whose_order_is_unknown_bound_nothing():
    found = learning_curves.multiplier(*_arguments([0.801, 0.802, 0.803], [0.799, 0.8, 0.801], n_images=75, jitter=0.02))
    assert math.isnan(found.low) and math.isinf(found.high)
    assert found.text.endswith("[not bounded]") and not found.directed


def test_a_better_model_at_the_smallest_budget_is_better_by_all_images():
    # 5 points ahead with 100 images of a model that is flat to 10,000 and dips at the end.
    comparisons, n, first, second = _arguments([0.85, 0.9, 0.9], [0.78, 0.8, 0.795], n_images=10_000, jitter=0.002)
    assert learning_curves.multiplier(comparisons, n, first, second).text == "> 100×"
    least = learning_curves.bound(comparisons, n, first, second)
    assert (least.n_ahead, least.n_behind, least.factor) == (100, 10_000, 100)
    assert 0.04 < least.low < least.delta < least.high < 0.07


def test_a_bound_stops_at_the_first_budget_that_is_not_ahead():
    comparisons, n, first, second = _arguments([0.6, 0.801, 0.9], [0.5, 0.7, 0.8])
    assert learning_curves.bound(comparisons, n, first, second).factor == 1
    assert learning_curves.bound(*_arguments([0.6, 0.7, 0.801], [0.5, 0.6, 0.8])) is None


def test_one_seed_has_no_limits():
    found = learning_curves.multiplier(*_arguments([0.6, 0.8, 0.9], [0.6, 0.7, 0.8], seeds=1))
    assert found.text == "10×" and math.isnan(found.low) and math.isnan(found.high) and not found.directed


def test_a_faultless_model_has_an_error_of_half_an_image():
    found = learning_curves.multiplier(*_arguments([0.9, 1.0, 1.0], [0.9, 0.95, 1.0], n_images=100))
    assert found.estimate == pytest.approx(10) and math.isnan(found.low)


def test_a_crossover_needs_a_mark_on_either_side():
    comparisons, first, second = compared([[0.5, 0.7, 0.9], [0.6, 0.7, 0.8]])
    found = learning_curves.crossover(comparisons, BUDGETS, first, second, [-1, 0, 1])
    assert found.n == pytest.approx(1000) and found.leader == "a" and 100 < found.low < 1000 < found.high < 10_000
    for signs in ([-1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]):
        assert learning_curves.crossover(comparisons, BUDGETS, first, second, signs) is None
    assert learning_curves.crossover(comparisons, BUDGETS, second, first, [1, 0, -1]).leader == "a"


@settings(max_examples=60, deadline=None)
@given(
    curves=st.lists(st.lists(st.integers(0, 60), min_size=3, max_size=3), min_size=2, max_size=2),
    seeds=st.integers(1, 4),
    jitter=st.sampled_from([0.0, 0.02, 0.3]),
)
def test_no_curve_is_too_odd(curves, seeds, jitter):
    comparisons, first, second = compared([np.array(curve) / 60 for curve in curves], 60, seeds, jitter)
    ahead, behind = (first, second) if curves[0][-1] >= curves[1][-1] else (second, first)
    found = learning_curves.multiplier(comparisons, BUDGETS, ahead, behind)
    assert math.isnan(found.estimate) or 1 <= found.estimate <= 100
    assert "nan" not in found.text and "inf" not in found.text
    assert found.low != 0 and (math.isnan(found.low) or found.low <= found.high)
    learning_curves.bound(comparisons, BUDGETS, ahead, behind)


def test_bounds_are_rounded_down() -> None:
    shown = {1433 / 435: "3.2", 1433 / 50: "28", 1433 / 149: "9.6", 9.97: "9.9", 10.0: "10", 100.0: "100", 3.3: "3.3"}
    assert {ratio: learning_curves.bound_text(ratio) for ratio in shown} == shown
