"""How much of each defect region is found, every region weighing the same whatever its size.

Per-region overlap (Bergmann et al., "Uninformed Students", CVPR 2020, and "The MVTec Anomaly Detection
Dataset", IJCV 2021): a region is a connected component of the mask, 8-connected; its overlap at a threshold
is the share of its pixels that score at or above. Saturated per-region overlap (Bergmann et al., "Beyond
Dents and Scratches", IJCV 2022): a region is one annotated defect, connected or not, and counts as found in
full once `saturation_area` of its pixels are.

Both are sums over pixels: a pixel found adds its weight. The weight is 1/area; with saturation,
1/saturation_area for the pixels of the region that score highest and 0 for the rest. So one sort of all
pixels serves all regions.

Legend: `H W` pixels of one image, `F` its defect pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from us_anomaly.scoring.map_files import FloatMap
from us_anomaly.scoring.ranking import BoolArray, FloatArray

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, slots=True)
class Defect:
    """One annotated defect whose overlap saturates."""

    pixels: BoolArray
    """Where it is, (H, W)."""
    saturation_area_px: float
    """So many of its pixels count as all of it."""


@dataclass(frozen=True, slots=True)
class PixelTruth:
    """What is known about the pixels of one image."""

    mask: BoolArray
    """Every defect pixel, (H, W)."""
    defects: Sequence[Defect] | None = None
    """The defects one by one where overlap saturates; None takes the connected components of the mask."""


@dataclass(frozen=True, slots=True)
class PixelItem:
    """The map of one image, what is known about its pixels, and the group it is counted in."""

    anomaly_map: FloatMap
    truth: PixelTruth
    group: str


@dataclass(frozen=True, slots=True)
class DefectPixels:
    """The defect pixels of one image."""

    scores: npt.NDArray[np.float32]
    """Their scores, (F,)."""
    weights: FloatArray
    """What each adds to the summed overlap, (F,); together they add up to `num_regions`."""
    num_regions: int
    """Number of regions in the image."""


def defect_pixels(anomaly_map: FloatMap, truth: PixelTruth) -> DefectPixels:
    """Return scores and overlap weights of the defect pixels of a map (H, W)."""
    scores = anomaly_map[truth.mask]
    if truth.defects is None:
        box = _bounding_box(truth.mask)
        regions, num_regions = connected_components(truth.mask[box])
        of_pixel = regions[truth.mask[box]]
        weights = 1.0 / np.bincount(of_pixel)[of_pixel]
        return DefectPixels(scores, weights, num_regions)
    weight_map = np.zeros(anomaly_map.shape)
    for defect in truth.defects:
        weight_map[defect.pixels] += _saturating_weights(anomaly_map[defect.pixels], defect.saturation_area_px)
    return DefectPixels(scores, weight_map[truth.mask], len(truth.defects))


def connected_components(mask: BoolArray) -> tuple[npt.NDArray[np.int32], int]:
    """Number the 8-connected components of a mask (H, W) from 1, background 0, and count them."""
    regions, num_regions = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    return regions, int(num_regions)


def _bounding_box(mask: BoolArray) -> tuple[slice, slice]:
    """Return the part of a mask (H, W) that holds everything; a defect is small, and only there labels are needed."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _saturating_weights(scores: npt.NDArray[np.float32], saturation_area_px: float) -> FloatArray:
    """Give the pixels that are found first a share each until the shares add up to 1, (F,)."""
    area = min(saturation_area_px, float(scores.size))
    counted = np.minimum(np.arange(scores.size + 1, dtype=np.float64), area)
    weights = np.empty(scores.size)
    weights[np.argsort(-scores, kind="stable")] = np.diff(counted) / area
    return weights


def limited_area(false_positive_rate: FloatArray, overlap: FloatArray, *, limit: float) -> float:
    """Return the area under a curve from 0 to `limit`, divided by `limit`.

    Trapezoids between the points, which ascend in `false_positive_rate`; the last one is cut at `limit` by
    linear interpolation. Points (0, 0) and (1, 1) are added, as the official evaluation does.
    """
    x = np.concatenate([[0.0], false_positive_rate, [1.0]])
    y = np.concatenate([[0.0], overlap, [1.0]])
    inside = int(np.searchsorted(x, limit, side="right"))  # points at or left of the limit; at least (0, 0)
    if inside < x.size:
        share = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        x_end = np.append(x[:inside], limit)
        y_end = np.append(y[:inside], y[inside - 1] + share * (y[inside] - y[inside - 1]))
    else:
        x_end, y_end = x, y
    return float(np.diff(x_end) @ (y_end[1:] + y_end[:-1]) / 2 / limit)
