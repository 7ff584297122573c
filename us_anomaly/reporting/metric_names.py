"""How the figures of `evaluation.json` are called and ordered where people read them."""

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

LOWER_IS_BETTER = ("deployed_false_positive_rate", "false_positives", "misses")
WHOLE_NUMBERS = ("false_positives", "misses")
THRESHOLDS = ("optimal_threshold", "oracle_threshold", "deployed_threshold")


def shown(name: str, value: float | None) -> str:
    """Return a figure as text: counts whole, thresholds with four digits, everything else with three decimals."""
    if value is None:
        return "–"
    if name in WHOLE_NUMBERS:
        return f"{value:.0f}"
    return f"{value:.4g}" if name in THRESHOLDS else f"{value:.3f}"
