"""Runs as arrays: seeds in rows, test images in columns, two models on the seeds and images that both have."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.load import Results


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
