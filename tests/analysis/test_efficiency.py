"""Data efficiency: hand-computed curves, known truths, scikit-learn's isotonic regression, simulated coverage."""

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats
from sklearn.isotonic import IsotonicRegression

from analysis.curves import Known, draw_means, isotonic_decreasing, seed_variance, size_at
from analysis.efficiency import aulc, crossover, data_multiplier, paired_aulc
from analysis.stats import two_way_interval

BUDGETS = np.array([100.0, 1000.0, 10_000.0])


def alike(curve, n_seeds=3):
    """Seeds without any spread."""
    return np.tile(curve, (n_seeds, 1))


# --------------------------------------------------------------------------------------------------------------------- AULC
def test_aulc_by_hand():
    # In ln n: steps 1 and 2, mean accuracies .3 and .6: (.3·1 + .6·2)/3.
    assert aulc([1, np.e, np.e**3], [0.2, 0.4, 0.8]) == pytest.approx(0.5)
    assert aulc([10, 1000], [0.2, 0.6]) == pytest.approx(0.4)
    assert aulc([50, 300, 700, 5000], [0.7] * 4) == pytest.approx(0.7)
    assert np.isnan(aulc([100], [0.7]))


def test_aulc_agrees_with_scipy_and_ignores_the_unit_of_n():
    generator = np.random.default_rng(0)
    n, accuracy = np.sort(generator.uniform(10, 1e5, 7)), generator.random(7)
    expected = integrate.trapezoid(accuracy, np.log(n)) / np.log(n[-1] / n[0])
    assert aulc(n, accuracy) == pytest.approx(expected)
    assert aulc(n / 1000, accuracy) == pytest.approx(expected)


def test_paired_aulc_is_the_t_test_over_seeds():
    generator = np.random.default_rng(1)
    a, b = generator.random((2, 5, 3))
    differences = [aulc(BUDGETS, x) - aulc(BUDGETS, y) for x, y in zip(a, b, strict=True)]
    reference = scipy_stats.ttest_1samp(differences, 0)
    interval = paired_aulc(BUDGETS, a, b)
    assert interval.estimate == pytest.approx(np.mean(differences))
    assert interval.p == pytest.approx(reference.pvalue)
    assert (interval.low, interval.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))


def test_paired_aulc_of_images_is_the_two_way_interval():
    generator = np.random.default_rng(2)
    a, b = generator.random((2, 4, 3, 50)) < 0.6
    by_image = np.array([[aulc(BUDGETS, a[s, :, i]) - aulc(BUDGETS, b[s, :, i]) for i in range(50)] for s in range(4)])
    interval, expected = paired_aulc(BUDGETS, a, b), two_way_interval(by_image)
    assert (interval.low, interval.high, interval.df) == pytest.approx((expected.low, expected.high, expected.df))
    assert interval.estimate == pytest.approx(paired_aulc(BUDGETS, a.mean(axis=2), b.mean(axis=2)).estimate)


def test_paired_aulc_of_one_budget_or_seed_has_no_interval():
    assert np.isnan(paired_aulc([100], [[0.5], [0.6]], [[0.4], [0.5]]).estimate)
    interval = paired_aulc([10, 100], [[0.5, 0.7]], [[0.4, 0.6]])
    assert interval.estimate == pytest.approx(0.1)
    assert np.isnan(interval.low)


# ------------------------------------------------------------------------------------------------------------------- curves
def test_isotonic_by_hand_and_reference():
    # .2 and .3 rise and are pooled to .25; a rising curve becomes its mean.
    np.testing.assert_allclose(isotonic_decreasing(np.array([0.5, 0.2, 0.3])), [0.5, 0.25, 0.25])
    np.testing.assert_allclose(isotonic_decreasing(np.array([0.1, 0.2, 0.3])), [0.2, 0.2, 0.2])
    curves = np.random.default_rng(3).random((60, 6))
    # A curve that falls already is returned to the last bit, so that a level on it is found at its own budget.
    falling = -np.sort(-curves, axis=1)
    np.testing.assert_array_equal(isotonic_decreasing(falling), falling)
    for curve, fitted in zip(curves, isotonic_decreasing(curves), strict=True):
        np.testing.assert_allclose(fitted, IsotonicRegression(increasing=False).fit_transform(np.arange(6), curve))


def test_size_at_a_level():
    # Errors .4, .2, .1: .2·√½ = .1414 lies half-way between .2 and .1 in log error, at n = √(1000·10000).
    errors = np.array([0.4, 0.2, 0.1])
    targets = np.array([0.5, 0.4, 0.2, 0.2 / np.sqrt(2), 0.1, 0.05])
    sizes = size_at(BUDGETS, np.tile(errors, (6, 1)), targets)
    np.testing.assert_allclose(sizes.low, [0, 100, 1000, np.sqrt(1e7), 10_000, 10_000])
    np.testing.assert_allclose(sizes.high, [100, 100, 1000, np.sqrt(1e7), 10_000, np.inf])


def test_size_at_a_plateau_is_its_beginning():
    sizes = size_at(BUDGETS, np.array([0.4, 0.2, 0.2]), np.array(0.2))
    assert (sizes.low, sizes.high) == (1000, 1000)


def test_ratio_of_bounded_numbers():
    # 6/2; more than 10 over 2; 6 over at most 3; more than 10 over more than 10, which tells nothing.
    b = Known(np.array([6.0, 10.0, 6.0, 10.0]), np.array([6.0, np.inf, 6.0, np.inf]))
    a = Known(np.array([2.0, 2.0, 0.0, 10.0]), np.array([2.0, 2.0, 3.0, np.inf]))
    ratio = b.over(a)
    assert ratio.low.tolist() == [3, 5, 2, 0]
    assert ratio.high.tolist() == [3, np.inf, np.inf, np.inf]


def test_limits_are_order_statistics_and_keep_bounds():
    # Of the draws 0 … 1000 the 2.5% and 97.5% points are 25 and 975.
    draws = np.random.default_rng(4).permutation(1001).astype(float)
    low, high = Known(draws, draws).limits(0.95)
    assert (low.low, low.high, high.low, high.high) == (25, 25, 975, 975)
    # The upper tenth only known to lie above 900: the upper limit is too.
    low, high = Known(np.minimum(draws, 900), np.where(draws > 900, np.inf, draws)).limits(0.95)
    assert (low.low, low.high, high.low, high.high) == (25, 25, 900, np.inf)


def test_seed_variance_is_pooled_along_the_curve():
    # Two seeds mean ± d have variance 2d²; the four variances follow v0 + v1/n exactly.
    n = np.array([100.0, 400.0, 2000.0, 10_000.0])
    variance = 1e-5 + 0.01 / n
    spread = np.sqrt(variance / 2)
    fitted, df = seed_variance(n, 0.3 + np.array([spread, -spread]))
    np.testing.assert_allclose(fitted, variance, rtol=1e-5)
    # Four variances of 1 degree of freedom, shared by two coefficients.
    assert df == 2


def test_seed_variance_is_never_negative():
    # Variances that rise with n have no positive v1: v0 alone, their mean.
    spread = np.sqrt(np.array([1.0, 2.0, 3.0]) / 2)
    fitted, _ = seed_variance(BUDGETS, np.array([spread, -spread]))
    np.testing.assert_allclose(fitted, 2, rtol=1e-5)
    np.testing.assert_allclose(seed_variance(BUDGETS, np.full((3, 3), 0.2))[0], 0, atol=1e-30)


def test_redrawn_means_have_the_standard_error_of_the_mean():
    # 8 seeds ±d of variance 8d²/7 at both budgets; df = 2·7/2 = 7, and t₇ has variance 7/5.
    signs = np.array([1, -1] * 4)[:, None]
    drawn = draw_means(np.array([10.0, 100.0]), 0.5 + 0.07 * signs * np.ones(2), 200_000, np.random.default_rng(5))
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=1e-3)
    np.testing.assert_allclose(drawn.std(axis=0), 0.07 * np.sqrt(8 / 7 / 8 * 7 / 5), rtol=0.02)


# --------------------------------------------------------------------------------------------------------------- multiplier
def test_multiplier_of_power_laws_is_exact():
    # 2·n^−½ reaches .02 at 10,000 images, n^−½ at 2,500.
    result = data_multiplier(BUDGETS, alike(BUDGETS**-0.5), alike(2 * BUDGETS**-0.5), n_test=10_000)
    assert result.estimate == pytest.approx(4)
    assert (result.n_a, result.n_b, result.target) == (pytest.approx(2500), 10_000, pytest.approx(0.02))
    # Seeds without spread leave no doubt.
    assert (result.low, result.high) == (pytest.approx(4), pytest.approx(4))
    assert result.text == "4.0× [4.0, 4.0]"


@pytest.mark.parametrize("asymptote", [0.0, 0.02, 0.04])
def test_multiplier_of_bent_curves_is_within_three_per_cent(asymptote):
    # Error c + k·n^−½ with k = 3 and 6: B needs (6/3)² = 4 times the data at any level.
    n = np.array([500, 1500, 5000, 15_000, 50_000])
    a, b = asymptote + 3 * n**-0.5, asymptote + 6 * n**-0.5
    assert data_multiplier(n, alike(a), alike(b), n_test=10_000).estimate == pytest.approx(4, rel=0.03)


def test_a_model_against_itself_needs_the_same_data():
    errors = np.array([[0.5, 0.2, 0.26], [0.4, 0.3, 0.24]])
    result = data_multiplier(BUDGETS, errors, errors, n_test=100)
    assert result.estimate == 1
    assert result.low <= 1 <= result.high


def test_the_target_can_be_given():
    # n^−½ reaches .05 at 400, 2·n^−½ at 1,600.
    result = data_multiplier(BUDGETS, alike(BUDGETS**-0.5), alike(2 * BUDGETS**-0.5), n_test=10_000, target=0.05)
    assert (result.n_a, result.n_b) == (pytest.approx(400), pytest.approx(1600))
    assert result.estimate == pytest.approx(4)


def test_levels_outside_the_budgets_are_bounds():
    good, poor = alike([0.10, 0.08, 0.06]), alike([0.50, 0.40, 0.30])
    # A starts below B's final error: it needs fewer than 100 images where B needs 10,000.
    result = data_multiplier(BUDGETS, good, poor, n_test=1000)
    assert np.isnan(result.estimate)
    assert (result.low, result.high) == (pytest.approx(100), np.inf)
    assert result.text == "> 100×"
    # A never comes down to B's final error: it needs more than 10,000.
    result = data_multiplier(BUDGETS, poor, good, n_test=1000)
    assert (result.low, result.high) == (0, pytest.approx(1))
    assert result.text == "< 1.0×"
    # Neither reaches 1%.
    result = data_multiplier(BUDGETS, poor, good, n_test=1000, target=0.01)
    assert np.isnan([result.estimate, result.n_a, result.n_b]).all()
    assert result.estimate_text == "not measurable"


def test_a_limit_on_draws_out_of_range_is_a_bound():
    # A reaches .3 half-way between 100 and 1,000 images, and with much noise below 100 in many draws.
    noise = np.array([[0.06], [-0.06], [0.0]])
    a, b = np.array([0.33, 0.27, 0.2]) + noise, alike([0.5, 0.4, 0.3])
    result = data_multiplier(BUDGETS, a, b, n_test=1000)
    assert 10 < result.estimate < 100
    assert result.high == np.inf
    assert result.interval_text.endswith(", > 100]")


def test_errors_are_floored_at_half_an_image():
    # Both reach 0 errors of 50, counted as .01: A at 1,000 images, B at 10,000.
    a, b = alike([0.1, 0.0, 0.0]), alike([0.2, 0.1, 0.0])
    result = data_multiplier(BUDGETS, a, b, n_test=50)
    assert (result.target, result.estimate) == (0.01, 10)
    # From .1 to the floor over a decade: .05 is reached at 100·10^(ln 2/ln 10).
    assert data_multiplier(BUDGETS, a, b, n_test=50, target=0.05).n_a == pytest.approx(200)


def test_a_rise_by_noise_is_pooled():
    # B's means .3, .2, .22 become .3, .21, .21, so that .22 is reached just before 1,000; A is the same with its own rise.
    b = alike([0.3, 0.2, 0.22])
    result = data_multiplier(BUDGETS, b, b, n_test=1000)
    assert result.target == pytest.approx(0.22)
    assert result.n_b == pytest.approx(100 * 10 ** (np.log(0.3 / 0.22) / np.log(0.3 / 0.21)))


def test_one_seed_gives_no_interval():
    result = data_multiplier(BUDGETS, [BUDGETS**-0.5], [2 * BUDGETS**-0.5], n_test=1000)
    assert result.text == "4.0×"
    assert np.isnan([result.low, result.high]).all()


def noisy(generator, curve, n, n_seeds, v0, v1):
    return np.clip(curve(n) + np.sqrt(v0 + v1 / n) * generator.standard_normal((n_seeds, len(n))), 0, 1)


def test_equal_input_gives_equal_output_and_more_seeds_a_shorter_interval():
    generator = np.random.default_rng(6)
    a, b = (noisy(generator, lambda n, k=k: k * n**-0.5, BUDGETS, 12, 1e-6, 1e-2) for k in (1, 2))
    many = data_multiplier(BUDGETS, a, b, n_test=1000)
    assert many == data_multiplier(BUDGETS, a, b, n_test=1000)
    assert many != data_multiplier(BUDGETS, a, b, n_test=1000, seed=1)
    few = data_multiplier(BUDGETS, a[:3], b[:4], n_test=1000)
    assert many.low < 4 < many.high
    assert many.high / many.low < few.high / few.low


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": [100, 1000, 1000]}, "strictly increasing"),
        ({"n": [0, 100, 1000]}, "positive"),
        ({"n": [100]}, "at least 2 data budgets"),
        ({"errors_a": [[0.3, 0.2]]}, r"`errors_a` must be seeds × 3 data budgets, got shape \(1, 2\)"),
        ({"errors_b": [[0.3, np.nan, 0.1]]}, r"`errors_b` must be finite: row 0 \(seed\), column 1 \(n = 1000\) is nan"),
        ({"errors_b": [[30.0, 20.0, 10.0]]}, r"error rates in \[0, 1\], got values from 10 to 30"),
        ({"n_test": 0}, "`n_test` must be at least 1"),
        ({"target": 1.5}, r"inside \(0, 1\)"),
        ({"draws": 10}, "`draws` at least 100"),
    ],
)
def test_bad_curves_are_named(changes, message):
    arguments = {"n": BUDGETS, "errors_a": [[0.3, 0.2, 0.1]], "errors_b": [[0.4, 0.3, 0.2]], "n_test": 100} | changes
    with pytest.raises(ValueError, match=message):
        data_multiplier(**arguments)


# ---------------------------------------------------------------------------------------------------------------- crossover
def test_crossover_by_hand():
    # A − B is −.2 at 100 and +.2 at 10,000 images: zero half-way in ln n, at 1,000.
    result = crossover([100, 10_000], alike([0.4, 0.8]), alike([0.6, 0.6]))
    assert result.n == pytest.approx(1000)
    assert (result.low, result.high) == (pytest.approx(1000), pytest.approx(1000))
    assert (result.leader, result.text) == ("a", "1,000 [1,000, 1,000]")
    mirrored = crossover([100, 10_000], alike([0.6, 0.6]), alike([0.4, 0.8]))
    assert (mirrored.n, mirrored.leader) == (result.n, "b")


def test_the_last_of_several_crossings_counts():
    # A − B: −.1, +.1, −.1, +.3, +.4: from 1,000 to 10,000 zero after a quarter of the step.
    n = [10, 100, 1000, 10_000, 100_000]
    result = crossover(n, alike([0.3, 0.5, 0.5, 0.9, 1.0]), alike([0.4, 0.4, 0.6, 0.6, 0.6]))
    assert result.n == pytest.approx(1000 * 10**0.25)


def test_curves_that_do_not_cross():
    assert crossover(BUDGETS, alike([0.5, 0.6, 0.7]), alike([0.4, 0.5, 0.6])) is None
    assert crossover(BUDGETS, alike([0.5, 0.6, 0.7]), alike([0.4, 0.6, 0.6])) is None
    assert crossover(BUDGETS, alike([0.5, 0.6, 0.7]), alike([0.5, 0.6, 0.7])) is None
    assert crossover(BUDGETS, alike([0.5, 0.6, 0.7]), alike([0.6, 0.7, 0.7])) is None


def test_crossover_limits_beyond_the_budgets_are_bounds():
    spread = np.array([[0.05], [-0.05], [0.0]])
    b = alike([0.5, 0.6, 0.7])
    late = crossover(BUDGETS, b + np.array([-0.2, -0.1, 0.01]) + spread, b)
    assert 1000 < late.n < 10_000
    assert late.high == np.inf
    assert late.text.endswith(", > 10,000]")
    early = crossover(BUDGETS, b + np.array([-0.01, 0.1, 0.2]) + spread, b)
    assert early.low == 0
    assert "[< 100, " in early.text


def test_crossover_of_one_seed_has_no_interval():
    result = crossover([100, 10_000], [[0.4, 0.8]], [[0.6, 0.6]])
    assert result.text == "1,000"
    assert np.isnan(result.low)


def test_crossover_refuses():
    with pytest.raises(ValueError, match="same seeds, got 2 and 3"):
        crossover(BUDGETS, alike([0.1, 0.2, 0.3], 2), alike([0.1, 0.2, 0.3], 3))
    with pytest.raises(ValueError, match="`accuracy_b` must be finite"):
        crossover(BUDGETS, alike([0.1, 0.2, 0.3]), alike([0.1, np.nan, 0.3]))
    with pytest.raises(ValueError, match="`draws` must be at least 100"):
        crossover(BUDGETS, alike([0.1, 0.2, 0.3]), alike([0.1, 0.2, 0.3]), draws=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aulc(BUDGETS, [0.5, 0.6]), r"seeds × 3 data budgets, got shape \(1, 2\)"),
        (lambda: aulc([100, 50], [0.5, 0.6]), "strictly increasing"),
        (lambda: aulc([50, 100], [0.5, np.nan]), "`accuracy` must be finite"),
        (lambda: paired_aulc(BUDGETS, [[0.5, 0.6]], [[0.5, 0.6]]), r"seeds × 3 data budgets .* \(1, 2\) and \(1, 2\)"),
        (lambda: paired_aulc([50, 100], [[0.5, 0.6]] * 2, [[0.5, 0.6]]), r"\(2, 2\) and \(1, 2\)"),
        (lambda: paired_aulc([50, 100], [[0.5, 0.6]], [[0.5, np.nan]]), "must be finite"),
    ],
)
def test_aulc_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ----------------------------------------------------------------------------------------------------------------- coverage
def multiplier_coverage(n_seeds, repetitions, draws):
    """Share of intervals that hold the true 4, for power laws of 5 budgets and seed variance v0 + v1/n."""
    n = np.array([500, 1500, 5000, 15_000, 50_000])
    generator = np.random.default_rng(n_seeds)
    hits = 0
    for repetition in range(repetitions):
        a, b = (noisy(generator, lambda n, k=k: k * n**-0.5, n, n_seeds, 0.001**2, 0.1**2) for k in (3, 6))
        result = data_multiplier(n, a, b, n_test=10_000, draws=draws, seed=repetition)
        hits += result.low <= 4 <= result.high
    return hits / repetitions


def test_multiplier_interval_covers_the_truth():
    assert 0.90 <= multiplier_coverage(3, repetitions=200, draws=400) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_multiplier_interval_covers_the_truth_over_the_grid(n_seeds):
    share = multiplier_coverage(n_seeds, repetitions=1000, draws=2000)
    print(f"{n_seeds} seeds: multiplier {share:.3f}")
    assert 0.90 <= share <= 0.99


def crossing_coverage(n_seeds, repetitions):
    """Share of intervals that hold the true crossing of straight lines in ln n, at 5,000 images."""
    n = np.array([500, 1500, 5000, 15_000, 50_000])
    generator = np.random.default_rng(100 + n_seeds)
    lead = 0.03 * np.log(n / 5000)
    hits = 0
    for repetition in range(repetitions):
        a, b = (0.6 + part + np.sqrt(0.005**2 + 0.2**2 / n) * generator.standard_normal((n_seeds, 5)) for part in (lead, 0))
        result = crossover(n, a, b, seed=repetition)
        hits += result is not None and result.low <= 5000 <= result.high
    return hits / repetitions


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_crossover_interval_covers_the_truth(n_seeds):
    share = crossing_coverage(n_seeds, repetitions=1000)
    print(f"{n_seeds} seeds: crossover {share:.3f}")
    assert 0.90 <= share <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_paired_aulc_of_images_covers_new_seeds_and_images(n_seeds):
    # Probit scores as for accuracy; the true AULC is the mean of Φ(mean/√(1 + 1.5² + .5²)) over the curve.
    n, generator = np.array([1000, 5000, 20_000]), np.random.default_rng(n_seeds)
    means = np.array([[0.2, 0.9, 1.6], [0.0, 0.8, 1.5]])
    truth = np.subtract(*(aulc(n, scipy_stats.norm.cdf(m / np.sqrt(1 + 1.5**2 + 0.5**2))) for m in means))
    hits = np.zeros(2)
    for _ in range(500):
        shared = 1.5 * generator.standard_normal(1000) + 0.5 * generator.standard_normal((2, 1, 1, 1000))
        a, b = means[:, None, :, None] + shared + generator.standard_normal((2, n_seeds, 3, 1000)) > 0
        intervals = paired_aulc(n, a, b), paired_aulc(n, a.mean(axis=2), b.mean(axis=2))
        hits += [interval.low <= truth <= interval.high for interval in intervals]
    print(f"{n_seeds} seeds: AULC by image {hits[0] / 500:.3f}, t over seeds {hits[1] / 500:.3f}")
    assert 0.90 <= hits[0] / 500 <= 0.98
