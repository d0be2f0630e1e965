"""Data efficiency: area under the learning curve, data multiplier, crossover.

Alphabet: ``S`` seeds, ``F`` data budgets ``n`` (images for training and validation), ``N`` test images. Nothing is
extrapolated: what lies outside the measured budgets is printed as ``>`` or ``<``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysis.curves import Floats, Known, checked_budgets, checked_curve, draw_means, isotonic_decreasing, size_at
from analysis.stats import Interval, two_way_interval


@dataclass(frozen=True)
class Multiplier:
    """How many times more images B needs than A, n_B(a*) / n_A(a*).

    Attributes
    ----------
    estimate : float
        The ratio; NaN where the budgets only bound it, then `estimate_text` says how.
    low, high : float
        Confidence limits; 0 and infinity where a limit lies outside the measured budgets, NaN with one seed.
    target : float
        Error rate at which the budgets are compared, 1 − a*.
    n_a, n_b : float
        Images at which A and B reach the target; NaN outside the measured budgets.
    estimate_text : str
        Such as ``4.2×``, ``> 10×``, ``< 0.5×``, or ``not measurable`` where neither model tells anything.
    interval_text : str
        Such as ``[3.1, 5.6]`` or ``[8.1, > 10]``; empty where there is no interval.
    """

    estimate: float
    low: float
    high: float
    target: float
    n_a: float
    n_b: float
    estimate_text: str
    interval_text: str

    @property
    def text(self) -> str:
        """Estimate and interval, such as ``4.2× [3.1, 5.6]``; a bound alone where the interval adds nothing to it."""
        return f"{self.estimate_text} {self.interval_text}".strip()


@dataclass(frozen=True)
class Crossover:
    """The data budget from which one model leads up to full data, where the other leads before it.

    Attributes
    ----------
    n : float
        Images at which the mean curves cross.
    low, high : float
        Confidence limits; 0 and infinity where a limit lies outside the measured budgets, NaN with one seed.
    leader : {"a", "b"}
        The model that leads beyond it.
    text : str
        Such as ``1,200 [800, > 5,000]``, in images.
    """

    n: float
    low: float
    high: float
    leader: Literal["a", "b"]
    text: str


def aulc(n: npt.ArrayLike, accuracy: npt.ArrayLike) -> float:
    """Area under the learning curve: trapezoid of accuracy over ln n, divided by ln(n_max / n_min).

    It is the mean accuracy over budgets on a logarithmic axis, in the unit of the accuracy.

    Parameters
    ----------
    n : array of shape (F,)
        Data budgets, strictly increasing.
    accuracy : array of shape (F,)

    Returns
    -------
    float
        NaN for a single budget, which spans no area.

    Raises
    ------
    ValueError
        If shapes differ, budgets do not increase, or an accuracy is NaN or infinite.
    """
    budgets = checked_budgets(n)
    curve = checked_curve("accuracy", budgets, np.atleast_2d(np.asarray(accuracy, dtype=np.float64)))[0]
    return float(curve @ _aulc_weights(budgets))


def paired_aulc(n: npt.ArrayLike, a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the mean difference of AULC, A − B.

    Parameters
    ----------
    n : array of shape (F,)
        Data budgets, strictly increasing.
    a, b : arrays of shape (S, F) or (S, F, N)
        Accuracies per seed and budget, or whether each test image is classified rightly. Row s of both is of one seed.
        Accuracies give the t interval over seeds, which holds for this test set only. AULC is linear in accuracy, so
        scores per image give each image an AULC of its own and `two_way_interval`, which covers new test images too.
    confidence : float
        Nominal coverage, between 0 and 1.

    Returns
    -------
    Interval
        All NaN for a single budget; without limits for a single seed.

    Raises
    ------
    ValueError
        If the shapes do not match or a value is NaN or infinite.
    """
    budgets = checked_budgets(n)
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim not in (2, 3) or first.shape[1] != budgets.size or first.size == 0:
        raise ValueError(
            f"`a` and `b` must both be seeds × {budgets.size} data budgets (× test images), got shapes {first.shape} and "
            f"{second.shape}. Keep the seeds that both models have at every budget."
        )
    if budgets.size == 1:
        return Interval(*[float("nan")] * 6)
    difference = first.astype(np.float64) - second
    by_image = np.tensordot(difference, _aulc_weights(budgets), axes=(1, 0))
    return two_way_interval(by_image.reshape(len(first), -1), confidence)


def _aulc_weights(n: Floats) -> Floats:
    """Share of each budget in the trapezoid over ln n; NaN for a single budget."""
    if n.size == 1:
        return np.array([np.nan])
    steps = np.diff(np.log(n))
    return (np.append(steps, 0) + np.insert(steps, 0, 0)) / (2 * steps.sum())


def data_multiplier(
    n: npt.ArrayLike,
    errors_a: npt.ArrayLike,
    errors_b: npt.ArrayLike,
    n_test: int,
    *,
    target: float | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Multiplier:
    """How many times more images B needs than A to reach B's error at full data: M = n_B(a*) / n_A(a*).

    n(·) is read from each model's mean curve, made monotone by isotonic regression and floored at half an error on the test
    set, by linear interpolation of log error in log n. The interval is a parametric bootstrap: mean curves are redrawn with
    t-distributed errors of the seed variance, pooled along each curve as v₀ + v₁/n, and M is taken of every draw, with
    the target redrawn too unless it is given. A draw outside the measured budgets counts as outside, with its bound. The
    interval covers new seeds on this test set; the models are redrawn independently, which is cautious where seeds are
    shared.

    Parameters
    ----------
    n : array of shape (F,)
        Data budgets, strictly increasing, at least 2.
    errors_a, errors_b : arrays of shape (S, F)
        Error rates (1 − accuracy) per seed and budget. The numbers of seeds may differ.
    n_test : int
        Test images; errors are floored at 0.5 / n_test.
    target : float, optional
        Error rate at which to compare, inside (0, 1); B's mean error at full data if not given.
    confidence : float
        Nominal coverage, between 0 and 1.
    draws : int
        Bootstrap draws.
    seed : int
        Of the bootstrap's own generator: equal input gives equal output.

    Raises
    ------
    ValueError
        If budgets do not increase, shapes do not match, a value is NaN or outside [0, 1], or a setting is out of range.

    References
    ----------
    Hestness et al. (2017), Deep learning scaling is predictable, empirically, arXiv:1712.00409, for straight learning
    curves in log error and log n.
    """
    budgets = checked_budgets(n, at_least=2)
    curves = [checked_curve(name, budgets, e) for name, e in (("errors_a", errors_a), ("errors_b", errors_b))]
    for name, curve in zip(("errors_a", "errors_b"), curves, strict=True):
        if curve.min() < 0 or curve.max() > 1:
            raise ValueError(f"`{name}` must be error rates in [0, 1], got values from {curve.min():g} to {curve.max():g}.")
    if n_test < 1 or draws < 100 or (target is not None and not 0 < target < 1) or not 0 < confidence < 1:
        raise ValueError(
            "`n_test` must be at least 1, `draws` at least 100, `target` and `confidence` inside (0, 1), got "
            f"{n_test}, {draws}, {target} and {confidence}."
        )

    def sizes(mean_a: Floats, mean_b: Floats) -> tuple[Known, Known, Floats]:
        floor = 0.5 / n_test
        level = np.maximum(mean_b[..., -1] if target is None else np.full(mean_b.shape[:-1], target), floor)
        of_a, of_b = (size_at(budgets, np.maximum(isotonic_decreasing(m), floor), level) for m in (mean_a, mean_b))
        return of_a, of_b, level

    n_a, n_b, level = sizes(*(curve.mean(axis=0) for curve in curves))
    ratio = n_b.over(n_a)
    limits = None
    if min(len(curve) for curve in curves) > 1:
        generator = np.random.default_rng(seed)
        drawn_a, drawn_b, _ = sizes(*(draw_means(budgets, curve, draws, generator) for curve in curves))
        limits = drawn_b.over(drawn_a).limits(confidence)
    estimate_text, interval_text = _texts(ratio, limits, _ratio_text, unit="×")
    return Multiplier(
        estimate=_measured(ratio),
        low=float(limits[0].low) if limits else float("nan"),
        high=float(limits[1].high) if limits else float("nan"),
        target=float(level),
        n_a=_measured(n_a),
        n_b=_measured(n_b),
        estimate_text=estimate_text,
        interval_text=interval_text,
    )


def crossover(
    n: npt.ArrayLike,
    accuracy_a: npt.ArrayLike,
    accuracy_b: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Crossover | None:
    """Where the mean learning curves cross for the last time, linear in ln n.

    The interval is a parametric bootstrap of the paired differences, with the seed variance pooled as v₀ + v₁/n and
    t-distributed errors. Draws in which the leader leads throughout count as crossing below the smallest budget, draws in
    which it does not lead at full data as crossing above the largest.

    Parameters
    ----------
    n : array of shape (F,)
        Data budgets, strictly increasing, at least 2.
    accuracy_a, accuracy_b : arrays of shape (S, F)
        Accuracies per seed and budget; row s of both is of one seed.
    confidence : float
        Nominal coverage, between 0 and 1.
    draws : int
        Bootstrap draws.
    seed : int
        Of the bootstrap's own generator: equal input gives equal output.

    Returns
    -------
    Crossover or None
        None if one model leads or ties throughout, or both tie at full data.

    Raises
    ------
    ValueError
        If budgets do not increase, shapes differ, a value is NaN, or a setting is out of range.
    """
    budgets = checked_budgets(n, at_least=2)
    a = checked_curve("accuracy_a", budgets, accuracy_a)
    b = checked_curve("accuracy_b", budgets, accuracy_b)
    if a.shape != b.shape:
        raise ValueError(f"`accuracy_a` and `accuracy_b` must have the same seeds, got {len(a)} and {len(b)} of them.")
    if draws < 100 or not 0 < confidence < 1:
        raise ValueError(f"`draws` must be at least 100 and `confidence` inside (0, 1), got {draws} and {confidence}.")
    leads_b = (a - b).mean(axis=0)[-1] < 0
    lead = b - a if leads_b else a - b
    mean_lead = lead.mean(axis=0)
    if mean_lead[-1] == 0 or mean_lead.min() >= 0:
        return None
    crossing = _last_crossing(budgets, mean_lead)
    limits = None
    if len(lead) > 1:
        drawn = draw_means(budgets, lead, draws, np.random.default_rng(seed))
        limits = _last_crossing(budgets, drawn).limits(confidence)
    return Crossover(
        n=_measured(crossing),
        low=float(limits[0].low) if limits else float("nan"),
        high=float(limits[1].high) if limits else float("nan"),
        leader="b" if leads_b else "a",
        text=" ".join(_texts(crossing, limits, _count_text)).strip(),
    )


def _last_crossing(n: Floats, lead: Floats) -> Known:
    """Budget from which `lead`, of shape (..., F), stays at or above 0."""
    behind = lead < 0
    ever = behind.any(axis=-1)
    last = n.size - 1 - behind[..., ::-1].argmax(axis=-1)
    before = np.where(ever, np.minimum(last, n.size - 2), 0)
    here, there = (np.take_along_axis(lead, (before + step)[..., None], axis=-1)[..., 0] for step in (0, 1))
    rise = there - here
    share = np.clip(-here / np.where(rise > 0, rise, 1.0), 0.0, 1.0)
    inside = np.exp((1 - share) * np.log(n)[before] + share * np.log(n)[before + 1])
    above = behind[..., -1]
    return Known(
        low=np.where(above, n[-1], np.where(ever, inside, 0.0)),
        high=np.where(above, np.inf, np.where(ever, inside, n[0])),
    )


def _measured(value: Known) -> float:
    """The number itself, or NaN where it is only bounded."""
    return float(value.low) if value.low == value.high else float("nan")


def _texts(
    value: Known, limits: tuple[Known, Known] | None, number: Callable[[float], str], unit: str = ""
) -> tuple[str, str]:
    """An estimate and its interval as text."""
    known = _known_text(value, number, outer="low")
    if not known:
        return "not measurable", ""
    estimate = f"{known}{unit}"
    if limits is None:
        return estimate, ""
    low = _known_text(limits[0], number, outer="low") or "0"
    high = _known_text(limits[1], number, outer="high") or "∞"
    bound_alone = known == low == high and value.low != value.high
    return estimate, "" if bound_alone else f"[{low}, {high}]"


def _known_text(value: Known, number: Callable[[float], str], outer: Literal["low", "high"]) -> str:
    """A number, its one known bound with ``<`` or ``>``, or nothing; between two bounds the outer one, which is cautious."""
    if value.low == 0:
        return f"< {number(float(value.high))}" if value.high < np.inf else ""
    if value.high == np.inf:
        return f"> {number(float(value.low))}"
    return number(float(value.low if outer == "low" else value.high))


def _ratio_text(ratio: float) -> str:
    """Two digits from 1 to 10 and below 1, whole numbers from 10."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2g}"


def _count_text(count: float) -> str:
    return f"{count:,.0f}"
