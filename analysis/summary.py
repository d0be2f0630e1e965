"""From runs to what the tables and figures say: one row per cell of the tables, with intervals, marks and notes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import efficiency, expectations
from analysis.columns import COLUMNS, OF_DEVICE
from analysis.groups import Group, groups_of, scores
from analysis.load import Results, select
from analysis.run_folder import devices
from analysis.statistics import random_recipes
from analysis.statistics.comparisons import Comparisons
from analysis.statistics.intervals import MIN_SEEDS_FOR_MARKS, classify, holm
from experiments.config.schema import Experiment


@dataclass(frozen=True)
class Summary:
    """What a report says, in numbers; accuracies are fractions."""

    groups: list[Group]
    """The tables, in the grid's order."""
    cells: pd.DataFrame
    """One row per (data, setting, model, train_fraction): accuracy (``mean``, ``std``, ``low``, ``high``), Δ to the
    reference (``delta``, ``delta_se``, ``delta_low``, ``delta_high``, ``p``, ``p_holm``, ``state``), ``best``, ``bold``,
    ``tested`` (it takes part in the marks), mean secondary metrics and cost, ``n_seeds`` of ``n_expected`` and a ``note``
    where they differ."""
    pairs: pd.DataFrame
    """One row per two models of one (data, setting, train_fraction), ``a`` and ``b``, whose marks are tested: ``delta``,
    ``p_holm``, ``p_beyond`` (the margin), adjusted over all rows of (data, setting), and ``state``. Every mark and every
    word on who leads is read from here."""
    efficiency: pd.DataFrame
    budgets: pd.DataFrame
    interactions: pd.DataFrame
    """These three: see `analysis.efficiency`."""
    recipes: pd.DataFrame
    """On the track `random` one row per model, dataset and fraction: ``trials``, the ``best`` of k of them for some
    k, a list of (k, mean, low, high), and how often the model is ``ahead`` of the reference under the same recipe, with
    interval and ties."""
    expectations: list[expectations.Expected]
    """The claims made before the run, and whether they held."""
    mixed_devices: Mapping[tuple[str, str], list[str]]
    """Tables whose runs come from several devices; their time columns are blank."""


def summarise(results: Results, experiment: Experiment) -> Summary:
    """Compute everything that the tables and figures show."""
    groups = groups_of(results, experiment)
    pairs = _pairs(experiment, {group.data: group.comparisons for group in groups if group.comparisons})
    mixed, blocks = {}, []
    for group in groups:
        used = sorted({device for run_id in group.runs["run_id"] for device in devices(results.records[run_id])})
        blocks.append(_block(group, pairs))
        if len(used) > 1:
            mixed[group.data, group.setting] = used
            blocks[-1][list(OF_DEVICE)] = math.nan
    return Summary(
        groups=groups,
        cells=pd.concat(blocks, ignore_index=True),
        pairs=pairs,
        efficiency=efficiency.summarise(groups, pairs),
        budgets=efficiency.budgets(groups),
        interactions=pd.concat([efficiency.interactions(groups), efficiency.labs(groups)], ignore_index=True),
        recipes=_recipes(groups, experiment),
        expectations=expectations.check(groups, experiment),
        mixed_devices=mixed,
    )


def _recipes(groups: list[Group], experiment: Experiment) -> pd.DataFrame:
    """What random recipes give, on the track `random`."""
    rows = []
    for group in groups if experiment.track == "random" else ():
        for fraction in group.fractions[::-1]:
            found = {
                model: [record.metrics["val/top1"] or 0.0 for record in trials]
                for model in group.models
                if (trials := group.results.trials.get((model, group.data, fraction)))
                and all(record.status == "done" for record in trials)
            }
            for model, values in found.items():
                ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k < len(values)] + [len(values)]
                row = group.identity(model) | {"train_fraction": fraction, "trials": len(values)}
                row["best"] = [(k, *random_recipes.best_of(values, k)) for k in ks]
                against = found.get(experiment.reference)
                if against and model != experiment.reference:
                    share = random_recipes.ahead(values, against)
                    row |= {"ahead": share.share, "low": share.low, "high": share.high, "ties": share.ties}
                rows.append(row)
    return pd.DataFrame(rows)


def _pairs(experiment: Experiment, compared: Mapping[str, Comparisons]) -> pd.DataFrame:
    """The family of each (data, setting): all pairs of models at all budgets, adjusted together."""
    columns = ["data", "setting", "train_fraction", "a", "b", "delta", "p", "p_beyond", "p_holm", "state"]
    frames = []
    for data, comparisons in compared.items():
        enough = [min(map(comparisons.n_seeds, pair)) >= MIN_SEEDS_FOR_MARKS for pair in comparisons.pairs]
        chosen = np.flatnonzero(comparisons.trusted & np.array(enough, dtype=bool))
        if not chosen.size:
            continue
        tested = [comparisons.pairs[at] for at in chosen]
        found = comparisons.differences(comparisons.of_pairs[chosen], *({a: 1.0, b: -1.0} for a, b in tested))
        frame = pd.DataFrame(
            [(data, a[0], a[2], a[1], b[1]) for a, b in tested], columns=columns[:5]
        ).assign(delta=found.estimate, p=found.p, p_beyond=found.p_beyond(experiment.equivalence_margin))  # fmt: skip
        for _, family in frame.groupby("setting"):
            for name, adjusted in (("p", "p_holm"), ("p_beyond", "p_beyond")):
                frame.loc[family.index, adjusted] = holm(family[name].to_numpy(float))
        frame["state"] = [classify(p, beyond) for p, beyond in zip(frame["p_holm"], frame["p_beyond"], strict=True)]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _block(group: Group, pairs: pd.DataFrame) -> pd.DataFrame:
    """Rows of one table: every model at every fraction, those without a run included."""
    at = {fraction: select(group.runs, train_fraction=fraction) for fraction in group.fractions}
    rows = [_cell(group, at[fraction], model, fraction) for model in group.models for fraction in group.fractions[::-1]]
    cells = pd.DataFrame(rows).assign(p_holm=math.nan, state="", best=False, bold=False, tested=False)
    for fraction, block in cells.groupby("train_fraction"):
        own = select(group.here(pairs), train_fraction=fraction)
        states = {**own.set_index(["a", "b"])[["state", "p_holm"]].T, **own.set_index(["b", "a"])[["state", "p_holm"]].T}
        _mark(cells, block[block["model"].isin({*own["a"], *own["b"]})], states, group.experiment.reference)
    return cells


def _mark(cells: pd.DataFrame, entered: pd.DataFrame, pairs: Mapping[Any, Any], reference: str) -> None:
    """Marks of one budget: against the reference, and bold for the best model and all that do not differ from it."""
    if entered.empty:
        return
    winner = cells.at[entered["mean"].idxmax(), "model"]
    for index, model in entered["model"].items():
        tested = model == winner or (model, winner) in pairs
        cells.loc[index, ["tested", "best"]] = tested, model == winner
        cells.loc[index, "bold"] = tested and (model == winner or pairs[model, winner]["state"] != "different")
        if (model, reference) in pairs:
            cells.loc[index, ["p_holm", "state"]] = pairs[model, reference]["p_holm"], pairs[model, reference]["state"]


def _cell(group: Group, at: pd.DataFrame, model: str, fraction: float) -> dict[str, Any]:
    """One row of `Summary.cells`. `at`: the runs of all models at this fraction."""
    results, experiment = group.results, group.experiment
    own, reference = select(at, model=model).sort_values("seed"), select(at, model=experiment.reference)
    nll = scores(results, own, "nll")
    row: dict[str, Any] = {
        **group.identity(model),
        "track": own["track"].iloc[0] if len(own) else experiment.track,
        "train_fraction": fraction,
        "n": _only(at["n"]),
        "n_test": _only(at["n_test"]),
        "n_classes": _only(at["n_classes"]),
        "n_seeds": len(own),
        "n_expected": len(select(group.here(results.cells), model=model, train_fraction=fraction)),
        "seeds": own["seed"].tolist(),
        "run_ids": own["run_id"].tolist(),
        **{column.key: _mean_if_complete(own, column.source) for column in COLUMNS},
        "ece_scaled_note": "; ".join(dict.fromkeys(filter(None, own["ece_scaled_note"]))),
        **{"mean": own["test/top1"].mean(), "std": own["test/top1"].std()},
        **dict.fromkeys(("low", "high", "delta", "delta_se", "delta_low", "delta_high", "p"), math.nan),
        "nll_margin": _margin(nll) if nll is not None else math.nan,
        "n_paired": len(set(own["seed"]) & set(reference["seed"])) if model != experiment.reference else 0,
    }
    cell, rival = ((group.setting, name, fraction) for name in (model, experiment.reference))
    if alone := group.compared(cell):
        level = alone.accuracy(cell)
        row |= {"low": level.low[0], "high": level.high[0]}
    if (both := group.compared(cell, rival)) and model != experiment.reference:
        gap = both.gap(cell, rival)
        row |= {"delta": gap.estimate[0], "delta_se": gap.se[0], "delta_low": gap.low[0]}
        row |= {"delta_high": gap.high[0], "p": gap.p[0]}
    row |= _time_to_target(results, own, experiment.target_val_top1)
    return row | {"note": _note(results, row, len(reference), both is not None, experiment)}


def _margin(scores: np.ndarray) -> float:
    """Two standard errors, over seeds and over images, of a mean of scores (S, N); NaN with one of either."""
    if min(scores.shape) < 2:
        return math.nan
    return 2 * math.sqrt(sum(scores.mean(axis=axis).var(ddof=1) / scores.shape[1 - axis] for axis in (0, 1)))


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
        place = {key: row[key] for key in ("data", "setting", "model", "train_fraction")}
        lacking = select(results.cells[results.cells["status"] != "done"], **place).sort_values("seed")
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
            parts.append("other test images than the reference: not compared")
        elif row["n_paired"] < max(row["n_seeds"], n_reference):
            parts.append(f"shares {row['n_paired']} of the reference's {n_reference} seeds")
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
    return float(runs[column].mean(skipna=False)) if column in runs else math.nan
