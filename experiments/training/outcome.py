"""What became of a cell in this process; without torch, as displays need it."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Outcome(NamedTuple):
    """What became of a cell in this process."""

    status: Literal["done", "failed", "busy", "interrupted"]
    message: str = ""
    seconds: float | None = None
    """Of this process; None where it did nothing."""
    images_per_second: float | None = None
    val_top1: float | None = None
    says: tuple[str, ...] = ()
    """Sentences for the user, the same from many cells: show each once."""
