"""Contrasts of cells: hand-computed mean squares, an ANOVA as reference, pseudo-images, symmetries."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis.statistics.contrasts import Layout

DIFFERENCE = {"a": 1.0, "b": -1.0}


def table(generator, n_seeds=3, n_images=60, accuracies=(0.8, 0.7)):
    images = generator.random(n_images)
    return {
        key: (list(range(n_seeds)), (images + generator.random((n_seeds, n_images))) / 2 < accuracy)
        for key, accuracy in zip("abcd", accuracies, strict=False)
    }


def estimates(answers, *terms):
    layout = Layout.of(answers)
    weights = layout.weights(*terms)
    return layout.estimates(weights, layout.prior(weights))


def numbers(found):
    return np.array([found.estimate, found.low, found.high, found.se, found.p])


# ------------------------------------------------------------------------------------------------------------- mean squares
def test_mean_squares_by_hand():
    # Rows 2/3 and 1/3, columns 1/2, 0 and 1, grand mean 1/2: MS_S = 3·(2/36)/1 = 1/6, MS_I = 2·(1/4 + 1/4)/2 = 1/2,
    # MS_R = (6/4 − 1/6 − 1)/2 = 1/6.
    layout = Layout.of({"a": ([0, 1], np.array([[1, 0, 1], [0, 0, 1]], dtype=bool))})
    assert layout.mean == [0.5]
    assert layout.over_seeds[0, 0] == pytest.approx((1 / 6) / 6)
    assert layout.residual[0, 0] == pytest.approx((1 / 6) / 6)
    assert layout.over_images[0, 0] == pytest.approx((1 / 2) * 2 / 2)


@pytest.mark.parametrize("shape", [(2, 5), (3, 40), (6, 11)])
def test_mean_squares_of_a_difference_are_those_of_an_anova(shape):
    seeds, images = shape
    answers = table(np.random.default_rng(sum(shape)), seeds, images)
    layout = Layout.of(answers)
    weights = layout.weights(DIFFERENCE)[0]
    scores = answers["a"][1].astype(float) - answers["b"][1]
    long = pd.DataFrame([(s, i, scores[s, i]) for s, i in np.ndindex(shape)], columns=["seed", "image", "score"])
    squares = anova_lm(ols("score ~ C(seed) + C(image)", long).fit())["mean_sq"]
    assert weights @ layout.over_seeds @ weights == pytest.approx(squares["C(seed)"] / scores.size)
    assert weights @ layout.residual @ weights == pytest.approx(squares["Residual"] / scores.size)
    assert weights @ layout.over_images @ weights == pytest.approx(squares["C(image)"] * (images - 1) / seeds)


def test_cells_with_other_seeds_vary_together_over_those_that_both_have():
    generator = np.random.default_rng(1)
    a, b = generator.random((3, 20)) < 0.6, generator.random((2, 20)) < 0.6
    layout = Layout.of({"a": ([0, 1, 2], a), "b": ([2, 1], b[::-1]), "c": ([7], a[:1])})
    assert layout.mean == pytest.approx([a.mean(), b.mean(), a[0].mean()])
    assert layout.over_seeds[0, 0] == pytest.approx(a.mean(axis=1).var(ddof=1) / 3)
    # Of the 3·2 products of a's seeds with b's, two are of a common seed.
    assert layout.over_seeds[0, 1] == pytest.approx(np.cov(a.mean(axis=1)[1:], b.mean(axis=1))[0, 1] * 2 / 6)
    assert layout.over_seeds[0, 2] == layout.over_seeds[2, 2] == 0
    assert layout.n_seeds(layout.weights({"a": 1}, DIFFERENCE, {"b": 1, "c": -1})).tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    "answers",
    [
        {"a": ([0], np.ones((1, 3), bool)), "b": ([0], np.ones((1, 4), bool))},
        {"a": ([0, 1], np.ones((1, 3), bool))},
        {"a": ([0], np.ones((1, 0), bool))},
        {},
    ],
)
def test_answers_that_do_not_fit_are_refused(answers):
    with pytest.raises(ValueError, match="seeds × the same test images"):
        Layout.of(answers)


# ------------------------------------------------------------------------------------------------------------ pseudo-images
def test_all_right_bounds_the_error_by_a_few_over_n():
    right = np.ones((3, 75), dtype=bool)
    found = estimates({"a": ([0, 1, 2], right)}, {"a": 1})
    assert (found.estimate[0], found.high[0]) == (1, 1)
    assert found.centre[0] == pytest.approx(77 / 79)
    assert 3 / 75 < 1 - found.low[0] < 6 / 75
    wrong = estimates({"a": ([0, 1, 2], ~right)}, {"a": 1})
    assert (wrong.low[0], wrong.high[0]) == pytest.approx((0, 1 - found.low[0]))


def test_spread_over_images_by_hand():
    # Two seeds alike on 8 images, 6 right: with two more right and two wrong the centre is 8/12 and the variance of one
    # answer (8/12)·(4/12)·12/11, over 12 images; 1/16² stands for answers that never differ between seeds.
    row = np.arange(8) < 6
    found = estimates({"a": ([0, 1], np.stack([row, row]))}, {"a": 1})
    assert found.centre[0] == pytest.approx(8 / 12)
    assert found.residual[0] == pytest.approx(1 / 16**2)
    assert found.rest[0] == pytest.approx((8 / 12) * (4 / 12) / 11)


def test_equal_tables_are_not_different_and_their_interval_has_width():
    answers = table(np.random.default_rng(2))
    found = estimates({"a": answers["a"], "b": answers["a"]}, DIFFERENCE)
    assert (found.estimate[0], found.p[0]) == (0, 1)
    assert found.low[0] == -found.high[0] < -1 / 60


def test_two_images_tell_nothing():
    right = np.ones((3, 2), dtype=bool)
    found = estimates({"a": ([0, 1, 2], right), "b": ([0, 1, 2], ~right)}, DIFFERENCE)
    assert found.estimate[0] == found.high[0] == 1
    assert found.p[0] > 0.05
    assert found.low[0] < 0


@pytest.mark.parametrize("n_seeds", [3, 10])
def test_75_images_cannot_show_half_a_point(n_seeds):
    right = np.ones((n_seeds, 75), dtype=bool)
    found = estimates({"a": (list(range(n_seeds)), right), "b": (list(range(n_seeds)), right)}, DIFFERENCE)
    assert found.p_beyond(0.005)[0] > 0.05


def test_many_images_can():
    answers = table(np.random.default_rng(3), 5, 40_000, (0.8,))
    found = estimates({"a": answers["a"], "b": answers["a"]}, DIFFERENCE)
    assert found.p_beyond(0.005)[0] < 0.05


# ---------------------------------------------------------------------------------------------------------- the few and none
def test_one_seed_has_an_estimate_and_nothing_else():
    found = estimates(table(np.random.default_rng(4), 1), DIFFERENCE)
    assert np.isfinite(found.estimate).all()
    assert np.isnan([found.low, found.high, found.se, found.p, found.half_width, found.p_beyond(0.1)]).all()


@pytest.mark.parametrize(("n_seeds", "n_images"), [(2, 60), (2, 1), (3, 1), (5, 2)])
def test_two_seeds_and_one_image_have_an_interval(n_seeds, n_images):
    found = estimates(table(np.random.default_rng(5), n_seeds, n_images), DIFFERENCE, {"a": 1})
    assert np.isfinite(numbers(found)).all()
    assert (found.low < found.high).all()
    assert (found.low >= [-1, 0]).all() and (found.high <= 1).all()


def test_more_seeds_and_images_tell_more():
    generator = np.random.default_rng(6)
    widths = [estimates(table(generator, *size), DIFFERENCE).half_width[0] for size in ((2, 60), (5, 60), (5, 600))]
    assert widths == sorted(widths, reverse=True)


def test_an_estimate_can_be_given_where_weights_are_derivatives():
    layout = Layout.of(table(np.random.default_rng(7)))
    weights = layout.weights(DIFFERENCE)
    prior = layout.prior(weights)
    assert layout.estimates(weights, prior, np.array([0.2])).estimate == 0.2
    assert layout.estimates(weights, prior).estimate == pytest.approx(layout.mean[:1] - layout.mean[1:])


# --------------------------------------------------------------------------------------------------------------- symmetries
sizes = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 30))


@settings(max_examples=8, deadline=None)
@given(sizes)
def test_order_of_seeds_images_and_cells_changes_nothing(size):
    generator = np.random.default_rng(size[0])
    answers = table(generator, *size[1:], (0.9, 0.6, 0.6))
    seeds, images = generator.permutation(size[1]), generator.permutation(size[2])
    shuffled = {key: (seeds.tolist(), answers[key][1][seeds][:, images]) for key in "cab"}
    terms = DIFFERENCE, {"b": 1.0, "c": -1.0}, {"a": 1.0}
    np.testing.assert_allclose(numbers(estimates(shuffled, *terms)), numbers(estimates(answers, *terms)), atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(sizes)
def test_swapping_two_models_mirrors_the_interval(size):
    answers = table(np.random.default_rng(size[0]), *size[1:])
    ab, ba = (estimates(answers, {"a": sign, "b": -sign}) for sign in (1.0, -1.0))
    np.testing.assert_allclose([ab.estimate, ab.low, ab.high], [-ba.estimate, -ba.high, -ba.low], atol=1e-12)
    np.testing.assert_allclose([ab.p, ab.p_beyond(0.05)], [ba.p, ba.p_beyond(0.05)])


@settings(max_examples=8, deadline=None)
@given(sizes)
def test_an_interval_holds_its_estimate_and_excludes_0_where_p_is_below_5_percent(size):
    found = estimates(table(np.random.default_rng(size[0]), *size[1:], (0.9, 0.2)), DIFFERENCE)
    assert found.low[0] <= found.estimate[0] <= found.high[0]
    assert (found.p[0] < 0.05) == (found.half_width[0] < abs(found.centre[0]))
