"""From runs to what the tables and figures say: one row per cell of the tables, with intervals, marks and notes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import expectations, learning, stats
from analysis.load import Results, identity, table_order
from analysis.p_values import holm
from analysis.pairing import paired, scores
from analysis.run_folder import devices
from experiments.config import Experiment

TIME_COLUMNS = ("images_per_second", "device_hours", "seconds_to_target", "mfu", "energy_joules", "peak_memory_bytes")
"""Columns that mean something only on one kind of device."""

_MEANS = {
    "nll": "test/nll",
    "ece": "ece",
    "ece_null": "ece_null",
    "ece_null_high": "ece_null_high",
    "ece_scaled": "ece_scaled",
    "brier": "test/brier",
    "macro_f1": "test/macro_f1",
    "top5": "test/top5",
    "val_top1": "val/top1",
    "val_best_top1": "val_best/top1",
    **{name: name for name in ("n_params", "forward_gmacs", "train_pflops", *TIME_COLUMNS)},
}


@dataclass(frozen=True)
class Summary:
    """What a report says, in numbers; accuracies are fractions.

    Attributes
    ----------
    cells : DataFrame
        One row per (data, setting, model, train_fraction): accuracy (``mean``, ``std``, ``low``, ``high``), Δ to the
        reference (``delta``, ``delta_low``, ``delta_high``, ``p``, ``p_holm``, ``state``), ``best``, ``bold``, ``tested``
        (it is the best, or shares seeds enough with it), mean secondary metrics and cost, ``n_seeds`` of ``n_expected``
        and a ``note`` where they differ.
    efficiency : DataFrame
        One row per (data, setting, model); see `analysis.learning`.
    expectations : list of Expected
        The claims made before the run, and whether they held.
    mixed_devices : dict of (data, setting) to list of str
        Tables whose runs come from several devices; their time columns are blank.
    """

    cells: pd.DataFrame
    efficiency: pd.DataFrame
    expectations: list[expectations.Expected]
    mixed_devices: Mapping[tuple[str, str], list[str]]


def summarise(results: Results, experiment: Experiment) -> Summary:
    """Compute everything that the tables and figures show."""
    blocks = []
    mixed = {}
    for data, setting in results.groups:
        runs = results.runs[(results.runs["data"] == data) & (results.runs["setting"] == setting)]
        used = sorted({device for run_id in runs["run_id"] for device in devices(results.records[run_id])})
        if len(used) > 1:
            mixed[data, setting] = used
        blocks.append(_block(results, runs, experiment, data, setting))
    cells = pd.concat(blocks, ignore_index=True)
    for data, setting in mixed:
        cells.loc[(cells["data"] == data) & (cells["setting"] == setting), list(TIME_COLUMNS)] = math.nan
    efficiency = learning.summarise(results, experiment)
    return Summary(cells, efficiency, expectations.check(results, experiment), mixed)


def _block(results: Results, runs: pd.DataFrame, experiment: Experiment, data: str, setting: str) -> pd.DataFrame:
    """Rows of one table: every model at every fraction, those without a run included."""
    rows = []
    for model in table_order(experiment.models):
        for fraction in sorted(experiment.train_fractions, reverse=True):
            at = runs[runs["train_fraction"] == fraction]
            rows.append(_cell(results, at, experiment, data, setting, model, fraction))
    cells = pd.DataFrame(rows)
    marked = cells["n_paired"] >= stats.MIN_SEEDS_FOR_MARKS
    cells["p_holm"] = holm(cells["p"].where(marked).to_numpy(dtype=float))
    cells["state"] = [
        stats.classify(stats.Interval(row.delta, row.delta_low, row.delta_high, math.nan, math.nan, row.p), row.p_holm)
        if known
        else ""
        for row, known in zip(cells.itertuples(), marked, strict=True)
    ]
    cells[["best", "bold", "tested"]] = False
    for _, block in cells.groupby("train_fraction"):
        _mark_best(results, runs, cells, block)
    return cells


def _cell(
    results: Results, at: pd.DataFrame, experiment: Experiment, data: str, setting: str, model: str, fraction: float
) -> dict[str, Any]:
    """One row of `Summary.cells`. `at`: the runs of all models at this data, setting and fraction."""
    own = at[at["model"] == model].sort_values("seed")
    row: dict[str, Any] = {
        **identity(experiment, data, setting, model),
        "track": own["track"].iloc[0] if len(own) else experiment.track,
        "train_fraction": fraction,
        "n": _only(at["n"]),
        "n_test": _only(at["n_test"]),
        "n_classes": _only(at["n_classes"]),
        "n_seeds": len(own),
        "n_expected": len(experiment.seeds),
        "seeds": own["seed"].tolist(),
        "run_ids": own["run_id"].tolist(),
    }
    for name, column in _MEANS.items():
        row[name] = _mean_if_complete(own, column)
    row["ece_scaled_note"] = "; ".join(dict.fromkeys(filter(None, own["ece_scaled_note"])))
    correct, nll = scores(results, own), scores(results, own, "nll")
    interval = stats.two_way_interval(correct) if correct is not None else None
    row["mean"], row["std"] = stats.mean_std(own["test/top1"]) if len(own) else (math.nan, math.nan)
    row["low"], row["high"] = (interval.low, interval.high) if interval else (math.nan, math.nan)
    row["nll_margin"] = stats.noise_floor(nll) if nll is not None else math.nan
    row |= dict.fromkeys(("delta", "delta_low", "delta_high", "p"), math.nan)
    row["n_paired"] = 0
    reference = at[at["model"] == experiment.reference]
    pair = paired(results, own, reference) if model != experiment.reference else None
    if pair:
        difference = stats.paired_difference(*pair)
        row["n_paired"] = len(pair[0])
        row |= {"delta": difference.estimate, "delta_low": difference.low, "delta_high": difference.high, "p": difference.p}
    row |= _time_to_target(results, own, experiment.target_val_top1)
    row["note"] = _note(results, row, len(reference), pair is not None, experiment)
    return row


def _time_to_target(results: Results, own: pd.DataFrame, target: float | None) -> dict[str, Any]:
    """Median training seconds up to the first evaluation at the validation target, and the share of runs that reached it.

    A run that did not reach it counts as later than all that did; the median is NaN where half of the runs or more did not.
    One whose very first evaluation is there may have been there at any time before: where the median could then be earlier,
    ``target_is_bound`` is true.
    """
    row: dict[str, Any] = {"seconds_to_target": math.nan, "reached_target": math.nan, "target_is_bound": None}
    if target is None or own.empty:
        return row
    latest, earliest = [], []
    for run_id in own["run_id"]:
        curve = results.curves(run_id)
        if curve.empty or curve.get(["val/top1", "train_seconds"], pd.DataFrame([None])).isna().any(axis=None):
            return row
        reached = curve["val/top1"] >= target
        latest.append(float(curve["train_seconds"][reached.idxmax()]) if reached.any() else math.inf)
        earliest.append(0.0 if reached.iloc[0] else latest[-1])
    median, row["reached_target"] = float(np.median(latest)), float(np.mean(np.isfinite(latest)))
    if math.isfinite(median):
        row |= {"seconds_to_target": median, "target_is_bound": bool(np.median(earliest) < median)}
    return row


def _note(results: Results, row: Mapping[str, Any], n_reference: int, compared: bool, experiment: Experiment) -> str:
    """Why a cell is incomplete; empty for a complete one."""
    parts = []
    if row["n_seeds"] < row["n_expected"]:
        cells = results.cells
        lacking = cells[
            (cells["data"] == row["data"])
            & (cells["setting"] == row["setting"])
            & (cells["model"] == row["model"])
            & (cells["train_fraction"] == row["train_fraction"])
            & (cells["status"] != "done")
        ].sort_values("seed")
        by_reason: dict[str, list[str]] = {}
        for cell in lacking.itertuples():
            reason = f"{cell.status} ({_short(cell.reason)})" if isinstance(cell.reason, str) else str(cell.status)
            by_reason.setdefault(reason, []).append(str(cell.seed))
        reasons = [f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)} {reason}" for reason, seeds in by_reason.items()]
        parts.append(f"{row['n_seeds']} of {row['n_expected']} seeds: {'; '.join(reasons)}")
    if row["model"] != experiment.reference and row["n_seeds"]:
        if not n_reference:
            parts.append("no run of the reference to compare with")
        elif not compared:
            parts.append("no seed or other test images than the reference: not compared")
        elif row["n_paired"] < max(row["n_seeds"], n_reference):
            parts.append(f"Δ over {row['n_paired']} of the reference's {n_reference} seeds")
    return "; ".join(parts)


def _short(reason: str) -> str:
    """A reason's first sentence, without addresses and absolute paths, which differ between machines."""
    line = re.sub(r"(\w+://|(?<![\w.])/)\S*[^\s.,;:)]", "…", reason.strip().partition("\n")[0])
    return line.partition(". ")[0].rstrip(".")[:160]


def _only(values: pd.Series) -> int | None:
    """The value that all runs of a cell share; None where there is no run or they differ."""
    found = set(values)
    return int(found.pop()) if len(found) == 1 else None


def _mean_if_complete(runs: pd.DataFrame, column: str) -> float:
    """Mean over runs; NaN if the column is unknown for any of them, so that no mean is over fewer seeds than it says."""
    if column not in runs or runs.empty:
        return math.nan
    values = pd.to_numeric(runs[column])
    return math.nan if values.isna().any() else float(values.mean())


def _mark_best(results: Results, runs: pd.DataFrame, cells: pd.DataFrame, block: pd.DataFrame) -> None:
    """Mark the best model of a block, and in bold all that are not significantly below it (Holm within the block).

    Models with fewer than 3 seeds take no part, nor is there a best of fewer than two. One that shares fewer than 3 seeds
    with the best is not tested against it, and has no mark.
    """
    entered = block[block["n_seeds"] >= stats.MIN_SEEDS_FOR_MARKS]
    if len(entered) < 2:
        return
    best = entered["mean"].idxmax()
    p_values = []
    at = runs[runs["train_fraction"] == entered.at[best, "train_fraction"]]
    winner = at[at["model"] == entered.at[best, "model"]]
    for index, row in entered.iterrows():
        pair = paired(results, winner, at[at["model"] == row["model"]]) if index != best else None
        p_values.append(stats.paired_difference(*pair).p if pair and len(pair[0]) >= stats.MIN_SEEDS_FOR_MARKS else math.nan)
    tested = np.isfinite(p_values)  # not those that share too few seeds with the best
    cells.loc[best, ["best", "bold", "tested"]] = True
    cells.loc[entered.index[tested], "tested"] = True
    cells.loc[entered.index[tested & (holm(p_values) >= 0.05)], "bold"] = True
