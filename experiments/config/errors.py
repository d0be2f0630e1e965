"""Errors that a user can put right, shown as their message; every other exception is a fault of this project."""

from __future__ import annotations


class UserError(Exception):
    """What the user is told, as one message that says what to do."""


class ConfigError(UserError):
    """Bad input, found before anything ran.

    Attributes
    ----------
    faults : list of str
        One sentence per fault: file, key, value, fix.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = list(faults)
        super().__init__(*faults)

    def __str__(self) -> str:
        return "\n".join(self.faults)
