"""Data efficiency of each model and against the reference: one row per learning curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis import efficiency, stats
from analysis.load import Results, identity, table_order
from analysis.pairing import scores
from experiments.config import Experiment

_BLANK: dict[str, Any] = {
    "aulc_delta": math.nan,
    "aulc_delta_low": math.nan,
    "aulc_delta_high": math.nan,
    "multiplier": math.nan,
    "multiplier_low": math.nan,
    "multiplier_high": math.nan,
    "multiplier_target": math.nan,
    "multiplier_ahead": "",
    "multiplier_text": "",
    "crossover": math.nan,
    "crossover_low": math.nan,
    "crossover_high": math.nan,
    "crossover_leader": "",
    "crossover_text": "",
}


def summarise(results: Results, experiment: Experiment) -> pd.DataFrame:
    """Area under the learning curve, data multiplier and crossover, one row per (data, setting, model).

    A curve is read over the seeds that have a run at every train fraction; the reference is compared on the seeds that both
    have. ``multiplier`` says how many times more images the model that is behind at full data needs to reach that accuracy
    than the model ahead, ``multiplier_ahead``, needs; ``multiplier_target`` is that accuracy. ``crossover`` is the data
    budget from which ``crossover_leader`` leads.

    Returns
    -------
    DataFrame
        Accuracies are fractions. Values that the runs do not give are NaN or empty; ``note`` says why.
    """
    return pd.DataFrame(
        [
            _row(results, experiment, data, setting, model)
            for data, setting in results.groups
            for model in table_order(experiment.models)
        ]
    )


def _row(results: Results, experiment: Experiment, data: str, setting: str, model: str) -> dict[str, Any]:
    runs = results.runs[(results.runs["data"] == data) & (results.runs["setting"] == setting)]
    own, reference = (_complete_seeds(runs[runs["model"] == name], experiment) for name in (model, experiment.reference))
    row: dict[str, Any] = {
        **identity(experiment, data, setting, model),
        "track": runs["track"].iloc[0] if len(runs) else experiment.track,
        "seeds": own,
        "n_seeds": len(own),
        "n_expected": len(experiment.seeds),
        "run_ids": runs[(runs["model"] == model) & runs["seed"].isin(own)]["run_id"].tolist(),
        "aulc": math.nan,
        "aulc_std": math.nan,
        "aulc_low": math.nan,
        "aulc_high": math.nan,
        **_BLANK,
        "note": "",
    }
    notes = [f"curve over {len(own)} of {len(experiment.seeds)} seeds"] if len(own) < len(experiment.seeds) else []
    sizes = runs.groupby("train_fraction")["n"]
    if (sizes.nunique() > 1).any() or not sizes.first().is_monotonic_increasing:
        notes.append("runs of one train fraction differ in their number of images: no learning curve")
    elif own and len(experiment.train_fractions) > 1:
        n, curve, answers = _curve(results, runs[runs["model"] == model], own)
        row["aulc"], row["aulc_std"] = stats.mean_std([efficiency.aulc(n, line) for line in curve])
        if answers is not None:
            area = efficiency.paired_aulc(n, answers, np.zeros_like(answers))
            row["aulc_low"], row["aulc_high"] = area.low, area.high
        common = sorted(set(own) & set(reference))
        if model != experiment.reference and common:
            row |= _against(results, runs, model, experiment.reference, common)
        if model != experiment.reference and len(common) < max(len(own), len(reference)):
            notes.append(f"compared over {len(common)} seeds shared with the reference")
    row["note"] = "; ".join(notes)
    return row


def _complete_seeds(runs: pd.DataFrame, experiment: Experiment) -> list[int]:
    """Seeds of one model that have a run at every train fraction."""
    counts = runs.groupby("seed")["train_fraction"].nunique()
    return sorted(int(seed) for seed in counts.index[counts == len(experiment.train_fractions)])


def _curve(results: Results, runs: pd.DataFrame, seeds: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Budgets (F,), accuracies (S, F) and answers per image (S, F, N); the last None if test sets differ along the curve."""
    runs = runs[runs["seed"].isin(seeds)].sort_values(["train_fraction", "seed"])
    points = [at for _, at in runs.groupby("train_fraction")]
    n = np.array([at["n"].iloc[0] for at in points], dtype=float)
    accuracy = np.stack([at["test/top1"].to_numpy(float) for at in points], axis=1)
    if runs["test_digest"].nunique() > 1:
        return n, accuracy, None
    return n, accuracy, np.stack([array for at in points if (array := scores(results, at)) is not None], axis=1)


def _against(results: Results, runs: pd.DataFrame, model: str, reference: str, seeds: list[int]) -> dict[str, Any]:
    """A model's learning curve against the reference's, over the seeds that both have."""
    n, own, own_answers = _curve(results, runs[runs["model"] == model], seeds)
    _, other, other_answers = _curve(results, runs[runs["model"] == reference], seeds)
    n_test = int(runs["n_test"].iloc[0])
    found = dict(_BLANK)
    if own_answers is not None and other_answers is not None and own_answers.shape == other_answers.shape:
        area = efficiency.paired_aulc(n, own_answers, other_answers)
    else:
        area = efficiency.paired_aulc(n, own, other)
    found |= {"aulc_delta": area.estimate, "aulc_delta_low": area.low, "aulc_delta_high": area.high}

    # The level is the lower of the two accuracies at full data, which both curves reach.
    model_ahead = bool(own[:, -1].mean() > other[:, -1].mean())
    ahead, behind = (own, other) if model_ahead else (other, own)
    ratio = efficiency.data_multiplier(n, 1 - ahead, 1 - behind, n_test)
    found |= {
        "multiplier": ratio.estimate,
        "multiplier_low": ratio.low,
        "multiplier_high": ratio.high,
        "multiplier_target": 1 - ratio.target,
        "multiplier_ahead": model if model_ahead else reference,
        "multiplier_text": ratio.text,
    }
    crossing = efficiency.crossover(n, own, other)
    if crossing:
        found |= {
            "crossover": crossing.n,
            "crossover_low": crossing.low,
            "crossover_high": crossing.high,
            "crossover_leader": model if crossing.leader == "a" else reference,
            "crossover_text": crossing.text,
        }
    return found
