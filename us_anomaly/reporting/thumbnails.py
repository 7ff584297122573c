"""Small copies of images, masks and heatmaps for the web pages.

Shapes: H W pixels of the original, h w pixels of the copy. Every picture has up to two copies: one for the gallery and,
where the original is larger than that, one for the large view.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from us_anomaly.data.images import DEFAULT_MAX_PIXELS, read_own
from us_anomaly.reporting.heatmaps import heatmap_picture, read_color_steps
from us_anomaly.run_dir.atomic import write_atomically

GALLERY_PX = 256
"""Longest side of a picture in the gallery."""
VIEW_PX = 1024
"""Longest side of a picture in the large view."""
MASK_PX = 512
"""Longest side of a drawn mask; smaller masks are enlarged, so that the outline stays thin beside their pixels."""

FILL = (222, 32, 48, 105)
EDGE = (222, 32, 48, 235)
OUTLINE_INNER = (255, 255, 255, 255)
OUTLINE_OUTER = (0, 0, 0, 200)

ByteImage = npt.NDArray[np.uint8]
BoolImage = npt.NDArray[np.bool_]


def fitted_size(height: int, width: int, longest_px: int) -> tuple[int, int]:
    """Return height and width of the copy whose longest side is at most `longest_px`."""
    scale = min(1.0, longest_px / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def write_image_copy(path: Path, pixels: ByteImage, *, longest_px: int) -> None:
    """Write an RGB image (H, W, 3) as a JPEG of at most `longest_px`; a copy of full size is nearly lossless."""
    height, width = fitted_size(pixels.shape[0], pixels.shape[1], longest_px)
    picture = Image.fromarray(pixels)
    is_whole = (height, width) == pixels.shape[:2]
    if not is_whole:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    quality, subsampling = (95, 0) if is_whole else (88, 0)
    write_atomically(
        path,
        lambda file: picture.save(file, format="JPEG", quality=quality, subsampling=subsampling),
        flush=False,
    )


def write_heatmap_copy(path: Path, source: Path, *, longest_px: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
    """Write the heatmap `source` as a PNG of at most `longest_px`, each pixel the mean of those that it covers.

    Raises:
        OSError: The heatmap cannot be read, or has more than `max_pixels`.
    """
    steps = read_color_steps(source, max_pixels=max_pixels)
    picture = (
        Image.fromarray(steps)
        if steps is not None
        else read_own(
            source, lambda opened: opened.convert("RGBA"), max_pixels=max_pixels
        )  # any other picture with transparency
    )
    height, width = fitted_size(picture.height, picture.width, longest_px)
    picture = picture.resize((width, height), Image.Resampling.BOX)
    if steps is not None:
        picture = heatmap_picture(np.asarray(picture))
    write_atomically(path, lambda file: picture.save(file, format="PNG"), flush=False)


def write_mask_pictures(fill_path: Path, outline_path: Path, mask: BoolImage) -> None:
    """Write a mask (H, W) twice to lay over the image: filled in semi-transparent red, and as an outline in black and white."""
    drawn = scaled_mask(mask, longest_px=MASK_PX)
    inner = drawn & ~ndimage.binary_erosion(drawn, iterations=2)
    outer = ndimage.binary_dilation(drawn, iterations=2) & ~drawn
    filled = np.zeros(drawn.shape, dtype=np.uint8)
    filled[drawn] = 1
    filled[inner] = 2
    _write_palette(fill_path, filled, (FILL, EDGE))
    outlined = np.zeros(drawn.shape, dtype=np.uint8)
    outlined[inner] = 1
    outlined[outer] = 2
    _write_palette(outline_path, outlined, (OUTLINE_INNER, OUTLINE_OUTER))


def scaled_mask(mask: BoolImage, *, longest_px: int) -> BoolImage:
    """Return a mask (H, W) at about `longest_px`: enlarged by a whole factor, or shrunk so that no defect vanishes."""
    longest = max(mask.shape)
    if longest <= longest_px:
        factor = longest_px // longest
        return mask.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = fitted_size(mask.shape[0], mask.shape[1], longest_px)
    covered = Image.fromarray(mask.astype(np.uint8) * 255).convert("F").resize((width, height), Image.Resampling.BOX)
    shrunk: BoolImage = np.asarray(covered) > 0
    return shrunk


def _write_palette(path: Path, numbers: ByteImage, colors: tuple[tuple[int, int, int, int], ...]) -> None:
    """Write a picture of colour numbers from 1; 0 is transparent."""
    picture = Image.frombytes("P", (numbers.shape[1], numbers.shape[0]), numbers.tobytes())
    table = np.array([(0, 0, 0, 0), *colors], dtype=np.uint8)
    picture.putpalette(table[:, :3].tobytes())
    alpha = table[:, 3].tobytes()
    write_atomically(path, lambda file: picture.save(file, format="PNG", transparency=alpha), flush=False)
