"""Intervals and tests: hand-computed tables, SciPy and statsmodels as references, simulated coverage."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from scipy.special import ndtr
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from analysis.stats import (
    Interval,
    classify,
    friedman,
    holm,
    mean_std,
    noise_floor,
    paired_difference,
    seeds_needed,
    sign_flip_p,
    smallest_sign_flip_p,
    two_way_interval,
    wilcoxon_holm,
)


def interval_of(low, high):
    return Interval(estimate=(low + high) / 2, low=low, high=high, se=np.nan, df=np.nan, p=np.nan)


# --------------------------------------------------------------------------------------------------------- two-way interval
def test_interval_where_seeds_dominate():
    # Row means 2 and 0, column means 2, 0, 1, grand mean 1.
    # MS_S = 3·(1 + 1)/1 = 6, MS_I = 2·(1 + 1 + 0)/2 = 2, residuals ±(0, −1, 1): MS_R = 4/2 = 2.
    # num = max(6 + max(2 − 2, 0), 2) = 6, SE² = 6/(2·3) = 1, df = 36/(36/1) = 1; P(|t₁| > 1) = 1/2.
    interval = two_way_interval([[3, 0, 3], [1, 0, -1]])
    assert interval.estimate == pytest.approx(1)
    assert interval.se == pytest.approx(1)
    assert interval.df == pytest.approx(1)
    assert interval.p == pytest.approx(0.5)
    # t(.975, 1) = tan(.475 π) = 12.7062
    assert (interval.low, interval.high) == (pytest.approx(1 - 12.7062, abs=1e-4), pytest.approx(1 + 12.7062, abs=1e-4))


def test_interval_where_images_dominate():
    # Row means 3 and 1, column means 4 and 0, no residual: MS_S = 2·2/1 = 4, MS_I = 2·8/1 = 16, MS_R = 0.
    # num = 4 + 16 = 20, SE² = 20/4 = 5, df = 400/(16/1) = 25.
    interval = two_way_interval([[5, 1], [3, -1]])
    assert (interval.estimate, interval.se, interval.df) == (2, pytest.approx(np.sqrt(5)), pytest.approx(25))


def test_the_residual_is_a_floor_under_the_interval():
    # All row and column means are 0, so MS_S = MS_I = 0, but MS_R = 4/1: num = 4, SE² = 4/4, df infinite: ±1.96.
    interval = two_way_interval([[1, -1], [-1, 1]])
    assert (interval.se, interval.df, interval.p) == (1, np.inf, 1)
    assert interval.high == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 5), (3, 40), (6, 11)])
def test_interval_agrees_with_an_anova_table(shape):
    generator = np.random.default_rng(sum(shape))
    scores = generator.normal(size=shape) + generator.normal(size=(shape[0], 1)) + 2 * generator.normal(size=shape[1]) + 0.3
    long = pd.DataFrame([(s, i, scores[s, i]) for s, i in np.ndindex(shape)], columns=["seed", "image", "score"])
    squares = anova_lm(ols("score ~ C(seed) + C(image)", long).fit())["mean_sq"]
    ms_s, ms_i, ms_r = squares["C(seed)"], squares["C(image)"], squares["Residual"]
    num = max(ms_s + max(ms_i - ms_r, 0), ms_r)
    df = num**2 / (ms_s**2 / (shape[0] - 1))
    se = np.sqrt(num / scores.size)
    expected = scipy_stats.t.interval(0.9, df, loc=scores.mean(), scale=se)

    interval = two_way_interval(scores, confidence=0.9)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-9)
    assert interval.p == pytest.approx(2 * scipy_stats.t.sf(abs(scores.mean()) / se, df), rel=1e-9)


def test_with_one_image_it_is_the_t_test_over_seeds():
    scores = np.array([0.3, 0.1, 0.4, 0.15, 0.92])
    reference = scipy_stats.ttest_1samp(scores, 0)
    interval = two_way_interval(scores[:, None])
    assert interval.p == pytest.approx(reference.pvalue)
    assert (interval.low, interval.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert interval.df == pytest.approx(4)


def test_with_identical_seeds_it_is_the_normal_interval_over_images():
    images = np.random.default_rng(0).normal(size=50)
    interval = two_way_interval(np.tile(images, (4, 1)))
    assert interval.df == np.inf
    assert interval.se == pytest.approx(images.std(ddof=1) / np.sqrt(50))


def test_one_seed_has_an_estimate_and_no_interval():
    interval = two_way_interval([[1, 0, 1, 1]])
    assert interval.estimate == 0.75
    assert np.isnan([interval.low, interval.high, interval.se, interval.df, interval.p]).all()
    assert np.isnan(noise_floor([[1, 0, 1, 1]]))


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (0.1, 0.0), (-2.3, 0.0)])
def test_equal_scores_give_a_point_whatever_the_rounding(value, p):
    interval = two_way_interval(np.full((3, 1000), value))
    assert interval.estimate == pytest.approx(value)
    assert (interval.low, interval.high, interval.se, interval.p) == (interval.estimate, interval.estimate, 0, p)


def test_booleans_and_small_floats_are_scores():
    correct = np.random.default_rng(1).random((3, 60)) < 0.7
    expected = two_way_interval(correct.astype(float))
    assert two_way_interval(correct) == expected
    assert two_way_interval(correct.astype(np.float16)) == expected


def test_a_model_against_itself_is_not_different():
    nll = np.random.default_rng(2).exponential(size=(5, 80)).astype(np.float32)
    interval = paired_difference(nll, nll)
    assert (interval.estimate, interval.low, interval.high, interval.p) == (0, 0, 0, 1)
    assert classify(interval, holm([interval.p])[0]) == "equivalent"


def test_swapping_models_mirrors_the_interval():
    a, b = np.random.default_rng(3).random((2, 4, 30)) < [[[0.8]], [[0.7]]]
    ab, ba = paired_difference(a, b), paired_difference(b, a)
    assert (ba.estimate, ba.low, ba.high) == pytest.approx((-ab.estimate, -ab.high, -ab.low))
    assert (ba.p, ba.se, ba.df) == pytest.approx((ab.p, ab.se, ab.df))


def test_order_of_seeds_and_images_does_not_matter_and_scale_does():
    generator = np.random.default_rng(4)
    scores = generator.normal(size=(4, 25))
    plain = two_way_interval(scores)
    shuffled = two_way_interval(scores[generator.permutation(4)][:, generator.permutation(25)])
    scaled = two_way_interval(100 * scores)
    assert (shuffled.low, shuffled.high) == pytest.approx((plain.low, plain.high))
    assert (scaled.low, scaled.high, scaled.p) == pytest.approx((100 * plain.low, 100 * plain.high, plain.p))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_way_interval([[1.0, np.nan], [0.0, 1.0]]), r"`scores` must be finite: 1 of 4 .* row 0 .* column 1"),
        (lambda: two_way_interval([[1.0, 1.0], [0.0, np.inf]]), r"row 1 \(seed\), column 1 \(test image\)"),
        (lambda: two_way_interval([1.0, 2.0]), r"seeds × test images, got shape \(2,\)"),
        (lambda: two_way_interval(np.empty((3, 0))), r"non-empty .* \(3, 0\)"),
        (lambda: two_way_interval([[1.0], [2.0]], confidence=95), r"`confidence` must lie inside \(0, 1\), got 95"),
        (lambda: paired_difference([[1, 0]], [[1, 0], [1, 1]]), r"shapes \(1, 2\) and \(2, 2\)"),
        (lambda: paired_difference([[1, 0]], [[1, np.nan]]), r"`b` must be finite"),
        (lambda: mean_std([]), "`values` must be a non-empty list"),
        (lambda: mean_std([0.5, np.nan]), "`values` must be a non-empty list of finite numbers"),
    ],
)
def test_bad_scores_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mean_and_sample_deviation():
    # Deviations −1, 0, 1: variance (1 + 0 + 1)/2.
    assert mean_std([1, 2, 3]) == (2, 1)
    mean, std = mean_std([0.25])
    assert mean == 0.25
    assert np.isnan(std)


# ------------------------------------------------------------------------------------------------------------- seeds needed
def test_noise_floor_is_half_the_interval():
    scores = np.random.default_rng(5).normal(size=(3, 20))
    interval = two_way_interval(scores)
    assert noise_floor(scores) == pytest.approx(interval.estimate - interval.low)


def test_seeds_needed_with_one_image_is_the_power_of_a_t_test():
    scores = np.array([0.010, -0.004, 0.007, 0.001])[:, None]

    def least_effect(n):
        return (scipy_stats.t.ppf(0.975, n - 1) + scipy_stats.t.ppf(0.8, n - 1)) * scores.std(ddof=1) / np.sqrt(n)

    expected = next(n for n in range(2, 1000) if least_effect(n) <= 0.005)
    assert expected == 15
    assert seeds_needed(scores) == expected


def test_seeds_needed_returns_the_seeds_at_hand_for_the_effect_they_can_see():
    generator = np.random.default_rng(6)
    scores = generator.normal(size=(5, 1)) + generator.normal(size=40) + generator.normal(size=(5, 40))
    interval = two_way_interval(scores)
    visible = interval.se * (scipy_stats.t.ppf(0.975, interval.df) + scipy_stats.t.ppf(0.8, interval.df))
    assert seeds_needed(scores, effect=visible * 1.0001) == 5
    assert seeds_needed(scores, effect=visible * 0.9999) == 6


def test_seeds_needed_is_none_where_the_test_set_is_too_small():
    # 100 images whose scores differ by ±.1 alike under all seeds: SE is .01 for any number of seeds.
    images = np.tile([0.1, -0.1], 50)
    assert seeds_needed(np.tile(images, (3, 1)), effect=0.005) is None
    # (1.960 + 0.842)·.01005 = .0282 is what it can see, with 2 seeds as well as with 1,000.
    assert seeds_needed(np.tile(images, (3, 1)), effect=0.029) == 2


def test_a_model_against_itself_needs_the_fewest_seeds():
    assert seeds_needed(np.zeros((3, 10))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores_diff": [[0.1, 0.2]]}, "at least 2 seeds"),
        ({"scores_diff": [[0.1], [0.2]], "effect": 0}, "`effect` must be positive, got 0"),
        ({"scores_diff": [[0.1], [0.2]], "power": 80}, "`power` must lie inside"),
    ],
)
def test_seeds_needed_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        seeds_needed(**arguments)


# --------------------------------------------------------------------------------------------------------- tests and states
def test_holm_is_that_of_statsmodels():
    generator = np.random.default_rng(3)
    for size in (1, 2, 7, 40):
        family = np.round(generator.random(size) ** 3, 2)  # with ties
        np.testing.assert_allclose(holm(family), multipletests(family, method="holm")[1], rtol=1e-12)


def test_holm_on_a_hand_computed_family():
    # Sorted .01, .02, .04 times 3, 2, 1: .03, .04, .04; NaN does not count.
    np.testing.assert_allclose(holm([0.04, np.nan, 0.01, 0.02]), [0.04, np.nan, 0.03, 0.04])
    # .3·2 = .6 and .5·1, raised to .6 so that the order stays; 1 is the cap.
    np.testing.assert_allclose(holm([0.5, 0.3]), [0.6, 0.6])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert holm([]).shape == (0,)
    assert np.isnan(holm([np.nan])).all()
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.5, 1.5])


@pytest.mark.parametrize(
    ("low", "high", "p", "state"),
    [
        (0.010, 0.030, 0.049, "different"),
        (0.010, 0.030, 0.050, "inconclusive"),
        (0.001, 0.004, 0.001, "different"),
        (-0.0049, 0.0049, 1.0, "equivalent"),
        (-0.005, 0.0049, 1.0, "inconclusive"),
        (-0.0049, 0.005, 1.0, "inconclusive"),
        (np.nan, np.nan, np.nan, "inconclusive"),
    ],
)
def test_states(low, high, p, state):
    assert classify(interval_of(low, high), p) == state


def test_states_follow_level_and_margin():
    assert classify(interval_of(0.001, 0.02), 0.03, alpha=0.01) == "inconclusive"
    assert classify(interval_of(-0.02, 0.02), 0.9, margin=0.03) == "equivalent"


def test_sign_flips_by_hand():
    # Of the 8 sums ±1 ± 2 ± 3 only ±6 are as far out as 6.
    assert sign_flip_p([1, 2, 3]) == 2 / 8
    # ±1 ± 2 ± 3 of sum −4 = 1 − 2 − 3: ±6 and ±4.
    assert sign_flip_p([1, -2, -3]) == 4 / 8
    assert sign_flip_p([0.5]) == 1
    assert sign_flip_p([0, 0, 0]) == 1
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1


@pytest.mark.parametrize("n_seeds", [2, 5, 8])
def test_sign_flips_agree_with_enumeration_and_scipy(n_seeds):
    differences = np.random.default_rng(n_seeds).normal(0.4, 1, n_seeds).round(1)
    flips = np.array(list(itertools.product([-1, 1], repeat=n_seeds)))
    expected = np.mean(np.abs(flips @ differences) >= abs(differences.sum()) - 1e-9)
    reference = scipy_stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert sign_flip_p(differences) == pytest.approx(expected)
    assert sign_flip_p(differences) == pytest.approx(min(1, reference.pvalue), abs=1e-9)


def test_sign_flips_cannot_reach_the_level_below_six_seeds():
    for n_seeds in range(1, 10):
        assert sign_flip_p(np.arange(1, n_seeds + 1)) == smallest_sign_flip_p(n_seeds)
    assert smallest_sign_flip_p(5) == 0.0625
    assert smallest_sign_flip_p(6) == 0.03125
    assert sign_flip_p(np.ones(40)) == 2.0**-39


@pytest.mark.parametrize("differences", [[], [0.1, np.nan], np.zeros(41)])
def test_sign_flips_refuse(differences):
    with pytest.raises(ValueError, match="`differences` must"):
        sign_flip_p(differences)


def test_smallest_p_needs_a_seed():
    with pytest.raises(ValueError, match="got 0"):
        smallest_sign_flip_p(0)


# ------------------------------------------------------------------------------------------------------------ over datasets
def test_friedman_by_hand_and_scipy():
    # 6 datasets, 3 methods, always ranked 1, 2, 3: rank sums 6, 12, 18.
    # χ² = 12/(6·3·4)·(36 + 144 + 324) − 3·6·4 = 84 − 72 = 12 with 2 degrees of freedom: p = exp(−12/2).
    table = np.tile([0.7, 0.8, 0.9], (6, 1)) + np.arange(6)[:, None] / 100
    assert friedman(table) == pytest.approx(np.exp(-6))
    table = np.random.default_rng(7).random((8, 4))
    assert friedman(table) == pytest.approx(scipy_stats.friedmanchisquare(*table.T).pvalue)
    assert friedman(np.full((6, 3), 0.5)) == 1


def test_wilcoxon_holm_by_hand_and_scipy():
    # The third method is ahead on all 6 datasets, of distinct gaps: exact p = 2/2⁶; the first two tie: p = 1.
    # Holm over .03125, .03125, 1: 3·.03125, max(…, 2·.03125), 1.
    base = np.arange(6) / 10
    p = wilcoxon_holm(np.column_stack((base, base, 1.1 * base + 0.01)))
    expected = [[np.nan, 1, 0.09375], [1, np.nan, 0.09375], [0.09375, 0.09375, np.nan]]
    np.testing.assert_allclose(p, expected)
    table = np.random.default_rng(8).random((9, 2))
    assert wilcoxon_holm(table)[0, 1] == pytest.approx(scipy_stats.wilcoxon(*table.T).pvalue)


@pytest.mark.parametrize(
    ("function", "table", "message"),
    [
        (friedman, np.ones((5, 3)), "at least 6 datasets, got 5"),
        (friedman, np.ones((6, 2)), "at least 3 methods, got 2"),
        (friedman, np.full((6, 3), np.nan), "without a missing score"),
        (wilcoxon_holm, np.ones((5, 3)), "at least 6 datasets, got 5"),
        (wilcoxon_holm, np.ones((6, 1)), "at least 2 methods, got 1"),
    ],
)
def test_rank_tests_refuse(function, table, message):
    with pytest.raises(ValueError, match=message):
        function(table)


# ----------------------------------------------------------------------------------------------------------------- coverage
def coverage(n_seeds, n_images, repetitions, seed_sd=0.03, model_sd=0.5):
    """Share of intervals that hold the truth, for a paired difference and for one model.

    Seed s of a model is right on image i if ``mean + 1.5·u_i + model_sd·v_i + seed_sd·g_s + e_si > 0``, all standard normal,
    u common to both models. The true accuracy is then Φ(mean / √(1 + 1.5² + model_sd² + seed_sd²)).
    """
    generator = np.random.default_rng(n_seeds * n_images)
    means = np.array([1.6, 1.5])
    truth = ndtr(means / np.sqrt(1 + 1.5**2 + model_sd**2 + seed_sd**2))
    hits = np.zeros(2)
    for _ in range(repetitions):
        images = 1.5 * generator.standard_normal(n_images)
        own = images + model_sd * generator.standard_normal((2, 1, n_images)) + means[:, None, None]
        noise = seed_sd * generator.standard_normal((2, n_seeds, 1)) + generator.standard_normal((2, n_seeds, n_images))
        a, b = own + noise > 0
        pair, single = paired_difference(a, b), two_way_interval(a)
        hits += pair.low <= truth[0] - truth[1] <= pair.high, single.low <= truth[0] <= single.high
    return hits / repetitions


def test_intervals_cover_the_truth():
    assert np.all(np.abs(coverage(3, 360, repetitions=400) - 0.94) <= 0.04)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_seeds", "n_images", "repetitions"),
    [(3, 360, 2000), (3, 2000, 2000), (5, 2000, 2000), (10, 2000, 2000), (3, 10_000, 600), (10, 10_000, 600)],
)
def test_intervals_cover_the_truth_over_the_grid(n_seeds, n_images, repetitions):
    shares = coverage(n_seeds, n_images, repetitions)
    print(f"{n_seeds} seeds, {n_images} images: paired {shares[0]:.3f}, one model {shares[1]:.3f}")
    assert np.all((shares >= 0.90) & (shares <= 0.98))


@pytest.mark.slow
def test_a_model_against_itself_is_called_different_as_rarely_as_stated():
    # Two sets of seeds of one model: p < .05 in at most about 5% of repetitions.
    generator = np.random.default_rng(9)
    false_alarms = 0
    for _ in range(1000):
        images = generator.normal(1, 1.5, 1000)
        a, b = images + 0.05 * generator.normal(size=(2, 3, 1)) + generator.normal(size=(2, 3, 1000)) > 0
        false_alarms += paired_difference(a, b).p < 0.05
    print(f"false alarms: {false_alarms / 1000:.3f}")
    assert false_alarms / 1000 <= 0.08
