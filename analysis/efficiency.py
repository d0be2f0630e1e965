"""Data efficiency of each model and against the reference, and contrasts across budgets and settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import pandas as pd

from analysis.groups import Group, scores
from analysis.load import select
from analysis.statistics import learning_curves
from analysis.statistics.comparisons import Cell, Comparisons, Term, typical
from analysis.statistics.contrasts import Layout
from experiments.records.folder import read_merged

_NUMBERS = (
    "aulc aulc_std aulc_low aulc_high aulc_delta aulc_delta_low aulc_delta_high multiplier multiplier_low multiplier_high "
    "multiplier_target crossover crossover_low crossover_high bound bound_n_ahead bound_n_behind bound_delta bound_low "
    "bound_high"
)
_TEXTS = "multiplier_ahead multiplier_text crossover_leader crossover_text bound_ahead"


def summarise(groups: Sequence[Group], pairs: pd.DataFrame) -> pd.DataFrame:
    """Area under the learning curve, images needed, bound and crossover, one row per (data, setting, model).

    ``multiplier`` says how many times fewer images than all the model ahead at full data, ``multiplier_ahead``, needs for
    the other's accuracy there, ``multiplier_target``. ``bound`` is at least so many times by a direct comparison.
    ``crossover`` is the data budget from which ``crossover_leader`` leads. Accuracies are fractions. Values that the runs
    do not give are NaN or empty; ``note`` says why. `pairs`: see `analysis.summary.Summary`.
    """
    return pd.DataFrame([_row(group, model, group.here(pairs)) for group in groups for model in group.models])


def budgets(groups: Sequence[Group]) -> pd.DataFrame:
    """Every model at every budget against the reference at every budget: ``delta`` with its 95% interval and ``p``."""
    rows = []
    for group, model, comparisons in _rivals(groups):
        sizes, reference = _sizes(group), group.experiment.reference
        cells = [
            (own, other)
            for at, against in product(sorted(sizes), repeat=2)
            if group.compared(own := (group.setting, model, at), other := (group.setting, reference, against))
        ]
        if not cells:
            continue
        prior = learning_curves.across_budgets(comparisons, group.setting, sizes)
        across = comparisons.differences(prior, *({own: 1.0, other: -1.0} for own, other in cells))
        across = across.known_where(typical(prior[None]))
        for at, (own, other) in enumerate(cells):
            found = comparisons.gap(own, other) if own[2] == other[2] else across[at : at + 1]
            rows.append(
                {
                    **group.identity(model),
                    "reference": reference,
                    "reference_title": group.experiment.models[reference].title,
                    **{"fraction": own[2], "n": sizes[own[2]], "reference_fraction": other[2]},
                    **{"reference_n": sizes[other[2]], "delta": found.estimate[0], "p": found.p[0]},
                    **{"low": found.low[0], "high": found.high[0]},
                }
            )
    return pd.DataFrame(rows)


def interactions(groups: Sequence[Group]) -> pd.DataFrame:
    """Differences in differences: how the gap to the reference changes, from one budget or one setting to another.

    One row per change, with ``gap_before`` and ``gap_after``, their difference ``change`` and its 95% interval.
    """
    rows = []
    for group, model, comparisons in _rivals(groups):
        setting, first, fractions = group.setting, groups[0].setting, group.fractions
        changes = [("train_fraction", (setting, small), (setting, large)) for small, large in pairwise(fractions)]
        changes += [("train_fraction", (setting, fractions[0]), (setting, fractions[-1]))] * (len(fractions) > 2)
        if setting != first:
            changes += [("setting", (first, fraction), (setting, fraction)) for fraction in fractions]
        rows += [_row_of_change(group, comparisons, model, *change) for change in changes]
    return pd.DataFrame(list(filter(None, rows)))


def labs(groups: Sequence[Group]) -> pd.DataFrame:
    """How the gap to the reference changes from one lab to another, of those that `merge` was told of: as `interactions`."""
    rows = []
    for group in groups:
        merged = read_merged(group.results.folder)
        lab = group.runs["run_id"].map(lambda run_id, merged=merged: merged.get(run_id, {}).get("lab", ""))
        runs = group.runs.assign(lab=lab)[lab != ""]
        if runs["lab"].nunique() < 2 or runs["test_digest"].nunique() > 1:
            continue
        answers: dict[Any, Any] = {
            key: (own["seed"].tolist(), scores(group.results, own))
            for key, own in runs.groupby(["lab", "model", "train_fraction"])
        }
        found, models = Comparisons.of(Layout.of(answers)), [m for m in group.models if m != group.experiment.reference]
        for model, fraction, pair in product(models, group.fractions, combinations(sorted(set(runs["lab"])), 2)):
            rows.append(_row_of_change(group, found, model, "lab", *((name, fraction) for name in pair)))
    return pd.DataFrame(list(filter(None, rows)))


def _row_of_change(
    group: Group, comparisons: Comparisons, model: str, what: str, before: tuple[str, float], after: tuple[str, float]
) -> dict[str, Any] | None:
    """One row of `interactions`; None where a cell is missing."""
    reference = group.experiment.reference
    build = partial(_change, before=before, after=after)
    change = build(model, reference)
    if not all(cell in comparisons for cell in change):
        return None
    found = comparisons.differences(comparisons.prior(after[0], build), change)
    gaps = [comparisons.gap(*((place[0], name, place[1]) for name in (model, reference))) for place in (before, after)]
    return {
        **group.identity(model),
        "changed": what,
        **{"before": before[what == "train_fraction"], "after": after[what == "train_fraction"]},
        **{"train_fraction": after[1], "gap_before": gaps[0].estimate[0], "gap_after": gaps[1].estimate[0]},
        **{"change": found.estimate[0], "low": found.low[0], "high": found.high[0], "p": found.p[0]},
    }


def _change(first: str, second: str, before: tuple[str, float], after: tuple[str, float]) -> Term:
    """The difference of two models after a change of setting or train fraction, minus that before."""
    return {
        (setting, model, fraction): sign * side
        for (setting, fraction), side in ((before, -1.0), (after, 1.0))
        for model, sign in ((first, 1), (second, -1))
    }


def _rivals(groups: Sequence[Group]) -> Iterator[tuple[Group, str, Comparisons]]:
    """Every model but the reference, in every dataset that has runs."""
    for group in groups:
        for model in group.models:
            if model != group.experiment.reference and group.comparisons:
                yield group, model, group.comparisons


def _sizes(group: Group) -> dict[float, float]:
    """Images per train fraction; empty where runs of one fraction differ, or more data are not more images."""
    sizes = group.runs.groupby("train_fraction")["n"]
    first = sizes.first()
    whole = (sizes.nunique() == 1).all() and first.is_monotonic_increasing and first.is_unique
    return {float(str(fraction)): float(n) for fraction, n in first.items()} if whole else {}


def _row(group: Group, model: str, pairs: pd.DataFrame) -> dict[str, Any]:
    """One row of `summarise`."""
    runs, fractions, sizes, reference = group.runs, group.fractions, _sizes(group), group.experiment.reference
    own = select(runs, model=model)
    whole = own.groupby("seed").filter(lambda seed: len(seed) == len(fractions))
    row: dict[str, Any] = {
        **group.identity(model),
        "track": runs["track"].iloc[0] if len(runs) else group.experiment.track,
        "seeds": sorted(whole["seed"].unique().tolist()),
        "n_seeds": whole["seed"].nunique(),
        "n_expected": len(group.experiment.seeds),
        "run_ids": own["run_id"].tolist(),
        **dict.fromkeys(_NUMBERS.split(), math.nan),
        **dict.fromkeys(_TEXTS.split(), ""),
        **{"multiplier_directed": False, "note": ""},
    }
    if len(runs) and not sizes:
        row["note"] = "runs of one train fraction differ in their number of images: no learning curve"
    curve, other = ([(group.setting, name, fraction) for fraction in fractions] for name in (model, reference))
    comparisons = group.compared(*curve)
    if comparisons is None or len(fractions) < 2 or set(fractions) - set(sizes):
        return row
    weights = learning_curves.aulc_weights(np.array([sizes[fraction] for fraction in fractions]))
    shares = dict(zip(fractions, weights, strict=True))
    level = comparisons.prior(group.setting, lambda a, _: {(group.setting, a, at): w for at, w in shares.items()})
    area = comparisons.differences(level, dict(zip(curve, weights, strict=True)))
    by_seed = whole.sort_values("train_fraction").groupby("seed")["test/top1"].apply(lambda top1: float(top1 @ weights))
    row |= {"aulc": area.estimate[0], "aulc_low": area.low[0], "aulc_high": area.high[0], "aulc_std": by_seed.std()}
    if model != reference and group.compared(*other):
        row |= _against(comparisons, sizes, shares, (curve, other), pairs)
    return row


def _against(
    comparisons: Comparisons,
    sizes: Mapping[float, float],
    shares: Mapping[float, float],
    curves: tuple[list[Cell], list[Cell]],
    pairs: pd.DataFrame,
) -> dict[str, Any]:
    """A model's learning curve against the reference's."""
    own, other = curves
    setting, n = own[0][0], np.array([sizes[cell[2]] for cell in own])

    def between(a: str, b: str) -> Term:
        return {(setting, m, fraction): sign * w for m, sign in ((a, 1.0), (b, -1.0)) for fraction, w in shares.items()}

    area = comparisons.differences(comparisons.prior(setting, between), between(own[0][1], other[0][1]))
    found = {"aulc_delta": area.estimate[0], "aulc_delta_low": area.low[0], "aulc_delta_high": area.high[0]}
    signs = [_sign(pairs, a, b) for a, b in zip(own, other, strict=True)]

    ends = [comparisons.layout.mean[comparisons.layout.index[curve[-1]]] for curve in (own, other)]
    ahead, behind = (own, other) if ends[0] > ends[1] else (other, own)
    ratio = learning_curves.multiplier(comparisons, n, ahead, behind)
    found |= {"multiplier": ratio.estimate, "multiplier_ahead": ahead[0][1], "multiplier_directed": ratio.directed}
    found |= {f"multiplier_{name}": value for name, value in asdict(ratio).items()}
    if least := learning_curves.bound(comparisons, n, ahead, behind) if signs[-1] else None:
        found |= {"bound": least.factor, "bound_ahead": ahead[0][1]}
        found |= {f"bound_{name}": value for name, value in asdict(least).items()}
    if crossing := learning_curves.crossover(comparisons, n, own, other, signs):
        found |= {"crossover": crossing.n, "crossover_text": crossing.text}
        found |= {f"crossover_{name}": value for name, value in asdict(crossing).items()}
    return found


def _sign(pairs: pd.DataFrame, first: Cell, second: Cell) -> int:
    """1 or −1 where two models are marked as different at one budget, else 0."""
    at = select(pairs, train_fraction=first[2], state="different")
    for model, rival, sign in ((first[1], second[1], 1), (second[1], first[1], -1)):
        row = select(at, a=model, b=rival)
        if len(row):
            return sign * int(np.sign(row["delta"].iloc[0]))
    return 0
