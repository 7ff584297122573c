"""`usad compare`: any number of evaluated run directories in one table."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from us_anomaly.errors import DataError, SettingsError
from us_anomaly.reporting.comparison import Comparison, compare
from us_anomaly.reporting.comparison_cells import comparison_notes
from us_anomaly.reporting.comparison_formats import WRITERS, output_files
from us_anomaly.reporting.comparison_tables import comparison_tables, note_on_labels
from us_anomaly.reporting.run_collection import EvaluatedRun, Unusable, collect_runs
from us_anomaly.run_dir.atomic import write_json, write_text

WIDTH_IN_FILES = 200


def run(folders: Sequence[str], *, baseline: str | None = None, output: str | None = None) -> None:
    """Compare run directories; print the table, and write it where `output` says.

    Args:
        folders: Run directories, or folders that hold some, such as a sweep.
        baseline: A run directory, or a folder that holds some, to measure the others against.
        output: A file that ends in .csv, .md or .json, or a folder that gets all three.

    Raises:
        SettingsError: No folder was given, or the file's ending is of another format.
        DataError: None of the folders, or no baseline, can be compared.
    """
    if not folders:
        raise SettingsError(
            "usad compare needs run directories: usad compare runs/bottle runs/cable, or a sweep folder"
        )
    if output is not None and Path(output).suffix not in (*WRITERS, ""):
        raise SettingsError(
            f"the output of compare is a folder, or a file that ends in {', '.join(WRITERS)}; got {output}"
        )
    runs, unusable = collect_runs([Path(folder) for folder in folders])
    _require(runs, unusable, "none of the folders can be compared")
    references: list[EvaluatedRun] = []
    if baseline is not None:
        references, not_references = collect_runs([Path(baseline)])
        _require(references, not_references, f"the baseline {baseline} cannot be compared with")
    comparison = compare(runs, unusable, baseline=references)
    _show(comparison)
    if output is not None:
        for path in _write(comparison, Path(output)):
            Console(highlight=False, soft_wrap=True).print(f"Comparison: {path}", markup=False)


def _require(runs: Sequence[EvaluatedRun], unusable: Sequence[Unusable], complaint: str) -> None:
    if not runs:
        reasons = "; ".join(f"{one.folder}: {one.reason}" for one in unusable)
        raise DataError(f"{complaint}: {reasons}")


def _show(comparison: Comparison) -> None:
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=WIDTH_IN_FILES)
    for table in comparison_tables(comparison, width=console.width):
        console.print(table)
    for note in [*note_on_labels(comparison), *comparison_notes(comparison)]:
        console.print(note, markup=False, soft_wrap=True)


def _write(comparison: Comparison, output: Path) -> list[Path]:
    paths = output_files(output)
    for path in paths:
        content = WRITERS[path.suffix](comparison)
        if isinstance(content, str):
            write_text(path, content)
        else:
            write_json(path, content)
    return paths
