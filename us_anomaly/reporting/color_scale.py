"""The colours of scores: blue to red for maps, green to red for decisions.

The scale of maps is a path through CIELAB along two straight lines, blue to sand to red. Lightness climbs and falls in even
steps, and neighbouring colours are about as far apart everywhere (tests state the bands). The blue-yellow axis rises all
the way, which is the axis that people without red or green cones see, so the order of the colours stays readable for them;
sand stands at the middle, where the scores of good parts end.
"""

import functools

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MAP_STOPS_LAB = ((40.0, 11.0, -54.0), (85.0, 1.0, 13.0), (40.0, 58.0, 46.0))
"""Ends and middle of the scale of maps: L*, a*, b* (D65)."""
DECISION_STOPS_LAB = ((48.0, -38.0, 22.0), (51.0, 16.0, 52.0), (45.0, 60.0, 38.0))
"""Green, amber, red of score badges: dark enough for white digits on each of them."""

NUM_COLORS = 256
OPAQUE_FROM = 0.6
"""Position on the scale from which a heatmap has its full opacity; below, it fades out towards normal."""
MAX_ALPHA = 215

_WHITE_D65 = (0.95047, 1.0, 1.08883)
_XYZ_TO_LINEAR_RGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)


@functools.cache
def map_colors() -> npt.NDArray[np.uint8]:
    """Return the 256 colours of maps with their opacity, RGBA (256, 4); read-only."""
    position = np.linspace(0, 1, NUM_COLORS)
    alpha = np.clip(position / OPAQUE_FROM, 0, 1) ** 1.5 * MAX_ALPHA
    table = np.column_stack([_path(MAP_STOPS_LAB, position), np.round(alpha)]).astype(np.uint8)
    table.setflags(write=False)
    return table


def map_gradient(num_stops: int = 17) -> list[str]:
    """Return evenly spaced colours of the map scale as `#rrggbb`, for a legend."""
    return [_hex(color) for color in _path(MAP_STOPS_LAB, np.linspace(0, 1, num_stops))]


def decision_gradient(num_stops: int = 21) -> list[str]:
    """Return colours from surely normal (green) over undecided (amber) to surely anomalous (red) as `#rrggbb`."""
    return [_hex(color) for color in _path(DECISION_STOPS_LAB, np.linspace(0, 1, num_stops))]


def lab_to_srgb(lab: FloatArray) -> FloatArray:
    """Convert CIELAB (n, 3) to sRGB (n, 3) in 0..1, clipped to the gamut (CIE 15:2004; IEC 61966-2-1)."""
    height = (lab[:, 0] + 16) / 116
    ratios = np.column_stack([height + lab[:, 1] / 500, height, height - lab[:, 2] / 200])
    xyz = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)) * _WHITE_D65
    linear = np.clip(xyz @ np.array(_XYZ_TO_LINEAR_RGB).T, 0, 1)
    srgb: FloatArray = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return srgb


def _path(stops: tuple[tuple[float, float, float], ...], position: FloatArray) -> FloatArray:
    """Return the colours, in 0..255 and rounded, at positions 0..1 along straight pieces between the stops."""
    at = np.linspace(0, 1, len(stops))
    lab = np.column_stack([np.interp(position, at, [stop[axis] for stop in stops]) for axis in range(3)])
    return np.round(lab_to_srgb(lab) * 255)


def _hex(color: FloatArray) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in color)
