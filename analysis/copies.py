"""Runs that cannot all be what they say, seen side by side: copied predictions, foreign validation images, other classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping

from analysis.run_folder import Loaded

MANY = 20
"""Validation images from which on two seeds never draw the same by chance."""
_ADVICE = "Delete its folder and run the experiment again."


def copied(runs: Mapping[str, Loaded]) -> dict[str, str]:
    """Runs to leave out, each with a sentence that says why and what to do.

    Runs of other seeds or splits begin with other weights and see other images: their logits are never equal to the last
    bit, nor are the validation images of two seeds. Of equal runs nobody can tell which is the first: all are left out.
    Runs of one split validate on the same images, and runs of one dataset name its classes alike: those that differ from
    most are left out.
    """
    found: dict[str, str] = {}
    for same in _groups(((run_id, (run.record.data, run.answers)) for run_id, run in runs.items())):
        if len({(runs[run_id].record.seed, runs[run_id].record.split_hash) for run_id in same}) > 1:
            _tell(found, same, "predictions.npz: its test logits are those of")
    for run_id, fault in _odd(((run_id, run.record.split_hash, run.val_ids) for run_id, run in runs.items())):
        found.setdefault(run_id, f"predictions.npz: {fault} of its split have other validation images. {_ADVICE}")
    # What was named above is left out first, or one copy would take the honest runs of its images with it.
    drawn = (
        (run_id, (run.record.data, run.val_ids))
        for run_id, run in runs.items()
        if run_id not in found and (run.record.n_val or 0) >= MANY
    )
    for same in _groups(drawn):
        if len({runs[run_id].record.seed for run_id in same}) > 1:
            _tell(found, same, "predictions.npz: its validation images are those of", seeds=runs)
    names = ((run_id, (run.record.data, run.row["setting"]), run.class_names) for run_id, run in runs.items())
    for run_id, fault in _odd(names):
        found.setdefault(run_id, f"predictions.npz: {fault} of its data have other `class_names`. {_ADVICE}")
    return found


def _groups(keys: Iterable[tuple[str, Hashable]]) -> list[list[str]]:
    """Runs of equal keys, where there is more than one."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for run_id, key in keys:
        groups[key].append(run_id)
    return [same for same in groups.values() if len(same) > 1]


def _tell(found: dict[str, str], same: list[str], what: str, seeds: Mapping[str, Loaded] | None = None) -> None:
    """Name each run of a group with another one, of another seed where seeds count."""
    for run_id in same:
        others = [other for other in same if other != run_id]
        if seeds:
            others = [other for other in others if seeds[other].record.seed != seeds[run_id].record.seed]
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        found.setdefault(run_id, f"{what} {others[0]}{more}, a run of another seed or split. {_ADVICE}")


def _odd(entries: Iterable[tuple[str, Hashable, Hashable]]) -> list[tuple[str, str]]:
    """Runs whose value is not that of more than half of those with the same key."""
    groups: dict[Hashable, dict[str, Hashable]] = defaultdict(dict)
    for run_id, key, value in entries:
        groups[key][run_id] = value
    odd = []
    for values in groups.values():
        (most, number), *_ = Counter(values.values()).most_common()
        kept = most if 2 * number > len(values) else object()
        odd += [(run_id, f"{number} of {len(values)} runs") for run_id, value in values.items() if value != kept]
    return odd
