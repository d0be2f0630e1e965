"""Simulated tables: who is right on which test image, from models of the world that the analysis does not know.

Run s of a model at a budget is right on image i where a latent sum of image effects, a seed's effect and noise stays below
a threshold. Image effects are shared: by all models, by a model's budgets, by a cell's seeds. A seed effect has the share K
of the latent variance, 1, so that Φ(threshold) is the true accuracy where it is normal.

Alphabet: ``M`` models, ``F`` data budgets, ``S`` seeds, ``N`` test images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import optimize, special, stats

from analysis.statistics.comparisons import Cell
from analysis.statistics.contrasts import Answers, Layout
from analysis.statistics.intervals import Floats

SHARED = (0.45, 0.1, 0.05)
"""Shares of image effects in what seeds leave: of all models, of one model, of one cell. The rest, .4, is noise."""


def cell(model: int, budget: int) -> Cell:
    """The cell of a model at a budget, both from 0."""
    return "", str(model), float(budget)


@dataclass(frozen=True)
class World:
    """What tables are drawn from.

    Attributes
    ----------
    accuracy : tuple of tuples, of shape (M, F)
        True accuracies.
    share : float
        K.
    kind : str
        How seeds act: ``alike``; ``one family``, the seeds of all but the first model have a tenth of the variance; ``small
        budgets``, the variance falls to a tenth from the smallest budget to the largest; ``heavy``, t with 3 degrees of
        freedom; ``along curves``, correlated by .7 from budget to budget of one model.
    missing : bool
        The first model lacks a seed at the first budget, and the last one all but one at the last.
    """

    accuracy: tuple[tuple[float, ...], ...]
    n_seeds: int = 3
    n_images: int = 364
    share: float = 0.005
    kind: str = "alike"
    missing: bool = False
    shares: Floats = field(init=False)
    thresholds: Floats = field(init=False)

    def __post_init__(self) -> None:
        accuracy = np.array(self.accuracy)
        factor = np.ones_like(accuracy)
        if self.kind == "one family":
            factor[1:] = 0.1
        if self.kind == "small budgets":
            factor *= np.geomspace(1, 0.1, accuracy.shape[1])
        object.__setattr__(self, "shares", self.share * factor)
        object.__setattr__(self, "thresholds", special.ndtri(accuracy))
        if self.kind == "heavy":
            effects = math.sqrt(self.share / 3) * stats.t.ppf((np.arange(4000) + 0.5) / 4000, 3)

            def threshold(target: float) -> float:
                left = math.sqrt(1 - self.share)
                return float(optimize.brentq(lambda x: special.ndtr((x - effects) / left).mean() - target, -9, 9))

            object.__setattr__(self, "thresholds", np.vectorize(threshold)(accuracy))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.accuracy), len(self.accuracy[0])

    def truth(self, at: Cell) -> float:
        """The true accuracy of a cell."""
        return self.accuracy[int(at[1])][int(at[2])]

    def draw(self, generator: np.random.Generator) -> Layout:
        """One table of cells."""
        return Layout.of(self.answers(generator))

    def answers(self, generator: np.random.Generator) -> dict[Cell, Answers]:
        """Who is right on which test image, by cell."""
        models, budgets = self.shape
        seeds, images = self.n_seeds, self.n_images

        def normal(*shape: int) -> np.ndarray:
            return generator.standard_normal(shape, dtype=np.float32)

        if self.kind == "heavy":
            effects = generator.standard_t(3, (models, budgets, seeds, 1)) / math.sqrt(3)
        elif self.kind == "along curves":
            effects = math.sqrt(0.7) * normal(models, 1, seeds, 1) + math.sqrt(0.3) * normal(models, budgets, seeds, 1)
        else:
            effects = normal(models, budgets, seeds, 1)
        share = self.shares[:, :, None, None]
        common, own, each = np.sqrt(np.array(SHARED, dtype=np.float32))
        image = (
            common * normal(1, 1, 1, images) + own * normal(models, 1, 1, images) + each * normal(models, budgets, 1, images)
        )
        # The threshold moves instead of the sum.
        limit = (self.thresholds[:, :, None, None] - np.sqrt(share) * effects) / np.sqrt(1 - share)
        left = np.float32(math.sqrt(1 - sum(SHARED)))
        right = left * normal(models, budgets, seeds, images) + image < limit.astype(np.float32)
        answers = {cell(m, f): (list(range(seeds)), right[m, f]) for m in range(models) for f in range(budgets)}
        if self.missing:
            answers[cell(0, 0)] = (list(range(1, seeds)), right[0, 0, 1:])
            answers[cell(models - 1, budgets - 1)] = ([0], right[-1, -1, :1])
        return answers
