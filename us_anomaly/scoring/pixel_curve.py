"""Counts of pixels over all thresholds, and every pixel-level figure as a function of them.

Exact and streaming evaluation differ in how they count, not in what they make of it. Thresholds that let in
no new defect pixel only move the false-positive rate, in a straight line, so the points where defect pixels
come in say it all.

Legend: `k` points, in descending order of the threshold. At a point all pixels of equal score (or of one bin)
come in together, as the official evaluation has it.
"""

from dataclasses import dataclass

import numpy as np

from us_anomaly.scoring.metric_set import MetricSet
from us_anomaly.scoring.ranking import FloatArray
from us_anomaly.scoring.region_overlap import limited_area

OVERLAP_LIMITS = (0.3, 0.05)
"""False-positive rates up to which the overlap is integrated."""

NO_DEFECT_PIXEL = "no test image with a mask of its defect"
NO_NORMAL_PIXEL = "no normal pixel in test"


@dataclass(frozen=True, slots=True)
class PixelCurve:
    """Cumulative counts at the points where defect pixels come in."""

    defect: FloatArray
    """Defect pixels at or above the threshold, (k,)."""
    overlap: FloatArray
    """Summed overlap of all regions, (k,)."""
    normal_before: FloatArray
    """Normal pixels above the threshold, (k,)."""
    normal_after: FloatArray
    """Normal pixels at or above the threshold, (k,)."""
    num_normal: int
    """All normal pixels."""
    num_regions: int
    """All regions."""


def figure_names(*, saturated: bool) -> list[str]:
    """Return the names of the figures, in the order of a table."""
    prefix = "auspro" if saturated else "aupro"
    overlaps = [f"{prefix}_{limit:g}" for limit in OVERLAP_LIMITS]
    return ["pixel_auroc", "pixel_average_precision", "pixel_f1_max", *overlaps]


def pixel_figures(curve: PixelCurve, *, saturated: bool) -> MetricSet:
    """Compute the pixel-level figures.

    `pixel_auroc` and `pixel_average_precision` as for images, each pixel counting the same; `pixel_f1_max` at
    the best threshold on these very pixels; `aupro_0.3` and `aupro_0.05`, the area under the per-region
    overlap up to that false-positive rate, divided by it; `auspro_...` where the overlap saturates.
    """
    names = figure_names(saturated=saturated)
    if curve.num_regions == 0:
        return MetricSet(absent=dict.fromkeys(names, NO_DEFECT_PIXEL))
    if curve.num_normal == 0:
        return MetricSet(absent=dict.fromkeys(names, NO_NORMAL_PIXEL))
    num_defect = curve.defect[-1]
    gained = np.diff(curve.defect, prepend=0.0)
    outranked = curve.num_normal - (curve.normal_before + curve.normal_after) / 2
    called = curve.defect + curve.normal_after
    auroc = float(gained @ outranked / (num_defect * curve.num_normal))
    average_precision = float(gained @ (curve.defect / called) / num_defect)
    f1_max = float(np.max(2 * curve.defect / (called + num_defect)))
    overlaps = [overlap_area(curve, limit=limit) for limit in OVERLAP_LIMITS]
    return MetricSet(dict(zip(names, [auroc, average_precision, f1_max, *overlaps], strict=True)))


def overlap_area(curve: PixelCurve, *, limit: float) -> float:
    """Return the normalised area under mean region overlap against false-positive rate, up to `limit`."""
    before = np.concatenate([[0.0], curve.overlap[:-1]])
    rate = np.stack([curve.normal_before, curve.normal_after], axis=1).ravel() / curve.num_normal
    mean_overlap = np.stack([before, curve.overlap], axis=1).ravel() / curve.num_regions
    return limited_area(rate, mean_overlap, limit=limit)
