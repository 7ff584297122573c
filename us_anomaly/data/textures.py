"""Textures computed from noise and waves: one grey field each, with values from 0 to 1.

Every function here maps (rng, side_px) to a field of shape (side_px, side_px); lengths are in pixels.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from us_anomaly.data.noise import (
    Field,
    band_noise,
    clip_unit,
    log_uniform,
    spectral_noise,
    to_unit,
    turned_coordinates,
)


def clouds(rng: np.random.Generator, side_px: int) -> Field:
    """Draw 1/f^a noise, isotropic or stretched; sometimes ridged or in steps."""
    stretch = log_uniform(rng, 1.5, 20) if rng.random() < 0.4 else 1.0
    noise = spectral_noise(rng, side_px, exponent=rng.uniform(0.3, 2.2), stretch=stretch, angle=rng.uniform(0, math.pi))
    match int(rng.integers(4)):
        case 0:
            return clip_unit(1 - to_unit(np.abs(noise)))
        case 1:
            levels = int(rng.integers(2, 7))
            return clip_unit(np.floor(to_unit(noise) * levels * 0.999) / max(levels - 1, 1))
        case _:
            return to_unit(noise)


def marble(rng: np.random.Generator, side_px: int) -> Field:
    """Draw veins: a wave bent by strong noise."""
    u, _ = turned_coordinates(rng, side_px)
    noise = spectral_noise(rng, side_px, exponent=rng.uniform(1.7, 2.5))
    phase = u / log_uniform(rng, 4, 60) + rng.uniform(1, 6) * noise
    veins = 1 - np.abs(np.sin(phase))
    return (veins ** rng.uniform(0.5, 4)).astype(np.float32)


def wood(rng: np.random.Generator, side_px: int) -> Field:
    """Draw year rings with pores along the grain."""
    u, v = turned_coordinates(rng, side_px)
    bend = spectral_noise(rng, side_px, exponent=2.2)
    distance = np.hypot((u - u.mean()) * rng.uniform(0.02, 0.3), v - v.mean() + rng.uniform(-1, 1) * side_px)
    rings = (distance + rng.uniform(1, 8) * bend) / log_uniform(rng, 3, 25)
    rings = rings - np.floor(rings)
    angle = math.atan2(float(u[1, 0] - u[0, 0]), float(u[0, 1] - u[0, 0]))
    pores = spectral_noise(rng, side_px, exponent=0.6, stretch=log_uniform(rng, 6, 40), angle=angle)
    return to_unit(rings + rng.uniform(0.1, 0.6) * pores)


def brushed(rng: np.random.Generator, side_px: int) -> Field:
    """Draw brushed metal: long fine streaks under a broad reflection."""
    angle = float(rng.choice([0.0, math.pi / 2])) if rng.random() < 0.5 else rng.uniform(0, math.pi)
    exponent = rng.uniform(0.1, 0.8)
    streaks = spectral_noise(rng, side_px, exponent=exponent, stretch=log_uniform(rng, 15, 150), angle=angle)
    u, _ = turned_coordinates(rng, side_px)
    reflection = np.cos(u / side_px * rng.uniform(0.5, 5))
    return to_unit(rng.uniform(0.2, 1) * streaks + rng.uniform(0, 1.5) * reflection)


def granite(rng: np.random.Generator, side_px: int) -> Field:
    """Draw grains of a few minerals, each flat or faintly mottled."""
    field = np.zeros((side_px, side_px), dtype=np.float32)
    for _ in range(int(rng.integers(2, 5))):
        grains = band_noise(rng, side_px, wavelength_px=log_uniform(rng, 3, 30), width=rng.uniform(0.3, 0.8))
        field[grains > rng.uniform(0.2, 1.6)] = rng.uniform(0, 1)
    mottle = spectral_noise(rng, side_px, exponent=rng.uniform(0, 0.6))
    return clip_unit(field + rng.uniform(0, 0.12) * mottle)


def speckles(rng: np.random.Generator, side_px: int) -> Field:
    """Draw scattered grains of one size on an even ground."""
    seeds = (rng.random((side_px, side_px), dtype=np.float32) < log_uniform(rng, 0.001, 0.1)).astype(np.float32)
    seeds *= rng.uniform(0.3, 1, (side_px, side_px)).astype(np.float32)
    sigma = log_uniform(rng, 0.6, 3)
    field = gaussian_filter(seeds, sigma, mode="wrap", truncate=3)
    field = np.clip(field / (field.max() + 1e-6) * rng.uniform(1, 2.5), 0, 1)
    ground = spectral_noise(rng, side_px, exponent=rng.uniform(0.2, 1.8))
    return clip_unit(0.85 * field + 0.08 + rng.uniform(0.01, 0.08) * ground)


def turing(rng: np.random.Generator, side_px: int) -> Field:
    """Draw spots or labyrinths of one width, with hard or soft edges."""
    noise = band_noise(rng, side_px, wavelength_px=log_uniform(rng, 5, 50), width=rng.uniform(0.08, 0.35))
    sharpness = log_uniform(rng, 0.8, 12)
    return clip_unit(1 / (1 + np.exp(-sharpness * (noise - rng.uniform(-1.2, 1.2)))))


def grating(rng: np.random.Generator, side_px: int) -> Field:
    """Draw stripes, chirps, rings or plaids of a sine, a square, a triangle or a saw-tooth wave."""
    warp = rng.uniform(0, 6) if rng.random() < 0.4 else 0.0
    u, v = turned_coordinates(rng, side_px, warp_px=warp)
    period = log_uniform(rng, 3.5, side_px / 2)
    if rng.random() < 0.15:
        u = np.hypot(u - u.mean() + rng.uniform(-1, 1) * side_px, v - v.mean())
    field = _wave(rng, u / period)
    if rng.random() < 0.45:
        second = _wave(rng, v / (period if rng.random() < 0.6 else log_uniform(rng, 3.5, side_px / 2)))
        field = [field * second, np.maximum(field, second), (field + second) / 2][int(rng.integers(3))]
    return field


def _wave(rng: np.random.Generator, phase: Field) -> Field:
    position = phase - np.floor(phase)
    match int(rng.integers(4)):
        case 0:
            wave = 0.5 + 0.5 * np.sin(2 * math.pi * phase)
        case 1:
            edge = rng.uniform(0.02, 0.15)
            duty = rng.uniform(0.1, 0.6)
            wave = np.clip(np.minimum(position, duty - position) / edge + 0.5, 0, 1)
        case 2:
            wave = np.abs(2 * position - 1)
        case _:
            wave = position
    return clip_unit(wave)


def weave(rng: np.random.Generator, side_px: int) -> Field:
    """Draw woven fabric: rounded yarns, plain or twill, uneven in brightness, with fibres."""
    warp = rng.uniform(0.2, 2) if rng.random() < 0.7 else 0.0
    u, v = turned_coordinates(rng, side_px, warp_px=warp)
    pitch = log_uniform(rng, 4, 28)
    u, v = u / pitch, v / (pitch * rng.uniform(0.7, 1.4))
    column, row = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
    repeat = int(rng.choice([2, 2, 3, 4, 6]))
    over = (column + int(rng.integers(1, repeat)) * row) % repeat < max(repeat // 2, 1)
    across_u, across_v = np.sin(math.pi * (u - column)), np.sin(math.pi * (v - row))
    thickness = rng.uniform(0.15, 0.6)
    field = np.where(
        over,
        across_u**thickness * (0.55 + 0.45 * across_v),
        across_v**thickness * (0.55 + 0.45 * across_u) * rng.uniform(0.5, 1),
    )
    yarns = rng.normal(0, rng.uniform(0, 0.15), 257)
    field = field + np.where(over, yarns[column % 257], yarns[row % 257])
    fibres = spectral_noise(rng, side_px, exponent=0.3)
    return clip_unit(field * 0.9 + rng.uniform(0, 0.1) * fibres)


def motif(rng: np.random.Generator, side_px: int) -> Field:
    """Draw a small random tile over and over, as printed cloth, meshes and knurled metal have it."""
    period = log_uniform(rng, 7, 50)
    resolution = 48
    tile = band_noise(rng, resolution, wavelength_px=rng.uniform(12, 40), width=0.6)
    u, v = turned_coordinates(rng, side_px, warp_px=rng.uniform(0, 2) if rng.random() < 0.5 else 0.0)
    row = (v / period * resolution).astype(np.intp) % resolution
    column = (u / period * resolution).astype(np.intp) % resolution
    tile = np.tanh(tile * log_uniform(rng, 0.5, 6))
    tile = gaussian_filter(tile, 0.4 * resolution / period, mode="wrap")  # no aliasing when tiles are small
    return to_unit(tile[row, column], deviations=1.6)


def cells(rng: np.random.Generator, side_px: int) -> Field:
    """Draw Voronoi cells of jittered points: borders, pebbles, cones or flat tiles."""
    warp = rng.uniform(0, 5) if rng.random() < 0.5 else 0.0
    u, v = turned_coordinates(rng, side_px, warp_px=warp)
    size = log_uniform(rng, 6, 50)
    nearest, second, owner = _voronoi(rng, u / (size * log_uniform(rng, 1, 2.5)), v / size)
    match int(rng.integers(5)):
        case 0:
            field = np.clip((second - nearest) / rng.uniform(0.08, 0.5), 0, 1)
        case 1:
            field = 1 - np.clip(nearest, 0, 1) ** rng.uniform(1, 3)
        case 2:
            field = np.clip(nearest * 1.1, 0, 1)
        case 3:
            field = rng.uniform(0, 1, 1024)[owner]
        case _:
            border = np.clip((second - nearest) / rng.uniform(0.1, 0.25), 0, 1)
            field = border * (0.4 + 0.6 * rng.uniform(0, 1, 1024)[owner])
    return clip_unit(field)


def _voronoi(rng: np.random.Generator, u: Field, v: Field) -> tuple[Field, Field, npt.NDArray[np.intp]]:
    """Return distances to the nearest and second point and the number (under 1024) of the nearest one.

    One point per unit square, moved inside it at random; only the 3 x 3 squares around are searched.
    """
    jitter = rng.uniform(0.15, 1)
    points = (0.5 + jitter * rng.uniform(-0.5, 0.5, (2, 1024))).astype(np.float32)
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    nearest = np.full(u.shape, 9, dtype=np.float32)
    second = nearest.copy()
    owner = np.zeros(u.shape, dtype=np.intp)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            number = ((column + right) * 73 + (row + down) * 179) % 1024
            distance = (column + right + points[0][number] - u) ** 2 + (row + down + points[1][number] - v) ** 2
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            nearest = np.where(closer, distance, nearest)
            owner = np.where(closer, number, owner)
    return np.sqrt(nearest), np.sqrt(second), owner


TEXTURES = (
    clouds, marble, wood, brushed, granite, speckles, turing, grating, weave, motif, cells,
)  # fmt: skip


def random_texture(rng: np.random.Generator, side_px: int) -> Field:
    """Draw one texture of a random kind."""
    return TEXTURES[int(rng.integers(len(TEXTURES)))](rng, side_px)
