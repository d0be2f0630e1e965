"""Differences pooled over datasets: statsmodels as reference, hand-computed cases, simulated coverage."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.meta_analysis import combine_effects

from analysis.statistics.across_datasets import average_ranks, pooled, with_columns


@pytest.mark.parametrize("k", [2, 3, 6, 12])
@pytest.mark.parametrize("tau", [0.0, 0.02, 0.05])
def test_pooling_agrees_with_statsmodels(k, tau):
    generator = np.random.default_rng([k, round(100 * tau)])
    se = generator.uniform(0.003, 0.02, k)
    delta = generator.normal(-0.03, np.sqrt(se**2 + tau**2))
    other = combine_effects(delta, se**2, method_re="iterated", atol=1e-10, maxiter=500)
    found = pooled(delta, se)
    assert (found.mean, found.tau) == pytest.approx((other.mean_effect_re, np.sqrt(other.tau2)), rel=1e-6)
    # Hartung and Knapp's standard error, never below the plain one.
    own = max(np.sqrt(other.var_hksj_re), other.sd_eff_w_re)
    half = scipy_stats.t.ppf(0.975, k - 1) * own
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), rel=1e-6)
    ahead = scipy_stats.t.ppf(0.975, k - 1) * np.sqrt(other.tau2 + own**2)
    expected = np.clip([found.mean - ahead, found.mean + ahead], -1, 1)
    assert (found.prediction_low, found.prediction_high) == pytest.approx(tuple(expected), rel=1e-6)


def test_two_datasets_by_hand():
    # Equal errors of .01: the variance of (0, .1) is .005, of which .0001 is error; the mean's is .005/2.
    found = pooled([0.0, 0.1], [0.01, 0.01])
    assert (found.mean, found.tau, found.k) == (pytest.approx(0.05), pytest.approx(np.sqrt(0.0049)), 2)
    # t(.975, 1) = tan(.475 π) = 12.7062, so that two datasets 10 points apart tell next to nothing.
    assert found.high == pytest.approx(0.05 + 12.7062 * 0.05, rel=1e-5)
    assert found.prediction_high == 1 and found.prediction_low == -1


def test_unknown_differences_do_not_count():
    nan = np.nan
    full, lacking = pooled([-0.01, 0.02, 0.03], [0.01] * 3), pooled([-0.01, nan, 0.02, 0.03, 0.5], [0.01] * 4 + [nan])
    assert full == lacking and full.k == 3
    single = pooled([0.02, nan], [0.01, 0.01])
    assert single.k == 1 and np.isnan([single.mean, single.low, single.prediction_high]).all()


def coverage(k: int, tau: float, errors: tuple[float, ...], times: int) -> tuple[float, float]:
    """Share of simulated sets of `k` datasets whose intervals hold the true mean, and the truth of a further dataset."""
    generator = np.random.default_rng([k, round(100 * tau)])
    se, hits = np.resize(errors, k), np.zeros(2)
    for _ in range(times):
        truth = generator.normal(-0.02, tau, k + 1)
        found = pooled(generator.normal(truth[:k], se), se)
        hits += found.low <= -0.02 <= found.high, found.prediction_low <= truth[k] <= found.prediction_high
    return tuple(hits / times)


EQUAL, UNEQUAL = (0.005,), (0.003, 0.006, 0.02)


def test_intervals_cover_in_a_short_simulation():
    mean, further = coverage(3, 0.02, EQUAL, times=600)
    assert 0.92 < mean < 0.99 and 0.89 < further < 0.99


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("tau", [0.0, 0.02, 0.05])
@pytest.mark.parametrize(("errors", "least"), [(EQUAL, (0.94, 0.915)), (UNEQUAL, (0.91, 0.865))])
def test_intervals_cover(k, tau, errors, least):
    mean, further = coverage(k, tau, errors, times=4000)
    assert mean > least[0] and further > least[1]


def test_ranks_are_means_over_datasets_that_all_have():
    table = pd.DataFrame({"a": [0.9, 0.8], "b": [0.7, 0.8], "c": [0.5, np.nan], "d": [0.6, 0.9]})
    ranks = average_ranks(table)
    assert ranks[["a", "b", "d"]].tolist() == [(1 + 2.5) / 2, (2 + 2.5) / 2, (3 + 1) / 2] and np.isnan(ranks["c"])


def test_columns_are_per_setting_and_keep_the_rows():
    cells = pd.DataFrame(
        [
            (data, setting, model, accuracy, delta, se)
            for data, shift in (("x", 0.0), ("y", 0.02))
            for setting, gap in (("identical", 0.1), ("tuned", 0.3))
            for model, accuracy, delta, se in (("cnn", 0.9, np.nan, np.nan), ("vit", 0.8, shift - gap, 0.01))
        ],
        columns=["data", "setting", "model", "mean", "delta", "delta_se"],
    )
    joined = with_columns(cells)
    pd.testing.assert_frame_equal(joined[cells.columns], cells)
    vit = joined[joined["model"] == "vit"].set_index("setting")
    assert vit.loc["identical", "across_delta"].tolist() == pytest.approx([-0.09] * 2)
    assert vit.loc["tuned", "across_delta"].tolist() == pytest.approx([-0.29] * 2)
    assert (vit["across_n"] == 2).all() and (vit["rank"] == 2).all()
    cnn = joined[joined["model"] == "cnn"]
    assert (cnn["across_n"] == 0).all() and cnn["across_delta"].isna().all() and (cnn["rank"] == 1).all()
