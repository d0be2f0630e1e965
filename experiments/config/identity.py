"""What makes two runs the same run: hashes over what was requested, and how a fraction is written in a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from experiments.config.schema import ADDED, DataConfig, Recipe, Tuning

PROTOCOL = 1
"""One more wherever a change of the code changes results, so that older runs are not taken for the same."""


def canonical_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: sorted keys, no spaces, UTF-8. Returns 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


TUNED_FIELDS = {"learning_rate", "weight_decay", "augmentation"}
"""Fields of a recipe that the track `tuned` searches."""


def flattened(values: Mapping[str, Any], joint: str = ".", prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level: ``{"recipe": {"steps": 5}}`` → ``{"recipe.steps": 5}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, joint, f"{name}{joint}") if isinstance(value, Mapping) else {name: value}
    return flat


def added_fields(kind: type[BaseModel]) -> list[str]:
    """Fields that are declared as `experiments.config.schema.Added`."""
    return [name for name, field in kind.model_fields.items() if any(mark is ADDED for mark in field.metadata)]


def hashed_values(part: BaseModel, exclude: Iterable[str] = ()) -> dict[str, Any]:
    """A part of a configuration as it is hashed: all fields but `exclude` and later ones still at their default."""

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return hashed_values(value)
        return [plain(entry) for entry in value] if isinstance(value, list) else value

    fields = type(part).model_fields
    unused = {name for name in added_fields(type(part)) if getattr(part, name) == fields[name].default}
    return {name: plain(getattr(part, name)) for name in fields if name not in {*exclude, *unused}}


def searched(tuning: Tuning | None) -> set[str]:
    """Fields of a recipe that a search sets."""
    if tuning is None:
        return set()
    return TUNED_FIELDS | ({"optimizer"} if tuning.optimizers else set())


def requested_settings(
    recipe: Recipe, data: DataConfig, tuning: Tuning | None = None, track: str = "identical"
) -> dict[str, Any]:
    """Everything but the model: what must be equal for all rows of a table.

    Neither path, title, seed, fraction nor device is part of it. On the track `tuned` the search space and its budget
    stand for the values that were searched; on `own` the recipe is the model's own.
    """
    settings = {
        "recipe": hashed_values(recipe, exclude=searched(tuning)),
        "data": hashed_values(data, exclude={"path", "title"}),
        "evaluation": {"checkpoint": "last", "test": "once, at the end"},
        "track": "tuned" if tuning else track,
    }
    return settings | {"tuning": hashed_values(tuning)} if tuning else settings


def settings_hash(recipe: Recipe, data: DataConfig, tuning: Tuning | None = None, track: str = "identical") -> str:
    """Hash of `requested_settings`."""
    return canonical_hash(requested_settings(recipe, data, tuning, track))


def fraction_label(fraction: float) -> str:
    """A train fraction as it stands in a run id: ``1``, ``0.1``, ``0.03``, exact and without an exponent."""
    return format(Decimal(repr(fraction)).normalize(), "f")
