"""Pictures drawn on the fly: coloured textures, lit reliefs, quiet surfaces, leaves, parts, text, lines."""

import math
from collections.abc import Callable

import numpy as np

from us_anomaly.data.blemishes import add_blemishes
from us_anomaly.data.drawings import dead_leaves, lines, parts, text
from us_anomaly.data.noise import Field, log_uniform, spectral_noise
from us_anomaly.data.photographs import Picture, to_bytes
from us_anomaly.data.recolouring import random_colour, random_palette, recolour
from us_anomaly.data.textures import random_texture
from us_anomaly.settings import MIN_DRAWN_SIDE_PX


def coloured_texture(rng: np.random.Generator, side_px: int) -> Picture:
    """Draw a texture through a palette; sometimes a second texture varies its brightness."""
    field = random_texture(rng, side_px)
    if rng.random() < 0.3:
        field = np.clip(field * (1 + rng.uniform(-0.8, 0.8) * (random_texture(rng, side_px) - 0.5)), 0, 1)
    return random_palette(rng)[(field * 255).astype(np.uint8)]


def coloured_fractal(rng: np.random.Generator, side_px: int) -> Picture:
    """Draw three fractal noises as mixed colour channels."""
    exponent = rng.uniform(0.8, 2.0)
    stretch = log_uniform(rng, 1.5, 10) if rng.random() < 0.4 else 1.0
    angle = rng.uniform(0, math.pi)
    fields = [spectral_noise(rng, side_px, exponent=exponent, stretch=stretch, angle=angle) for _ in range(3)]
    spread = rng.uniform(15, 60)
    mixing = np.linalg.qr(rng.standard_normal((3, 3)))[0] * [1, rng.uniform(0, 1), rng.uniform(0, 1)]
    picture = random_colour(rng) * 0.6 + 50 + spread * np.stack(fields, axis=2) @ mixing.T
    return to_bytes(picture)


def relief(rng: np.random.Generator, side_px: int) -> Picture:
    """Draw a matt or glossy surface whose height is a texture, lit from one side: leather, plaster."""
    height = random_texture(rng, side_px) + rng.uniform(0, 0.15) * spectral_noise(
        rng, side_px, exponent=rng.uniform(0.3, 1.2)
    )
    down, right = np.gradient(height * log_uniform(rng, 1, 12))
    azimuth = rng.uniform(0, 2 * math.pi)
    slant = rng.uniform(0.3, 1.2)
    normal = 1 / np.sqrt(1 + down**2 + right**2)
    shade = (1 - slant * (math.cos(azimuth) * right + math.sin(azimuth) * down)) * normal / math.hypot(1, slant)
    shade = np.maximum(shade, 0)
    gloss = rng.uniform(0, 120) * shade ** int(rng.integers(4, 30)) if rng.random() < 0.4 else np.zeros_like(shade)
    albedo = random_colour(rng)
    if rng.random() < 0.3:
        picture = random_palette(rng)[(height.clip(0, 1) * 255).astype(np.uint8)] * (0.3 + shade)[..., None]
    else:
        picture = albedo * (0.25 + shade)[..., None]
    return to_bytes(picture + gloss[..., None])


def quiet_surface(rng: np.random.Generator, side_px: int) -> Picture:
    """Draw a nearly uniform surface: one colour, uneven light, a faint texture and sensor noise."""
    faint: Field = random_texture(rng, side_px) - 0.5
    y, x = np.mgrid[-1 : 1 : side_px * 1j, -1 : 1 : side_px * 1j].astype(np.float32)
    light = rng.normal(0, 12) * x + rng.normal(0, 12) * y + rng.normal(0, 8) * (x**2 + y**2)
    noise = rng.uniform(0.3, 4) * rng.standard_normal((side_px, side_px), dtype=np.float32)
    sheet = log_uniform(rng, 1.5, 30) * faint + light + noise
    return to_bytes(random_colour(rng) + sheet[..., None])


PAINTERS: dict[Callable[[np.random.Generator, int], Picture], float] = {
    coloured_texture: 0.26,
    coloured_fractal: 0.07,
    relief: 0.17,
    quiet_surface: 0.1,
    dead_leaves: 0.16,
    parts: 0.12,
    text: 0.06,
    lines: 0.06,
}
"""How often each kind is drawn."""
BLEMISH_FRACTION = 0.35
"""Share of the pictures that get small faults."""


class ProceduralPictures:
    """An endless stream of drawn pictures."""

    def __init__(self, *, side_px: int) -> None:
        """Prepare the stream.

        Args:
            side_px: Side of the pictures.

        Raises:
            ValueError: `side_px` is under 32.
        """
        if side_px < MIN_DRAWN_SIDE_PX:
            raise ValueError(f"side_px must be at least {MIN_DRAWN_SIDE_PX}, got {side_px}")
        self.side_px = side_px
        self._painters = list(PAINTERS)
        self._shares = np.cumsum(list(PAINTERS.values())) / sum(PAINTERS.values())

    def draw(self, rng: np.random.Generator) -> Picture:
        """Draw the next picture, shape (side_px, side_px, 3); `rng` decides everything."""
        painter = self._painters[int(np.searchsorted(self._shares[:-1], rng.random(), side="right"))]
        picture = painter(rng, self.side_px)
        if rng.random() < BLEMISH_FRACTION:
            picture = add_blemishes(picture, rng)
        return recolour(picture, rng) if rng.random() < 0.4 else picture
