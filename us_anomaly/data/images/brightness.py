"""Pictures of more than 8 bits per channel, scaled by the range that they really use, never clipped.

A 12-bit camera stores 0..4095 in 16-bit files. Divided by 65535 its pictures would be nearly black. Stretched
from their own minimum to maximum, a flat clean part would become pure noise, and every picture would get a
scale of its own. So zero stays black, and white is the full scale of the *sensor*: the one that the user names
(`data.white_level`), else a guess by `value_range`.
"""

import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)
"""Full scale of sensors with 8, 10, 12, 14 and 16 bits."""


class ValueRangeError(ValueError):
    """Values of a picture that cannot be brought to 8 bits; the message says why."""


def value_range(values: NDArray[Any], *, white_level: float | None = None) -> tuple[float, float]:
    """Return which values become black and white.

    With `white_level`: 0 and that. Without, the rule is the same for all pictures, and so is its answer for those that use the
    range of their camera; `usad split` warns where it is not.

    - Floating point within 0..1: 0 and 1.
    - Otherwise, nothing below 0 or above 65535: 0 and the smallest of `WHITE_LEVELS` that holds the maximum.
    - Anything else (heights, depths): minimum and maximum of this picture.

    Raises:
        ValueRangeError: A value is infinite or not a number, or not within 0 to `white_level`.
    """
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueRangeError("it holds infinite values or not-a-number")
    if white_level is not None:
        if low < 0 or high > white_level:
            raise ValueRangeError(f"its values, {low:g} to {high:g}, go beyond 0 to data.white_level={white_level:g}")
        return 0.0, white_level
    if low >= 0:
        if np.issubdtype(values.dtype, np.floating) and high <= 1:
            return 0.0, 1.0
        for level in WHITE_LEVELS:
            if high <= level:
                return 0.0, float(level)
    return low, high


def to_8_bits(values: NDArray[Any], *, white_level: float | None = None) -> NDArray[np.uint8]:
    """Scale any numbers to 0..255 by `value_range`, rounded to nearest; a picture without range is black.

    Raises:
        ValueRangeError: As `value_range`.
    """
    black, white = value_range(values, white_level=white_level)
    scale = 255.0 / (white - black) if white > black else 0.0
    if values.dtype == np.uint16:
        every_value = np.arange(65536, dtype=np.float64)
        table: NDArray[np.uint8] = np.rint(np.minimum(every_value * scale, 255.0)).astype(np.uint8)
        looked_up: NDArray[np.uint8] = table[values]
        return looked_up
    scaled = (values.astype(np.float64) - black) * scale
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)


def is_deep_grey(image: Image.Image) -> bool:
    """Return whether the picture has one channel of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def deep_grey(image: Image.Image, *, white_level: float | None = None) -> NDArray[np.uint8] | None:
    """Return a loaded picture with one channel of more than 8 bits as RGBA, (H, W, 4); None for others.

    Raises:
        ValueRangeError: As `value_range`.
    """
    if not is_deep_grey(image):
        return None
    values = np.asarray(image)
    grey = to_8_bits(values, white_level=white_level)
    return np.dstack([grey, grey, grey, _alpha_by_key(values[..., None], image)])


@dataclass(frozen=True, slots=True)
class DeepChannels:
    """A picture with several channels of 16 bits."""

    colour: NDArray[np.integer[Any]]
    """Stored values, (H, W, 1) or (H, W, 3)."""
    alpha: NDArray[np.uint8]
    """(H, W)."""

    def to_rgba(self, *, white_level: float | None = None) -> NDArray[np.uint8]:
        """Return the picture as RGBA, (H, W, 4).

        Raises:
            ValueRangeError: A value is whiter than `white_level`.
        """
        colour = to_8_bits(self.colour, white_level=white_level)
        return np.dstack([np.broadcast_to(colour, (*self.alpha.shape, 3)), self.alpha])


def deep_channels(image: Image.Image, file: BinaryIO) -> DeepChannels | None:
    """Return a picture with several channels of 16 bits; None for any other picture.

    Pillow keeps only the high byte of such files. Decoding once more with the opposite byte order yields the
    low byte.

    Args:
        image: The opened picture, not loaded yet.
        file: Its open file, for the second pass.
    """
    raw_mode = _raw_mode(image)
    if raw_mode == "LA;16B":  # grey and alpha, two bytes each, fit into the four channels of one pass
        pair = _decoded_as(file, image, "RGBA").astype(np.uint16)
        return DeepChannels((pair[..., 0] << 8 | pair[..., 1])[..., None], pair[..., 2].astype(np.uint8))
    swapped = _swapped(raw_mode)
    if swapped is None:
        return None
    high = _decoded_as(file, image, raw_mode)
    low = _decoded_as(file, image, swapped)
    values = high.astype(np.uint16) << 8 | low
    return DeepChannels(values[..., :3], high[..., 3] if high.shape[2] == 4 else _alpha_by_key(values, image))


def _alpha_by_key(values: NDArray[Any], image: Image.Image) -> NDArray[np.uint8]:
    """Return the alpha channel, (H, W), of a PNG that declares one value or colour to be transparent.

    Args:
        values: Stored values, (H, W, channels).
        image: The picture that may declare a key.
    """
    key = image.info.get("transparency")
    if isinstance(key, int):
        key = (key,)
    if not isinstance(key, tuple) or len(key) != values.shape[2]:
        return np.full(values.shape[:2], 255, dtype=np.uint8)
    return np.where((values == np.asarray(key)).all(axis=2), 0, 255).astype(np.uint8)


def _raw_mode(image: Image.Image) -> str:
    """Return how Pillow reads the stored bytes, or nothing where that cannot be changed."""
    tiles = getattr(image, "tile", None)
    if not tiles or image.format not in ("PNG", "TIFF"):
        return ""
    raw_modes = {str(tile[3] if isinstance(tile[3], str) else tile[3][0]) for tile in tiles}
    return raw_modes.pop() if len(raw_modes) == 1 else ""


def _swapped(raw_mode: str) -> str | None:
    """Return the raw mode that yields the low bytes of a 16-bit raw mode; None for other raw modes."""
    channels, _, order = raw_mode.partition(";16")
    if channels not in ("RGB", "RGBX", "RGBA"):
        return None
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    opposite = {"L": "B", "B": "L"}.get(order)
    return opposite and f"{channels};16{opposite}"


def _decoded_as(file: BinaryIO, image: Image.Image, raw_mode: str) -> NDArray[np.uint8]:
    """Decode the file with another raw mode, (H, W, channels)."""
    file.seek(0)
    again: Any = Image.open(file, formats=[str(image.format)])
    if page := image.tell():
        again.seek(page)
    again.tile = [_with_raw_mode(tile, raw_mode) for tile in again.tile]
    again.load()
    return np.asarray(again)


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    """Return a tile (codec, box, offset, arguments) that is read in another way."""
    arguments = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    if hasattr(tile, "_replace"):
        return tile._replace(args=arguments)
    return (*tile[:3], arguments)  # Pillow before 11
