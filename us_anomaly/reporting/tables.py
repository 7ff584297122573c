"""The evaluation as tables: for the terminal and as CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from us_anomaly.reporting.metric_names import LABELS, columns_per_type, interval_text, is_of_pixels, shown

Evaluation = Mapping[str, Any]
"""Content of `evaluation.json`."""

IN_CSV = {
    "f1": "oracle_f1",
    "precision": "oracle_precision",
    "recall": "oracle_recall",
    "optimal_threshold": "oracle_threshold",
}
"""Columns of CSV files whose figures peek at the test labels, and which have no headings to say so but their names."""


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """Return the table of all figures, and the table of defect types where there are several."""
    tables = [_overall_table(evaluation)]
    if len(evaluation["per_defect_type"]) > 1:
        tables.append(_type_table(evaluation))
    return tables


def evaluation_notes(evaluation: Evaluation) -> list[str]:
    """Return what a reader must know, as sentences: choice of the threshold, what is absent, what is odd."""
    notes = []
    threshold = evaluation["threshold"]
    if threshold["reason"]:
        notes.append(f"The threshold was chosen by the rule {threshold['rule']}: {threshold['reason']}.")
    reasons: dict[str, list[str]] = {}
    for name, reason in evaluation["absent"].items():
        if name in LABELS:
            reasons.setdefault(reason, []).append(LABELS[name])
    notes += [f"Absent ({reason}): {', '.join(names)}." for reason, names in reasons.items()]
    warnings = {kind: count for kind, count in evaluation["warnings"].items() if count}
    if warnings:
        listed = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in warnings.items())
        notes.append(f"Odd data: {listed}; see warnings in evaluation.json.")
    return notes


def resolution_text(evaluation: Evaluation) -> str:
    """Return the resolution at which pixels were compared, for example `original, 256x256`."""
    if evaluation["resolution_px"] is None:
        return "no pixel metrics"
    smallest, largest = evaluation["resolution_px"]["smallest"], evaluation["resolution_px"]["largest"]
    size = f"{smallest[0]}x{smallest[1]}"
    if smallest != largest:
        size += f" to {largest[0]}x{largest[1]}"
    return f"{evaluation['resolution']}, {size}"


def evaluation_csv(evaluation: Evaluation) -> str:
    """Return CSV: a row for all test images, then one per defect type; absent figures are empty, peeking ones `oracle_...`."""
    rows = [_csv_row("all", evaluation["counts"]["images"], evaluation, evaluation)]
    for name, one_type in evaluation["per_defect_type"].items():
        rows.append(_csv_row(name, one_type["count"], one_type, evaluation))
    names = [column for name in LABELS if any((column := IN_CSV.get(name, name)) in row for row in rows)]
    interval_names = [
        f"{name}_{end}" for name in names for end in ("low", "high") if any(f"{name}_{end}" in row for row in rows)
    ]
    buffer = io.StringIO()
    columns = ["group", "images", "resolution", "algorithm", *names, *interval_names]
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _csv_row(group: str, count: int, figures: Mapping[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    row: dict[str, Any] = {
        "group": group,
        "images": count,
        "resolution": evaluation["resolution"],
        "algorithm": evaluation["algorithm"] or "",
    }
    row |= {IN_CSV.get(name, name): value for name, value in figures["metrics"].items() if name in LABELS}
    for name, (low, high) in figures["intervals"].items():
        if name in LABELS:
            column = IN_CSV.get(name, name)
            row |= {f"{column}_low": low, f"{column}_high": high}
    return row


def _overall_table(evaluation: Evaluation) -> Table:
    counts = evaluation["counts"]
    algorithm = evaluation["algorithm"] or "–"
    table = Table(
        title=f"{counts['images']} test images ({counts['normal']} normal, {counts['anomalous']} anomalous)",
        caption=f"resolution: {resolution_text(evaluation)}; algorithm: {algorithm}",
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column(f"{evaluation['bootstrap']['confidence']:.0%} interval", justify="right")
    previous_level = None
    for name, label in LABELS.items():
        if name not in evaluation["metrics"]:
            continue
        level = is_of_pixels(name)
        if previous_level is not None and level != previous_level:
            table.add_section()
        previous_level = level
        table.add_row(label, shown(name, evaluation["metrics"][name]), interval_text(name, evaluation))
    return table


def _type_table(evaluation: Evaluation) -> Table:
    types = evaluation["per_defect_type"]
    headings = columns_per_type(evaluation)
    table = Table(
        title="per defect type, each against all normal test images",
        caption=f"resolution: {resolution_text(evaluation)}",
    )
    table.add_column("defect type")
    table.add_column("images", justify="right")
    for heading in headings.values():
        table.add_column(heading, justify="right")
    for defect_type, one in types.items():
        cells = [shown(name, one["metrics"].get(name)) for name in headings]
        table.add_row(escape(defect_type), str(one["count"]), *cells)
    return table
