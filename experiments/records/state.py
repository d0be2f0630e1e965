"""Files that say where things stand, read so that damage of any kind is one message and never a traceback.

A kill cuts such a file short, a disk fills it with zeros, a hand edits it, or something else lies in its place.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from experiments.config.errors import UserError

Shape = TypeVar("Shape")

LARGEST_BYTES = 64 * 2**20
DEEPEST = 64
"""Levels of nesting: far more than any of our files has, far fewer than Python's recursion takes."""


class StateError(UserError):
    """A state file that is there and cannot be used; `reason` says what is wrong with it, without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}"


def read_bytes(path: Path) -> bytes:
    """A file's content, if it is a regular file of a sensible size; raises FileNotFoundError or StateError."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe in its place is not waited for
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise StateError(path, "is not a regular file")
            if facts.st_size > LARGEST_BYTES:
                raise StateError(path, f"is too large ({facts.st_size:,} bytes; at most {LARGEST_BYTES:,} are expected)")
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(path, f"cannot be read ({error.strerror})") from error


def read_json(path: Path, shape: type[Shape], *, finite: bool = True) -> Shape:
    """A JSON file as a value of a type that pydantic can check: ``dict[str, str]``, a dataclass, a model.

    `finite` refuses ``NaN`` and infinities; a reader that names the field of each may take them.

    Raises
    ------
    FileNotFoundError, StateError
        If there is none; if it cannot be read, is not JSON, or not of this type.
    """
    content = read_bytes(path)
    try:
        _parsed(content, finite=finite)
    except ValueError as error:
        raise StateError(path, f"truncated or foreign: not valid JSON ({error})") from error
    try:
        found: Shape = _adapter(shape).validate_json(content.removeprefix(b"\xef\xbb\xbf"))  # type: ignore[arg-type]
        return found
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StateError(path, f"truncated or foreign ({f'`{where}`: ' if where else ''}{first['msg']})") from error


def read_cache(path: Path, shape: type[Shape]) -> Shape | None:
    """What a file that can be made again holds, as `read_json` gives it; None where it is missing or damaged."""
    try:
        return read_json(path, shape)
    except (FileNotFoundError, StateError):
        return None


def read_evaluations(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``, as they were written.

    `whole` refuses a last line that a kill cut short, which is otherwise left out.

    Raises
    ------
    FileNotFoundError, StateError
        If there is no file; if it cannot be read, or a line is not an evaluation. The message names the line.
    """
    lines = read_bytes(path).rstrip(b"\n").split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(_parsed(line)))
        except ValueError as error:
            if number == len(lines) and not whole:
                break
            raise StateError(path, f"line {number}: truncated or foreign, not an evaluation ({error})") from error
    return rows


def _row(row: Any) -> dict[str, Any]:
    """Check one evaluation."""
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] < 2**63:
        raise ValueError("a row without `step`")
    for value in row.values():
        known = value is None or (type(value) is float and math.isfinite(value))
        if not known and not (type(value) is int and abs(value) < 2**63):
            raise ValueError("a value that is not a number")
    return row


def _parsed(content: bytes, *, finite: bool = True) -> Any:
    """Parse JSON. Raises nothing but ValueError, also where Python's parser raises more or lets more pass."""
    text = content.decode("utf-8-sig")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number if finite else float)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if re.search(r"\\u[dD][89a-fA-F]", text):  # half of a surrogate pair can be neither shown nor written
        json.dumps(value, ensure_ascii=False).encode()
    level: Sequence[Any] = [value]
    for _ in range(DEEPEST):
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _children(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice")
    return values


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


@lru_cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
