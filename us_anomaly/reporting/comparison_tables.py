"""A comparison of runs for the terminal: as many tables as its width needs, so that each name and each column is there."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from us_anomaly.reporting.comparison import Comparison, label
from us_anomaly.reporting.comparison_cells import (
    Line,
    difference_lines,
    difference_title,
    figure_lines,
    resolution_caption,
)
from us_anomaly.reporting.metric_names import is_of_pixels

_FRAME = 3
"""What a column takes besides its text: a line and two spaces. One more line closes the table."""
_NEVER_FOLDED = 10
"""Cells up to this width stay on one line."""
_LEAST_NAME = 18
"""Names are not folded to less than this width."""


def comparison_tables(comparison: Comparison, *, width: int) -> list[Table]:
    """Return the table of figures, and the table of differences where there is a baseline.

    Args:
        comparison: What they show.
        width: Characters of a line. What is wider is divided into several tables, at first into figures of images and of
            pixels.
    """
    title = "figures per run"
    if any(comparison.best.values()):
        title += ", best of each data set in bold"
    tables = _tables(comparison, title, lambda mark: figure_lines(comparison, mark), width=width)
    if comparison.baseline is not None:
        tables += _tables(comparison, difference_title(comparison), lambda _: difference_lines(comparison), width=width)
    return tables


def note_on_labels(comparison: Comparison) -> list[str]:
    """Say which settings differ besides those that the names in the tables show."""
    if not comparison.not_in_labels:
        return []
    return [f"The runs differ in {', '.join(comparison.not_in_labels)}, too; output=FILE writes down how."]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """A column of figures."""

    number: int
    heading: str
    least: int
    """Width at which no word is broken."""
    natural: int
    """Width at which nothing is folded."""


def _tables(
    comparison: Comparison, title: str, lines_with: Callable[[Callable[[str], str]], list[Line]], *, width: int
) -> list[Table]:
    """Return tables of no more than `width` characters that have all lines and, together, all columns.

    Args:
        comparison: What they show.
        title: Above the first of them.
        lines_with: Makes the lines, with what is best marked as the argument does it.
        width: Characters of a line.
    """
    plain = lines_with(str)
    names = [line.short_name or line.name for line in plain]
    whole_name = max(map(cell_len, ["run", *names]))
    least_name = min(whole_name, max(_LEAST_NAME, min(width // 3, max(_longest(_pieces(name)) for name in names))))
    room = width - 1 - _FRAME - least_name
    parts = _parts(comparison, plain, room=room)
    tables = []
    for number, columns in enumerate(parts, start=1):
        spare = max(0, room - _width(columns))
        wider_name = min(spare, whole_name - least_name)
        of_several = f"({number} of {len(parts)})" if len(parts) > 1 else ""
        table = Table(title=f"{escape(title) if number == 1 else ''} {of_several}".strip())
        table.add_column("run", width=least_name + wider_name, overflow="fold")
        for column, column_width in zip(columns, _widened(columns, spare - wider_name), strict=True):
            table.add_column(column.heading, justify="right", width=column_width, overflow="fold")
        for line, name in zip(lines_with("[bold]{}[/bold]".format), names, strict=True):
            if line.begins_section:
                table.add_section()
            table.add_row(
                escape(_folded(name, width=least_name + wider_name)), *(line.cells[column.number] for column in columns)
            )
        tables.append(table)
    tables[-1].caption = resolution_caption(comparison)
    return tables


def _parts(comparison: Comparison, lines: Sequence[Line], *, room: int) -> list[list[_Column]]:
    """Divide the columns so that each part fits into `room`, if with shorter headings, and no part is empty."""
    for heading in (label, _shorter_label):
        columns = [_column(number, heading(name), lines) for number, name in enumerate(comparison.columns)]
        if _width(columns) <= room:
            return [columns]
    parts: list[list[_Column]] = []
    level: bool | None = None
    for column, name in zip(columns, comparison.columns, strict=True):
        previous, level = level, is_of_pixels(name)
        if previous != level or _width([*parts[-1], column]) > room:
            parts.append([])
        parts[-1].append(column)
    return parts


def _column(number: int, heading: str, lines: Sequence[Line]) -> _Column:
    cells = [line.cells[number] for line in lines]
    least = [min(cell_len(cell), max(_NEVER_FOLDED, _longest(cell.split()))) for cell in cells]
    return _Column(
        number=number,
        heading=heading,
        least=max([_longest(heading.split()), *least]),
        natural=max(map(cell_len, [heading, *cells])),
    )


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.least + _FRAME for column in columns)


def _widened(columns: Sequence[_Column], spare: int) -> list[int]:
    """Return the widths of columns, with the spare width given to those that lack least of their natural width."""
    widths = {column.number: column.least for column in columns}
    for column in sorted(columns, key=lambda column: column.natural - column.least):
        missing = column.natural - column.least
        if missing <= spare:
            widths[column.number] += missing
            spare -= missing
    return list(widths.values())


def _shorter_label(name: str) -> str:
    """Return a heading of short words."""
    shorter = label(name).replace("average precision", "AP").replace("false-positive", "false- positive")
    return shorter.replace("(", "").replace(")", "")


def _folded(name: str, *, width: int) -> str:
    """Break a name into lines: between words, and inside of those that are too long, after a sign that joins their parts."""
    lines = [""]
    for word in name.split():
        pieces = [word] if cell_len(word) <= width else _pieces(word)
        for number, piece in enumerate(pieces):
            joined = f"{lines[-1]}{'' if number else ' '}{piece}".strip()
            if cell_len(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(piece)
    return "\n".join(line for line in lines if line)


def _pieces(name: str) -> list[str]:
    return re.findall(r"[^\s/_=]+[/_=]*|[/_=]+", name)


def _longest(parts: Iterable[str]) -> int:
    return max(map(cell_len, parts), default=0)
