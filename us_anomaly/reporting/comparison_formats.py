"""A comparison of runs for spreadsheets, documents and programs."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from us_anomaly.reporting.comparison import Comparison, label
from us_anomaly.reporting.comparison_cells import (
    Line,
    comparison_notes,
    difference_lines,
    difference_title,
    figure_lines,
    resolution_caption,
)
from us_anomaly.reporting.comparison_means import Mean
from us_anomaly.reporting.comparison_rows import Difference, Row
from us_anomaly.reporting.tables import IN_CSV
from us_anomaly.settings.plain import typed


def comparison_markdown(comparison: Comparison) -> str:
    """Return the tables in Markdown, with the resolution, the notes and the folders that could not be used.

    Where runs differ in settings, the last column says what each has in all of them.
    """
    parts = [_markdown_table(comparison, figure_lines(comparison, "**{}**".format))]
    if comparison.baseline is not None:
        title = difference_title(comparison)
        parts += [f"{title[0].upper()}{title[1:]}:\n", _markdown_table(comparison, difference_lines(comparison))]
    parts += [f"- {line}\n" for line in (resolution_caption(comparison), *comparison_notes(comparison))]
    return "\n".join(parts)


def comparison_csv(comparison: Comparison) -> str:
    """Return CSV: a row per run, then means with their spread over seeds, and best.

    Absent figures are empty cells, peeking ones are called `oracle_...`.
    With a baseline, three more columns per figure: difference and the ends of its interval. The last columns are the run
    directory, the one that it repeats and what speaks against its figures if there are such rows, and each setting in which the
    runs differ.
    """
    buffer = io.StringIO()
    names = list(_csv_figures(dict.fromkeys(comparison.columns)))
    columns = ["run", "resolution", *names]
    if comparison.baseline is not None:
        columns += [f"{name}_{part}" for name in names for part in ("difference", "low", "high")]
    columns.append("run_dir")
    if any(row.repeats for row in comparison.rows):
        columns.append("repeats")
    if any(map(_doubt, comparison.rows)):
        columns.append("doubt")
    writer = csv.DictWriter(buffer, columns + comparison.settings, lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        told = {"run": row.name, "resolution": row.resolution, "run_dir": row.folder}
        told |= {"repeats": row.repeats} if row.repeats else {}
        told |= {"doubt": doubt} if (doubt := _doubt(row)) else {}
        figures = _csv_figures(row.figures)
        writer.writerow(told | figures | _csv_differences(row.differences) | _csv_settings(row.settings))
    for mean in comparison.seed_means + comparison.means:
        settings = _csv_settings(mean.settings)
        gains = _csv_differences(mean.differences)
        writer.writerow({"run": mean.called("mean"), **_csv_figures(mean.figures), **gains, **settings})
        for what, figures in _spread(mean):
            if figures:
                writer.writerow({"run": mean.called(what), **_csv_figures(figures), **settings})
    writer.writerow({"run": "best", **_csv_figures({name: "; ".join(best) for name, best in comparison.best.items()})})
    return buffer.getvalue()


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values; `mean` and its like are those of the mean of all rows, else empty."""
    content = asdict(comparison)
    content["unusable"] = [{"folder": one.folder.as_posix(), "reason": one.reason} for one in comparison.unusable]
    of_all: dict[str, Any] = next((mean for mean in content["means"] if not mean["of"]), {})
    for name, key in (("mean", "figures"), ("num_averaged", "num_averaged"), ("mean_differences", "differences")):
        content[name] = of_all.get(key, {})
    return content


def _markdown_table(comparison: Comparison, lines: Sequence[Line]) -> str:
    rows = [
        ["run", *(label(name) for name in comparison.columns), "settings"],
        ["---", *("---:" for _ in comparison.columns), "---"],
    ]
    for line in lines:
        settings = ", ".join(f"{key}={typed(value)}" for key, value in line.settings.items())
        rows.append([line.name, *line.cells, settings])
    shown = rows if comparison.settings else [row[:-1] for row in rows]
    return "".join("| " + " | ".join(_escaped(cell) for cell in row) + " |\n" for row in shown)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _spread(mean: Mean) -> list[tuple[str, dict[str, float]]]:
    return [("smallest", mean.smallest), ("largest", mean.largest), ("standard deviation", mean.deviations)]


def _doubt(row: Row) -> str | None:
    return row.left_undone if row.is_whole else "figures of files that were made again since; in no mean"


def _csv_figures(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Name figures as the columns of CSV are."""
    return {IN_CSV.get(name, name): cell for name, cell in cells.items()}


def _csv_differences(differences: dict[str, Difference]) -> dict[str, float]:
    cells = {}
    for name, difference in _csv_figures(differences).items():
        cells[f"{name}_difference"] = difference.value
        if difference.interval is not None:
            cells[f"{name}_low"], cells[f"{name}_high"] = difference.interval
    return cells


def _csv_settings(settings: dict[str, Any]) -> dict[str, str]:
    return {key: typed(value) for key, value in settings.items()}


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
