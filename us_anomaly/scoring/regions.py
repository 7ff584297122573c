"""Where an anomaly map is high: connected regions, strongest first, for people and for other tools.

Legend: `H W` pixels of the image as it lies on disk. Positions are pixel indices, (0, 0) at the upper left.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from us_anomaly.data.bands import bands
from us_anomaly.scoring.map_files import FloatMap
from us_anomaly.scoring.region_overlap import connected_components

CATEGORY_ID = 1

IntArray = npt.NDArray[np.integer[Any]]


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
    measured = _Measured(num_regions, anomaly_map.dtype)
    for pixels in _pixels_inside(labels):
        measured.add(*pixels, anomaly_map)
    for pixels in _pixels_inside(labels):
        measured.find_peaks(*pixels, anomaly_map)
    boxes = ndimage.find_objects(labels)
    corners = np.array([(rows.start, columns.start) for rows, columns in boxes])
    order = np.lexsort((corners[:, 1], corners[:, 0], -measured.areas, -measured.peaks))[:limit]
    return [measured.region(index, boxes[index], width=anomaly_map.shape[1]) for index in order]


def _pixels_inside(labels: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield positions in the flat map and number from 0 of the pixels inside regions, band by band of rows.

    A region may fill a map of any size, and whole lists of its pixels would take many times the memory of the map.
    """
    height, width = labels.shape
    for rows in bands(height, width):
        band = labels[rows].ravel()
        inside = np.flatnonzero(band)
        if inside.size:
            yield inside + rows.start * width, band[inside] - 1


class _Measured:
    """What is measured of all regions while their pixels come by."""

    def __init__(self, num_regions: int, dtype: np.dtype[Any]) -> None:
        self.areas = np.zeros(num_regions, dtype=np.int64)
        self.peaks = np.full(num_regions, -np.inf, dtype=dtype)
        self._peak_at = np.full(num_regions, -1, dtype=np.int64)
        self._scores, self._rows, self._columns = (np.zeros(num_regions) for _ in range(3))

    def add(self, at: IntArray, numbers: IntArray, anomaly_map: FloatMap) -> None:
        """Take pixels into account."""
        scores, rows, columns = anomaly_map.ravel()[at], *np.divmod(at, anomaly_map.shape[1])
        count = len(self.areas)
        self.areas += np.bincount(numbers, minlength=count)
        for total, values in ((self._scores, scores), (self._rows, rows), (self._columns, columns)):
            total += np.bincount(numbers, weights=values, minlength=count)
        np.maximum.at(self.peaks, numbers, scores)

    def find_peaks(self, at: IntArray, numbers: IntArray, anomaly_map: FloatMap) -> None:
        """Note the first pixel of the highest score, when `peaks` are known."""
        is_peak = anomaly_map.ravel()[at] == self.peaks[numbers]
        found, first = np.unique(numbers[is_peak], return_index=True)
        unknown = self._peak_at[found] < 0
        self._peak_at[found[unknown]] = at[is_peak][first[unknown]]

    def region(self, index: int, box: tuple[slice, slice], *, width: int) -> Region:
        """Return one region, given the box around it and the columns of the map."""
        area = int(self.areas[index])
        peak_y, peak_x = divmod(int(self._peak_at[index]), width)
        return Region(
            peak_score=float(self.peaks[index]),
            mean_score=float(self._scores[index] / area),
            peak_x=peak_x,
            peak_y=peak_y,
            centroid_x=float(self._columns[index] / area),
            centroid_y=float(self._rows[index] / area),
            left=int(box[1].start),
            top=int(box[0].start),
            width=int(box[1].stop - box[1].start),
            height=int(box[0].stop - box[0].start),
            area_px=area,
        )


class CocoWriter:
    """Writes regions in the form of COCO detections, image by image, so that the regions of many images take no memory.

    The file holds `images`, `annotations` and one category, `anomaly`. `bbox` is [left, top, width, height] and `score` the
    peak score; what COCO does not know stands beside it.
    """

    def __init__(self, file: TextIO, *, description: str) -> None:
        """Begin the file.

        Args:
            file: Where to write.
            description: What made the regions.
        """
        self._file = file
        self._images: list[str] = []
        self._num_annotations = 0
        category = {"id": CATEGORY_ID, "name": "anomaly", "supercategory": "defect"}
        head = f'"info": {_json({"description": description})},\n"categories": [{_json(category)}]'
        file.write(f'{{\n{head},\n"annotations": [')

    def add(self, filename: str, size: tuple[int, int], regions: Iterable[Region]) -> None:
        """Write the regions of the next image, of some (height, width)."""
        image_id = len(self._images) + 1
        height, width = size
        self._images.append(_json({"id": image_id, "file_name": filename, "height": height, "width": width}))
        for region in regions:
            self._file.write("\n" if self._num_annotations == 0 else ",\n")
            self._num_annotations += 1
            annotation = {
                "id": self._num_annotations,
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
            self._file.write(_json(annotation))

    def finish(self) -> None:
        """Write the images and the end of the file."""
        self._file.write('],\n"images": [\n')
        self._file.write(",\n".join(self._images))
        self._file.write("]\n}\n")


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
