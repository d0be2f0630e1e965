"""What holds across datasets: average ranks, and differences to the reference pooled over what differs between datasets."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, stats

COLUMNS = ("across_delta", "across_low", "across_high", "across_tau", "prediction_low", "prediction_high", "across_n")
"""Columns that `with_columns` fills from the fields of `Pooled`, in their order."""


@dataclass(frozen=True)
class Pooled:
    """A difference over datasets, as a fraction; NaN below two datasets."""

    mean: float
    low: float
    high: float
    """Mean true difference over datasets like these, with its 95% interval."""
    tau: float
    """Standard deviation of true differences between datasets."""
    prediction_low: float
    prediction_high: float
    """95% interval of the true difference on a further dataset."""
    k: int
    """Datasets that count."""


def pooled(delta: npt.ArrayLike, se: npt.ArrayLike) -> Pooled:
    """Pool one difference per dataset, the datasets taken as a random sample.

    True differences vary between datasets with variance tau², after Paule and Mandel: it brings Cochran's Q with weights
    1/(se² + tau²) down to k − 1. The standard error of Hartung and Knapp is the usual one times √(Q/(k − 1)), and is taken
    no smaller than that. With this tau² the factor is 1, or less where tau² is 0, so that here the two are equal and what
    remains of their method is Student's t with k − 1 degrees of freedom.

    Parameters
    ----------
    delta, se : array of shape (datasets,)
        Differences and their standard errors above 0, as fractions. A dataset where either is NaN does not count.

    Returns
    -------
    Pooled
        Limits lie in [−1, 1]. From two or three datasets they are wide, since so few hardly tell how datasets differ. In
        simulation the interval covers the mean in .95 to 1 of cases with equal standard errors and in .925 at least where
        they differ sevenfold; the prediction interval covers in .925 and .88 at least, where tau is 0 by chance.

    References
    ----------
    Paule and Mandel (1982), Consensus values and weighting factors, Journal of Research of the National Bureau of Standards
    87(5): 377–385; Hartung and Knapp (2001), On tests of the overall treatment effect in meta-analysis with normally
    distributed responses, Statistics in Medicine 20(12): 1771–1782; IntHout, Ioannidis, Rovers and Goeman (2016), Plea for
    routinely presenting prediction intervals in meta-analysis, BMJ Open 6(7): e010247, with k − 1 degrees of freedom;
    Partlett and Riley (2017), Statistics in Medicine 36(2): 301–317, for its coverage.
    """
    y, error = np.asarray(delta, dtype=np.float64), np.asarray(se, dtype=np.float64)
    known = np.isfinite(y) & np.isfinite(error)
    y, variance, k = y[known], error[known] ** 2, int(known.sum())
    if k < 2:
        return Pooled(*(float("nan"),) * 6, k)

    def excess(tau2: float) -> float:
        """Q − (k − 1), which falls as tau² grows."""
        weights = 1 / (variance + tau2)
        return float(weights @ (y - weights @ y / weights.sum()) ** 2) - (k - 1)

    # Q is at most Σ(y − ȳ)²/tau², so that it has come down at the variance of y at the latest.
    tau2 = optimize.brentq(excess, 0, 1.01 * y.var(ddof=1), xtol=1e-15) if excess(0) > 0 else 0.0
    weights = 1 / (variance + tau2)
    mean = float(weights @ y / weights.sum())
    t = stats.t.ppf(0.975, k - 1)
    half = t / np.sqrt(weights.sum())
    ahead = t * np.sqrt(tau2 + 1 / weights.sum())
    low, high, least, most = np.clip([mean - half, mean + half, mean - ahead, mean + ahead], -1, 1).tolist()
    return Pooled(mean, low, high, float(np.sqrt(tau2)), least, most, k)


def average_ranks(table: pd.DataFrame) -> pd.Series:
    """Mean rank of each model over datasets; 1 is the best, ties share their mean rank.

    `table` holds accuracies, a row per dataset and a column per model. Models with a missing value get NaN, so that all
    others were ranked on the same datasets.

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7: 1–30, section 3.2.2.
    """
    return table.dropna(axis="columns").rank(axis="columns", ascending=False).mean().reindex(table.columns)


def with_columns(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells of one train fraction, as in `Summary.cells`, joined by what holds of each model and setting across datasets.

    New columns: ``rank`` and `COLUMNS`.
    """
    found = []
    for setting, block in cells.groupby("setting", sort=False):
        ranks = average_ranks(block.pivot(index="data", columns="model", values="mean"))
        for model, own in block.groupby("model", sort=False):
            values = dict(zip(COLUMNS, astuple(pooled(own["delta"], own["delta_se"])), strict=True))
            found.append({"setting": setting, "model": model, "rank": ranks[model], **values})
    return cells.merge(pd.DataFrame(found), on=["setting", "model"], how="left")
