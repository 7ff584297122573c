"""Masks: which pixels of a picture show the defect, whatever way the mask was stored.

The rule for one mask picture, in this order (values are the brightest channel; transparency counts as black):

1. JPEG: 128 and above, because lossy compression leaves noise around both values.
2. One or two different values: everything that is not 0, or the larger of two values.
3. A palette, or whole numbers that all lie below 32: they number the kinds of defects, so everything that is
    not 0.
4. Anything else is not a binary mask: half of its full scale (`brightness.value_range`) and above;
   `Mask.is_binary` says so.

A folder of mask pictures (MVTec LOCO) is their union, and there every value but 0 counts, because the values
number the kinds of defects; of a JPEG, 128 and above.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from us_anomaly.data.images.brightness import deep_channels, is_deep_grey, value_range
from us_anomaly.data.images.decoding import (
    IMAGE_SUFFIXES,
    Opened,
    decode,
    loaded,
    stored_orientation,
    straight_alpha,
    upright,
)
from us_anomaly.errors import BadImageError

MAX_LABEL = 31


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask and how it was stored."""

    pixels: NDArray[np.bool_]
    """True where the defect is, shape (H, W)."""
    is_binary: bool
    """False where the stored values had to be cut at half of their range."""


def read_mask(path: Path, *, max_pixels: int) -> NDArray[np.bool_]:
    """Read a mask picture, or unite a folder of them, as bool of shape (H, W); the module tells the rule.

    Raises:
        BadImageError: A file cannot be read (see `read_image`), or the folder holds no picture or several
            sizes.
    """
    return load_mask(path, max_pixels=max_pixels).pixels


def load_mask(path: Path, *, max_pixels: int) -> Mask:
    """Read a mask and tell whether it was binary; otherwise as `read_mask`."""
    if path.is_dir():
        return Mask(_united(path, max_pixels), is_binary=True)
    return decode(path, _mask, max_pixels=max_pixels)


def _united(folder: Path, max_pixels: int) -> NDArray[np.bool_]:
    union: NDArray[np.bool_] | None = None
    for picture in mask_pictures(folder):
        marked = decode(picture, _all_kinds, max_pixels=max_pixels)
        if union is None:
            union = marked
        elif marked.shape != union.shape:
            raise BadImageError(
                f"{picture}: its size {_sizes(marked)} differs from {_sizes(union)} of the masks beside it"
            )
        else:
            union |= marked
    assert union is not None
    return union


def same_proportions(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Tell whether one size (H, W) is the other one scaled, up to rounding by one pixel, as those of mask and picture must be."""
    (small, large) = sorted([first, second])
    expected = small[1] * large[0] / small[0]
    return abs(expected - large[1]) <= max(1.0, large[0] / small[0])


def is_mask_picture(path: Path) -> bool:
    """Return whether a file in a folder of masks is one, by its name."""
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES


def mask_pictures(folder: Path) -> list[Path]:
    """Return the mask pictures of a folder, sorted.

    Raises:
        BadImageError: There is none.
    """
    pictures = sorted(path for path in folder.iterdir() if is_mask_picture(path))
    if not pictures:
        raise BadImageError(f"{folder}: a folder of masks without any picture in it")
    return pictures


def _all_kinds(opened: Opened) -> NDArray[np.bool_]:
    """Return where one picture of a folder of masks marks a defect of any kind, (H, W)."""
    values = mask_values(opened)
    return values >= 128 if _is_lossy(opened) else values != 0


def _is_lossy(opened: Opened) -> bool:
    return opened[0].format in ("JPEG", "MPO")


def _mask(opened: Opened) -> Mask:
    values = mask_values(opened)
    image = opened[0]
    if _is_lossy(opened):
        return Mask(values >= 128, is_binary=not ((values > 0) & (values < 255)).any())
    low, high = values.min(), values.max()
    if low == high:
        return Mask(values != 0, is_binary=True)
    if ((values == low) | (values == high)).all():
        return Mask(values == high, is_binary=True)
    if _are_labels(values, has_palette=image.mode == "P"):
        return Mask(values != 0, is_binary=True)
    black, white = value_range(values)
    return Mask(values.astype(np.float64) - black >= (white - black) / 2, is_binary=False)


def _are_labels(values: NDArray[Any], *, has_palette: bool) -> bool:
    if has_palette:
        return len(np.unique(values)) <= MAX_LABEL + 1
    return bool(np.issubdtype(values.dtype, np.integer) and values.min() >= 0 and values.max() <= MAX_LABEL)


def mask_values(opened: Opened) -> NDArray[Any]:
    """Return the upright stored values as one channel, shape (H, W); colours by their brightest channel.

    Raises:
        ValueError: A value is infinite or not a number.
    """
    image, file = opened
    orientation = stored_orientation(image)
    deep = deep_channels(image, file)
    if deep is not None:
        return upright(_brightest(deep.to_rgba()), orientation)
    image = loaded(image)
    if is_deep_grey(image):
        values = np.asarray(image)
        value_range(values)  # refuses not-a-number
        return upright(values, orientation)
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return upright(np.asarray(image.convert("L")), orientation)
    return upright(_brightest(np.asarray(straight_alpha(image).convert("RGBA"))), orientation)


def _brightest(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the brightest channel over black, (H, W, 4) to (H, W); if all is black, alpha is the mask."""
    colour: NDArray[np.uint8] = rgba[..., :3].max(axis=2)
    alpha = rgba[..., 3]
    if (alpha == 255).all():
        return colour
    if not colour.any():
        return alpha
    return (colour.astype(np.uint32) * alpha // 255).astype(np.uint8)


def _sizes(pixels: NDArray[Any]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
