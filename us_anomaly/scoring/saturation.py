"""Saturated defects of MVTec LOCO: `defects_config.json` and one mask picture per defect.

Some defects have no definite place: a missing pushpin could lie anywhere in its compartment. The data set
therefore marks all places that would do, and says how many pixels have to be found for the defect to count as
found in full. Bergmann et al., "Beyond Dents and Scratches", IJCV 2022, section 4.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from us_anomaly.data.images.decoding import decode
from us_anomaly.data.images.masks import mask_pictures, mask_values
from us_anomaly.errors import BadImageError, DataError
from us_anomaly.scoring.ranking import BoolArray
from us_anomaly.scoring.region_overlap import Defect, PixelTruth

CONFIG_NAME = "defects_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class DefectKind:
    """One entry of the configuration."""

    name: str
    """Name of the defect."""
    threshold: float
    """Pixels, or a share of the marked area, that count as all of it."""
    is_relative: bool
    """Whether `threshold` is a share."""

    def saturation_area(self, area_px: int) -> float:
        """Return how many pixels, from 1 to `area_px`, count as all of a marked area."""
        wanted = self.threshold * area_px if self.is_relative else self.threshold
        return float(min(max(1, int(wanted)), area_px))


@dataclass(frozen=True, slots=True)
class SaturationTable:
    """Kinds of defects by the value that their mask pictures hold."""

    path: Path
    kinds: dict[int, DefectKind]

    def read_truth(self, folder: Path, *, max_pixels: int) -> PixelTruth:
        """Read a folder of mask pictures, each of which marks one defect.

        Raises:
            BadImageError: A picture cannot be read, the sizes differ, or there is none.
            DataError: A picture holds a value that the configuration does not know, or several.
        """
        defects: list[Defect] = []
        for picture in mask_pictures(folder):
            values = decode(picture, mask_values, max_pixels=max_pixels)
            marked = values != 0
            if defects and marked.shape != defects[0].pixels.shape:
                raise BadImageError(f"{picture}: its size differs from that of the masks beside it")
            if marked.any():
                defects.append(Defect(marked, self._kind(picture, values[marked]).saturation_area(int(marked.sum()))))
        if not defects:
            return PixelTruth(marked, [])
        union: BoolArray = np.logical_or.reduce([defect.pixels for defect in defects])
        return PixelTruth(union, defects)

    def _kind(self, picture: Path, values: np.ndarray) -> DefectKind:
        value = int(values.max())
        if int(values.min()) != value:
            raise DataError(f"{picture}: a mask of one defect must hold one value besides 0, not several")
        if value not in self.kinds:
            raise DataError(f"{picture}: the value {value} is not in {self.path}, which knows {sorted(self.kinds)}")
        return self.kinds[value]


def saturation_file(root: Path, category: str | None) -> Path | None:
    """Return the `defects_config.json` of a data set, or of a category of it; None where there is none."""
    path = root / (category or "") / CONFIG_NAME
    return path if path.is_file() else None


def read_saturation_table(path: Path) -> SaturationTable:
    """Read a `defects_config.json`.

    Raises:
        DataError: The file does not have the form that MVTec LOCO gives it.
    """
    return SaturationTable(path, _parsed(path))


def _parsed(path: Path) -> dict[int, DefectKind]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(entry["pixel_value"]): DefectKind(
                name=str(entry["defect_name"]),
                threshold=float(entry["saturation_threshold"]),
                is_relative=bool(entry["relative_saturation"]),
            )
            for entry in entries
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} must be a list of objects with defect_name, pixel_value, saturation_threshold and "
            f"relative_saturation ({type(error).__name__}: {error})"
        ) from error
