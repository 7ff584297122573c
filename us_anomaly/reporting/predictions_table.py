"""Results per image as CSV, for spreadsheets and other tools."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = (
    "filename",
    "label_is_anomalous",
    "is_anomalous",
    "anomaly_score",
    "normalized_score",
    "correct",
    "map_path",
    "heatmap_path",
    "uncertainty_path",
    "threshold",
)


def predictions_csv(results: Iterable[Mapping[str, Any]], *, threshold: float) -> str:
    """Return a row per line of `predictions.jsonl`; truth values are 0 and 1, what is not known is an empty cell.

    Args:
        results: The lines.
        threshold: The image threshold by which they were decided, which another calibration may change.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        cells = {
            "filename": result["filename"],
            "label_is_anomalous": result.get("ground_truth", {}).get("is_anomalous"),
            "correct": result.get("correct"),
            **result["prediction"],
            "threshold": threshold,
        }
        writer.writerow(_cell(cells.get(column)) for column in COLUMNS)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value
