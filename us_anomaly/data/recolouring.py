"""Random changes of colour, contrast, sharpness and noise that leave the structure of a picture in place."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from us_anomaly.data.photographs import Picture, to_bytes

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
LEVELS = np.linspace(0, 1, 256, dtype=np.float32)


def recolour(picture: Picture, rng: np.random.Generator) -> Picture:
    """Recolour strongly: grey or one tint (half of the time), swapped or mixed channels, contrast, inversion.

    Args:
        picture: Shape (height, width, 3).
        rng: Decides everything.

    Returns:
        A new picture of the same shape.
    """
    fate = rng.random()
    if fate < 0.35:
        picture = _grey(picture, rng)
    elif fate < 0.47:
        picture = random_palette(rng)[_grey(picture, rng)[..., 0]]
    elif fate < 0.65:
        picture = picture[..., rng.permutation(3)]
    elif fate < 0.8:
        picture = _mix_channels(picture, rng)
    picture = _map_levels(picture, rng, spread=1.0, inversion=0.12)
    return _degrade(picture, rng, probability=0.15)


def recolour_lightly(picture: Picture, rng: np.random.Generator) -> Picture:
    """Recolour as a camera and its light would: grey (a third of the time), gamma, gain and contrast near 1.

    Args:
        picture: Shape (height, width, 3).
        rng: Decides everything.

    Returns:
        A new picture of the same shape.
    """
    if rng.random() < 0.35:
        picture = _grey(picture, rng)
    picture = _map_levels(picture, rng, spread=0.4, inversion=0.0)
    return _degrade(picture, rng, probability=0.08)


def random_colour(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a colour (3 values from 0 to 255); greyish ones are as frequent as saturated ones."""
    value = rng.uniform(10, 245)
    colour = value + rng.normal(0, 1, 3) * rng.choice([4.0, 25.0, 70.0])
    clipped: npt.NDArray[np.float32] = np.clip(colour, 0, 255).astype(np.float32)
    return clipped


def random_palette(rng: np.random.Generator) -> Picture:
    """Return 256 colours that lead through two to four random ones: shades of one material, or unrelated.

    Returns:
        Shape (256, 3).
    """
    kind = rng.random()
    if kind < 0.35:  # grey
        ends = rng.uniform(0, 255, 2)
        if abs(ends[0] - ends[1]) < 40:
            ends = np.array([20.0, 235.0])
        stops = np.repeat(ends[:, None], 3, axis=1)
    elif kind < 0.75:  # shades of one material
        base = random_colour(rng)
        reach = rng.uniform(0.15, 0.8)
        tint = rng.normal(0, 12, 3)
        stops = np.stack([base * (1 - reach), base + tint, base + (255 - base) * reach])
    else:
        stops = np.stack([random_colour(rng) for _ in range(int(rng.integers(2, 5)))])
    if rng.random() < 0.5:
        stops = stops[::-1]
    positions = np.linspace(0, 1, len(stops))
    channels = [np.interp(LEVELS, positions, stops[:, channel]) for channel in range(3)]
    return to_bytes(np.stack(channels, axis=1))


def _grey(picture: Picture, rng: np.random.Generator) -> Picture:
    weights = LUMINANCE if rng.random() < 0.5 else rng.dirichlet([1, 1, 1]).astype(np.float32)
    grey = (picture @ weights).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _mix_channels(picture: Picture, rng: np.random.Generator) -> Picture:
    matrix = np.eye(3) + rng.normal(0, 0.35, (3, 3))
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 0.3)  # white stays about white
    return to_bytes(picture @ matrix.T.astype(np.float32))


def _map_levels(picture: Picture, rng: np.random.Generator, *, spread: float, inversion: float) -> Picture:
    """Send each channel through a curve: gamma, gain, contrast about the mean, perhaps inversion."""
    gamma = np.exp(spread * (rng.normal(0, 0.3) + rng.normal(0, 0.1, 3)))
    curves = LEVELS[:, None] ** gamma.astype(np.float32)  # (256, 3)
    mean = float(curves[round(float(picture.mean()))].mean())
    contrast = np.exp(spread * rng.uniform(-0.9, 0.5))
    centre = np.clip(mean + spread * rng.normal(0, 0.15), 0.12, 0.88)
    curves = (curves - mean) * contrast + centre
    curves *= np.exp(spread * rng.normal(0, 0.06, 3))
    if rng.random() < inversion:
        curves = 1 - curves
    table = to_bytes(curves * 255)
    return np.stack([table[:, channel][picture[..., channel]] for channel in range(3)], axis=2)


def _degrade(picture: Picture, rng: np.random.Generator, *, probability: float) -> Picture:
    """Blur mildly or add sensor noise, each with the given probability."""
    if rng.random() < probability:
        sigma = rng.uniform(0.4, 1.6)
        picture = gaussian_filter(picture, (sigma, sigma, 0), truncate=2.5)
    if rng.random() < probability:
        channels = 1 if rng.random() < 0.5 else 3
        noise = rng.standard_normal((*picture.shape[:2], channels), dtype=np.float32) * rng.uniform(1, 9)
        picture = to_bytes(picture + noise)
    return picture
