"""Errors that a user can put right, shown as their message; every other exception is a fault of this project."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """An error of a library as a part of a sentence: its text on one line, cut short, or its type where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def named(error: BaseException) -> str:
    """An error of a library with its type: ``ValueError: …``."""
    return type(error).__name__ if not str(error).strip() else f"{type(error).__name__}: {reason(error)}"


class UserError(Exception):
    """What the user is told, as one message that says what to do."""


class ConfigError(UserError):
    """Bad input, found before anything ran: a sentence for each fault, with file, key, value and fix."""

    def __init__(self, *faults: str) -> None:
        self.faults = list(faults)
        super().__init__(*faults)

    def __str__(self) -> str:
        return "\n".join(self.faults)
