"""Maps and masks of the evaluated images, read one at a time, as often as the evaluation goes over them.

Which images take part: normal ones, and anomalous ones whose mask marks something. The rest is counted by the
rules of `data_problems` and left out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from us_anomaly.data.images import load_mask
from us_anomaly.data.images.masks import same_proportions
from us_anomaly.errors import DataError
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.map_files import FloatMap, map_size, read_map
from us_anomaly.scoring.ranking import BoolArray
from us_anomaly.scoring.region_overlap import Defect, PixelItem, PixelTruth
from us_anomaly.scoring.saturation import SaturationTable
from us_anomaly.scoring.scored_images import ScoredImage

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelSource:
    """Iterate over the images that have a truth per pixel; each iteration reads the files anew."""

    images: Sequence[ScoredImage]
    """Images whose maps were saved."""
    run_dir: Path
    """Folder that `map_path` is relative to."""
    data_root: Path
    """Folder that `mask_path` is relative to."""
    max_image_pixels: int
    """Larger masks are refused."""
    network_size: Callable[[Size], Size] | None
    """Compare maps and masks at the size that the network sees of an image of some size; None at the size of the images."""
    saturation: SaturationTable | None
    """Saturation of each kind of defect where the data set defines one (MVTec LOCO)."""
    problems: DataProblems
    """Receives what is odd."""

    def sizes(self) -> list[Size]:
        """Return height and width at which each image is compared, from the headers of the maps."""
        sizes = [map_size(self._map_path(image), max_pixels=self.max_image_pixels) for image in self.images]
        return sizes if self.network_size is None else [self.network_size(size) for size in sizes]

    def __iter__(self) -> Iterator[PixelItem]:
        """Yield map, truth and group of each image that takes part.

        Raises:
            ArtifactError: A map cannot be read.
            BadImageError: A mask cannot be read.
            DataError: The proportions of a mask are not those of its image.
        """
        for image in self.images:
            size = map_size(self._map_path(image), max_pixels=self.max_image_pixels)
            truth = self._truth(image, size)
            if truth is not None:
                anomaly_map = read_map(self._map_path(image), max_pixels=self.max_image_pixels)
                if self.network_size is not None:
                    anomaly_map = _resized_map(anomaly_map, self.network_size(size))
                yield PixelItem(anomaly_map, truth, image.defect_type)

    def _map_path(self, image: ScoredImage) -> Path:
        assert image.map_path is not None
        return self.run_dir / image.map_path

    def _truth(self, image: ScoredImage, size: Size) -> PixelTruth | None:
        """Return the truth at the size of comparison, or None where the image is left out."""
        truth = self._stored_truth(image, size)
        if truth is None:
            if image.is_anomalous:
                self.problems.add("anomalous_without_mask", image.filename)
                return None
            truth = PixelTruth(np.zeros(size, dtype=bool))
        marks = bool(truth.mask.any())
        if marks != image.is_anomalous:
            kind = "normal_with_defect_mask" if marks else "anomalous_with_empty_mask"
            self.problems.add(kind, image.filename)
            return None
        if self.network_size is not None:
            truth = _resized_truth(truth, self.network_size(size))
            if marks and not truth.mask.any():
                self.problems.add("defects_lost_by_resizing", image.filename)
                return None
        return truth

    def _stored_truth(self, image: ScoredImage, size: Size) -> PixelTruth | None:
        """Read the mask and bring it to the size of the image."""
        if image.mask_path is None:
            return None
        path = self.data_root / image.mask_path
        if self.saturation is not None and path.is_dir():
            truth = self.saturation.read_truth(path, max_pixels=self.max_image_pixels)
        else:
            mask = load_mask(path, max_pixels=self.max_image_pixels)
            truth = PixelTruth(mask.pixels)
            if not mask.is_binary:
                self.problems.add("masks_not_binary", image.filename)
        if truth.mask.shape == size:
            return truth
        if not same_proportions(truth.mask.shape, size):
            raise DataError(
                f"{path}: the mask has {truth.mask.shape[1]} x {truth.mask.shape[0]} pixels and its image "
                f"{image.filename} has {size[1]} x {size[0]}: other proportions, so it cannot be the mask of "
                "this image; correct or remove it"
            )
        self.problems.add("masks_resized", image.filename)
        return _resized_truth(truth, size)


def _resized_truth(truth: PixelTruth, size: Size) -> PixelTruth:
    """Resize by nearest neighbour; saturation areas shrink and grow with the picture."""
    scale = size[0] * size[1] / truth.mask.size
    defects = truth.defects and [
        Defect(_resized_mask(defect.pixels, size), defect.saturation_area_px * scale) for defect in truth.defects
    ]
    kept = defects and [defect for defect in defects if defect.pixels.any()]
    return PixelTruth(_resized_mask(truth.mask, size), kept)


def _resized_mask(mask: BoolArray, size: Size) -> BoolArray:
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(np.intp)
    return mask[np.ix_(rows, columns)]


def _resized_map(anomaly_map: FloatMap, size: Size) -> FloatMap:
    height, width = size
    picture = Image.fromarray(anomaly_map).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.float32)
