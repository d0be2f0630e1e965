"""The runs of one table, a dataset under one setting, and runs as arrays: seeds in rows and test images in columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Results, select, table_order
from analysis.statistics.comparisons import Cell, Comparisons
from analysis.statistics.contrasts import Layout
from experiments.config.schema import Experiment


def scores(results: Results, runs: pd.DataFrame, what: str = "correct") -> np.ndarray | None:
    """Per-image ``correct``, ``nll`` or ``predicted`` of runs, one per seed, as an array of shape (S, N).

    None if there is no run or the test images differ.
    """
    if runs.empty or runs["test_digest"].nunique() > 1:
        return None
    return np.stack([getattr(results.per_image[run_id], what) for run_id in runs["run_id"]]).astype(np.float64)


def paired(results: Results, a: pd.DataFrame, b: pd.DataFrame, what: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores of two models on the seeds that both have, each of shape (S, N); None if they share no seed or test set."""
    common = sorted(set(a["seed"]) & set(b["seed"]))
    a, b = (runs[runs["seed"].isin(common)].sort_values("seed") for runs in (a, b))
    if set(a["test_digest"]) != set(b["test_digest"]):
        return None
    first, second = scores(results, a, what), scores(results, b, what)
    return None if first is None or second is None else (first, second)


def compare(results: Results, data: str) -> Comparisons | None:
    """Bring the runs of one dataset together; None without any.

    Cells count with all seeds that they have. Cells that were tested on other images than most are left out, which can only
    be where a report over unequal settings was asked for.
    """
    runs = select(results.runs, data=data)
    if runs.empty:
        return None
    usual = runs["test_digest"].mode().iloc[0]
    answers = {}
    for (setting, model, fraction), own in runs.groupby(["setting", "model", "train_fraction"], sort=False):
        if (own["test_digest"] == usual).all():
            correct = np.stack([results.per_image[run_id].correct for run_id in own["run_id"]])
            answers[str(setting), str(model), float(str(fraction))] = (own["seed"].tolist(), correct)
    spending = results.decision.spending if results.decision else None
    return Comparisons.of(replace(Layout.of(answers), spending=spending))


@dataclass(frozen=True)
class Group:
    """The runs of one table, a dataset under one setting, and what is compared in it."""

    results: Results
    experiment: Experiment
    data: str
    setting: str
    comparisons: Comparisons | None
    """Of the dataset, all settings together."""

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The rows of `Results.runs` of this table."""
        return self.here(self.results.runs)

    def here(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a frame that are of this table."""
        return select(frame, data=self.data, setting=self.setting)

    @property
    def varied(self) -> dict[str, Any]:
        """Values of the experiment's ``vary`` keys under its setting."""
        return dict(self.here(self.results.cells)["varied"].iloc[0] or {})

    @property
    def models(self) -> list[str]:
        """In the order of a table's rows."""
        return table_order(self.experiment.models)

    @property
    def fractions(self) -> list[float]:
        """From few images to many."""
        return sorted(self.experiment.train_fractions)

    @property
    def title(self) -> str:
        """What tells this table from the others of its report; empty where it is the only one."""
        data = self.experiment.data[self.data].title if len(self.experiment.data) > 1 else ""
        return ", ".join(filter(None, [data, self.setting]))

    def compared(self, *cells: Cell) -> Comparisons | None:
        """The comparisons, if all these cells take part in them."""
        found = self.comparisons
        return found if found is not None and all(cell in found for cell in cells) else None

    def identity(self, model: str) -> dict[str, Any]:
        """Columns that say what a row of a table is about, with the titles that stand for the names."""
        config = self.experiment.models[model]
        return {
            "data": self.data,
            "data_title": self.experiment.data[self.data].title,
            "setting": self.setting,
            "model": model,
            "model_title": config.title,
            "family": config.family,
            "source": config.source,
        }


def groups_of(results: Results, experiment: Experiment) -> list[Group]:
    """The tables of a report, in the grid's order."""
    compared = {data: compare(results, data) for data in experiment.data}
    return [Group(results, experiment, data, setting, compared[data]) for data, setting in results.groups]
