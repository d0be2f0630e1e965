"""Names and titles: the pattern of names, and control characters, refused in what is configured and escaped in messages."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from experiments.config.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
NAME_RULE = "a name has letters from a to z, digits, _ and -, and begins with a letter or a digit"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a cursor, ends a line or turns the direction of writing, and halves of characters."""
_DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


def checked_name(name: str) -> str:
    """The name of an experiment, before a path is made of it.

    Raises
    ------
    ConfigError
        If it is not a name.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"NAME: {name!a} is not the name of an experiment: {NAME_RULE}. See make list.")
    return name


def duration_in_seconds(text: str, what: str) -> int:
    """A time such as ``30m``, ``90s`` or ``1h30m``; `what` names the option that it was given for.

    Raises
    ------
    ConfigError
        If it is not written so, or is zero.
    """
    match = _DURATION.fullmatch(text)
    seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    if not 0 < seconds < 2**31:
        raise ConfigError(f"{what}: must be a time such as 30m, 90s or 1h30m, got {text!a}.")
    return seconds


def listed(names: Collection[str], most: int) -> str:
    """The first of some names, and how many more there are: ``a, b and 3 more``."""
    more = len(names) - most
    return ", ".join(list(names)[:most]) + (f" and {more} more" if more > 0 else "")


def printable(text: object, keep: str = "") -> str:
    """A text with its control characters, and bytes that are no text, spelled out; those in `keep` stay."""
    return CONTROL.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], str(text))


def control_character(value: Any, but: Collection[str] = ()) -> str:
    """Where a plain value holds a control character, as the end of a sentence; empty where none does.

    Keys of mappings that stand in `but` are passed over.
    """
    for text in _texts(value, but):
        if found := CONTROL.search(text):
            return f"holds the control character {found.group()!a}, got {text!a}; delete it, and write one line"
    return ""


def _texts(value: Any, but: Collection[str]) -> Iterator[str]:
    """Every text in a plain value, keys of mappings included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from () if key in but else _texts([key, inner], but)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, but)
