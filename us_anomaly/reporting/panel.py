"""One picture explained: what was decided, and original, heatmap, uncertainty and, if known, the mask side by side.

Shapes: H W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from us_anomaly.reporting.heatmaps import PNG_EFFORT, overlay
from us_anomaly.run_dir.atomic import write_atomically
from us_anomaly.scoring.regions import Region

MAX_SIDE_PX = 640
CAPTION_PX = 26
HEADING_PX = 24
GAP_PX = 8
BACKGROUND = (250, 250, 250)
INK = (40, 44, 52)
LIGHT = (255, 255, 255)
"""Lines and digits on a picture are of this colour with an edge of `INK`: one of the two stands out on any ground."""
MASK_COLOR = (200, 30, 45)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided about a picture."""

    is_anomalous: bool
    score: float
    """Score of the image."""
    threshold: float
    """Threshold of image scores."""

    def __str__(self) -> str:
        """Return it in words."""
        verdict = "ANOMALOUS" if self.is_anomalous else "normal"
        return f"{verdict}  score {self.score:.4g}  threshold {self.threshold:.4g}"


def panel(
    image: npt.NDArray[np.uint8],
    *,
    heatmap: npt.NDArray[np.uint8] | None,
    uncertainty: npt.NDArray[np.uint8] | None,
    mask: npt.NDArray[np.bool_] | None = None,
    regions: Sequence[Region] = (),
    decision: Decision | None = None,
) -> Image.Image:
    """Return the panel of one picture.

    Args:
        image: (H, W, 3) RGB.
        heatmap: (H, W, 4) RGBA, laid over the image, or the same reduced by `reduction`; None leaves that part out.
        uncertainty: The same for the predictive uncertainty.
        mask: (H, W), if the truth is known.
        regions: Boxes to draw on the heatmap, numbered from 1.
        decision: Written above the pictures; None leaves that line out.
    """
    shape = image.shape[:2]
    factor = reduction(*shape)
    if factor > 1:  # before anything is mixed in floating point, which takes many times the memory of the picture
        heatmap, uncertainty = (
            part if part is None or part.shape[:2] != shape else _shrunk(part, factor)
            for part in (heatmap, uncertainty)
        )
        image = _shrunk(image, factor)
        mask = None if mask is None else _shrunk(mask.astype(np.uint8) * 255, factor) > 0
    parts = [("image", _reduced(image))]
    if heatmap is not None:
        shown = _reduced(overlay(image, heatmap))
        _draw_boxes(shown, regions, scale=max(shown.size) / max(shape))
        parts.append(("anomaly score", shown))
    if uncertainty is not None:
        parts.append(("uncertainty", _reduced(overlay(image, uncertainty))))
    if mask is not None:
        red = np.zeros((*mask.shape, 4), dtype=np.uint8)
        red[mask] = (*MASK_COLOR, 150)
        parts.append(("truth", _reduced(overlay(image, red))))
    return _side_by_side(parts, heading=None if decision is None else str(decision))


def write_panel(path: Path, picture: Image.Image) -> None:
    """Write a panel as PNG, whole or not at all."""
    write_atomically(path, lambda file: picture.save(file, format="PNG", compress_level=PNG_EFFORT), flush=False)


def reduction(height: int, width: int) -> int:
    """Return by how many pixels a side the parts of a large picture are averaged before they are put together."""
    return max(1, max(height, width) // (2 * MAX_SIDE_PX))


def _shrunk(pixels: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Return the mean of every square of `factor` pixels."""
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def _draw_boxes(picture: Image.Image, regions: Sequence[Region], *, scale: float) -> None:
    """Draw boxes around regions with their numbers; of a box that the picture cuts off, the line stays inside.

    Args:
        picture: Drawn on; it is `scale` times the size of the picture that the regions are of.
        regions: The strongest first, which is drawn last, over the others.
        scale: Pixels of the picture drawn on per pixel.
    """
    draw = ImageDraw.Draw(picture)
    light, dark = (max(1, round(max(picture.size) / part)) for part in (220, 320))
    line = dark + light + dark
    for number, region in reversed(list(enumerate(regions, start=1))):
        left, top = (max(0, math.floor(start * scale) - line) for start in (region.left, region.top))
        right = min(picture.width, math.ceil((region.left + region.width) * scale) + line) - 1
        bottom = min(picture.height, math.ceil((region.top + region.height) * scale) + line) - 1
        inset = min(dark, (right - left) // 2, (bottom - top) // 2)
        draw.rectangle((left, top, right, bottom), outline=INK, width=line)
        draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=LIGHT, width=light)
        _draw_number(picture, str(number), box=(left, top, right, bottom), line=line, edge=dark + 1)


def _draw_number(picture: Image.Image, number: str, *, box: tuple[int, int, int, int], line: int, edge: int) -> None:
    """Write a number above the left corner of a box, or below the box or inside it where there is no room."""
    draw, font = ImageDraw.Draw(picture), _font(max(14, round(max(picture.size) / 26)))
    extent = draw.textbbox((0, 0), number, font=font, anchor="ls", stroke_width=edge)
    first, highest, last, lowest = (round(side) for side in extent)
    left, top, _, bottom = box
    baseline = top - 1
    if baseline + highest < 0:
        baseline = bottom + 2 - highest
    if baseline + lowest > picture.height:
        baseline, left = top + line + 1 - highest, left + line + 1
    across = min(left, picture.width - last) - first
    draw.text((across, baseline), number, fill=LIGHT, font=font, anchor="ls", stroke_width=edge, stroke_fill=INK)


def _reduced(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    return picture


def _side_by_side(parts: Sequence[tuple[str, Image.Image]], *, heading: str | None) -> Image.Image:
    """Put pictures beside each other under their names, and a heading above them all if there is one."""
    font = _font(14)
    width = sum(picture.width + GAP_PX for _, picture in parts) + GAP_PX
    top = 0
    if heading is not None:
        top, width = HEADING_PX, max(width, math.ceil(font.getlength(heading)) + 2 * GAP_PX)
    height = top + max(picture.height for _, picture in parts) + CAPTION_PX + GAP_PX
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if heading is not None:
        draw.text((GAP_PX, 5), heading, fill=INK, font=font)
    left = GAP_PX
    for name, picture in parts:
        draw.text((left, top + 5), name, fill=INK, font=font)
        sheet.paste(picture, (left, top + CAPTION_PX))
        left += picture.width + GAP_PX
    return sheet


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
