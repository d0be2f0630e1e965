"""Runs checked against one another: copies under other seeds, and runs that differ from all that should be like them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping

from analysis.run_folder import Loaded

Key = Callable[[Loaded], Hashable]
MANY = 20
"""Validation images from which on two seeds never draw the same by chance."""
_ADVICE = "Delete its folder and run the experiment again."


def copied_or_foreign(runs: Mapping[str, Loaded]) -> dict[str, str]:
    """Runs that contradict other runs, each with a sentence that says how and what to do.

    Runs of other seeds or splits begin with other weights and see other images, so that neither their logits nor their
    validation images are equal. Nobody can tell which of equal runs is the first: all are named. Runs of one split validate
    on the same images and runs of one dataset name its classes alike: those that differ from most are named.
    """
    found: dict[str, str] = {}
    _name_equal(
        found, runs, "its test logits are", of=lambda run: (run.record.data, run.answers),
        place=lambda run: (run.record.seed, run.record.split_hash),
    )  # fmt: skip
    _name_odd(
        found, runs, "of its split have other validation images", of=lambda run: run.record.split_hash,
        value=lambda run: run.val_ids,
    )  # fmt: skip
    # What was named above is left out first, or one copy would take the honest runs of its images with it.
    drawn = {run_id: run for run_id, run in runs.items() if run_id not in found and (run.record.n_val or 0) >= MANY}
    _name_equal(
        found, drawn, "its validation images are", of=lambda run: (run.record.data, run.val_ids),
        place=lambda run: run.record.seed,
    )  # fmt: skip
    _name_odd(
        found, runs, "of its data have other `class_names`", of=lambda run: (run.record.data, run.row["setting"]),
        value=lambda run: run.class_names,
    )  # fmt: skip
    return found


def _name_equal(found: dict[str, str], runs: Mapping[str, Loaded], what: str, of: Key, place: Key) -> None:
    """Name the runs that have the same `of` as a run of another `place`."""
    groups: dict[Hashable, dict[str, Hashable]] = defaultdict(dict)
    for run_id, run in runs.items():
        groups[of(run)][run_id] = place(run)
    for places in groups.values():
        for run_id, own in places.items():
            if others := [other for other, theirs in places.items() if theirs != own]:
                more = f" and {len(others) - 1} more" if len(others) > 1 else ""
                words = f"{what} those of {others[0]}{more}, a run of another seed or split"
                found.setdefault(run_id, f"predictions.npz: {words}. {_ADVICE}")


def _name_odd(found: dict[str, str], runs: Mapping[str, Loaded], what: str, of: Key, value: Key) -> None:
    """Name the runs whose `value` is not that of more than half of the runs with the same `of`."""
    groups: dict[Hashable, dict[str, Hashable]] = defaultdict(dict)
    for run_id, run in runs.items():
        groups[of(run)][run_id] = value(run)
    for values in groups.values():
        (most, number), *_ = Counter(values.values()).most_common()
        for run_id, own in values.items():
            if own != most or 2 * number <= len(values):
                found.setdefault(run_id, f"predictions.npz: {number} of {len(values)} runs {what}. {_ADVICE}")
