"""Endless sources of pictures that have nothing to do with the data set, from which teachers learn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from us_anomaly.data.blemishes import add_blemishes
from us_anomaly.data.images import read_image
from us_anomaly.data.mixing import mix
from us_anomaly.data.photographs import Picture, load_photographs, multi_scale_crop
from us_anomaly.data.procedural import ProceduralPictures
from us_anomaly.data.recolouring import recolour, recolour_lightly
from us_anomaly.errors import DataError
from us_anomaly.settings import BUILT_IN_PICTURES

PHOTOGRAPH_BLEMISH_FRACTION = 0.1
MIX_FRACTION = 0.2
DULL_DEVIATION = 4.0
KEPT_SIDE_PX = 768
KEPT_PIXELS = 100_000_000


class PictureSource(Protocol):
    """Anything that pictures can be drawn from without end."""

    def draw(self, rng: np.random.Generator) -> Picture:
        """Return the next picture, shape (side, side, 3); `rng` decides everything."""
        ...


class GenericPictures:
    """The sources `BUILT_IN_PICTURES`: packaged photographs, drawn pictures, recoloured, mixed."""

    def __init__(
        self,
        *,
        side_px: int,
        photograph_fraction: float = BUILT_IN_PICTURES["generic"],
        photographs: list[Picture] | None = None,
    ) -> None:
        """Prepare the stream.

        Args:
            side_px: Side of the pictures, at least 32.
            photograph_fraction: Share of crops of photographs; the rest is drawn.
            photographs: What to crop from; None takes `load_photographs()`, which leaves out the textures
                that `data=demo` is made of.

        Raises:
            UsadError: The photographs are wanted and their packages are not installed.
            ValueError: `side_px` is too small, or photographs are wanted and the list is empty.
        """
        self.side_px = side_px
        self.photograph_fraction = photograph_fraction
        self._procedural = ProceduralPictures(side_px=side_px)
        if photographs is None:
            photographs = load_photographs() if photograph_fraction > 0 else []
        if photograph_fraction > 0 and not photographs:
            raise ValueError("photograph_fraction is positive, but there are no photographs")
        self._photographs = [Image.fromarray(photograph) for photograph in photographs]
        roots = np.array([np.sqrt(image.width * image.height) for image in self._photographs])
        self._shares = np.cumsum(roots) / roots.sum() if len(roots) else roots  # a larger photograph shows more

    def draw(self, rng: np.random.Generator) -> Picture:
        """Return the next picture, shape (side_px, side_px, 3); `rng` decides everything."""
        picture = self._draw_one(rng)
        return mix(picture, self._draw_one(rng), rng) if rng.random() < MIX_FRACTION else picture

    def _draw_one(self, rng: np.random.Generator) -> Picture:
        if rng.random() >= self.photograph_fraction:
            return self._procedural.draw(rng)
        for _ in range(4):
            photograph = self._photographs[int(np.searchsorted(self._shares[:-1], rng.random(), side="right"))]
            picture = multi_scale_crop(photograph, rng, side_px=self.side_px)
            if picture.std() > DULL_DEVIATION:  # else night sky or a blank margin: try elsewhere, but not for ever
                break
        if rng.random() < PHOTOGRAPH_BLEMISH_FRACTION:
            picture = add_blemishes(picture, rng)
        return recolour(picture, rng) if rng.random() < 0.7 else picture


class FolderPictures:
    """Crops of the photographs of a folder, read when they are needed; what was used last stays in memory."""

    def __init__(self, paths: Sequence[Path], *, side_px: int, max_pixels: int) -> None:
        """Prepare the stream.

        Args:
            paths: The photographs.
            side_px: Side of the pictures.
            max_pixels: Larger files are refused before they are decoded.

        Raises:
            DataError: `paths` is empty.
        """
        if not paths:
            raise DataError(
                "a folder of `teacher.images` holds no picture; name a folder of photographs, or take generic"
            )
        self.side_px = side_px
        self._paths = list(paths)
        self._max_pixels = max_pixels
        self._kept: dict[int, Image.Image] = {}  # in the order of use, the latest last
        self._kept_pixels = 0

    def draw(self, rng: np.random.Generator) -> Picture:
        """Return the next picture, shape (side_px, side_px, 3); `rng` decides everything.

        Raises:
            BadImageError: A file cannot be decoded.
        """
        photograph = self._read(int(rng.integers(len(self._paths))))
        return recolour_lightly(multi_scale_crop(photograph, rng, side_px=self.side_px), rng)

    def _read(self, index: int) -> Image.Image:
        photograph = self._kept.pop(index, None)
        if photograph is None:
            photograph = Image.fromarray(read_image(self._paths[index], max_pixels=self._max_pixels))
            factor = min(photograph.size) // KEPT_SIDE_PX
            if factor > 1:  # the finest detail of a huge photograph is blur; it would only fill the memory
                photograph = photograph.reduce(factor)
            self._kept_pixels += photograph.width * photograph.height
        self._kept[index] = photograph
        while self._kept_pixels > KEPT_PIXELS and len(self._kept) > 1:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._kept_pixels -= oldest.width * oldest.height
        return photograph


class MixedPictures:
    """Draws from several sources, each as often as its weight says."""

    def __init__(self, sources: Sequence[PictureSource], weights: Sequence[float]) -> None:
        """Prepare the stream.

        Args:
            sources: Where pictures come from.
            weights: One positive number for each source; they need not add up to 1.

        Raises:
            ValueError: The lengths differ, or a weight is not positive.
        """
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise ValueError(f"need one positive weight for each source, got {len(sources)} sources, {list(weights)}")
        self._sources = list(sources)
        self._shares = np.cumsum(weights) / sum(weights)

    def draw(self, rng: np.random.Generator) -> Picture:
        """Return the next picture of a source drawn by weight; `rng` decides everything."""
        chosen = int(np.searchsorted(self._shares[:-1], rng.random(), side="right"))
        return self._sources[chosen].draw(rng)
