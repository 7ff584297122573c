"""Small faults put into any picture, so that a teacher has seen spots, scratches, cracks and stains.

They carry no masks and no labels: the teacher learns descriptors, not decisions. The defects of `data=demo`
are made elsewhere, in another way.
"""

import math

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from us_anomaly.data.drawings import OVERSAMPLING, reduced
from us_anomaly.data.noise import Field, clip_unit, log_uniform, spectral_noise
from us_anomaly.data.photographs import Picture, to_bytes
from us_anomaly.data.recolouring import random_colour


def add_blemishes(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return a copy of a square picture, shape (side, side, 3), with one or two faults."""
    for _ in range(int(rng.integers(1, 3))):
        picture = _blend(picture, rng) if rng.random() < 0.8 else _shift(picture, rng)
    return picture


def _blend(picture: Picture, rng: np.random.Generator) -> Picture:
    """Blend a colour, or a darker or lighter version of the picture itself, through a mask of faults."""
    side = picture.shape[0]
    mask = _mask(rng, side)
    if rng.random() < 0.4:
        mask = gaussian_filter(mask, log_uniform(rng, 0.5, 4), truncate=2.5)
    opacity = mask[..., None] * np.float32(rng.uniform(0.25, 1))
    if rng.random() < 0.5:
        target = picture * np.float32(rng.choice([rng.uniform(0, 0.7), rng.uniform(1.3, 2.2)]))
    else:
        target = random_colour(rng)
    return to_bytes(picture + (target - picture) * opacity)


def _mask(rng: np.random.Generator, side: int) -> Field:
    """Draw spots, scratches, a crack or a stain; values from 0 to 1, anti-aliased."""
    size = side * OVERSAMPLING
    image = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(image)
    match int(rng.integers(4)):
        case 0:
            for _ in range(int(rng.integers(1, 5))):
                x, y = rng.uniform(0, size, 2)
                wide, high = log_uniform(rng, 1.5, size / 12), log_uniform(rng, 1.5, size / 12)
                draw.ellipse((x - wide, y - wide, x + wide, y + (high if rng.random() < 0.5 else wide)), fill=255)
        case 1:
            for _ in range(int(rng.integers(1, 4))):
                x, y = rng.uniform(0, size, 2)
                reach, angle = log_uniform(rng, size / 12, size), rng.uniform(0, 2 * math.pi)
                bend = rng.normal(0, 0.1) * reach
                x2, y2 = x + reach * math.cos(angle), y + reach * math.sin(angle)
                middle = ((x + x2) / 2 - bend * math.sin(angle), (y + y2) / 2 + bend * math.cos(angle))
                draw.line([(x, y), middle, (x2, y2)], fill=255, width=int(log_uniform(rng, 1, 7)), joint="curve")
        case 2:
            turns = rng.normal(0, 0.5, int(rng.integers(8, 40))).cumsum() + rng.uniform(0, 2 * math.pi)
            step = rng.uniform(1 + size / 100, 2 + size / 30)
            path = np.stack([np.cos(turns), np.sin(turns)], axis=1).cumsum(axis=0) * step + rng.uniform(0, size, 2)
            draw.line([(float(a), float(b)) for a, b in path], fill=255, width=int(rng.integers(1, 6)))
        case _:
            y, x = np.mgrid[0:side, 0:side].astype(np.float32)
            row, column = rng.uniform(0, side, 2)
            radius = log_uniform(rng, side / 30, side / 5)
            distance = np.hypot(y - row, x - column) / radius + 0.35 * spectral_noise(rng, side, exponent=1.6)
            return clip_unit((1 - distance) * log_uniform(rng, 0.8, 12))
    return reduced(image)


def _shift(picture: Picture, rng: np.random.Generator) -> Picture:
    """Move a patch of the picture to another place of it: structure right in kind, wrong in place."""
    side = picture.shape[0]
    high, wide = (int(log_uniform(rng, side / 25 + 1, side / 3)) for _ in range(2))
    top, left = int(rng.integers(0, side - high)), int(rng.integers(0, side - wide))
    to_top, to_left = int(rng.integers(0, side - high)), int(rng.integers(0, side - wide))
    patch = picture[top : top + high, left : left + wide]
    if rng.random() < 0.5:
        patch = patch[::-1, ::-1]
    moved = picture.copy()
    moved[to_top : to_top + high, to_left : to_left + wide] = patch
    return moved
