"""What makes two runs the same run: hashes over what was requested, and how a fraction is written in a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from experiments.config.schema import Augmentation, DataConfig, ModelConfig, Recipe, Tuning

PROTOCOL = 1
"""Raised when a change of the code changes results: runs made before it are then other runs."""


def canonical_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: sorted keys, no spaces, UTF-8. Returns 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


TUNED_FIELDS = {"learning_rate", "weight_decay", "augmentation"}
"""Fields of a recipe that track B searches."""


ADDED_FIELDS: dict[type[BaseModel], set[str]] = {
    DataConfig: {"test_cut"},
    ModelConfig: {"init", "weights", "layout", "train"},
    Augmentation: {"policy", "erase", "mixup", "cutmix", "mix_probability", "mix_until"},
    Recipe: {"compile"},
}
"""Fields that came after the first published records: hashed only where they differ from their default, so that a new
option renames no run that does not use it."""


def hashed_values(part: BaseModel, exclude: Iterable[str] = ()) -> dict[str, Any]:
    """A part of a configuration as it is hashed: every field but `exclude` and the `ADDED_FIELDS` at their default."""

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return hashed_values(value)
        return [plain(entry) for entry in value] if isinstance(value, list) else value

    kind = type(part)
    return {
        name: plain(getattr(part, name))
        for name, field in kind.model_fields.items()
        if name not in exclude and not (name in ADDED_FIELDS.get(kind, ()) and getattr(part, name) == field.default)
    }


def requested_settings(recipe: Recipe, data: DataConfig, tuning: Tuning | None = None) -> dict[str, Any]:
    """Everything but the model: what must be equal for all rows of a table.

    Neither path, title, seed, fraction nor device is part of it. On track B the search space and its budget stand for the
    values that were searched.
    """
    settings = {
        "recipe": hashed_values(recipe, exclude=TUNED_FIELDS if tuning else ()),
        "data": hashed_values(data, exclude={"path", "title"}),
        "evaluation": {"checkpoint": "last", "test": "once, at the end"},
        "track": "tuned" if tuning else "identical",
    }
    return settings | {"tuning": hashed_values(tuning)} if tuning else settings


def settings_hash(recipe: Recipe, data: DataConfig, tuning: Tuning | None = None) -> str:
    """Hash of `requested_settings`."""
    return canonical_hash(requested_settings(recipe, data, tuning))


def fraction_label(fraction: float) -> str:
    """A train fraction as it stands in a run id: ``1``, ``0.1``, ``0.03``, exact and without an exponent."""
    return format(Decimal(repr(fraction)).normalize(), "f")
