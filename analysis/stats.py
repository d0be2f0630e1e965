"""Intervals and verdicts for few seeds × many test images.

Alphabet: ``S`` seeds, ``N`` test images. Scores are one number per seed and image: correct (0 or 1), NLL or Brier of one
model, or the difference of two models that were trained on the same seeds and tested on the same images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.p_values import friedman, holm, sign_flip_p, smallest_sign_flip_p, wilcoxon_holm

__all__ = [
    "MIN_SEEDS_FOR_MARKS",
    "Interval",
    "State",
    "classify",
    "friedman",
    "holm",
    "mean_std",
    "noise_floor",
    "paired_difference",
    "seeds_needed",
    "sign_flip_p",
    "smallest_sign_flip_p",
    "two_way_interval",
    "wilcoxon_holm",
]

Floats = npt.NDArray[np.float64]
State = Literal["different", "equivalent", "inconclusive"]

MIN_SEEDS_FOR_MARKS = 3
"""Below this number of seeds a table prints no mark of significance."""
MAX_SEEDS_NEEDED = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval. NaN stands for what the data cannot tell.

    Attributes
    ----------
    estimate : float
        Mean over seeds and images.
    low, high : float
        Limits of the interval, in the unit of the scores.
    se : float
        Standard error of the estimate.
    df : float
        Degrees of freedom of the t distribution; infinite where seeds do not vary.
    p : float
        Two-sided p-value of the hypothesis that the true mean is 0.
    """

    estimate: float
    low: float
    high: float
    se: float
    df: float
    p: float


@dataclass(frozen=True)
class _MeanSquares:
    """Mean squares of a two-way layout without replication: seeds, images, residual."""

    seeds: float
    images: float
    residual: float


def _scores(scores: npt.ArrayLike, name: str = "scores") -> Floats:
    """Check a seeds × images array."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"`{name}` must be a non-empty array of seeds × test images, got shape {array.shape}.")
    bad = ~np.isfinite(array)
    if bad.any():
        seed, image = np.argwhere(bad)[0]
        raise ValueError(
            f"`{name}` must be finite: {bad.sum()} of {array.size} values are NaN or infinite, the first at row {seed} "
            f"(seed), column {image} (test image). Leave out the run that holds it."
        )
    return array


def _mean_squares(scores: Floats) -> _MeanSquares:
    """Two-way analysis of variance with one value per cell; a mean square without degrees of freedom is 0."""
    n_seeds, n_images = scores.shape
    by_seed = scores.mean(axis=1)
    by_image = scores.mean(axis=0)
    grand = by_seed.mean()
    residual = scores - by_seed[:, None]
    residual -= by_image - grand
    sums = (
        n_images * np.sum((by_seed - grand) ** 2),
        n_seeds * np.sum((by_image - grand) ** 2),
        np.einsum("si,si->", residual, residual),
    )
    free = (n_seeds - 1, n_images - 1, (n_seeds - 1) * (n_images - 1))
    # Sums of squares below the rounding error of the scores themselves are 0: equal rows must give exactly equal means.
    rounding = scores.size * (16 * np.finfo(np.float64).eps * np.abs(scores).max()) ** 2
    return _MeanSquares(*(float(s / f) if f and s > rounding else 0.0 for s, f in zip(sums, free, strict=True)))


def _numerator(squares: _MeanSquares, n_seeds: int, planned: int) -> float:
    """S·N·SE² for `planned` seeds, from mean squares estimated on `n_seeds`; the residual is the floor."""
    image_part = max(squares.images - squares.residual, 0.0) * planned / n_seeds
    return max(squares.seeds + image_part, squares.residual)


def _degrees_of_freedom(squares: _MeanSquares, numerator: float, planned: int) -> float:
    """Hillis' degrees of freedom; infinite where the seeds do not vary."""
    return float("inf") if squares.seeds == 0 else numerator**2 / (squares.seeds**2 / (planned - 1))


def two_way_interval(scores: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Confidence interval of a mean over random seeds crossed with random test images.

    With the mean squares MS_S (seeds), MS_I (images) and MS_R (residual) of the S × N table, ``num = max(MS_S +
    max(MS_I − MS_R, 0), MS_R)``, ``SE² = num / (S·N)`` and ``df = num² / (MS_S² / (S − 1))``, infinite if MS_S = 0. The
    outer maximum, an addition to the source, keeps the interval from collapsing where the mean squares of seeds and images
    happen to be small. The interval thus covers a new draw of both the seeds and the test images. With one image it is the
    t interval over seeds; with identical seeds it is the normal interval over images.

    Parameters
    ----------
    scores : array of shape (S, N)
        One model's scores, or the differences of two models' scores, seed by seed and image by image.
    confidence : float
        Nominal coverage, between 0 and 1.

    Returns
    -------
    Interval
        With one seed the spread between seeds is unknown: all but the estimate are NaN. If all scores are equal, the
        interval is that one value, and p is 1 for the value 0 and 0 for any other.

    Raises
    ------
    ValueError
        If the array is not two-dimensional, is empty or holds NaN or infinity, or the confidence is not inside (0, 1).

    References
    ----------
    Hillis, Berbaum and Metz (2008), Recent developments in the Dorfman–Berbaum–Metz procedure for multireader ROC study
    analysis, Academic Radiology 15(5): 647–661; seeds take the readers' place, test images the cases'.
    """
    _check_share("confidence", confidence)
    array = _scores(scores)
    n_seeds, n_images = array.shape
    estimate = float(array.mean())
    if n_seeds == 1:
        return Interval(estimate, *[float("nan")] * 5)
    squares = _mean_squares(array)
    numerator = _numerator(squares, n_seeds, n_seeds)
    if numerator == 0:
        return Interval(estimate, estimate, estimate, se=0.0, df=float("inf"), p=float(estimate == 0))
    se = float(np.sqrt(numerator / (n_seeds * n_images)))
    df = _degrees_of_freedom(squares, numerator, n_seeds)
    half_width = float(special.stdtrit(df, (1 + confidence) / 2)) * se
    p = float(2 * special.stdtr(df, -abs(estimate) / se))
    return Interval(estimate, estimate - half_width, estimate + half_width, se, df, p)


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Two-way interval of the mean of ``a − b``.

    Parameters
    ----------
    a, b : arrays of shape (S, N)
        Scores of two models: row s of both from one seed, column i of both from one test image.
    confidence : float
        Nominal coverage, between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes differ, or for the reasons of `two_way_interval`.
    """
    first, second = _scores(a, "a"), _scores(b, "b")
    if first.shape != second.shape:
        raise ValueError(
            f"`a` and `b` must have the same seeds × test images, got shapes {first.shape} and {second.shape}. "
            "Keep the seeds and images that both models have."
        )
    return two_way_interval(first - second, confidence)


def noise_floor(scores: npt.ArrayLike, confidence: float = 0.95) -> float:
    """Half-width of the two-way interval at the seeds and test images at hand.

    Of paired differences it is the smallest difference that these seeds and images can tell from 0, in the unit of the
    scores. NaN with one seed.

    Parameters
    ----------
    scores : array of shape (S, N)
        Differences of two models, or one model's scores.
    confidence : float
        Nominal coverage, between 0 and 1.
    """
    interval = two_way_interval(scores, confidence)
    return (interval.high - interval.low) / 2


def seeds_needed(
    scores_diff: npt.ArrayLike, effect: float = 0.005, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """Seeds at which a true difference of `effect` would be found with the given power on this test set.

    The mean squares of the seeds at hand are projected to S′ seeds: ``SE²(S′) = max(MS_S/(S′N) + max(MS_I − MS_R, 0)/(S·N),
    MS_R/(S′N))``, which at S′ = S is the SE² of `two_way_interval`. The answer is the smallest S′ ≥ 2 with
    ``(t(1 − α/2, df) + t(power, df)) · SE(S′) ≤ effect``. It is itself an estimate, rough where the seeds at hand are few.

    Parameters
    ----------
    scores_diff : array of shape (S, N)
        Differences of two models, S ≥ 2.
    effect : float
        Difference to be found, in the unit of the scores; .005 is half a percentage point of accuracy.
    confidence, power : float
        Two-sided confidence level of the interval, and the probability that it excludes 0.

    Returns
    -------
    int or None
        None where the spread over test images alone is too large, so that no number of seeds up to 10,000 suffices: this
        takes more test images.

    Raises
    ------
    ValueError
        With one seed, whose spread is unknown; if `effect` is not positive; for the reasons of `two_way_interval`.

    References
    ----------
    Hillis, Obuchowski and Berbaum (2011), Power estimation for multireader ROC methods: an updated and unified approach,
    Academic Radiology 18(2): 129–142; the same projection of variance components to other numbers of readers.
    """
    _check_share("confidence", confidence)
    _check_share("power", power)
    if not effect > 0:
        raise ValueError(f"`effect` must be positive, got {effect}.")
    array = _scores(scores_diff, "scores_diff")
    n_seeds, n_images = array.shape
    if n_seeds < 2:
        raise ValueError("`scores_diff` must hold at least 2 seeds to know how seeds vary, got 1. Run more seeds.")
    squares = _mean_squares(array)

    def suffices(planned: int) -> bool:
        numerator = _numerator(squares, n_seeds, planned)
        df = _degrees_of_freedom(squares, numerator, planned)
        quantiles = special.stdtrit(df, (1 + confidence) / 2) + special.stdtrit(df, power)
        return bool(quantiles * np.sqrt(numerator / (planned * n_images)) <= effect)

    if not suffices(MAX_SEEDS_NEEDED):
        return None
    too_few, enough = 1, MAX_SEEDS_NEEDED
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if suffices(middle) else (middle, enough)
    return enough


def mean_std(values: npt.ArrayLike) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof 1) of one value per seed; the deviation of one value is NaN.

    Raises
    ------
    ValueError
        If there is no value, or one is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"`values` must be a non-empty list of finite numbers, one per seed, got {values!r}.")
    return float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else float("nan")


def classify(interval: Interval, adjusted_p: float, *, alpha: float = 0.05, margin: float = 0.005) -> State:
    """The state of a pair: different, equivalent or inconclusive.

    "different" if the adjusted p-value is below `alpha`; else "equivalent" if the unadjusted interval lies inside ±`margin`;
    else "inconclusive", as is a pair without an interval. A difference that is significant and yet smaller than the margin
    is called different.

    Parameters
    ----------
    interval : Interval
        Of the paired difference.
    adjusted_p : float
        Its p-value after `holm`; NaN where there is none.
    alpha : float
        Level of the test.
    margin : float
        Differences below it do not matter, in the unit of the scores.
    """
    if adjusted_p < alpha:
        return "different"
    if -margin < interval.low and interval.high < margin:
        return "equivalent"
    return "inconclusive"


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"`{name}` must lie inside (0, 1), got {value}.")
