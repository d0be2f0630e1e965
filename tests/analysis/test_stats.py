"""Moderated variances, tests and states: hand-computed numbers, SciPy and statsmodels as references."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from analysis.power import Spread
from analysis.statistics import intervals
from analysis.statistics.intervals import Estimates, classify, friedman, holm, learn, typical_kappa

FLAT = learn(np.zeros(1), np.ones(1), np.ones(1), np.zeros(1))
"""The prior of a table that shows nothing about seeds."""


def one(value):
    return np.array([float(value)])


def known_kappa(centre=0.01, residual=2e-5, images=3e-5, shift=0.1, at=60):
    """An estimate whose κ is known for sure: the value of the grid at `at`."""
    posterior = np.eye(intervals.KAPPA.size)[[at]]
    return Estimates(one(centre), one(centre), one(residual), one(residual + images), one(shift), one(-1), one(1), posterior)


def few_seeds(seeds, df, prior=FLAT, shift=0.1, residual=1e-5):
    """An estimate of .01 with no spread over images but that between seeds."""
    over_seeds = one(seeds), one(residual), one(shift)
    return Estimates.of(one(0.01), one(0.01), over_seeds, one(0), (one(-1), one(1)), one(df), prior)


# -------------------------------------------------------------------------------------------------------------- the mixture
def test_with_kappa_known_everything_is_normal():
    found = known_kappa()
    sd = np.sqrt(5e-5 + 0.1 * intervals.KAPPA[60])
    assert found.se[0] == pytest.approx(sd)
    assert found.half_width[0] == pytest.approx(1.959964 * sd, rel=1e-6)
    assert (found.low[0], found.high[0]) == pytest.approx((0.01 - 1.959964 * sd, 0.01 + 1.959964 * sd), rel=1e-6)
    assert found.p[0] == pytest.approx(2 * scipy_stats.norm.sf(0.01 / sd))
    # Two one-sided tests at a margin of .03, the nearer end .02 away, doubled.
    assert found.p_beyond(0.03)[0] == pytest.approx(2 * scipy_stats.norm.sf(0.02 / sd))


def test_limits_stay_within_what_the_contrast_can_be():
    found = known_kappa(centre=0.5, images=1.0)
    assert found.high[0] == 1 and found.low[0] == -1
    assert found.half_width[0] > 1.5


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.1, 0.1), st.floats(1e-4, 0.1), st.floats(0, 1e-3), st.integers(1, 9))
def test_equivalence_is_an_interval_inside_the_margin(centre, margin, seeds, df):
    found = replace(few_seeds(seeds, df), centre=one(centre))
    inside = abs(centre) + found.half_width[0] < margin
    assert (found.p_beyond(margin)[0] < 0.05) == inside
    assert found.p_beyond(margin)[0] == 1 or abs(centre) < margin


def test_few_seeds_are_not_taken_at_their_word():
    lucky, plain, loud = (few_seeds(seeds, 2) for seeds in (0, 1e-4, 1e-2))
    assert 1e-5**0.5 < lucky.se[0] < plain.se[0] < loud.se[0]
    assert few_seeds(0, 9).half_width < lucky.half_width
    # t with 2 degrees of freedom would need 4.3 standard errors; what other comparisons show makes it fewer.
    table = learn(np.full(24, 1e-3), np.full(24, 1e-5), np.full(24, 0.1), np.full(24, 2.0))
    assert few_seeds(1e-3, 2, table).half_width < few_seeds(1e-3, 2).half_width


def test_a_table_shows_its_kappa():
    generator = np.random.default_rng(0)
    for kappa in (0.003, 0.03, 0.3):
        seeds = (1e-5 + kappa * 0.1) * generator.chisquare(2, 2000) / 2
        prior = learn(seeds, np.full(2000, 1e-5), np.full(2000, 0.1), np.full(2000, 2.0))
        assert prior.sum() == pytest.approx(1)
        assert typical_kappa(prior) == pytest.approx(kappa, rel=0.2)


def test_contrasts_of_one_seed_show_nothing():
    assert np.ptp(FLAT) == 0
    seeds, shift = np.array([1e-3, 5.0]), np.array([0.1, 0.1])
    residual = np.full(2, 1e-5)
    both = learn(seeds, residual, shift, np.array([2.0, 0.0]))
    np.testing.assert_allclose(both, learn(seeds[:1], residual[:1], shift[:1], np.array([2.0])))


def test_half_the_weight_is_half_the_evidence():
    parts = one(1e-3), one(1e-5), one(0.1), one(2)
    twice = [np.repeat(part, 2) for part in parts]
    np.testing.assert_allclose(learn(*twice, weight=0.5), learn(*parts))


def test_each_kind_has_its_own_kappa_where_kinds_differ():
    generator = np.random.default_rng(1)
    budget, model = np.arange(400) % 4, np.arange(400) // 100

    def learned(kappa):
        seeds = (1e-5 + kappa * 0.1) * generator.chisquare(2, 400) / 2
        return learn(seeds, np.full(400, 1e-5), np.full(400, 0.1), np.full(400, 2.0), kinds=(model, budget))

    differing = learned(np.array([0.3, 0.1, 0.03, 0.01])[budget])
    np.testing.assert_allclose(differing.sum(axis=1), 1)
    assert typical_kappa(differing)[:4] == pytest.approx([0.3, 0.1, 0.03, 0.01], rel=0.5)
    assert typical_kappa(learned(0.03)) == pytest.approx(np.full(400, 0.03), rel=0.3)
    assert np.ptp(learn(np.zeros(2), np.ones(2), np.ones(2), np.zeros(2), kinds=(np.arange(2),)), axis=0).max() < 1e-12


def test_of_ways_that_explain_alike_a_contrast_takes_that_under_which_seeds_vary_most():
    # Two loud contrasts of four: parity tells them apart, halves do not, and four contrasts cannot decide.
    seeds = np.array([3e-2, 3e-3, 3e-2, 3e-3])
    parts = seeds, np.full(4, 1e-5), np.full(4, 0.1), np.full(4, 2.0)
    halves, parity = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    alone = [learn(*parts, kinds=(way,)) for way in (halves, parity)]
    chosen = learn(*parts, kinds=(halves, parity))
    loud, quiet = typical_kappa(chosen)[[0, 2]], typical_kappa(chosen)[[1, 3]]
    assert (loud == typical_kappa(alone[1])[[0, 2]]).all() and (loud > typical_kappa(alone[0])[[0, 2]]).all()
    assert (quiet == typical_kappa(alone[0])[[1, 3]]).all() and (quiet > typical_kappa(alone[1])[[1, 3]]).all()
    # With much more to see, halves no longer explain it, and the quiet ones are known to be quiet.
    many = [np.tile(part, 25) for part in parts]
    known = learn(*many, kinds=(np.tile(halves, 25), np.tile(parity, 25)))
    np.testing.assert_allclose(known, learn(*many, kinds=(np.tile(parity, 25),)))


def test_a_part_of_the_estimates():
    found = few_seeds(1e-4, 2)
    assert found[np.array([0])].low == found[:1].low == found.low


# ------------------------------------------------------------------------------------------------------------- seeds needed
def needed(found, n_seeds, n_images=400):
    return Spread.of(found, n_seeds, n_images).seeds(0.02, n_images)[:, 0].tolist()


def test_seeds_needed_by_hand():
    # (1.959964 + .841621)² = 7.848879; an effect of .02 leaves .0004/7.848879 = 5.0963e-5, less 3e-5 for images: 2.0963e-5.
    # Over 4 seeds they add 2e-5 + .1 κ, as one seed 4 times as much.
    found = known_kappa()
    expected = np.ceil((2e-5 + 0.1 * intervals.KAPPA[60]) * 4 / 2.0963e-5)
    assert needed(found, 4) == [expected] * 3
    assert needed(known_kappa(residual=0, shift=1e-9), 4) == [3, 3, 3]


def test_no_number_of_seeds_replaces_test_images():
    assert needed(known_kappa(images=6e-5), 4) == [np.inf] * 3


def test_seeds_needed_say_how_little_few_seeds_know():
    low, _, high = needed(few_seeds(1e-4, 2), 3)
    assert low < 1e-4 * 3 / 5.0963e-5 < high / 2


# --------------------------------------------------------------------------------------------------------- tests and states
def test_accuracy_slope_by_hand():
    # φ(0) = .398942; Φ⁻¹(.975) = 1.959964, where φ is .058445.
    assert intervals.accuracy_slope(np.array([0.5, 0.975])) == pytest.approx([0.398942, 0.058445], abs=1e-6)


@pytest.mark.parametrize(
    ("p_different", "p_beyond", "state"),
    [
        (0.049, 1.0, "different"),
        (0.05, 0.05, "inconclusive"),
        (0.05, 0.049, "equivalent"),
        (0.001, 0.001, "different"),
        (np.nan, np.nan, "inconclusive"),
    ],
)
def test_states(p_different, p_beyond, state):
    assert classify(p_different, p_beyond) == state


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


def test_friedman_by_hand_and_scipy():
    # 6 datasets, 3 methods, always ranked 1, 2, 3: rank sums 6, 12, 18.
    # χ² = 12/(6·3·4)·(36 + 144 + 324) − 3·6·4 = 84 − 72 = 12 with 2 degrees of freedom: p = exp(−12/2).
    table = np.tile([0.7, 0.8, 0.9], (6, 1)) + np.arange(6)[:, None] / 100
    assert friedman(table) == pytest.approx(np.exp(-6))
    table = np.random.default_rng(7).random((8, 4))
    assert friedman(table) == pytest.approx(scipy_stats.friedmanchisquare(*table.T).pvalue)
    assert friedman(np.full((6, 3), 0.5)) == 1
