"""Scores per pixel for the read-out of a web page, small enough to be loaded picture by picture.

A score becomes a whole number by an inverse hyperbolic sine, which is linear near zero, logarithmic far from it and knows
negative scores; differences along the rows (0, -1, 1, -2, ... as 0, 1, 2, 3, ...), zlib and base64 make it short. `viewer.js`
undoes it.

Shapes: H W pixels of the map, h w cells; a cell is the highest of the scores that it covers.
"""

import base64
import json
import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_CELLS = 160
"""Cells along the longest side; smaller maps are kept pixel by pixel. So a read-out takes some 30 kB whatever the image."""
NUM_CODES = 1 << 10
"""Numbers that a score can become: steps of about half a percent where scores span a factor of a thousand."""

FloatMap = npt.NDArray[np.float32]


def block_maximum(values: FloatMap, *, cell_px: int) -> FloatMap:
    """Return the maximum (h, w) of each square of `cell_px` of a map (H, W); the last row and column may be cut."""
    if cell_px == 1:
        return values
    height, width = (math.ceil(side / cell_px) for side in values.shape)
    padding = ((0, height * cell_px - values.shape[0]), (0, width * cell_px - values.shape[1]))
    padded = np.pad(values, padding, mode="edge")
    maximum: FloatMap = padded.reshape(height, cell_px, width, cell_px).max(axis=(1, 3))
    return maximum


def encode_map(values: FloatMap, *, unit: float) -> dict[str, Any]:
    """Return a map (H, W) as plain values.

    Args:
        values: Scores.
        unit: Scores well below it are coded linearly, scores well above it logarithmically.

    Returns:
        `cell_px`, `height`, `width` of the cells; `low`, `high` and `unit` of the code; `data`: base64 of zlib of the low and
        then the high bytes of the differences along the rows.
    """
    cell_px = math.ceil(max(values.shape) / MAX_CELLS)
    cells = np.arcsinh(block_maximum(values, cell_px=cell_px).astype(np.float64) / unit)
    low, high = float(cells.min()), float(cells.max())
    codes = np.round((cells - low) / max(high - low, 1e-12) * (NUM_CODES - 1)).astype(np.int16)
    differences = np.diff(codes, axis=1, prepend=np.int16(0)).ravel()
    unsigned = ((differences << 1) ^ (differences >> 15)).view(np.uint16)  # small ones first, whatever their sign
    halves = np.stack([unsigned & 255, unsigned >> 8]).astype(np.uint8)
    return {
        "cell_px": cell_px,
        "height": cells.shape[0],
        "width": cells.shape[1],
        "low": low,
        "high": high,
        "unit": unit,
        "codes": NUM_CODES,
        "data": base64.b64encode(zlib.compress(halves.tobytes(), 3)).decode(),
    }


def as_script(function: str, *arguments: Any) -> str:
    """Return a script that hands plain values to a function of the page; ASCII only, so that no encoding matters."""
    return f"{function}({', '.join(json.dumps(argument, separators=(',', ':')) for argument in arguments)});\n"
