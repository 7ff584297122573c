"""A comparison of runs for the terminal, spreadsheets, documents and programs."""

import csv
import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from us_anomaly.reporting.comparison import Comparison, Difference, label
from us_anomaly.reporting.metric_names import shown

ABSENT = "–"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return the table of figures, and the table of differences where there is a baseline."""
    tables = [_table(comparison, "figures per run, best in bold", _figure_rows(comparison, "[bold]{}[/bold]".format))]
    if comparison.baseline is not None:
        title = f"difference to {comparison.baseline}, with 95% interval where test images can be paired"
        tables.append(_table(comparison, title, _difference_rows(comparison)))
    return tables


def comparison_markdown(comparison: Comparison) -> str:
    """Return the same tables in Markdown, with the notes and the folders that could not be used."""
    parts = [_markdown_table(comparison, _figure_rows(comparison, "**{}**".format))]
    if comparison.baseline is not None:
        parts.append(f"Difference to {comparison.baseline}, with 95% interval where test images can be paired:\n")
        parts.append(_markdown_table(comparison, _difference_rows(comparison)))
    parts += [f"- {line}\n" for line in comparison_notes(comparison)]
    return "\n".join(parts)


def comparison_csv(comparison: Comparison) -> str:
    """Return CSV: a row per run, then mean and best; absent figures are empty cells.

    With a baseline, three more columns per figure: difference and the ends of its interval.
    """
    buffer = io.StringIO()
    columns = ["run", "resolution", *comparison.columns]
    if comparison.baseline is not None:
        columns += [f"{name}_{part}" for name in comparison.columns for part in ("difference", "low", "high")]
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        writer.writerow({"run": row.name, "resolution": row.resolution, **row.figures, **_csv_cells(row.differences)})
    writer.writerow({"run": "mean", **comparison.mean, **_csv_cells(comparison.mean_differences)})
    writer.writerow({"run": "best", **{name: "; ".join(best) for name, best in comparison.best.items()}})
    return buffer.getvalue()


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values."""
    content = asdict(comparison)
    content["unusable"] = [{"folder": one.folder.as_posix(), "reason": one.reason} for one in comparison.unusable]
    return content


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return what must be read with the table: notes, incomplete means, and the folders that are missing in it."""
    partial = [
        f"{label(name)} is the mean of {count} of {len(comparison.rows)} runs; the others do not have it."
        for name, count in comparison.num_averaged.items()
        if count < len(comparison.rows)
    ]
    missing = [f"not in the table: {one.folder.as_posix()}: {one.reason}" for one in comparison.unusable]
    return comparison.notes + partial + missing


def _figure_rows(comparison: Comparison, mark: Callable[[str], str]) -> list[list[str]]:
    """Return the cells of all rows and of the mean; `mark` makes the best of a column stand out."""
    rows = []
    for row in comparison.rows:
        cells = [shown(name, row.figures.get(name)) for name in comparison.columns]
        marked = [
            mark(cell) if row.name in comparison.best[name] else cell
            for name, cell in zip(comparison.columns, cells, strict=True)
        ]
        rows.append([row.name, *marked])
    rows.append(["mean", *(shown(name, comparison.mean[name]) for name in comparison.columns)])
    return rows


def _difference_rows(comparison: Comparison) -> list[list[str]]:
    named = [(row.name, row.differences) for row in comparison.rows if row.differences]
    named.append(("mean", comparison.mean_differences))
    return [[name, *(_difference(cells.get(column)) for column in comparison.columns)] for name, cells in named]


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ABSENT
    text = f"{difference.value:+.3f}"
    if difference.interval is not None:
        text += f" ({difference.interval[0]:+.3f} to {difference.interval[1]:+.3f})"
    return text


def _table(comparison: Comparison, title: str, rows: list[list[str]]) -> Table:
    resolutions = ", ".join(sorted({row.resolution for row in comparison.rows}))
    table = Table(title=escape(title), caption=f"resolution of pixel figures: {resolutions}")
    table.add_column("run")
    for name in comparison.columns:
        table.add_column(label(name), justify="right", min_width=5)
    for name, *cells in rows[:-1]:
        table.add_row(escape(name), *cells)
    table.add_section()
    table.add_row(*rows[-1])
    return table


def _markdown_table(comparison: Comparison, rows: list[list[str]]) -> str:
    head = ["run", *(label(name) for name in comparison.columns)]
    rule = ["---", *("---:" for _ in comparison.columns)]
    lines = ["| " + " | ".join(_escaped(cell) for cell in cells) + " |" for cells in [head, rule, *rows]]
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _csv_cells(differences: dict[str, Difference]) -> dict[str, float]:
    cells = {}
    for name, difference in differences.items():
        cells[f"{name}_difference"] = difference.value
        if difference.interval is not None:
            cells[f"{name}_low"], cells[f"{name}_high"] = difference.interval
    return cells


WRITERS: dict[str, Callable[[Comparison], str | dict[str, Any]]] = {
    ".csv": comparison_csv,
    ".md": comparison_markdown,
    ".json": comparison_json,
}
"""Formats by the suffix of a file."""


def output_files(output: Path) -> list[Path]:
    """Return the files to write for `output`: itself if its suffix is that of a format, else all formats in it."""
    if output.suffix in WRITERS:
        return [output]
    return [output / f"comparison{suffix}" for suffix in WRITERS]
