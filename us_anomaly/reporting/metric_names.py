"""How the figures of `evaluation.json` are called and ordered where people read them."""

from collections.abc import Mapping
from typing import Any

from us_anomaly.scoring.evaluation import WHOLE_NUMBERS

LABELS = {
    "image_auroc": "image AUROC",
    "image_average_precision": "image average precision",
    "f1": "F1 at test-optimal threshold",
    "precision": "precision at test-optimal threshold",
    "recall": "recall at test-optimal threshold",
    "optimal_threshold": "test-optimal threshold",
    "deployed_f1": "F1 at deployed threshold",
    "deployed_precision": "precision at deployed threshold",
    "deployed_recall": "recall at deployed threshold",
    "deployed_accuracy": "accuracy at deployed threshold",
    "deployed_false_positive_rate": "false-positive rate at deployed threshold",
    "false_positives": "false positives at deployed threshold",
    "misses": "misses at deployed threshold",
    "deployed_threshold": "deployed threshold",
    "pixel_auroc": "pixel AUROC",
    "pixel_average_precision": "pixel average precision",
    "pixel_f1_max": "pixel F1 at best threshold",
    "aupro_0.3": "AU-PRO 0.3",
    "aupro_0.05": "AU-PRO 0.05",
    "auspro_0.3": "AU-sPRO 0.3",
    "auspro_0.05": "AU-sPRO 0.05",
}
"""Every figure but the aliases `oracle_...`, in the order of a table."""

SUMMARY = ("image_auroc", "deployed_f1", "misses", "false_positives", "pixel_auroc", "aupro_0.3", "auspro_0.05")
"""What `usad run` prints at its end."""
HEADLINES = (
    "image_auroc",
    "deployed_recall",
    "deployed_precision",
    "deployed_f1",
    "pixel_auroc",
    "aupro_0.3",
    "auspro_0.05",
)
"""What stands at the top of the report, where a sentence tells misses and false alarms."""
PER_TYPE = (
    "image_auroc",
    "deployed_recall",
    "misses",
    "pixel_auroc",
    "pixel_average_precision",
    "aupro_0.3",
    "auspro_0.05",
)
"""Columns of the table of defect types."""
LOWER_IS_BETTER = ("deployed_false_positive_rate", "false_positives", "misses")
THRESHOLDS = ("optimal_threshold", "oracle_threshold", "deployed_threshold")


def shown(name: str, value: float | None) -> str:
    """Return a figure as text: counts whole, thresholds with four digits, everything else with three decimals."""
    if value is None:
        return "–"
    if name in WHOLE_NUMBERS:
        return f"{value:.0f}"
    return f"{value:.4g}" if name in THRESHOLDS else f"{value:.3f}"


def interval_text(name: str, figures: Mapping[str, Any]) -> str:
    """Return the interval of a figure as text; empty where it has none."""
    if name not in figures["intervals"]:
        return ""
    low, high = figures["intervals"][name]
    return f"{shown(name, low)} to {shown(name, high)}"


def is_of_pixels(name: str) -> bool:
    """Return whether a figure is about pixels, not about images."""
    return name.startswith(("pixel", "au"))


def columns_per_type(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Return the headings of `PER_TYPE` by name, of those figures that at least one defect type has."""
    types = evaluation["per_defect_type"].values()
    names = [name for name in PER_TYPE if any(name in one["metrics"] for one in types)]
    return {name: LABELS[name].removesuffix(" at deployed threshold") for name in names}
