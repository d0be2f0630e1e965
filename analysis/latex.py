"""Tables as LaTeX that is pasted unchanged: no line is wider than the column that it is made for.

Widths are added up from those of Computer Modern. What does not fit stands below: cells and headings break into lines,
columns into panels, and rows into further tables.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, zip_longest

from analysis.render import Block, Entry, Row, Table

COLUMN, PAGE = 229.0, 345.0
"""Points of a line of the class ``article``: in two columns (3.17 in) and in one (4.77 in); usual paper styles have more."""
LINES = 36
"""Lines of a table that fit a page with caption and notes."""
GAP = 5.0
"""Points between columns."""
NOTES = 700
"""Characters of footnotes that stand below a table of a paper; more of them stand in the appendix alone."""

_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "—": "---",
    "…": r"\ldots{}", **{character: f"\\{character}" for character in "&%$#_{}"},
    "[": "{[}", "]": "{]}",  # a bracket after a line break would be read as its argument
    "<": "$<$", ">": "$>$", "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "Δ": r"$\Delta$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "→": r"$\rightarrow$", "≡": r"$\equiv$", "≤": r"$\leq$", "≥": r"$\geq$", "†": r"$\dagger$",
    "·": r"$\cdot$", "²": "$^2$", "°": r"$^\circ$", "µ": r"$\mu$", "“": "``", "”": "''", "’": "'",
    "⚠": "!", "\u202f": r"\,", "\u00a0": "~",
}  # fmt: skip
_KNOWN_LETTERS = frozenset("ßæÆœŒøØåÅłŁı")
_ACCENTS = frozenset(map(chr, (0x300, 0x301, 0x302, 0x303, 0x304, 0x306, 0x307, 0x308, 0x30A, 0x30B, 0x30C, 0x327)))


def latex_text(text: str, run: int = 0) -> str:
    """Plain text as LaTeX. What pdfLaTeX has no letter for becomes ``?``; with `run`, longer words may break there."""
    words = [[_letter(character) for character in word] for word in unicodedata.normalize("NFC", text).split(" ")]
    run = run or max(1, len(text))
    return " ".join(r"\allowbreak{}".join("".join(word[at : at + run]) for at in range(0, len(word), run)) for word in words)


def _letter(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    return character if character.isascii() or character in _KNOWN_LETTERS or _accented(character) else "?"


def _accented(character: str) -> bool:
    """Whether a letter is one of ASCII with an accent that every installation of LaTeX can set."""
    parts = unicodedata.normalize("NFD", character)
    return ord(character) < 0x180 and parts[0].isascii() and len(parts) == 2 and parts[1] in _ACCENTS


# -------------------------------------------------------------------------------------------------------------- cells
@dataclass(frozen=True)
class Piece:
    """One line of a cell."""

    text: str = ""
    bold: bool = False
    small: bool = False
    note: str = ""

    @property
    def width(self) -> float:
        mean, deviation, rest = self.text.partition(" ± ")
        width = _width(mean) + (7.5 + 0.88 * _width(rest) if deviation else 0)
        return width * (1.16 if self.bold else 0.94 if self.small else 1) + 4.2 * len(self.note)

    def __str__(self) -> str:
        mean, deviation, rest = self.text.partition(" ± ")
        text = latex_text(mean) + (rf"\,{{\scriptsize$\pm${latex_text(rest)}}}" if deviation else "")
        # \boldmath makes the ± as heavy as the digits.
        text = rf"{{\boldmath\textbf{{{text}}}}}" if self.bold else rf"{{\scriptsize {text}}}" if self.small else text
        return text + (rf"\textsuperscript{{{self.note}}}" if self.note else "")


_WIDTHS = {
    **dict.fromkeys("ijl.,:;'!| ", 2.4), **dict.fromkeys("()[]/-ftr", 3.4), **dict.fromkeys("aceogsz0123456789", 4.25),
    **dict.fromkeys("mw±×−≤≥≡=<>+", 7.1), **dict.fromkeys("MW@%→?", 8.8),
}  # fmt: skip


def _width(text: str) -> float:
    """Points of a text in ``\\footnotesize``, by the widths of ``cmr8``."""
    return sum(_WIDTHS.get(character, 6.6 if character.isupper() else 4.75) for character in text)


def _wrapped(text: str, width: float) -> list[str]:
    """Lines no wider than `width`; a word that is wider breaks after ``_-/.,`` or, where that is not enough, anywhere."""
    lines = [""]
    for word in text.split(" "):
        parts = [word] if _width(word) <= width else re.findall(r"[^_\-/.,]*[_\-/.,]|[^_\-/.,]+", word)
        parts = [piece for part in parts for piece in (part if _width(part) > width else [part])]
        for at, part in enumerate(parts):
            before = " " if at == 0 and lines[-1] else ""
            if lines[-1] and _width(lines[-1] + before + part) > width:
                lines.append(part)
            else:
                lines[-1] += before + part
    return lines


def _pieces(entry: Entry, widest: float, *, name: bool) -> list[Piece]:
    """A cell's lines: intervals and what else stands in brackets go below their number, but not below a `name`."""
    text = re.sub(r"( \[[^]]*\])( [†≡])", r"\2\1", entry.text)
    first, *below = [line for part in text.split("\n") for line in ([part] if name else re.split(r" (?=[\[(])", part))]
    pieces = [Piece(line, bold=entry.bold) for line in _wrapped(first, widest / (1.16 if entry.bold else 1))]
    pieces += [Piece(line, small=True) for text in below for line in _wrapped(text, widest)]
    return [replace(pieces[0], note=entry.note), *pieces[1:]]


# ------------------------------------------------------------------------------------------------------------- panels
@dataclass(frozen=True)
class Panel:
    """Some columns of a table, the first always among them, as lines of pieces."""

    width: int
    """How many columns."""
    head: list[list[str]]
    """Lines of headings, the last one on the rule."""
    groups: list[tuple[str, list[list[Piece]]]]
    """LaTeX that stands before a row, and the row's lines."""

    @property
    def body(self) -> Iterator[str]:
        for before, lines in self.groups:
            yield from filter(None, before.split("\n"))
            yield from (f"{' & '.join(map(str, line))} \\\\*" for line in lines[:-1])
            yield f"{' & '.join(map(str, lines[-1]))} \\\\"

    @property
    def heading(self) -> str:
        return "\n".join(f"{' & '.join(map(latex_text, line))} \\\\" for line in self.head)

    @property
    def columns(self) -> str:
        return f"@{{}}l{'r' * (self.width - 1)}@{{}}"

    @property
    def size(self) -> int:
        """Its lines, headings included."""
        return len(self.head) + sum(len(lines) + before.count("\n") for before, lines in self.groups) + 1


@dataclass(frozen=True)
class Column:
    """A column of a table, with the lines of its heading and of every cell."""

    head: list[str]
    cells: list[list[Piece]]

    @property
    def width(self) -> float:
        return max([*map(_width, self.head), *(piece.width for cell in self.cells for piece in cell)])


def _column(title: str, entries: Sequence[Entry], limit: float, *, name: bool = False) -> Column:
    """A column no wider than `limit` points; headings are no narrower than their longest word."""
    cells = [_pieces(entry, limit, name=name) for entry in entries]
    body = max((piece.width for cell in cells for piece in cell), default=0.0)
    title = re.sub(r"\(n = (\d+)\)", r"(n=\1)", title)
    room = max(body, 36.0, min(limit, max(map(_width, re.split(r" |(?<=-)", title)))))
    return Column([line for part in re.split(r" (?=[\[(])", title) for line in _wrapped(part, room)], cells)


def _panels(table: Table, width: float, most: int) -> Iterator[Panel]:
    """A table cut into panels that are no wider than `width` and no longer than `most` lines."""
    rows = [row.entries for block in table.blocks for row in block.rows]
    named, *others = [[row[at] for row in rows] for at in range(len(table.columns))]
    columns = [_column(title, entries, 0.6 * width) for title, entries in zip(table.columns[1:], others, strict=True)]
    room = max(0.26 * width, width - sum(GAP + column.width for column in columns))
    name = _column(table.columns[0], named, room, name=True)
    panels = [[name]]
    for column in columns:
        if len(panels[-1]) > 1 and sum(GAP + each.width for each in panels[-1]) + column.width > width:
            panels.append([name])
        panels[-1].append(column)
    for chosen in panels:
        depth = max(len(column.head) for column in chosen)
        head = [list(line) for line in zip(*([""] * (depth - len(each.head)) + each.head for each in chosen), strict=True)]
        groups = list(_groups(table.blocks, chosen, width))
        while groups:
            sizes = list(accumulate((len(lines) + before.count("\n") for before, lines in groups), initial=depth + 1))[1:]
            taken = max(1, sum(size <= most for size in sizes))
            yield Panel(len(chosen), head, groups[:taken])
            groups = groups[taken:]


def _groups(blocks: Sequence[Block], chosen: Sequence[Column], width: float) -> Iterator[tuple[str, list[list[Piece]]]]:
    """Every row's lines, with the rule, heading or space before it."""
    cells = zip(*(column.cells for column in chosen), strict=True)
    for number, block in enumerate(blocks):
        before = "\\midrule\n" if number else ""
        for line in _wrapped(block.heading, width) if block.heading else []:
            before += f"\\multicolumn{{{len(chosen)}}}{{@{{}}l@{{}}}}{{\\textit{{{latex_text(line)}}}}} \\\\\n"
        for at, row in enumerate(block.rows):
            if at:
                before = f"\\addlinespace{'[2pt]' * (row.family == block.rows[at - 1].family)}\n"
            yield before, [[piece or Piece() for piece in line] for line in zip_longest(*next(cells))]


# ------------------------------------------------------------------------------------------------------------- floats
def latex(table: Table, *, wide: bool = False) -> str:
    """A table of a paper: for a single column, or `wide` for both columns of a two-column paper or the text of another."""
    width, environment = (PAGE, "table*") if wide else (COLUMN, "table")
    if not wide:
        table = _brief(table.with_columns(lambda at: not table.narrow or table.columns[at] in table.narrow))
    label = f"tab:{table.name.replace('_', '-')}{'-wide' * wide}"
    lines = [
        f"% {'Wide' if wide else 'Single-column'} table, {width / 72.27:.2f} in. Needs \\usepackage{{booktabs}}.",
        *_lost(table),
    ]
    packed: list[list[Panel]] = []
    for panel in _panels(table, width, LINES):
        if not packed or sum(each.size for each in packed[-1]) + panel.size > LINES:
            packed.append([])
        packed[-1].append(panel)
    for number, panels in enumerate(packed):
        caption = table.caption if number == 0 else f"{table.title}, continued."
        lines += [
            f"\\begin{{{environment}}}[tp]",
            "\\sloppy\\centering",
            f"\\caption[{{{latex_text(table.title)}}}]{{{latex_text(caption, 12)}}}",
            f"\\label{{{label}{f'-{number + 1}' * (number > 0)}}}",
            *([f"\\textbf{{{latex_text(table.banner, 12)}}}\\par\\smallskip"] if table.banner else []),
            "\\footnotesize\\setlength{\\tabcolsep}{2.5pt}",
        ]
        for at, panel in enumerate(panels):
            lines += ["\\par\\medskip"] if at else []
            lines += [f"\\begin{{tabular}}{{{panel.columns}}}", "\\toprule", panel.heading, "\\midrule"]
            lines += [line.replace("\\\\*", "\\\\") for line in panel.body]
            lines += ["\\bottomrule", "\\end{tabular}"]
        lines += _notes(table) if number + 1 == len(packed) else []
        lines.append(f"\\end{{{environment}}}")
    return "\n".join([*lines, ""])


def _brief(table: Table) -> Table:
    """Without the intervals in second lines, for which a single column has no room."""

    def cut(entry: Entry) -> Entry:
        first, *below = entry.text.split("\n")
        return replace(entry, text="\n".join([first, *(re.sub(r" \[[^]]*\]", "", line) for line in below)]))

    rows = [[Row(row.family, [*map(cut, row.entries)]) for row in block.rows] for block in table.blocks]
    return replace(table, blocks=[Block(block.heading, own) for block, own in zip(table.blocks, rows, strict=True)])


def _notes(table: Table) -> list[str]:
    """What stands below a table of a paper."""
    texts = [f"\\textsuperscript{{{letter}}} {latex_text(text, 12)}." for letter, text in table.footnotes.items()]
    if sum(map(len, table.footnotes.values())) > NOTES:
        texts = ["Letters: see the table in the appendix."]
    bracketed = any("[" in entry.text for block in table.blocks for row in block.rows for entry in row.entries)
    brackets = "Brackets: 95% intervals. " if bracketed else ""
    texts.append(latex_text(f"{table.note} {brackets}n: images to train and validate.", 12))
    return ["\\par\\smallskip{\\raggedright " + " ".join(texts) + "\\par}"]


def _lost(table: Table) -> Iterable[str]:
    """A comment on every text that pdfLaTeX cannot set as it is."""
    texts = {*table.columns, *(row.entries[0].text for block in table.blocks for row in block.rows)}
    texts |= {block.heading for block in table.blocks}
    lost = [text for text in sorted(texts) if "?" in map(_letter, set(text) - {"?"})]
    return [f"% pdfLaTeX has no letters for all of {text!r}." for text in lost]


def appendix(tables: Sequence[Table], details: Sequence[str]) -> str:
    """Every table with all its columns, which may run over pages, and once how the numbers came to be."""
    lines = [
        "% Appendix. Needs \\usepackage{booktabs,longtable}.",
        "% longtable cannot stand in two columns, so \\onecolumn begins a page; \\twocolumn after it goes back.",
        "\\onecolumn",
        f"\\begingroup\\footnotesize\\sloppy\\setlength{{\\tabcolsep}}{{2.5pt}}\\setlength{{\\LTcapwidth}}{{{PAGE:g}pt}}",
        *(f"\\noindent {latex_text(text, 12)}\\par" for text in details),
    ]
    for table in tables:
        lines += _lost(table)
        for at, panel in enumerate(_panels(table, PAGE, 10**9)):
            caption = f"\\caption[{{{latex_text(table.title)}}}]{{{latex_text(table.caption, 12)}}}"
            label = f"\\label{{tab:{table.name.replace('_', '-')}-full}}\\\\"
            lines += [
                *(["\\addtocounter{table}{-1}"] if at else []),
                f"\\begin{{longtable}}{{{panel.columns}}}",
                *([] if at else [f"{caption}{label}"]),
                "\\toprule", panel.heading, "\\midrule", "\\endhead",
                *panel.body,
                "\\bottomrule",
                "\\end{longtable}",
            ]  # fmt: skip
        notes = [f"({letter}) {text}." for letter, text in table.footnotes.items()]
        texts = [table.banner, *notes, table.method, table.note]
        lines.append(f"\\noindent {latex_text(' '.join(filter(None, texts)), 12)}\\par")
    return "\n".join([*lines, "\\endgroup", ""])
