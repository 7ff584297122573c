"""Two pictures made into one: halves, mosaics, cut and paste through masks, transparent overlays."""

import math

import numpy as np

from us_anomaly.data.noise import Field, clip_unit, log_uniform, spectral_noise
from us_anomaly.data.photographs import Picture


def mix(first: Picture, second: Picture, rng: np.random.Generator) -> Picture:
    """Combine two pictures of the same shape (side, side, 3) by a random mask."""
    mask = _MASKS[int(rng.integers(len(_MASKS)))](rng, first.shape[0])[..., None]
    if rng.random() < 0.25:
        mask = mask * np.float32(rng.uniform(0.3, 0.7))
    return (first + (second.astype(np.float32) - first) * mask).astype(np.uint8)


def _half(rng: np.random.Generator, side_px: int) -> Field:
    """Return a straight border at any angle, from sharp to smooth."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32) - side_px / 2
    distance = x * math.cos(angle) + y * math.sin(angle) - rng.uniform(-0.25, 0.25) * side_px
    return _soft(distance, log_uniform(rng, 1, side_px / 4))


def _mosaic(rng: np.random.Generator, side_px: int) -> Field:
    """Return tiles of a regular or random grid, each from one picture or the other."""
    rows, columns = (np.sort(rng.integers(0, side_px, int(rng.integers(1, 5)))) for _ in range(2))
    choice = rng.integers(0, 2, (len(rows) + 1, len(columns) + 1)).astype(np.float32)
    choice[0, 0], choice[-1, -1] = 0, 1
    place = np.arange(side_px)
    down, right = np.searchsorted(rows, place, side="right"), np.searchsorted(columns, place, side="right")
    return choice[down[:, None], right[None, :]]


def _patch(rng: np.random.Generator, side_px: int) -> Field:
    """Return a turned rectangle or ellipse with a sharp or soft border."""
    angle = rng.uniform(0, 2 * math.pi)
    centre = rng.uniform(0.2, 0.8, 2) * side_px
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32)
    y, x = y - centre[0], x - centre[1]
    u, v = (
        np.abs(x * math.cos(angle) + y * math.sin(angle)),
        np.abs(y * math.cos(angle) - x * math.sin(angle)),
    )
    high, wide = log_uniform(rng, side_px / 25, side_px / 2.2), log_uniform(rng, side_px / 10, side_px / 2.2)
    rectangle, ellipse = np.maximum(u - wide, v - high), (np.hypot(u / wide, v / high) - 1) * min(high, wide)
    distance = rectangle if rng.random() < 0.5 else ellipse
    return _soft(-distance, log_uniform(rng, 1, 20))


def _islands(rng: np.random.Generator, side_px: int) -> Field:
    """Return irregular islands, as rust, peeling paint and moss have them."""
    noise = spectral_noise(rng, side_px, exponent=rng.uniform(1.4, 2.4))
    return _soft(noise - rng.uniform(-0.3, 1.2), log_uniform(rng, 0.05, 1))


def _veil(rng: np.random.Generator, side_px: int) -> Field:
    """Return an even overlay of both pictures."""
    return np.full((side_px, side_px), rng.uniform(0.25, 0.75), dtype=np.float32)


def _soft(distance: Field, width: float) -> Field:
    """Return 0 well below 0, 1 well above it, and a ramp of the given width between."""
    return clip_unit(distance / width + 0.5)


_MASKS = (_half, _mosaic, _patch, _patch, _islands, _veil)
