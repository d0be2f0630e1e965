"""A table before it is written in some format."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Entry:
    """One table cell.

    Attributes
    ----------
    text : str
        Plain text; each format escapes it.
    bold : bool
    value : float or str or None
        What an interactive table sorts by.
    note : str
        Letter of a footnote.
    """

    text: str
    bold: bool = False
    value: float | str | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One model; a change of `family` separates groups."""

    family: str
    entries: list[Entry]


@dataclass(frozen=True)
class Block:
    """Rows that are compared with each other."""

    heading: str
    rows: list[Row]


@dataclass(frozen=True)
class Table:
    """A table before it is written in some format.

    Attributes
    ----------
    name : str
        Stem of its files.
    title, caption : str
    columns : list of str
        Headings; the first is the model's.
    blocks : list of Block
    footnotes : dict of str to str
        Letter → text.
    frame : DataFrame
        What the ``.csv`` holds: full precision and run ids.
    banner : str
        A warning that stands above everything else; empty for equal settings.
    """

    name: str
    title: str
    caption: str
    columns: list[str]
    blocks: list[Block]
    footnotes: dict[str, str]
    frame: pd.DataFrame
    banner: str = ""


@dataclass
class Notes:
    """Footnotes of one table; equal texts share a letter."""

    letters: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        if not text:
            return ""
        index = len(self.letters)
        letter = chr(ord("a") + index % 26) * (1 + index // 26)
        return self.letters.setdefault(text, letter)

    def texts(self) -> dict[str, str]:
        return {letter: text for text, letter in self.letters.items()}
