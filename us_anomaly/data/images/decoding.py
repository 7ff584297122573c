"""From a file to the RGB picture a person sees, with every fault told as one line.

The format is taken from the content, not from the name. The first frame of an animated or multi-page file
counts. Colour profiles are not applied. Legend: `H W` pixels after the EXIF orientation.
"""

import errno
import logging
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from us_anomaly.data.images.brightness import (
    DeepChannels,
    ValueRangeError,
    deep_channels,
    deep_grey,
    is_deep_grey,
    value_range,
)
from us_anomaly.errors import BadImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Endings, in lower case, of the files that count as pictures; upper case counts as well."""

DEFAULT_MAX_PIXELS = 1_000_000_000
"""Pixels that a picture may have where no setting says so."""
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_ORIENTATION_TAG = 0x0112
_MAGIC = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"RIFF": "WebP",
}

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what Pillow has to say about a file becomes our one line

T = TypeVar("T")
Opened = tuple[Image.Image, BinaryIO]


def read_image(path: Path, *, max_pixels: int, white_level: float | None = None) -> NDArray[np.uint8]:
    """Read a picture as uint8 RGB of shape (H, W, 3), the way a person sees it.

    Transparency is composited over white; what is fully opaque keeps its exact values. Pictures of more than
    8 bits per channel are scaled by `brightness.value_range`. The EXIF orientation is applied.

    Args:
        path: The file.
        max_pixels: Files of more pixels are refused.
        white_level: Which value is white in pictures of more than 8 bits; None guesses it for each.

    Raises:
        BadImageError: The file is missing, unreadable, empty, truncated, not a picture, has more than
            `max_pixels` pixels (told from the header, before decoding), holds not-a-number, or values above `white_level`.
    """
    return decode(path, lambda opened: _rgb(opened[0], deep_channels(*opened), white_level), max_pixels=max_pixels)


def rgb_of(image: Image.Image, *, white_level: float | None = None) -> NDArray[np.uint8]:
    """Return a picture of Pillow as `read_image` reads its file.

    Of 16 bits in each of several channels Pillow itself keeps the high byte alone: once it is loaded, or where it comes from
    no file, that is all there is.

    Raises:
        BadImageError: The pixels cannot be decoded, hold not-a-number, or values above `white_level`.
    """
    orientation = stored_orientation(image)
    try:
        deep = _deep_channels_of(image)
        if deep is not None:
            return upright(_over_white(deep.to_rgba(white_level=white_level)), orientation)
        image.load()
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # which some versions of Pillow have turned by now
            image = ImageOps.exif_transpose(image)
        return upright(_colours(image, white_level=white_level), orientation)
    except MemoryError:
        raise
    except ValueRangeError as error:
        raise BadImageError(f"a picture of PIL: {error}") from error
    except Exception as error:  # as in `decode`
        raise BadImageError(f"a picture of PIL: it is damaged or incomplete ({error})") from error


def _deep_channels_of(image: Image.Image) -> DeepChannels | None:
    """Return what a picture of Pillow holds in several channels of 16 bits, which stays as it is; None for any other."""
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None):  # loaded, and the file perhaps closed
        return None
    position = file.tell()
    try:
        return deep_channels(image, file)
    finally:
        file.seek(position)


def read_with_white_level(
    path: Path, *, max_pixels: int, white_level: float | None = None
) -> tuple[NDArray[np.uint8], float | None]:
    """Return a picture as `read_image`, and which value is white if it has more than 8 bits per channel; None for others.

    Raises:
        BadImageError: As `read_image`.
    """

    def read(opened: Opened) -> tuple[NDArray[np.uint8], float | None]:
        image, file = opened
        deep = deep_channels(image, file)
        pixels = _rgb(image, deep, white_level)
        if deep is None and not is_deep_grey(image):
            return pixels, None
        return pixels, value_range(np.asarray(image) if deep is None else deep.colour, white_level=white_level)[1]

    return decode(path, read, max_pixels=max_pixels)


def image_size(path: Path, *, max_pixels: int) -> tuple[int, int]:
    """Return height and width of what `read_image` would give, from the header alone.

    Raises:
        BadImageError: As `read_image`, as far as the header tells.
    """
    return decode(path, lambda opened: _upright_size(opened[0]), max_pixels=max_pixels)


def decode(path: Path, work: Callable[[Opened], T], *, max_pixels: int) -> T:
    """Open a picture, refuse it by its header if it is too large, and return what `work` makes of it.

    Pillow's own limit (`Image.MAX_IMAGE_PIXELS`) stays in force for everybody else: it is lifted only around
    a picture that exceeds it and that `max_pixels` allows.

    Raises:
        BadImageError: One line that names the file and the reason.
    """
    try:
        return _of_any_size(lambda: _open_and(path, work, max_pixels))
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything for damaged files
        raise BadImageError(f"{path}: {_reason(error, path)}") from error


def read_own(path: Path, work: Callable[[Image.Image], T], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> T:
    """Open a picture that a command wrote, which is as large as the picture it is about, and return what `work` makes of it.

    Raises:
        OSError: The file is missing or no picture, or it is too large by its header, as one from somebody else may be.
    """

    def read() -> T:
        with Image.open(path) as picture:
            if picture.width * picture.height > max_pixels:
                sides = f"{picture.width} x {picture.height}"
                raise OSError(f"{sides} pixels are more than data.max_image_pixels={max_pixels} allows")
            return work(picture)

    return _of_any_size(read)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array (H, W, ...) from the stored to the upright position by its EXIF orientation, 1 to 8."""
    match orientation:
        case 2:
            turned = pixels[:, ::-1]
        case 3:
            turned = pixels[::-1, ::-1]
        case 4:
            turned = pixels[::-1]
        case 5:
            turned = pixels.swapaxes(0, 1)
        case 6:
            turned = pixels[::-1].swapaxes(0, 1)
        case 7:
            turned = pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            turned = pixels[:, ::-1].swapaxes(0, 1)
        case _:
            turned = pixels
    return np.require(turned, requirements=["C", "W"])  # Pillow hands out arrays that cannot be written to


def stored_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is left to apply after loading, 1 to 8.

    It is read before the pixels, so that size and picture always agree. Pillow turns TIFF files itself.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    return _valid_orientation(lambda: Image.Image.getexif(image).get(_ORIENTATION_TAG, 1))


def loaded(image: Image.Image) -> Image.Image:
    """Decode the pixels; TIFF files come out upright with every version of Pillow."""
    image.load()
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _open_and(path: Path, work: Callable[[Opened], T], max_pixels: int) -> T:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise BadImageError(f"{path}: it is a folder, not a picture")
    if not stat.S_ISREG(mode):  # opening a named pipe would wait forever
        raise BadImageError(f"{path}: it is not a regular file")
    with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        height, width = _upright_size(image)
        if height * width > max_pixels:
            raise BadImageError(
                f"{path}: {width} x {height} pixels are more than data.max_image_pixels={max_pixels} allows"
            )
        return work((image, file))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whether Pillow's own size is turned depends on its version
        width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
        orientation = _valid_orientation(lambda: image.tag_v2.get(_ORIENTATION_TAG, 1))
    else:
        width, height = image.size
        orientation = stored_orientation(image)
    return (width, height) if orientation >= 5 else (height, width)


def _valid_orientation(read: Callable[[], object]) -> int:
    """Return an orientation from 1 to 8; damaged EXIF data means upright."""
    try:
        value = read()
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rgb(image: Image.Image, deep: DeepChannels | None, white_level: float | None) -> NDArray[np.uint8]:
    """Return the upright picture as uint8, shape (H, W, 3); `deep` is what `deep_channels` gives of it."""
    orientation = stored_orientation(image)
    if deep is not None:
        return upright(_over_white(deep.to_rgba(white_level=white_level)), orientation)
    return upright(_colours(loaded(image), white_level=white_level), orientation)


def _colours(image: Image.Image, *, white_level: float | None) -> NDArray[np.uint8]:
    """Return a loaded picture as uint8, shape (H, W, 3), as it lies."""
    rgba = deep_grey(image, white_level=white_level)
    if rgba is None and image.has_transparency_data:
        rgba = np.asarray(straight_alpha(image).convert("RGBA"))
    return np.asarray(image.convert("RGB")) if rgba is None else _over_white(rgba)


def straight_alpha(image: Image.Image) -> Image.Image:
    """Undo premultiplied grey, which Pillow converts to nothing else."""
    return image.convert("LA") if image.mode == "La" else image


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite (H, W, 4) over white and return (H, W, 3); rounded to nearest, exact where opaque."""
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if (alpha == 255).all():
        return colour
    wide = alpha.astype(np.uint32)
    composited: NDArray[np.uint8] = ((colour * wide + 255 * (255 - wide) + 127) // 255).astype(np.uint8)
    return composited


def _reason(error: Exception, path: Path) -> str:
    """Say in words why a file cannot be read."""
    match error:
        case FileNotFoundError():
            return "it does not exist"
        case UnidentifiedImageError():
            return _unidentified(path)
        case ValueRangeError():
            return str(error)
        case OSError() if error.errno == errno.ELOOP:
            return "it is a link that leads back to itself"
        case OSError() if error.errno in (errno.EACCES, errno.EPERM):
            return "permission to read it is denied"
        case OSError() if error.strerror:
            return error.strerror
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"it is damaged or incomplete ({text})"


def _unidentified(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return "it is empty"
    for magic, name in _MAGIC.items():
        if start.startswith(magic):
            return f"it begins like a {name} file but is damaged, incomplete or of an unusual kind"
    doubted = ", whatever its name says" if path.suffix.lower() in IMAGE_SUFFIXES else ""
    return f"it is not a PNG, JPEG, BMP, TIFF or WebP picture{doubted}"


_lock = threading.Lock()
_limit_lock = threading.Lock()
_num_quiet = 0
_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings while any thread decodes; `warnings.catch_warnings` is not for threads.

    The list is changed directly: after `warnings.filterwarnings` Python would forget which warnings of the program around us it
    has shown, and show them once more with every picture.
    """
    global _num_quiet
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    with _lock:
        if _IGNORE_PILLOW not in filters:
            filters.insert(0, _IGNORE_PILLOW)
        _num_quiet += 1
    try:
        yield
    finally:
        with _lock:
            _num_quiet -= 1
            if _num_quiet == 0:
                with suppress(ValueError):  # somebody reset the filters meanwhile
                    filters.remove(_IGNORE_PILLOW)


def _of_any_size(read: Callable[[], T]) -> T:
    """Return what `read` returns, once more without Pillow's limit if that was in the way."""
    with _quiet_pillow():
        try:
            return read()
        except Image.DecompressionBombError:
            with _pillow_limit_lifted():
                return read()


@contextmanager
def _pillow_limit_lifted() -> Iterator[None]:
    with _limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
