"""What a table is, and tables as Markdown, CSV and plain text. The same table gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from analysis.text import UNKNOWN


@dataclass(frozen=True)
class Entry:
    """One table cell."""

    text: str
    """Plain text, in lines; each format escapes it."""
    bold: bool = False
    value: float | str | None = None
    """What an interactive table sorts by."""
    note: str = ""
    """Letter of a footnote."""


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
    """A table before it is written in some format."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    """Two sentences at most."""
    columns: list[str]
    """Headings; the first is the model's."""
    blocks: list[Block]
    footnotes: dict[str, str] = field(default_factory=dict)
    """Letter → text."""
    frame: pd.DataFrame | None = None
    """What the ``.csv`` holds: full precision and run ids; None where it is another table's."""
    banner: str = ""
    """A warning that stands above everything else; empty for equal settings."""
    note: str = ""
    """One line on the conditions."""
    method: str = ""
    """How its numbers came to be; it stands once in a report."""
    narrow: tuple[str, ...] = ()
    """Headings of the columns that a paper's single column shows; all without any."""

    def with_columns(self, keep: Callable[[int], bool]) -> Table:
        """The table with the first column and those of the others whose number is to be kept."""
        kept = [at for at in range(len(self.columns)) if at == 0 or keep(at)]
        blocks = [
            Block(block.heading, [Row(row.family, [row.entries[at] for at in kept]) for row in block.rows])
            for block in self.blocks
        ]
        return replace(self, columns=[self.columns[at] for at in kept], blocks=blocks)

    def without_empty(self) -> Table:
        """The table without the columns that hold no value; as it is where no other than the first would be left."""
        rows = [row for block in self.blocks for row in block.rows]
        left = self.with_columns(lambda at: any(row.entries[at].text not in ("", UNKNOWN) for row in rows))
        return left if len(left.columns) > 1 else self


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


_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_<>|~#$&"})


def markdown_text(text: str) -> str:
    """Plain text as Markdown in a table cell."""
    return text.translate(_MARKDOWN).replace("](", "]\\(").replace("\n", " ")


def markdown(table: Table) -> str:
    """GitHub-flavoured Markdown: a table per block, then footnotes, caption and conditions."""
    lines = [f"# {markdown_text(table.title)}", ""]
    if table.banner:
        lines += [f"> **⚠ {markdown_text(table.banner)}**", ""]
    for block in table.blocks:
        lines += [f"**{markdown_text(block.heading)}**", ""] if block.heading else []
        lines.append(f"| {' | '.join(map(markdown_text, table.columns))} |")
        lines.append("|:--|" + "--:|" * (len(table.columns) - 1))
        lines += [f"| {' | '.join(map(_markdown_entry, row.entries))} |" for row in block.rows]
        lines.append("")
    for letter, text in table.footnotes.items():
        lines += [f"<sup>{letter}</sup> {markdown_text(text)}.", ""]
    said = filter(None, (table.caption, table.note))
    return "\n".join([*lines, "\n\n".join(f"*{markdown_text(text)}*" for text in said), ""])


def conditions(tables: Sequence[Table], details: Sequence[str]) -> str:
    """How the numbers of a report came to be, as Markdown: what is true of all tables, then the method of each."""
    lines = ["# How these numbers came to be", *map(markdown_text, details)]
    for table in tables:
        lines += [f"## {markdown_text(table.title)}", markdown_text(table.method)] if table.method else []
    return "\n\n".join([*lines, ""])


def _markdown_entry(entry: Entry) -> str:
    first, *below = map(markdown_text, entry.text.split("\n"))
    note = f" <sup>{entry.note}</sup>" if entry.note else ""
    return "<br>".join([f"**{first}**{note}" if entry.bold else f"{first}{note}", *below])


def csv(table: Table) -> str:
    """Comma-separated values in full precision; what is unknown is empty.

    A text that a spreadsheet would take for a formula, by its first character, gets an apostrophe before it; numbers stay.
    """
    return "" if table.frame is None else str(table.frame.map(_no_formula).to_csv(index=False, lineterminator="\n"))


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def plain(table: Table) -> str:
    """Text for a terminal: aligned columns, ``*`` for bold."""
    lines = [f"!!! {table.banner} !!!", ""] if table.banner else []
    for block in table.blocks:
        grid = [table.columns, *([_plain_entry(entry) for entry in row.entries] for row in block.rows)]
        widths = [max(len(cells[i]) for cells in grid) for i in range(len(table.columns))]
        lines.append(block.heading)
        for number, cells in enumerate(grid):
            aligned = [cells[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells[1:], widths[1:], strict=True))]
            lines.append("  ".join(aligned).rstrip())
            if number == 0:
                lines.append("  ".join("─" * width for width in widths))
        lines.append("")
    lines += [f"({letter}) {text}." for letter, text in table.footnotes.items()]
    return "\n".join(lines).rstrip() + "\n"


def _plain_entry(entry: Entry) -> str:
    return f"{entry.text}{f' ({entry.note})' if entry.note else ''}{' *' if entry.bold else ''}"
