"""Every comparison of accuracies as a linear contrast of cells: a model at a data budget under a setting.

A difference of two models, of two budgets, of two differences, an area under a learning curve: each is a weighted sum of
the accuracies of cells that share a test set. `Layout` keeps what is needed for all of them: the means, and how cells vary
together over seeds and over test images.

Alphabet: ``K`` cells, ``G`` contrasts, ``S`` seeds, ``N`` test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.statistics import intervals
from analysis.statistics.intervals import Estimates, Floats

Answers = tuple[Sequence[int], npt.NDArray[np.bool_]]
"""Seeds of a cell, and whether each run of them, in rows, answers each test image rightly."""


@dataclass(frozen=True)
class Layout:
    """Cells that were tested on the same images, ready for any contrast.

    References
    ----------
    Hillis, Berbaum and Metz (2008), Recent developments in the Dorfman–Berbaum–Metz procedure for multireader ROC study
    analysis, Academic Radiology 15(5): 647–661; seeds take the readers' place, test images the cases'.
    """

    index: Mapping[Any, int]
    """Place of each cell."""
    seeds: list[frozenset[int]]
    n_images: int
    mean: Floats
    """Accuracies, (K,)."""
    over_seeds: Floats
    """Covariances of the means between seeds, (K, K). For equal seeds in all cells ``c·over_seeds·c`` is MS_seeds/(S·N) of
    the contrast c."""
    over_images: Floats
    """Sums of products over test images, (K, K): ``c·over_images·c`` is MS_images·(N − 1)/S."""
    residual: Floats
    """The part of `over_seeds` that is chance from image to image, (K, K): ``c·residual·c`` is MS_residual/(S·N)."""
    spending: tuple[float, float] | None = None
    """Where seeds are added in looks, u and v: a look at S seeds spends (u·S)ᵛ of the error rate."""

    @classmethod
    def of(cls, answers: Mapping[Any, Answers]) -> Layout:
        """Take the moments of all cells together.

        Cells may lack seeds: each counts with all that it has, and two cells vary together over the seeds that both have.

        Raises
        ------
        ValueError
            If an array is empty, or not of seeds × the same test images.
        """
        sizes = {array.shape[1:] for _, array in answers.values()}
        if len(sizes) != 1 or any(array.shape[0] != len(seeds) or not array.size for seeds, array in answers.values()):
            raise ValueError(f"answers must be seeds × the same test images for every cell, got {sizes}.")
        n_images = next(iter(sizes))[0]
        keys = list(answers)
        seeds = [frozenset(answers[key][0]) for key in keys]
        runs = [{seed: row for seed, row in zip(*answers[key], strict=True)} for key in keys]
        by_image = np.stack([answers[key][1].mean(axis=0, dtype=np.float64) for key in keys])
        size = len(keys)
        over_seeds, residual = np.zeros((size, size)), np.zeros((size, size))
        counts = np.array([len(own) for own in seeds], dtype=float)
        patterns = {own & other for own, other in combinations(set(seeds), 2)} | set(seeds)
        for common in sorted(filter(None, patterns), key=sorted):
            among = [k for k in range(size) if common <= seeds[k]]
            pairs = np.array([[seeds[k] & seeds[m] == common for m in among] for k in among])
            cross, left = _cross(np.stack([[runs[k][seed] for seed in sorted(common)] for k in among]))
            scale = len(common) / np.outer(counts[among], counts[among])
            place = np.ix_(among, among)
            over_seeds[place] = np.where(pairs, cross * scale, over_seeds[place])
            residual[place] = np.where(pairs, left * scale / n_images, residual[place])
        centred = by_image - by_image.mean(axis=1, keepdims=True)
        return cls(
            {key: k for k, key in enumerate(keys)},
            seeds,
            n_images,
            by_image.mean(axis=1),
            over_seeds,
            centred @ centred.T,
            residual,
        )

    def weights(self, *terms: Mapping[Any, float]) -> Floats:
        """Contrasts of shape (G, K), each from the weights of the cells that it speaks of."""
        rows = np.zeros((len(terms), len(self.index)))
        for row, term in zip(rows, terms, strict=True):
            for key, weight in term.items():
                row[self.index[key]] += weight
        return rows

    def n_seeds(self, weights: Floats) -> npt.NDArray[np.int64]:
        """Fewest seeds among the cells of each contrast."""
        counts = np.array([len(own) for own in self.seeds])
        return np.where(weights != 0, counts, np.iinfo(np.int64).max).min(axis=1)

    def estimates(self, weights: Floats, prior: Floats, estimate: Floats | None = None) -> Estimates:
        """Estimate contrasts, with pseudo-images that keep intervals honest where answers hardly vary.

        A difference gets two more images, one for and one against, at the ends of what it can be; an accuracy gets four, two
        right and two wrong. No interval then has width 0, and N images without a fault bound the error by a few over N.

        Parameters
        ----------
        weights : array of shape (G, K)
            Differences sum to 0, accuracies to 1.
        prior : array of shape (H,) or (G, H)
            What the table shows about seeds, see `intervals.learn`.
        estimate : array of shape (G,), optional
            The value itself where the weights are derivatives of a function of the accuracies.

        References
        ----------
        Agresti and Coull (1998), Approximate is better than "exact" for interval estimation of binomial proportions, The
        American Statistician 52(2): 119–126; Bonett and Price (2012), Adjusted Wald confidence interval for a difference
        of binomial proportions based on paired data, Journal of Educational and Behavioral Statistics 37(4): 479–488.
        """
        value = weights @ self.mean if estimate is None else estimate
        is_level = (np.abs(weights.sum(axis=1) - 1) < 1e-6) & (estimate is None)
        middle = np.where(is_level, 0.5, 0.0)
        reach = np.abs(weights).sum(axis=1) / 2
        added = np.where(is_level, 4, 2)
        total = self.n_images + added
        centre = (self.n_images * value + added * middle) / total
        spread = _quadratic(weights, self.over_images) + added * reach**2
        spread += self.n_images * (value - middle) ** 2 * added / total
        over_seeds = self._seed_parts(weights)
        images = np.maximum(spread / ((total - 1) * total) - over_seeds[1], 0)
        span = np.where(is_level, 0.0, -reach), np.where(is_level, 1.0, reach)
        n_seeds = self.n_seeds(weights).astype(float)
        share = np.minimum((self.spending[0] * n_seeds) ** self.spending[1], 1) if self.spending else 1.0
        return Estimates.of(value, centre, over_seeds, images, span, n_seeds - 1, prior, share)

    def prior(self, weights: Floats, weight: float = 1.0, kinds: Sequence[npt.NDArray[np.intp]] = ()) -> Floats:
        """What these comparisons show together about seeds, see `intervals.learn`.

        Only contrasts of one sort are alike: an area under a learning curve has a prior of its own, since the seeds of one
        curve may act alike at all its budgets.
        """
        return intervals.learn(*self._seed_parts(weights), (self.n_seeds(weights) - 1).astype(float), weight, kinds)

    def _seed_parts(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Variance over seeds, its residual part, at least that of one answer that differs, and what κ adds to it."""
        squares = weights**2
        counts = np.array([len(own) for own in self.seeds])
        slope = intervals.accuracy_slope((self.n_images * self.mean + 0.5) / (self.n_images + 1))
        floor = squares @ (counts * self.n_images) ** -2.0
        seeds = np.maximum(_quadratic(weights, self.over_seeds), 0)
        residual = np.maximum(_quadratic(weights, self.residual), floor)
        return seeds, residual, squares @ (slope**2 / counts)


def _cross(answers: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Covariances of K cells over common seeds, (K, S, N) → of their seed means and of the residuals, each (K, K)."""
    cells, n_seeds, n_images = answers.shape
    if n_seeds < 2:
        return np.zeros((cells, cells)), np.zeros((cells, cells))
    by_seed = answers.mean(axis=2, dtype=np.float64)
    by_seed -= by_seed.mean(axis=1, keepdims=True)
    by_image = answers.mean(axis=1, dtype=np.float64)
    by_image -= by_image.mean(axis=1, keepdims=True)
    mean = answers.mean(axis=(1, 2), dtype=np.float64)
    products = np.zeros((cells, cells))
    for seed in range(n_seeds):
        own = answers[:, seed].astype(np.float32)
        products += own @ own.T  # exact: counts of images below 2²⁴
    between = by_seed @ by_seed.T
    left = products - n_seeds * n_images * np.outer(mean, mean) - n_images * between - n_seeds * (by_image @ by_image.T)
    return between / (n_seeds - 1), left / max((n_seeds - 1) * (n_images - 1), 1)


def _quadratic(weights: Floats, matrix: Floats) -> Floats:
    """``c · M · c`` of every row c."""
    return np.asarray(np.einsum("gk,gk->g", weights @ matrix, weights))
