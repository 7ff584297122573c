"""Gaussian noise with a chosen spectrum, and the small arithmetic that fields of it need; lengths in px."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft2, rfftfreq

Field = npt.NDArray[np.float32]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def clip_unit(values: npt.NDArray[Any]) -> Field:
    """Clip values to 0..1."""
    field: Field = np.clip(values, 0, 1).astype(np.float32)
    return field


def spectral_noise(
    rng: np.random.Generator, side_px: int, *, exponent: float, stretch: float = 1.0, angle: float = 0.0
) -> Field:
    """Return Gaussian noise with amplitude spectrum 1/f^exponent; zero mean, unit deviation, periodic.

    Args:
        rng: Decides the phases and amplitudes.
        side_px: Side of the field.
        exponent: 0 is white, 1 natural pictures, 2 clouds.
        stretch: Ratio of the lengths of structures along and across `angle`.
        angle: Direction of the long structures in radians.
    """
    down = np.fft.fftfreq(side_px).astype(np.float32)[:, None]
    right = rfftfreq(side_px).astype(np.float32)[None, :]
    along = (right * math.cos(angle) + down * math.sin(angle)) * math.sqrt(stretch)
    across = (down * math.cos(angle) - right * math.sin(angle)) / math.sqrt(stretch)
    radius = np.sqrt(along**2 + across**2) + np.float32(0.5 / side_px)
    return _from_spectrum(rng, radius ** np.float32(-exponent), side_px)


def band_noise(rng: np.random.Generator, side_px: int, *, wavelength_px: float, width: float = 0.25) -> Field:
    """Return noise around one wavelength (relative bandwidth `width`); zero mean, unit deviation."""
    down = np.fft.fftfreq(side_px).astype(np.float32)[:, None]
    right = rfftfreq(side_px).astype(np.float32)[None, :]
    centre = 1 / wavelength_px
    radius = np.sqrt(down**2 + right**2)
    return _from_spectrum(rng, np.exp(-0.5 * ((radius - centre) / (width * centre)) ** 2), side_px)


def _from_spectrum(rng: np.random.Generator, amplitude: Field, side_px: int) -> Field:
    noise = rng.standard_normal((2, *amplitude.shape), dtype=np.float32)
    spectrum = (noise[0] + 1j * noise[1]) * amplitude
    spectrum[0, 0] = 0
    field = irfft2(spectrum, s=(side_px, side_px))
    unit: Field = (field / (field.std() + 1e-12)).astype(np.float32)
    return unit


def to_unit(field: npt.NDArray[Any], *, deviations: float = 2.2) -> Field:
    """Bring a field to 0..1 so that `deviations` standard deviations about the mean fill the range."""
    return clip_unit(0.5 + (field - field.mean()) / (2 * deviations * (field.std() + 1e-6)))


def turned_coordinates(rng: np.random.Generator, side_px: int, *, warp_px: float = 0.0) -> tuple[Field, Field]:
    """Return pixel coordinates (u, v), turned and moved at random, perhaps warped by noise."""
    angle = float(rng.choice([0.0, math.pi / 2])) if rng.random() < 0.4 else rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32)
    u = math.cos(angle) * x + math.sin(angle) * y + rng.uniform(0, 1000)
    v = math.cos(angle) * y - math.sin(angle) * x + rng.uniform(0, 1000)
    if warp_px > 0:
        exponent = rng.uniform(1.6, 2.6)
        u = u + warp_px * spectral_noise(rng, side_px, exponent=exponent)
        v = v + warp_px * spectral_noise(rng, side_px, exponent=exponent)
    return u.astype(np.float32), v.astype(np.float32)
