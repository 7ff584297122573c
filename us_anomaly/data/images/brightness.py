"""Pictures of more than 8 bits per channel, scaled by the range that they really use, never clipped.

A 12-bit camera stores 0..4095 in 16-bit files: divided by 65535 its pictures would be nearly black, and stretched from
their own minimum to maximum, a clean flat part would become pure noise and every picture would get a scale of its own.
So zero stays black and white is the full scale of the *sensor*: see `white_level`.
"""

import sys
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)
"""Full scale of sensors with 8, 10, 12, 14 and 16 bits."""


def white_level(values: NDArray[Any]) -> tuple[float, float]:
    """Return which values become black and white, by a rule that is the same for all pictures of one camera.

    - Floating point within 0..1: 0 and 1.
    - Otherwise, nothing below 0 and nothing above 65535: 0 and the smallest of `WHITE_LEVELS` that holds the maximum.
    - Anything else (heights, depths): minimum and maximum of this picture.

    Raises:
        ValueError: A value is infinite or not a number.
    """
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds infinite values or not-a-number")
    if low >= 0:
        if np.issubdtype(values.dtype, np.floating) and high <= 1:
            return 0.0, 1.0
        for level in WHITE_LEVELS:
            if high <= level:
                return 0.0, float(level)
    return float(low), float(high)


def to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale any numbers to 0..255 by `white_level`, rounded to nearest; a constant picture divides by nothing.

    Raises:
        ValueError: A value is infinite or not a number.
    """
    black, white = white_level(values)
    span = white - black if white > black else 1.0
    if values.dtype == np.uint16:
        table = np.arange(65536, dtype=np.float64)
        return np.rint(np.minimum(table * (255.0 / span), 255.0)).astype(np.uint8)[values]
    scaled = (values.astype(np.float64) - black) * (255.0 / span)
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)


def channels_of_16_bits(image: Image.Image, file: BinaryIO) -> NDArray[np.uint8] | None:
    """Return a picture with several 16-bit channels as RGBA of 8 bits, shape (H, W, 4), or None for any other picture.

    Pillow keeps only the high byte of such files. Decoding once more with the opposite byte order yields the low byte.

    Args:
        image: The opened picture, not loaded yet.
        file: The open file, for the second pass.
    """
    passes = _byte_passes(image)
    if passes is None:
        return None
    names, pixel_is_pair = passes
    decoded = [_decoded_as(file, image.format, name) for name in names]
    if pixel_is_pair:  # grey and alpha, both bytes of each, came out as the four channels of one pass
        pair = decoded[0].astype(np.uint16)
        grey, alpha = pair[..., 0] << 8 | pair[..., 1], pair[..., 2]
        colour = np.repeat(to_8_bits(grey)[..., None], 3, axis=2)
    else:
        high, low = decoded
        values = high.astype(np.uint16) << 8 | low
        colour = to_8_bits(values[..., :3])
        alpha = high[..., 3] if high.shape[2] == 4 else np.full(high.shape[:2], 255)
    return np.dstack([colour, alpha.astype(np.uint8)])


def _byte_passes(image: Image.Image) -> tuple[tuple[str, ...], bool] | None:
    """Return the raw modes that give high and low bytes, or one that gives both of grey and alpha."""
    tiles = getattr(image, "tile", None)
    if not tiles or image.format not in ("PNG", "TIFF"):
        return None
    raw_modes = {_raw_mode(tile) for tile in tiles}
    if len(raw_modes) != 1:
        return None
    raw_mode = raw_modes.pop()
    if raw_mode == "LA;16B":
        return ("RGBA",), True
    name, _, order = raw_mode.partition(";16")
    if name not in ("RGB", "RGBX", "RGBA") or order not in ("L", "B", "N"):
        return None
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    return (raw_mode, f"{name};16{'B' if order == 'L' else 'L'}"), False


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _decoded_as(file: BinaryIO, image_format: str | None, raw_mode: str) -> NDArray[np.uint8]:
    """Decode the file with another raw mode; shape (H, W, channels)."""
    file.seek(0)
    image = Image.open(file, formats=[str(image_format)])
    tiles = []
    for codec, box, offset, arguments in image.tile:  # type: ignore[attr-defined]
        changed = raw_mode if isinstance(arguments, str) else (raw_mode, *arguments[1:])
        tiles.append((codec, box, offset, changed))
    image.tile = tiles  # type: ignore[attr-defined]
    image.load()
    return np.asarray(image)
