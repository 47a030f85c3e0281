"""The forms of a table on disk: Markdown, LaTeX, CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One entry of a table; `best` of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table as any of its forms shows it: the first columns are words, the others numbers.

    Attributes:
        name: Of its files.
        title: What the numbers are.
        words: How many columns are words.
        columns, rows: Headings and cells.
        notes: What must be said below it, a sentence each.
    """

    name: str
    title: str
    words: int
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def markdown(table: Table) -> str:
    """The table as Markdown, the best in bold."""
    head = [_one_line(column) for column in table.columns]
    lines = [_one_line(table.title), "", _bar(head)]
    lines.append(_bar(["---"] * table.words + ["---:"] * (len(head) - table.words)))
    for row in table.rows:
        lines.append(_bar([f"**{_one_line(c.text)}**" if c.best else _one_line(c.text) for c in row]))
    return "\n".join([*lines, *(f"\n{_one_line(note)}" for note in table.notes)]) + "\n"


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _one_line(text: str) -> str:
    """The text on one line, without what Markdown would take for a column or for HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "µ": r"$\mu$",
    "⁴": r"$^4$",
    "²": r"$^2$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
}


def latex(table: Table) -> str:
    """The table as LaTeX for the package booktabs, the best in bold."""
    kinds = "l" * table.words + "r" * (len(table.columns) - table.words)
    lines = [f"% {' '.join(note.split())}" for note in (table.title, *table.notes)]
    heads = _ampersand([_escaped(column) for column in table.columns])
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", heads, r"\midrule"]
    for row in table.rows:
        lines.append(_ampersand([rf"\textbf{{{_escaped(c.text)}}}" if c.best else _escaped(c.text) for c in row]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _ampersand(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    """The text as LaTeX sets it; a bracket that opens a cell would be read as an option of the line before."""
    escaped = "".join(LATEX.get(c, c) for c in " ".join(text.split()))
    return "{" + escaped + "}" if escaped.startswith("[") else escaped


def comma(table: Table) -> str:
    """The table as CSV, as it is shown; `scores.csv` has the numbers unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([" ".join(column.split()) for column in table.columns])
    writer.writerows([cell.text for cell in row] for row in table.rows)
    return out.getvalue()
