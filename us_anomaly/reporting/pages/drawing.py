"""Draw the pictures of a report: once each, by threads, and only what is not there already."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from us_anomaly.data.images import image_size, read_image, read_mask, read_own
from us_anomaly.data.sample import Sample
from us_anomaly.errors import ArtifactError, BadImageError
from us_anomaly.reporting.heatmaps import read_color_steps
from us_anomaly.reporting.pages.files import ReportFiles, link_into_data_root, link_into_run_dir, picture_key
from us_anomaly.reporting.pages.source import ReportSource
from us_anomaly.reporting.readout import as_script, encode_map
from us_anomaly.reporting.thumbnails import (
    GALLERY_PX,
    VIEW_PX,
    write_heatmap_copy,
    write_image_copy,
    write_mask_pictures,
)
from us_anomaly.run_dir.atomic import write_bytes
from us_anomaly.scoring.map_files import read_map

log = logging.getLogger(__name__)

In = TypeVar("In")
Out = TypeVar("Out")

READ_AHEAD = 4
UNITS_PER_RANGE = 16
"""Scores below this part of the colour range are coded linearly for the read-out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One picture of the stack that the pages lay over each other, as links from a page."""

    gallery: str
    """Small copy."""
    view: str
    """Larger copy, or the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnImage:
    """The pictures of one image of the data set."""

    image: Layer | None
    """None where the file cannot be read any more."""
    height: int
    width: int
    """Pixels of the original; 0 where it cannot be read."""
    mask: str | None
    """Filled mask."""
    outline: str | None
    """Outline of the mask."""
    original: str | None
    """Link to the file itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnPrediction:
    """The pictures of one prediction."""

    heatmap: Layer | None
    uncertainty: Layer | None
    values: str | None
    """Key of the scores per pixel."""


class Artist:
    """Draw the pictures of one report."""

    def __init__(self, source: ReportSource) -> None:
        """Describe what is drawn and where it goes."""
        self._source = source
        self._files = ReportFiles(source.run_dir.report)
        for folder in (self._files.pictures, self._files.values):
            folder.mkdir(parents=True, exist_ok=True)
        self._present = {
            path.name for folder in (self._files.pictures, self._files.values) for path in folder.iterdir()
        }
        self.used: set[str] = set()
        """Names of the files that this report needs."""

    def draw_image(self, sample: Sample) -> DrawnImage:
        """Draw an image and its mask; what cannot be read is left out with a warning."""
        path = self._source.data_root / sample.filename
        layer, (height, width) = None, (0, 0)
        try:
            height, width = image_size(path, max_pixels=self._source.max_image_pixels)
            layer = self._image_layer(sample, path, longest=max(height, width))
        except (BadImageError, OSError) as error:
            log.warning("left out of the report: %s", error)
        mask, outline = self._mask_pictures(sample)
        original = link_into_data_root(sample.filename, self._source.data_root)
        return DrawnImage(image=layer, height=height, width=width, mask=mask, outline=outline, original=original)

    def draw_prediction(self, prediction: Mapping[str, Any]) -> DrawnPrediction:
        """Draw what was predicted for one image; pictures that were not saved are left out."""
        return DrawnPrediction(
            heatmap=self._heatmap_layer(prediction.get("heatmap_path")),
            uncertainty=self._heatmap_layer(prediction.get("uncertainty_path")),
            values=self._values(prediction.get("map_path"), prediction.get("uncertainty_path")),
        )

    def remove_unused(self) -> None:
        """Delete the pictures of earlier reports that this one does not show."""
        for folder in (self._files.pictures, self._files.values):
            for path in folder.iterdir():
                if path.name not in self.used:
                    path.unlink()

    def _is_needed(self, path: Path) -> bool:
        """Note that a file belongs to this report; return whether it must be drawn."""
        self.used.add(path.name)
        return path.name not in self._present

    def _image_layer(self, sample: Sample, path: Path, *, longest: int) -> Layer:
        white_level = self._source.white_level
        key = picture_key(sample.filename if white_level is None else f"{sample.filename} {white_level:g}", path)
        gallery = self._files.pictures / f"{key}.jpg"
        view = gallery if longest <= GALLERY_PX else self._files.pictures / f"{key}-view.jpg"
        wanted = [
            (target, side) for target, side in ((view, VIEW_PX), (gallery, GALLERY_PX)) if self._is_needed(target)
        ]
        if wanted:
            pixels = read_image(path, max_pixels=self._source.max_image_pixels, white_level=white_level)
            for target, side in dict(wanted).items():
                write_image_copy(target, pixels, longest_px=side)
        return Layer(gallery=f"pictures/{gallery.name}", view=f"pictures/{view.name}")

    def _mask_pictures(self, sample: Sample) -> tuple[str | None, str | None]:
        if sample.mask_path is None:
            return None, None
        path = self._source.data_root / sample.mask_path
        try:
            key = picture_key(sample.mask_path, path)
            fill, outline = (self._files.pictures / f"{key}-{kind}.png" for kind in ("mask", "outline"))
            if self._is_needed(fill) | self._is_needed(outline):
                write_mask_pictures(fill, outline, read_mask(path, max_pixels=self._source.max_image_pixels))
        except (BadImageError, OSError) as error:
            log.warning("left out of the report: %s", error)
            return None, None
        return f"pictures/{fill.name}", f"pictures/{outline.name}"

    def _heatmap_layer(self, relative: str | None) -> Layer | None:
        """Return the heatmap itself where it is small, else copies of it."""
        address = link_into_run_dir(relative)
        if relative is None or address is None:
            return None
        path = self._source.run_dir.root / relative
        try:
            longest = read_own(path, lambda picture: max(picture.size), max_pixels=self._source.max_image_pixels)
            copies = {}
            for name, side in (("gallery", GALLERY_PX), ("view", VIEW_PX)):
                copies[name] = address if longest <= side else self._heatmap_copy(relative, path, name, side)
        except OSError as error:
            log.warning("left out of the report: %s cannot be read (%s)", path, error)
            return None
        return Layer(**copies)

    def _heatmap_copy(self, relative: str, path: Path, name: str, side: int) -> str:
        target = self._files.pictures / f"{picture_key(relative, path)}-{name}.png"
        if self._is_needed(target):
            write_heatmap_copy(target, path, longest_px=side, max_pixels=self._source.max_image_pixels)
        return f"pictures/{target.name}"

    def _values(self, relative: str | None, uncertainty: str | None) -> str | None:
        """Write score and uncertainty per pixel; return their key."""
        if link_into_run_dir(relative) is None or relative is None:
            return None
        path = self._source.run_dir.root / relative
        try:
            key = picture_key(relative, path)
            target = self._files.values / f"{key}.js"
            if self._is_needed(target):
                low, high = self._source.calibration.color_range
                scores = read_map(path, max_pixels=self._source.max_image_pixels)
                values = {"score": encode_map(scores, unit=(high - low) / UNITS_PER_RANGE)}
                if link_into_run_dir(uncertainty) is not None and uncertainty is not None:
                    values |= self._uncertainty_values(self._source.run_dir.root / uncertainty)
                write_bytes(target, as_script("usad.takeValues", key, values).encode(), flush=False)
        except (ArtifactError, OSError) as error:
            log.warning("left out of the report: %s", error)
            return None
        return key

    def _uncertainty_values(self, path: Path) -> dict[str, Any]:
        """Return the uncertainty per pixel as its picture shows it: between the ends of the colour range."""
        steps = read_color_steps(path, max_pixels=self._source.max_image_pixels)
        if steps is None:
            return {}
        low, high = self._source.calibration.uncertainty_color_range
        shown = (low + steps.astype(np.float32) / 255 * (high - low)).astype(np.float32)
        return {"uncertainty": encode_map(shown, unit=(high - low) / UNITS_PER_RANGE)}


def in_threads(
    work: Callable[[In], Out], items: Iterable[In], *, num_workers: int, on_done: Callable[[], None]
) -> Iterator[Out]:
    """Yield what `work` makes of each item, in order, never far ahead of the consumer."""
    waiting_items = iter(items)
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        futures = [pool.submit(work, item) for item in islice(waiting_items, max(1, num_workers) * READ_AHEAD)]
        while futures:
            result = futures.pop(0).result()
            futures.extend(pool.submit(work, item) for item in islice(waiting_items, 1))
            on_done()
            yield result
