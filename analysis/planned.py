"""What was planned before the first run, beside what came."""

from __future__ import annotations

from typing import NamedTuple

from analysis.groups import Group
from analysis.load import Results
from analysis.power import told_by
from analysis.text import UNKNOWN, number, percent
from experiments.records.intended import Plan


class Row(NamedTuple):
    """One figure."""

    what: str
    planned: str
    came: str


def rows(plan: Plan | None, results: Results, groups: list[Group]) -> list[Row]:
    """Figures of a plan beside those of the runs; none without a plan."""
    if plan is None:
        return []
    costs, compute = plan.costs, results.costs
    spent = sum((one.device_hours or 0) + (one.evaluation_seconds or 0) / 3600 for one in compute)
    peaks = [one.peak_memory_bytes for one in compute if one.peak_memory_bytes]
    seen = f"{costs.pflops:.4g}", f"{sum(one.train_pflops or 0 for one in compute):.4g}"
    memory = UNKNOWN if costs.memory_bytes is None else _gib(costs.memory_bytes / costs.jobs)
    found = [
        Row("Runs, tuning trials included", f"{costs.cells + costs.trials:,}", f"{len(compute):,}"),
        Row("Training PFLOPs", *seen),
        Row("Device hours, evaluation included", "{1:.3g} ({0:.3g} to {2:.3g})".format(*costs.device_hours), f"{spent:.3g}"),
        Row("Memory of one run at its peak", memory, _gib(max(peaks)) if peaks else UNKNOWN),
    ]
    titles = {group.data: group.experiment.data[group.data].title for group in groups}
    for row in (row for row in plan.power if row.data in titles):
        of_data = [group.comparisons for group in groups if group.data == row.data and group.comparisons]
        told = told_by(of_data[0], row.train_fraction) if of_data else None
        where = f"{titles[row.data]}, {percent(row.train_fraction)}: difference that is told in 80% of grids (points)"
        found.append(Row(where, _points(*row.told), _points(*told) if told else UNKNOWN))
    return found


def _points(low: float, likely: float, high: float) -> str:
    return f"{number(100 * likely, 1)} ({number(100 * low, 1)} to {number(100 * high, 1)})"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
