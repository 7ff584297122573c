"""Synthetic defects on normal pictures, with masks: for choosing between recipes without a look at any real defect.

Shapes: pictures uint8 (H, W, 3), masks bool (H, W). `rng` decides everything.

Sizes range from a few pixels to most of the side, most of them log-uniform; all but pasted pieces may be cut by the border.

Source of the cut-paste and scar defects: Li et al., *CutPaste* (CVPR 2021).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from us_anomaly.data.noise import log_uniform
from us_anomaly.data.recolouring import random_palette
from us_anomaly.data.textures import random_texture

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.floating[Any]]
Paint = Callable[[Picture, np.random.Generator], tuple[Picture, Mask]]
"""From a picture to the changed one and where it may have changed."""

MIN_DIFFERENCE = 6
"""A pixel counts as defective when a channel changed by at least this many grey levels."""
MAX_TRIES = 20


def add_synthetic_defect(picture: Picture, rng: np.random.Generator, *, kind: str) -> tuple[Picture, Mask]:
    """Return a copy of a normal picture with one defect, and the mask of what visibly changed.

    Args:
        picture: A normal picture.
        rng: Where, how large and how strong.
        kind: One of `KINDS`.

    Raises:
        KeyError: There is no such kind.
    """
    found = _visible(picture, rng, KINDS[kind])
    if found is None:  # a warp, or a piece of the same grey, shows nothing on a flat surface; a stain always does
        found = _visible(picture, rng, _stain)
    assert found is not None, "a stain is visible on any picture"
    return found


def _visible(picture: Picture, rng: np.random.Generator, paint: Paint) -> tuple[Picture, Mask] | None:
    """Try until enough pixels change; None if they never do."""
    for _ in range(MAX_TRIES):
        changed, region = paint(picture, rng)
        difference = np.abs(changed.astype(np.int16) - picture.astype(np.int16)).max(axis=2) >= MIN_DIFFERENCE
        mask = ndimage.binary_fill_holes(difference & region)
        if mask.mean() > 0.0005:
            return np.where(region[..., None], changed, picture), mask.astype(bool)
    return None


def _cut_paste(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Paste a piece of the picture, jittered in brightness, somewhere else in it."""
    height, width = picture.shape[:2]
    area = log_uniform(rng, 0.005, 0.15) * height * width
    ratio = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    return _paste(picture, rng, size=(round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))), angle=0.0)


def _scar(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Paste a long thin, turned piece of the picture somewhere else in it."""
    scale = min(picture.shape[:2]) / 256
    size = (round(log_uniform(rng, 3, 16) * scale), round(log_uniform(rng, 20, 130) * scale))
    return _paste(picture, rng, size=size, angle=float(rng.uniform(-90, 90)))


def _paste(picture: Picture, rng: np.random.Generator, *, size: tuple[int, int], angle: float) -> tuple[Picture, Mask]:
    height, width = picture.shape[:2]
    rows, cols = (int(np.clip(side, 2, limit - 1)) for side, limit in zip(size, (height, width), strict=True))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - cols + 1))
    piece = picture[top : top + rows, left : left + cols].astype(np.float32)
    piece = np.clip(piece * rng.uniform(0.6, 1.4) + rng.uniform(-30, 30), 0, 255).astype(np.uint8)
    turned = Image.fromarray(piece).convert("RGBA").rotate(angle, expand=True, resample=Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (width, height))
    canvas.paste(
        turned,
        (int(rng.integers(max(1, width - turned.width))), int(rng.integers(max(1, height - turned.height)))),
    )
    layer = np.asarray(canvas)
    region = layer[..., 3] > 127
    return np.where(region[..., None], layer[..., :3], picture), region


def _blob(rng: np.random.Generator, height: int, width: int) -> Field:
    """Return a soft-edged irregular blob, 0..1, anywhere, also at the border."""
    rows, cols = np.mgrid[:height, :width].astype(np.float32)
    radius = log_uniform(rng, 0.03, 0.25) * min(height, width)
    centre_row, centre_col = rng.uniform(0, height), rng.uniform(0, width)
    angle = np.arctan2(rows - centre_row, cols - centre_col)
    wave = sum(rng.uniform(-0.25, 0.25) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(1, 5))
    stretch = np.exp(rng.uniform(-0.6, 0.6))
    distance = np.hypot((rows - centre_row) * stretch, (cols - centre_col) / stretch) / (radius * (1 + wave))
    softness = rng.uniform(0.05, 0.5)
    field: Field = np.clip((1 - distance) / softness + 0.5, 0, 1)
    return field


def _stain(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Shift colour or brightness within a blob."""
    weight = _blob(rng, *picture.shape[:2])
    shift = rng.choice([-1, 1]) * rng.uniform(15, 70)
    color = np.full(3, shift) if rng.random() < 0.6 else rng.uniform(-60, 60, 3)
    changed = picture + weight[..., None] * color
    return np.clip(changed, 0, 255).astype(np.uint8), weight > 0.3


def _noise(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Roughen or smooth the surface within a blob."""
    weight = _blob(rng, *picture.shape[:2])[..., None]
    if rng.random() < 0.5:
        grain = ndimage.gaussian_filter(rng.standard_normal(picture.shape[:2]), rng.uniform(0.5, 2.5))
        changed = picture + weight * (grain / grain.std() * rng.uniform(12, 40))[..., None]
    else:
        smooth = ndimage.gaussian_filter(picture.astype(np.float32), (rng.uniform(2, 6),) * 2 + (0,))
        changed = picture * (1 - weight) + smooth * weight
    return np.clip(changed, 0, 255).astype(np.uint8), weight[..., 0] > 0.3


def _scratch(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Draw a thin curve, brighter or darker than the surface."""
    height, width = picture.shape[:2]
    length = log_uniform(rng, 0.1, 0.8) * min(height, width)
    angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-1.2, 1.2)
    steps = np.linspace(0, 1, 200)
    heading = angle + bend * steps
    rows = rng.uniform(0, height) + np.cumsum(np.sin(heading)) * length / 200
    cols = rng.uniform(0, width) + np.cumsum(np.cos(heading)) * length / 200
    line = np.zeros((height, width), dtype=np.float32)
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    line[rows[inside].astype(int), cols[inside].astype(int)] = 1
    weight = ndimage.gaussian_filter(line, rng.uniform(0.6, 1.8) * min(height, width) / 256)
    weight = np.clip(weight / max(float(weight.max()), 1e-6) * 1.5, 0, 1)
    changed = picture + (weight * rng.choice([-1, 1]) * rng.uniform(25, 90))[..., None]
    return np.clip(changed, 0, 255).astype(np.uint8), weight > 0.2


def _crack(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Darken the surface along a jagged path of the width of a hair, sometimes with a branch."""
    height, width = picture.shape[:2]
    scale = min(height, width) / 256
    line = np.zeros((height, width), dtype=np.float32)
    start, heading = rng.uniform(0, (height, width)), rng.uniform(0, 2 * np.pi)
    length = rng.uniform(0.15, 0.8) * min(height, width)
    path = _walk(line, rng, start=start, heading=heading, length=length)
    if rng.random() < 0.4:
        branch = path[int(rng.integers(len(path)))]
        turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
        _walk(line, rng, start=branch, heading=heading + turn, length=length * rng.uniform(0.2, 0.6))
    weight = ndimage.gaussian_filter(line, rng.uniform(0.4, 1.0) * scale)
    weight = np.clip(weight / max(float(weight.max()), 1e-6) * 1.5, 0, 1)
    changed = picture * (1 - weight * rng.uniform(0.12, 0.6))[..., None]
    return np.clip(changed, 0, 255).astype(np.uint8), weight > 0.2


def _walk(
    line: Field, rng: np.random.Generator, *, start: npt.NDArray[Any], heading: float, length: float
) -> npt.NDArray[Any]:
    """Draw a path that changes its heading a little all the time into `line`; return its points (N, 2), rows first."""
    steps = max(2, round(2 * length))  # of half a pixel
    headings = (
        heading + np.cumsum(rng.normal(0, 0.12, steps)) + np.repeat(rng.normal(0, 0.5, steps // 8 + 1), 8)[:steps]
    )
    path = start + 0.5 * np.cumsum(np.stack([np.sin(headings), np.cos(headings)], axis=1), axis=0)
    pixels = np.floor(path).astype(int)
    inside = ((pixels >= 0) & (pixels < line.shape)).all(axis=1)
    line[tuple(pixels[inside].T)] = 1
    return path


def _turned(rng: np.random.Generator, height: int, width: int) -> tuple[Field, Field]:
    """Return the coordinates of each pixel along and across a drawn direction, from a drawn point."""
    rows, cols = np.mgrid[:height, :width].astype(np.float32)
    centre_row, centre_col, turn = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, np.pi)
    along = (rows - centre_row) * np.sin(turn) + (cols - centre_col) * np.cos(turn)
    across = (rows - centre_row) * np.cos(turn) - (cols - centre_col) * np.sin(turn)
    return along, across


def _fold(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Run a soft ridge across the surface: one flank catches the light, the other lies in its shadow."""
    height, width = picture.shape[:2]
    side = min(height, width)
    along, across = _turned(rng, height, width)
    flank = log_uniform(rng, 0.008, 0.06) * side
    across = (across + rng.uniform(-0.4, 0.4) * along**2 / side) / flank
    ends = np.exp(-0.5 * (along / (log_uniform(rng, 0.08, 0.5) * side)) ** 4)
    profile = across * np.exp(0.5 - 0.5 * across**2) * ends
    changed = picture * (1 + rng.choice([-1, 1]) * rng.uniform(0.12, 0.5) * profile)[..., None]
    return np.clip(changed, 0, 255).astype(np.uint8), np.abs(profile) > 0.05


def _texture(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Blend a foreign texture into a blob, as Zavrtanik et al. do (*DRAEM*, ICCV 2021), drawn instead of photographed."""
    height, width = picture.shape[:2]
    field = random_texture(rng, max(height, width))[:height, :width]
    foreign = random_palette(rng)[(np.clip(field, 0, 1) * 255).astype(np.uint8)]
    if np.ptp(picture, axis=2).max() == 0:  # a grey camera sees foreign things grey
        foreign = foreign.mean(axis=2, keepdims=True)
    weight = _blob(rng, height, width)
    changed = picture + weight[..., None] * rng.uniform(0.15, 0.8) * (foreign - picture.astype(np.float32))
    return np.clip(changed, 0, 255).astype(np.uint8), weight > 0.05


def _unevenness(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Make a large part of the surface brighter, darker or flatter, without an edge."""
    height, width = picture.shape[:2]
    along, across = _turned(rng, height, width)
    stretch, radius = np.exp(rng.uniform(0, 1)), rng.uniform(0.08, 0.18) * min(height, width)
    weight = np.exp(-0.5 * ((along / (radius * stretch)) ** 2 + (across / radius * stretch) ** 2))[..., None]
    if rng.random() < 0.7:
        changed = picture + weight * rng.choice([-1, 1]) * rng.uniform(12, 45)
    else:
        mean = ndimage.gaussian_filter(picture.astype(np.float32), (4, 4, 0))
        changed = picture + weight * rng.uniform(0.5, 0.9) * (mean - picture)
    return np.clip(changed, 0, 255).astype(np.uint8), weight[..., 0] > 0.02


def _warp(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """Push the surface aside within a blob: its structure bends and nothing else changes."""
    weight = _blob(rng, *picture.shape[:2])
    soft = ndimage.gaussian_filter(weight, 0.02 * min(picture.shape[:2]))
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.06) * min(picture.shape[:2])
    rows, cols = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    at = [rows + reach * np.sin(angle) * soft, cols + reach * np.cos(angle) * soft]
    channels = [ndimage.map_coordinates(picture[..., c], at, order=1, mode="reflect") for c in range(3)]
    return np.stack(channels, axis=2), soft > 0.02


KINDS: dict[str, Paint] = {
    "crack": _crack,
    "cut_paste": _cut_paste,
    "fold": _fold,
    "noise": _noise,
    "scar": _scar,
    "scratch": _scratch,
    "stain": _stain,
    "texture": _texture,
    "unevenness": _unevenness,
    "warp": _warp,
}
"""Every kind of synthetic defect."""
