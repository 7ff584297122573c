"""Layout *csv*: a table with one row per picture."""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from us_anomaly.data.listing import MAX_NAMED, contents, exists, refuse_outside, relative, some
from us_anomaly.data.sample import NORMAL_TYPE, Sample, Split
from us_anomaly.errors import DataError

DELIMITERS = (",", ";", "\t")
MAX_LINES_NAMED = 5
_LABELS = {"0": False, "false": False, "1": True, "true": True}
_SPLITS: Mapping[str, Split | None] = {
    "": None,
    "train": "train",
    "val": "val",
    "validation": "val",
    "test": "test",
}
NORMAL_TYPES = ("", NORMAL_TYPE, "normal", "ok", "none")
"""What people call normal pictures, as a defect type or as a folder."""
ANOMALOUS_TYPE = "anomaly"
"""Defect type of anomalous rows that do not name theirs."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    line: int
    """Number of its first line in the file, from 1."""
    cells: dict[str, str]
    """Stripped cells by lower-case column name."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one row of a table."""

    line: int
    """Number of its first line."""
    what: str
    """What is wrong, or what would be right; rows of which the same is said are told together."""
    got: str | None = None
    """The cell, where it is the fault."""


def read_table(root: Path, *, file: str, allow_outside_root: bool = False) -> list[Sample]:
    """Return the pictures that the table `file` lists, sorted by filename.

    Columns: `filename`, `is_anomalous` (0, 1, true, false) and, where known, `mask_path`, `defect_type`,
    `split` (train, val, test), `group`; others are ignored. Paths are relative to the table's folder or to
    `root`; a path with backslashes, as Windows writes it, is read with slashes where only that exists.

    Raises:
        DataError: The table cannot be read, rows are wrong (all of them are told, with their line numbers),
            files do not exist, or paths leave `root`.
    """
    table = root / file
    rows = read_rows(table, required=("filename", "is_anomalous"))
    reader = _RowReader(root, table)
    samples: dict[str, Sample] = {}
    lines: dict[str, int] = {}
    for row in rows:
        sample = reader.sample(row)
        if sample is None:
            continue
        if sample.filename in samples:
            reader.faults.append(Fault(row.line, f"{sample.filename} is already in line {lines[sample.filename]}"))
        samples[sample.filename] = sample
        lines[sample.filename] = row.line
    refuse_faults(table, reader.faults)
    paths = [path for sample in samples.values() for path in (sample.filename, sample.mask_path) if path is not None]
    refuse_outside(root, paths, allow_outside_root=allow_outside_root)
    if not samples:
        raise DataError(f"{table} has a header and no rows")
    return sorted(samples.values(), key=lambda sample: sample.filename)


def read_rows(table: Path, *, required: tuple[str, ...]) -> list[Row]:
    """Read a table with comma, semicolon or tab between its cells, in UTF-8 with or without byte order mark.

    Raises:
        DataError: The file is missing, is not such a table, or lacks a required column.
    """
    if not table.is_file():
        raise DataError(f"{table} does not exist; in its folder, {contents(table.parent)}. Name it with data.file=")
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{table}, line {line}: not UTF-8; save the table as CSV in UTF-8") from error
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}") from error
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    columns: list[str] = []
    start = 1
    try:
        for cells in reader:
            if not columns:
                columns = _columns(table, cells, required)
            elif any(cell.strip() for cell in cells):
                if any(cell.strip() for cell in cells[len(columns) :]):
                    raise DataError(f"{table}, line {start}: {len(cells)} cells under {len(columns)} column names")
                stripped = [cell.strip() for cell in cells] + [""] * (len(columns) - len(cells))
                rows.append(Row(start, dict(zip(columns, stripped, strict=False))))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: not a table ({error})") from error
    if not columns:
        raise DataError(f"{table} is empty; its first line must name the columns {', '.join(required)}")
    return rows


def refuse_faults(table: Path, faults: Sequence[Fault]) -> None:
    """Raise one error for all faults of a table.

    Raises:
        DataError: There are faults; the first 20 kinds are told, one a line.
    """
    if not faults:
        return
    alike: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        alike[fault.what].append(fault)
    told = [_told(same) for same in list(alike.values())[:MAX_NAMED]]
    if len(alike) > MAX_NAMED:
        told.append(f"and {len(alike) - MAX_NAMED} more")
    num_rows = len({fault.line for fault in faults})
    count = "1 row" if num_rows == 1 else f"{num_rows} rows"
    separator = " " if len(told) == 1 else "\n  "
    raise DataError(separator.join([f"{table}: {count} cannot be used:", *told]))


def _told(same: Sequence[Fault]) -> str:
    """Say what is wrong with all the rows of which the same is said."""
    lines = some([str(fault.line) for fault in same], limit=MAX_LINES_NAMED)
    got = list(dict.fromkeys(repr(fault.got) for fault in same if fault.got is not None))
    found = f", got {some(got, limit=MAX_LINES_NAMED)}" if got else ""
    return f"{'line' if len(same) == 1 else 'lines'} {lines}: {same[0].what}{found}"


class _RowReader:
    """Turns rows into samples and collects what is wrong with them."""

    def __init__(self, root: Path, table: Path) -> None:
        self._root = root
        self._folders = list(dict.fromkeys([table.parent, root]))
        self.faults: list[Fault] = []

    def sample(self, row: Row) -> Sample | None:
        """Return the sample of a row, or None after writing down what is wrong with it."""
        cells = row.cells
        num_faults = len(self.faults)
        is_anomalous = _LABELS.get(cells["is_anomalous"].lower())
        if is_anomalous is None:
            self._refuse(row, "is_anomalous must be 0 (good) or 1 (anomalous)", got=cells["is_anomalous"])
        split = cells.get("split", "").lower()
        if split not in _SPLITS:
            self._refuse(row, "split must be train, val or test", got=cells["split"])
        defect_type = cells.get("defect_type", "")
        if is_anomalous is not None and defect_type and (defect_type.lower() in NORMAL_TYPES) == is_anomalous:
            self._refuse(row, f"is_anomalous={cells['is_anomalous']} contradicts defect_type={defect_type}")
        filename = self._located(row, "filename")
        if not cells["filename"]:
            self._refuse(row, "filename is empty")
        mask_path = self._located(row, "mask_path")
        if len(self.faults) > num_faults or filename is None:
            return None
        return Sample(
            filename=filename,
            is_anomalous=bool(is_anomalous),
            defect_type=(defect_type or ANOMALOUS_TYPE) if is_anomalous else NORMAL_TYPE,
            mask_path=mask_path,
            split=_SPLITS[split],
            group=cells.get("group") or None,
        )

    def _refuse(self, row: Row, what: str, *, got: str | None = None) -> None:
        self.faults.append(Fault(row.line, what, got))

    def _located(self, row: Row, column: str) -> str | None:
        """Return the path in a cell relative to the root (absolute if outside); None if the cell is empty or nothing is there."""
        path = row.cells.get(column)
        if not path:
            return None
        for spelling in dict.fromkeys([path, path.replace("\\", "/")]):  # the second for tables written on Windows
            for folder in self._folders:
                candidate = Path(os.path.abspath(folder / spelling))  # noqa: PTH100 (resolve() would follow links)
                if exists(candidate):
                    root = Path(os.path.abspath(self._root))  # noqa: PTH100
                    return relative(root, candidate)
        verb = "does not exist in" if len(self._folders) == 1 else "exists neither in"
        self._refuse(row, f"{path} {verb} {' nor in '.join(map(str, self._folders))}")
        return None


def _columns(table: Path, cells: list[str], required: tuple[str, ...]) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(
            f"{table}, line 1: no column {' and no column '.join(missing)}; "
            f"the first line must name the columns, it holds: {', '.join(columns)}"
        )
    named = [name for name in columns if name]
    repeated = sorted({name for name in named if columns.count(name) > 1})
    if repeated:
        raise DataError(f"{table}, line 1: the column {', '.join(repeated)} appears twice")
    return columns
