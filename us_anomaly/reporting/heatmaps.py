"""Heatmaps: maps as pictures on one colour scale that is fixed for the whole detector.

Shapes: H W pixels.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from us_anomaly.run_dir.atomic import write_atomically

COLOR_STOPS = (
    (0.00, (33, 65, 148)),
    (0.25, (58, 131, 196)),
    (0.45, (170, 205, 225)),
    (0.55, (250, 220, 170)),
    (0.75, (236, 124, 70)),
    (1.00, (165, 15, 35)),
)
"""Blue to red through pale tones: lightness rises to the middle and falls again, so that cold and warm can be told apart
without seeing red or green."""

OPAQUE_FROM = 0.5
"""Colour value from which a heatmap reaches its full opacity; below, it fades out towards normal."""
MAX_ALPHA = 215


def color_values(values: npt.NDArray[np.float32], *, color_range: tuple[float, float]) -> npt.NDArray[np.float32]:
    """Return the position of each score on the colour scale, clipped to 0..1."""
    low, high = color_range
    scaled: npt.NDArray[np.float32] = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


def colorize(values: npt.NDArray[np.float32], *, color_range: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return a map (H, W) as an RGBA picture (H, W, 4): blue to red, transparent where normal."""
    steps = np.round(color_values(values, color_range=color_range) * 255).astype(np.uint8)
    return _color_table()[steps]


def _color_table() -> npt.NDArray[np.uint8]:
    """Return the 256 colours with their opacity, (256, 4)."""
    position = np.linspace(0, 1, 256)
    stops = [stop for stop, _ in COLOR_STOPS]
    channels = [np.interp(position, stops, [color[channel] for _, color in COLOR_STOPS]) for channel in range(3)]
    channels.append(np.clip(position / OPAQUE_FROM, 0, 1) ** 1.5 * MAX_ALPHA)
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def write_heatmap(path: Path, values: npt.NDArray[np.float32], *, color_range: tuple[float, float]) -> None:
    """Write a map as an RGBA PNG to lay over the image."""
    picture = Image.fromarray(colorize(values, color_range=color_range), mode=None)
    write_atomically(path, lambda file: picture.save(file, format="PNG", compress_level=3), flush=False)


def overlay(image: npt.NDArray[np.uint8], heatmap: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Lay an RGBA heatmap (H, W, 4) over an RGB image (H, W, 3)."""
    alpha = heatmap[..., 3:].astype(np.float32) / 255
    return np.round(image * (1 - alpha) + heatmap[..., :3] * alpha).astype(np.uint8)
