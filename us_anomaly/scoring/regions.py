"""Where an anomaly map is high: connected regions, strongest first, for people and for other tools.

Legend: `H W` pixels of the image as it lies on disk. Positions are pixel indices, (0, 0) at the upper left.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from us_anomaly.scoring.map_files import FloatMap
from us_anomaly.scoring.ranking import BoolArray
from us_anomaly.scoring.region_overlap import connected_components

CATEGORY_ID = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """One connected set of pixels at or above the pixel threshold."""

    peak_score: float
    """Highest score in it."""
    mean_score: float
    """Mean of its scores."""
    peak_x: int
    """Column of the highest score."""
    peak_y: int
    """Row of the highest score."""
    centroid_x: float
    """Mean column of its pixels."""
    centroid_y: float
    """Mean row of its pixels."""
    left: int
    """First column of the box around it."""
    top: int
    """First row of the box around it."""
    width: int
    """Columns of the box."""
    height: int
    """Rows of the box."""
    area_px: int
    """Number of its pixels."""


def strongest_regions(anomaly_map: FloatMap, threshold: float, limit: int | None = None) -> list[Region]:
    """Return the connected regions of a map (H, W) at or above `threshold`, highest peak first.

    Neighbours are eight, as in the per-region overlap. Of equal peaks the larger region comes first, then the upper
    and the left one.

    Args:
        anomaly_map: Scores, (H, W).
        threshold: Pixel threshold, as in `calibration.json`.
        limit: Return at most so many; None returns all.
    """
    labels, num_regions = connected_components(anomaly_map >= threshold)
    if num_regions == 0:
        return []
    inside = np.flatnonzero(labels)  # mostly few: what follows then takes no memory of the size of the map
    numbers = labels.ravel()[inside] - 1
    areas = np.bincount(numbers, minlength=num_regions)
    peaks = np.full(num_regions, -np.inf, dtype=anomaly_map.dtype)
    np.maximum.at(peaks, numbers, anomaly_map.ravel()[inside])
    boxes = ndimage.find_objects(labels)
    corners = np.array([(rows.start, columns.start) for rows, columns in boxes])
    order = np.lexsort((corners[:, 1], corners[:, 0], -areas, -peaks))[:limit]
    return [_described(anomaly_map, boxes[index], inside=labels[boxes[index]] == index + 1) for index in order]


def _described(anomaly_map: FloatMap, box: tuple[slice, slice], *, inside: BoolArray) -> Region:
    """Measure one region, whose pixels are those of the box that are `inside`."""
    rows, columns = np.nonzero(inside)
    scores = anomaly_map[box][inside]
    peak = int(scores.argmax())
    top, left = box[0].start, box[1].start
    return Region(
        peak_score=float(scores[peak]),
        mean_score=float(scores.mean(dtype=np.float64)),
        peak_x=int(left + columns[peak]),
        peak_y=int(top + rows[peak]),
        centroid_x=float(left + columns.mean()),
        centroid_y=float(top + rows.mean()),
        left=int(left),
        top=int(top),
        width=int(box[1].stop - left),
        height=int(box[0].stop - top),
        area_px=int(scores.size),
    )


def to_coco(images: Iterable[tuple[str, tuple[int, int], list[Region]]], *, description: str) -> dict[str, Any]:
    """Return regions in the form of COCO detections: `images`, `annotations` and one category, `anomaly`.

    `bbox` is [left, top, width, height] and `score` the peak score; what COCO does not know stands beside it.

    Args:
        images: Filename, (height, width) and regions of each image.
        description: What made them.
    """
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (filename, (height, width), regions) in enumerate(images, start=1):
        listed.append({"id": image_id, "file_name": filename, "height": height, "width": width})
        for region in regions:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORY_ID,
                    "bbox": [region.left, region.top, region.width, region.height],
                    "area": region.area_px,
                    "iscrowd": 0,
                    "score": region.peak_score,
                    "mean_score": region.mean_score,
                    "peak": [region.peak_x, region.peak_y],
                    "centroid": [region.centroid_x, region.centroid_y],
                }
            )
    return {
        "info": {"description": description},
        "images": listed,
        "annotations": annotations,
        "categories": [{"id": CATEGORY_ID, "name": "anomaly", "supercategory": "defect"}],
    }
