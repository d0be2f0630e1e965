"""What a table is, and tables as Markdown, LaTeX, CSV and plain text. The same table gives the same bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Entry:
    """One table cell."""

    text: str
    """Plain text; each format escapes it."""
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
    columns: list[str]
    """Headings; the first is the model's."""
    blocks: list[Block]
    footnotes: dict[str, str]
    """Letter → text."""
    frame: pd.DataFrame
    """What the ``.csv`` holds: full precision and run ids."""
    banner: str = ""
    """A warning that stands above everything else; empty for equal settings."""


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


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "…": r"\ldots{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "[": "{[}", "]": "{]}",  # a bracket after a line break would be read as its argument
    "<": "$<$", ">": "$>$", "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "Δ": r"$\Delta$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "→": r"$\rightarrow$", "≡": r"$\equiv$", "≤": r"$\leq$", "≥": r"$\geq$", "†": r"$\dagger$",
    "·": r"$\cdot$", "\u202f": r"\,",
}  # fmt: skip
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_<>|~#$&"})


def latex_text(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def markdown_text(text: str) -> str:
    """Plain text as Markdown in a table cell."""
    return text.translate(_MARKDOWN).replace("](", "]\\(").replace("\n", " ")


def markdown(table: Table) -> str:
    """GitHub-flavoured Markdown: caption, then a table per block, then footnotes."""
    lines = [f"# {markdown_text(table.title)}", ""]
    if table.banner:
        lines += [f"> **⚠ {markdown_text(table.banner)}**", ""]
    for block in table.blocks:
        lines += [f"**{markdown_text(block.heading)}**", ""]
        lines.append(f"| {' | '.join(map(markdown_text, table.columns))} |")
        lines.append("|:--|" + "--:|" * (len(table.columns) - 1))
        lines += [f"| {' | '.join(map(_markdown_entry, row.entries))} |" for row in block.rows]
        lines.append("")
    for letter, text in table.footnotes.items():
        lines += [f"<sup>{letter}</sup> {markdown_text(text)}.", ""]
    return "\n".join([*lines, f"*{markdown_text(table.caption)}*", ""])


def _markdown_entry(entry: Entry) -> str:
    text = markdown_text(entry.text)
    note = f" <sup>{entry.note}</sup>" if entry.note else ""
    return f"**{text}**{note}" if entry.bold else f"{text}{note}"


def latex(table: Table) -> str:
    """A ``table`` environment for a paper that loads ``booktabs``."""
    width = len(table.columns)
    lines = [
        "% Needs \\usepackage{booktabs}.",
        *([f"% WARNING: {table.banner}"] if table.banner else []),
        "\\begin{table}[t]",
        "\\centering",
        f"\\caption{{{latex_text(table.caption)}}}",
        f"\\label{{tab:{table.name.replace('_', '-')}}}",
        *([f"\\textbf{{{latex_text(table.banner)}}}\\par\\medskip"] if table.banner else []),
        "\\small\\setlength{\\tabcolsep}{4pt}",
        f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        "\\toprule",
        f"{' & '.join(map(_latex_heading, table.columns))} \\\\",
    ]
    for block in table.blocks:
        lines += ["\\midrule", f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{latex_text(block.heading)}}}}} \\\\"]
        previous = None
        for row in block.rows:
            lines += ["\\addlinespace"] if row.family != previous else []
            lines.append(f"{' & '.join(map(_latex_entry, row.entries))} \\\\")
            previous = row.family
    lines += ["\\bottomrule", "\\end{tabular}"]
    for letter, text in table.footnotes.items():
        lines.append(f"\\par{{\\footnotesize \\textsuperscript{{{letter}}} {latex_text(text)}.}}")
    return "\n".join([*lines, "\\end{table}", ""])


def _latex_heading(text: str) -> str:
    """A heading on several lines where it says against what, in what interval or of how many images."""
    parts = [latex_text(part) for part in re.split(r" (?=\[|\(n = |vs )", text)]
    lines = " \\\\ ".join(parts)
    return lines if len(parts) == 1 else f"\\shortstack[r]{{{lines}}}"


def _latex_entry(entry: Entry) -> str:
    text = latex_text(entry.text)
    note = f"\\textsuperscript{{{entry.note}}}" if entry.note else ""
    # \boldmath makes the ± as heavy as the digits.
    return f"{{\\boldmath\\textbf{{{text}}}}}{note}" if entry.bold else f"{text}{note}"


def csv(table: Table) -> str:
    """Comma-separated values in full precision; what is unknown is empty.

    A text that a spreadsheet would take for a formula, by its first character, gets an apostrophe before it; numbers stay.
    """
    return str(table.frame.map(_no_formula).to_csv(index=False, lineterminator="\n"))


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
