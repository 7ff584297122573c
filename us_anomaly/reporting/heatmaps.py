"""Heatmaps: maps as pictures on one colour scale that is fixed for the whole detector.

Shapes: H W pixels.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from us_anomaly.data.bands import bands
from us_anomaly.data.images import DEFAULT_MAX_PIXELS, read_own
from us_anomaly.reporting.color_scale import map_colors
from us_anomaly.run_dir.atomic import write_atomically

PNG_EFFORT = 3
"""zlib level of the pictures: higher ones cost twice the time for a tenth of the size."""


def color_values(values: npt.NDArray[np.float32], *, color_range: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Return the position of each score on the colour scale, clipped to 0..1."""
    low, high = color_range
    scaled = values - np.float32(low)
    scaled /= np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def color_steps(values: npt.NDArray[np.float32], *, color_range: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return the number of each score's colour, 0 to 255, for a map (H, W)."""
    steps = np.empty(values.shape, dtype=np.uint8)
    for rows in bands(*values.shape):
        scaled = color_values(values[rows], color_range=color_range)
        scaled *= 255
        steps[rows] = np.round(scaled, out=scaled)
    return steps


def colorize(
    values: npt.NDArray[np.float32], *, color_range: tuple[float, float], reduction: int = 1
) -> npt.NDArray[np.uint8]:
    """Return a map (H, W) as an RGBA picture (H, W, 4): blue to red, transparent where normal.

    Args:
        values: The map.
        color_range: Scores of both ends of the colours.
        reduction: Take the mean colour of every square of so many pixels; sides become H / reduction, rounded up.
    """
    if reduction == 1:
        return map_colors().take(color_steps(values, color_range=color_range), axis=0)
    colored = (
        map_colors().take(color_steps(values[rows], color_range=color_range), axis=0)
        for rows in bands(*values.shape, multiple=reduction)
    )
    return np.concatenate([np.asarray(Image.fromarray(band).reduce(reduction)) for band in colored])


def heatmap_picture(steps: npt.NDArray[np.uint8]) -> Image.Image:
    """Return the picture of colour numbers (H, W): a palette of 256 RGBA colours.

    A palette, because such a PNG is written eight times as fast as one of four full channels and is 2.5 times smaller; to
    whoever shows it or converts it to RGBA it is the same picture.
    """
    picture = Image.frombytes("P", (steps.shape[1], steps.shape[0]), steps.tobytes())
    picture.putpalette(map_colors()[:, :3].tobytes())
    picture.info["transparency"] = map_colors()[:, 3].tobytes()
    return picture


def write_heatmap(path: Path, values: npt.NDArray[np.float32], *, color_range: tuple[float, float]) -> None:
    """Write a map as a PNG to lay over the image."""
    write_color_steps(path, color_steps(values, color_range=color_range))


def write_color_steps(path: Path, steps: npt.NDArray[np.uint8]) -> None:
    """Write colour numbers (H, W) as a PNG to lay over the image."""
    picture = heatmap_picture(steps)
    write_atomically(path, lambda file: picture.save(file, format="PNG", compress_level=PNG_EFFORT), flush=False)


def read_color_steps(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8] | None:
    """Return the colour numbers (H, W) of a heatmap that `write_heatmap` wrote, or None if it is another picture.

    Raises:
        OSError: The file cannot be read, or has more than `max_pixels`.
    """
    return read_own(path, _color_steps_of, max_pixels=max_pixels)


def _color_steps_of(picture: Image.Image) -> npt.NDArray[np.uint8] | None:
    palette = picture.getpalette() if picture.mode == "P" else None
    if palette is None or bytes(palette) != map_colors()[:, :3].tobytes():
        return None
    return np.asarray(picture)


def overlay(
    image: npt.NDArray[np.uint8], heatmap: npt.NDArray[np.uint8], *, opacity: float = 1.0
) -> npt.NDArray[np.uint8]:
    """Lay an RGBA heatmap (H, W, 4) over an RGB image (H, W, 3)."""
    alpha = heatmap[..., 3:].astype(np.float32) / 255 * opacity
    return np.round(image * (1 - alpha) + heatmap[..., :3] * alpha).astype(np.uint8)
