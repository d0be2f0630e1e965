"""Runs as arrays, seeds in rows and test images in columns, and what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.contrasts import Layout
from analysis.load import Results
from analysis.stats import MAX_KAPPA_FOR_MARKS, Estimates, Floats, typical_kappa

Cell = tuple[str, str, float]
"""Setting, model and train fraction."""


def scores(results: Results, runs: pd.DataFrame, what: str = "correct") -> np.ndarray | None:
    """Per-image scores of runs as an array of shape (S, N); None if there is no run or the test images differ.

    Parameters
    ----------
    results : Results
    runs : DataFrame
        Rows of `Results.runs`, one per seed.
    what : {"correct", "nll", "predicted"}
    """
    if runs.empty or runs["test_digest"].nunique() > 1:
        return None
    return np.stack([getattr(results.outcomes[run_id], what) for run_id in runs["run_id"]]).astype(np.float64)


def paired(
    results: Results, a: pd.DataFrame, b: pd.DataFrame, what: str = "correct"
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores of two models on the seeds that both have, each of shape (S, N); None if they share no seed or test set."""
    common = sorted(set(a["seed"]) & set(b["seed"]))
    a, b = (runs[runs["seed"].isin(common)].sort_values("seed") for runs in (a, b))
    if set(a["test_digest"]) != set(b["test_digest"]):
        return None
    first, second = scores(results, a, what), scores(results, b, what)
    return None if first is None or second is None else (first, second)


@dataclass(frozen=True)
class Comparisons:
    """All cells of one dataset, and what its table shows about seeds.

    Attributes
    ----------
    layout : Layout
        Its keys are cells.
    pairs : list of (Cell, Cell)
        Every two models of one setting at one budget: the family of the marks, setting by setting.
    of_accuracies, of_differences : arrays
        Priors of the seeds' part, learned from all accuracies and from all pairs.
    """

    layout: Layout
    pairs: list[tuple[Cell, Cell]]
    of_accuracies: Floats
    of_differences: Floats

    def accuracies(self, *terms: Mapping[Cell, float]) -> Estimates:
        """Estimate weighted means of cells; the weights of each sum to 1."""
        return self.layout.estimates(self.layout.weights(*terms), self.of_accuracies)

    def differences(self, *terms: Mapping[Cell, float]) -> Estimates:
        """Estimate contrasts of cells; the weights of each sum to 0."""
        return self.layout.estimates(self.layout.weights(*terms), self.of_differences)

    @property
    def trustworthy(self) -> bool:
        """Whether seeds vary little enough for normal theory, on which marks rely; not where some seeds fail to learn."""
        return typical_kappa(self.of_differences) <= MAX_KAPPA_FOR_MARKS

    def __contains__(self, cell: Cell) -> bool:
        return cell in self.layout.index

    def n_seeds(self, cell: Cell) -> int:
        return len(self.layout.seeds[self.layout.index[cell]])


def compare(results: Results, data: str) -> Comparisons | None:
    """Bring the runs of one dataset together; None without any.

    Cells count with all seeds that they have. Cells that were tested on other images than most are left out, which can only
    be where a report over unequal settings was asked for.
    """
    runs = results.runs[results.runs["data"] == data]
    if runs.empty:
        return None
    usual = runs["test_digest"].mode().iloc[0]
    answers = {}
    for (setting, model, fraction), own in runs.groupby(["setting", "model", "train_fraction"], sort=False):
        if (own["test_digest"] == usual).all():
            correct = np.stack([results.outcomes[run_id].correct for run_id in own["run_id"]])
            answers[str(setting), str(model), float(str(fraction))] = (own["seed"].tolist(), correct)
    layout = Layout.of(answers)
    pairs = [(a, b) for a, b in combinations(answers, 2) if (a[0], a[2]) == (b[0], b[2])]
    share = 2 / max(len({model for _, model, _ in answers}), 2)
    differences = layout.weights(*({a: 1.0, b: -1.0} for a, b in pairs))
    return Comparisons(layout, pairs, layout.prior(np.eye(len(answers))), layout.prior(differences, share))
