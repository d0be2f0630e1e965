"""Intervals and tests for few seeds × many test images.

A difference of accuracies varies for two reasons, the seeds and the test images. Images are many, so that their part of the
variance is known well. Seeds are few: from three of them alone the seeds' part may come out near 0 by luck, and a test that
takes it at its word finds differences that are not there. So it is never taken at its word: what all comparisons of a table
show about seeds is a prior for each of them, and every interval averages over what remains possible.

What is alike from cell to cell is not the variance of accuracies, which is small where accuracy is high, but that of a
threshold: a seed moves the whole model by a step κ^½ on the probit scale, an accuracy p thereby by φ(Φ⁻¹(p)) times as much.

Alphabet: ``G`` contrasts, ``S`` seeds, ``N`` test images, ``T`` values of κ, ``H`` candidate priors of κ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]
State = Literal["different", "equivalent", "inconclusive"]

ALPHA = 0.05
"""Level of every test; intervals cover 1 − ALPHA."""
MIN_SEEDS_FOR_MARKS = 3
"""Below this number of seeds a table prints no mark of significance."""
MAX_KAPPA_FOR_MARKS = 0.5
"""Above it some seeds fail and others do not: accuracies over seeds are far from normal, and no mark can be trusted."""
MIN_DATASETS = 6
"""The Friedman test over fewer datasets cannot reach .05."""

_LOG_KAPPA = np.linspace(np.log(1e-7), np.log(1e2), 140)
KAPPA = np.exp(_LOG_KAPPA)
_MEANS = np.linspace(np.log(1e-3), np.log(10), 31)


def _priors() -> Floats:
    """Candidate distributions of log κ, of shape (H, T): normal with many means and widths.

    Means begin at κ = .001, a seed's step of 3% of the spread of images: with the little that a single pair of models shows
    about its seeds, lower ones made intervals too narrow in simulation.
    """
    means, widths = np.meshgrid(_MEANS, [0.2, 0.5, 1.0, 2.0, 4.0])
    exponent = -0.5 * ((_LOG_KAPPA - means.reshape(-1, 1)) / widths.reshape(-1, 1)) ** 2
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


_PRIORS = _priors()
_APART = np.exp(-0.5 * ((_MEANS[:, None] - _MEANS) / np.array([1e-3, 0.5, 1, 2])[:, None, None]) ** 2)
_APART /= _APART.sum(axis=2, keepdims=True)
"""How far the means of kinds may lie from a common one, for four spreads, the first of them none: (4, means, means)."""


def _likelihood(seeds: Floats, residual: Floats, shift: Floats, df: Floats) -> Floats:
    """Likelihood (G, T) of κ: ``df · seeds / (residual + κ · shift)`` is distributed as χ² with `df` degrees of freedom."""
    expected = residual[:, None] + KAPPA * shift[:, None]
    log = -0.5 * df[:, None] * (np.log(expected) + seeds[:, None] / expected)
    return np.asarray(np.exp(log - log.max(axis=1, keepdims=True)) + 1e-280)


def learn(
    seeds: Floats,
    residual: Floats,
    shift: Floats,
    df: Floats,
    weight: float = 1.0,
    kinds: Sequence[npt.NDArray[np.intp]] = (),
) -> Floats:
    """What the comparisons of a table show together about its seeds: a weight for each candidate prior of κ.

    Parameters
    ----------
    seeds : array of shape (G,)
        Variance of each contrast's estimate over seeds, MS_seeds/(S·N).
    residual : array of shape (G,)
        Its part that is chance from image to image, MS_residual/(S·N).
    shift : array of shape (G,)
        What κ = 1 would add to it.
    df : array of shape (G,)
        Seeds − 1; contrasts with 0 are passed over.
    weight : float
        Share of independent information in one contrast: the pairs of M models count 2/M each.
    kinds : arrays of shape (G,)
        Ways of sorting the contrasts, each by a number from 0, such as one model against the rest. Each kind then has a
        prior of its own, whose mean is drawn to a common one as closely as the kinds are seen to agree. Of the ways that
        explain what is seen, no e times worse than the best, each contrast takes that under which its seeds vary most.

    Returns
    -------
    array of shape (H,), or (G, H) with kinds
        Sums to 1; equal weights where there is nothing to learn from.

    References
    ----------
    Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression, Statistical Applications
    in Genetics and Molecular Biology 3(1), moderates the variances of many genes with few replicates each in this way; here
    over a grid of priors, so that the uncertainty of the prior is kept.
    """
    evidence = weight * np.log(_likelihood(seeds, residual, shift, df) @ _PRIORS.T) * (df >= 1)[:, None]
    if not kinds:
        together = evidence.sum(axis=0)
        weights = np.exp(together - together.max())
        return np.asarray(weights / weights.sum())
    ways, explained = map(np.array, zip(*(_by_kind(evidence, kind) for kind in kinds), strict=True))
    open_ways = ways[explained >= explained.max() - 1]
    most = (open_ways @ (_PRIORS @ _LOG_KAPPA)).argmax(axis=0)
    return np.asarray(open_ways[most, np.arange(len(evidence))])


def _by_kind(evidence: Floats, kind: npt.NDArray[np.intp]) -> tuple[Floats, float]:
    """A prior for each contrast where those of one kind are alike, and the logarithm of what this explains."""
    shown = (np.arange(kind.max() + 1)[:, None] == kind) @ evidence
    most = shown.max(axis=1, keepdims=True)
    likelihood = np.exp(shown - most).reshape(len(shown), -1, _MEANS.size)
    # For each spread t, width w and common mean c: what each kind k shows, then what all show together.
    each = np.einsum("tcm,kwm->ktwc", _APART, likelihood) + 1e-280
    together = np.log(each).sum(axis=0)
    shares = np.exp(together - together.max())
    weights = np.einsum("ktwc,tcm->kwm", shares / shares.sum() / each, _APART) * likelihood
    return weights.reshape(len(shown), -1)[kind], float(most.sum() + together.max() + np.log(shares.sum()))


def typical_kappa(prior: Floats) -> Floats:
    """Median κ under each learned prior."""
    return np.asarray(KAPPA[((prior @ _PRIORS).cumsum(axis=-1) < 0.5).sum(axis=-1).clip(max=KAPPA.size - 1)])


@dataclass(frozen=True)
class Estimates:
    """Estimated contrasts of accuracies, all arrays of shape (G,). NaN stands for what one seed cannot tell.

    An estimate is normal around the true value with variance ``rest + κ · shift``; intervals and p-values are of the mixture
    over the posterior of κ, a Behrens–Fisher distribution with one moderated variance.
    """

    estimate: Floats
    """As the tables print it."""
    centre: Floats
    """The estimate with pseudo-images, around which intervals lie."""
    residual: Floats
    rest: Floats
    shift: Floats
    """Parts of the variance: chance from image to image between seeds; the same and the spread over test images; what
    κ = 1 adds to them."""
    smallest: Floats
    largest: Floats
    """The values that the contrast can take."""
    posterior: Floats
    """Of κ, (G, T); NaN with one seed."""
    share: Floats | float = 1.0
    """Of the error rate, what this look of a sequential grid spends; intervals are wider and p-values larger for it. For
    each contrast or all."""

    @classmethod
    def of(
        cls,
        estimate: Floats,
        centre: Floats,
        over_seeds: tuple[Floats, Floats, Floats],
        images: Floats,
        span: tuple[Floats, Floats],
        df: Floats,
        prior: Floats,
        share: Floats | float = 1.0,
    ) -> Estimates:
        """Combine a variance over seeds of `df` degrees of freedom, its residual part and shift with a prior of `learn`."""
        seeds, residual, shift = over_seeds
        likelihood = _likelihood(seeds, residual, shift, df)
        weights = (prior / (likelihood @ _PRIORS.T)) @ _PRIORS * likelihood
        posterior = np.where(df[:, None] >= 1, weights / weights.sum(axis=1, keepdims=True), np.nan)
        return cls(estimate, centre, residual, residual + images, shift, *span, posterior, share)

    def __getitem__(self, chosen: npt.NDArray[np.intp] | slice) -> Estimates:
        names = (name for name in self.__dataclass_fields__ if not np.isscalar(getattr(self, name)))
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def known_where(self, known: npt.NDArray[np.bool_]) -> Estimates:
        """The same estimates, without intervals elsewhere."""
        return replace(self, posterior=np.where(known[:, None], self.posterior, np.nan))

    @property
    def se(self) -> Floats:
        """Standard error, the root of the mean variance."""
        return np.asarray(np.sqrt((self.posterior * self._variance(self.shift)).sum(axis=1)))

    @cached_property
    def half_width(self) -> Floats:
        """Half the width of the 95% interval before it is cut at what the contrast can be: the noise floor."""
        return self._half_width(self.shift)

    @property
    def low(self) -> Floats:
        """Lower limit of the 95% interval."""
        return np.maximum(np.minimum(self._limit(-1), self.estimate), self.smallest)

    @property
    def high(self) -> Floats:
        """Upper limit of the 95% interval."""
        return np.minimum(np.maximum(self._limit(1), self.estimate), self.largest)

    def _limit(self, side: int) -> Floats:
        """One limit; of an accuracy wider where seeds would move it more than here, as in a score interval."""
        limit = self.centre + side * self.half_width
        is_level = self.smallest == 0
        if is_level.any():
            slope = accuracy_slope(np.where(is_level, self.centre, 0.5))
            for _ in range(4):
                there = accuracy_slope(np.where(is_level, np.clip(limit, 1e-9, 1 - 1e-9), 0.5))
                limit = self.centre + side * self._half_width(self.shift * np.maximum(there / slope, 1) ** 2)
        return limit

    def _half_width(self, shift: Floats) -> Floats:
        sd = np.sqrt(self._variance(shift))
        high = 4.5 * np.sqrt((self.posterior * sd**2).sum(axis=1) / self.share)  # Chebyshev: at most share/4.5² lies beyond
        low = np.zeros_like(high)
        for _ in range(32):
            middle = (low + high) / 2
            inside = self._tail(middle, sd) < self.share * ALPHA / 2
            low, high = np.where(inside, low, middle), np.where(inside, middle, high)
        return high

    @property
    def p(self) -> Floats:
        """Two-sided p-value of a true contrast of 0."""
        return np.minimum(2 * self._tail(np.abs(self.centre), np.sqrt(self._variance(self.shift))) / self.share, 1.0)

    def p_beyond(self, margin: float) -> Floats:
        """p-value of a true contrast outside ±`margin`, below .05 where the 95% interval lies inside.

        Two one-sided tests at .025 each, doubled, so that equivalence and difference are held to one standard.

        References
        ----------
        Schuirmann (1987), A comparison of the two one-sided tests procedure …, Journal of Pharmacokinetics and
        Biopharmaceutics 15: 657–680.
        """
        distance = margin - np.abs(self.centre)
        p = np.minimum(2 * self._tail(distance, np.sqrt(self._variance(self.shift))) / self.share, 1.0)
        return np.where((distance > 0) | np.isnan(p), p, 1.0)

    def _variance(self, shift: Floats) -> Floats:
        return np.asarray(KAPPA * shift[:, None] + self.rest[:, None])

    def _tail(self, distance: Floats, sd: Floats) -> Floats:
        """Probability that the estimate lies more than `distance` above the truth."""
        return np.asarray((self.posterior * special.ndtr(-distance[:, None] / sd)).sum(axis=1))


def accuracy_slope(accuracy: Floats) -> Floats:
    """How far an accuracy moves when the threshold of a probit model does: φ(Φ⁻¹(accuracy))."""
    return np.asarray(np.exp(-0.5 * special.ndtri(accuracy) ** 2) / np.sqrt(2 * np.pi))


def classify(p_different: float, p_beyond: float) -> State:
    """The state of a pair, from its Holm-adjusted p-values of no difference and of a difference beyond the margin.

    A difference that is significant and yet surely smaller than the margin is called different.
    """
    return "different" if p_different < ALPHA else "equivalent" if p_beyond < ALPHA else "inconclusive"


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's step-down adjustment of the p-values of one family, (K,), in the order given and at most 1.

    NaN, a comparison that could not be made, stays NaN and does not count.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2): 65–70.
    """
    p = np.asarray(p_values, dtype=np.float64)
    # The k-th smallest of K counts K − k + 1 times, and none counts less than a smaller one; NaN sorts last.
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    times = np.arange(order.size, 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * times), 1)
    return adjusted


def friedman(table: npt.ArrayLike) -> float:
    """p-value of the hypothesis that methods rank equally over datasets, by the χ² approximation.

    `table` has a score for each of at least `MIN_DATASETS` datasets, in rows, and 3 methods. Where all methods tie on all
    datasets the answer is 1.

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7: 1–30, section 3.2.2.
    """
    array = np.asarray(table, dtype=np.float64)
    if (array == array[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*array.T).pvalue)
