"""One picture explained: original, heatmap, uncertainty and, if known, the mask, side by side under their names.

Shapes: H W pixels.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from us_anomaly.reporting.heatmaps import PNG_EFFORT, overlay
from us_anomaly.run_dir.atomic import write_atomically
from us_anomaly.scoring.regions import Region

MAX_SIDE_PX = 640
CAPTION_PX = 26
GAP_PX = 8
BACKGROUND = (250, 250, 250)
INK = (40, 44, 52)
MASK_COLOR = (200, 30, 45)


def panel(
    image: npt.NDArray[np.uint8],
    *,
    heatmap: npt.NDArray[np.uint8] | None,
    uncertainty: npt.NDArray[np.uint8] | None,
    mask: npt.NDArray[np.bool_] | None = None,
    regions: Sequence[Region] = (),
) -> Image.Image:
    """Return the panel of one picture.

    Args:
        image: (H, W, 3) RGB.
        heatmap: (H, W, 4) RGBA, laid over the image, or the same reduced by `reduction`; None leaves that part out.
        uncertainty: The same for the predictive uncertainty.
        mask: (H, W), if the truth is known.
        regions: Boxes to draw on the heatmap, numbered from 1.
    """
    factor = reduction(*image.shape[:2])
    if factor > 1:  # before anything is mixed in floating point, which takes many times the memory of the picture
        shape = image.shape[:2]
        heatmap, uncertainty = (
            part if part is None or part.shape[:2] != shape else _shrunk(part, factor)
            for part in (heatmap, uncertainty)
        )
        image = _shrunk(image, factor)
        mask = None if mask is None else _shrunk(mask.astype(np.uint8) * 255, factor) > 0
        regions = [_on_shrunk(region, factor) for region in regions]
    parts = [("image", Image.fromarray(image))]
    if heatmap is not None:
        parts.append(("anomaly score", _with_boxes(overlay(image, heatmap), regions)))
    if uncertainty is not None:
        parts.append(("uncertainty", Image.fromarray(overlay(image, uncertainty))))
    if mask is not None:
        red = np.zeros((*mask.shape, 4), dtype=np.uint8)
        red[mask] = (*MASK_COLOR, 150)
        parts.append(("truth", Image.fromarray(overlay(image, red))))
    return _side_by_side([(name, _reduced(picture)) for name, picture in parts])


def write_panel(path: Path, picture: Image.Image) -> None:
    """Write a panel as PNG, whole or not at all."""
    write_atomically(path, lambda file: picture.save(file, format="PNG", compress_level=PNG_EFFORT), flush=False)


def reduction(height: int, width: int) -> int:
    """Return by how many pixels a side the parts of a large picture are averaged before they are put together."""
    return max(1, max(height, width) // (2 * MAX_SIDE_PX))


def _shrunk(pixels: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Return the mean of every square of `factor` pixels."""
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def _on_shrunk(region: Region, factor: int) -> Region:
    """Return a region with the box that it has on a picture shrunk by `factor`."""
    right, bottom = -(-(region.left + region.width) // factor), -(-(region.top + region.height) // factor)
    left, top = region.left // factor, region.top // factor
    return replace(region, left=left, top=top, width=right - left, height=bottom - top)


def _with_boxes(pixels: npt.NDArray[np.uint8], regions: Sequence[Region]) -> Image.Image:
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 300))
    for number, region in enumerate(regions, start=1):
        left, top = region.left - line - 1, region.top - line - 1
        right, bottom = region.left + region.width + line, region.top + region.height + line
        draw.rectangle((left, top, right, bottom), outline=INK, width=line)
        draw.text((left + 2 * line, top + line), str(number), fill=INK, font=_font(max(10, 8 * line)))
    return picture


def _reduced(picture: Image.Image) -> Image.Image:
    if max(picture.size) > MAX_SIDE_PX:
        picture = picture.copy()
        picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    return picture


def _side_by_side(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    width = sum(picture.width + GAP_PX for _, picture in parts) + GAP_PX
    height = max(picture.height for _, picture in parts) + CAPTION_PX + GAP_PX
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    left = GAP_PX
    for name, picture in parts:
        draw.text((left, 5), name, fill=INK, font=_font(14))
        sheet.paste(picture, (left, CAPTION_PX))
        left += picture.width + GAP_PX
    return sheet


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
