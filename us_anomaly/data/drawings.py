"""Pictures made of shapes: dead leaves, parts on a ground, text and line drawings; edges are anti-aliased.

Every function here maps (rng, side_px) to a picture of shape (side_px, side_px, 3).
"""

import functools
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from us_anomaly.data.noise import Field, log_uniform, spectral_noise
from us_anomaly.data.photographs import Picture, to_bytes
from us_anomaly.data.recolouring import random_colour, random_palette
from us_anomaly.data.textures import random_texture

OVERSAMPLING = 2
GLYPHS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:-+=/()[]#%&@!?*<>"

Points = list[tuple[float, float]]


def dead_leaves(rng: np.random.Generator, side_px: int) -> Picture:
    """Draw opaque shapes of all sizes over each other, each plain, shaded or filled with a texture.

    Radii follow the density r^-3, which gives the scale-free statistics of natural pictures (Lee, Mumford &
    Huang, "Occlusion models for natural images", 2001).
    """
    count = int(log_uniform(rng, 20, 250))
    smallest, largest = log_uniform(rng, 1.5, 10), side_px * rng.uniform(0.15, 0.5)
    uniform = rng.random(count)
    radii = (smallest**-2 - uniform * (smallest**-2 - largest**-2)) ** -0.5
    if rng.random() < 0.5:
        radii = np.sort(radii)[::-1]
    centres = rng.uniform(-0.1, 1.1, (count, 2)) * side_px
    kind = int(rng.integers(5))
    canvas = Image.new("I", (side_px, side_px), 0)
    draw = ImageDraw.Draw(canvas)
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), start=1):
        draw.polygon(_outline(rng, centre, float(radius), kind=kind), fill=number)
    leaf = np.asarray(canvas)  # (side, side) number of the leaf on top
    base = random_palette(rng)[rng.integers(0, 256, count + 1)].astype(np.float32)
    if rng.random() < 0.4:
        base = np.stack([random_colour(rng) for _ in range(count + 1)])
    fills = np.stack([_fill(rng, side_px) for _ in range(3)])  # (3, side, side), each about 0
    strength = rng.uniform(0, 90, count + 1) * (rng.random(count + 1) < rng.uniform(0.2, 1))
    rows, columns = np.arange(side_px)[:, None], np.arange(side_px)[None, :]
    texture = fills[rng.integers(0, 3, count + 1)[leaf], rows, columns] * strength[leaf]
    picture = base[leaf] + texture[..., None].astype(np.float32)
    return to_bytes(picture)


def _fill(rng: np.random.Generator, side_px: int) -> Field:
    field = random_texture(rng, side_px) if rng.random() < 0.6 else spectral_noise(rng, side_px, exponent=1.8) / 4
    centred: Field = field - field.mean()
    return centred


def _outline(rng: np.random.Generator, centre: npt.NDArray[np.float64], radius: float, *, kind: int = 4) -> Points:
    """Return an ellipse (0), polygon (1), blob (2), long strip (3) or any of them (4) as a polygon."""
    if kind == 4:
        kind = int(rng.integers(4))
    corners = {0: 24, 1: int(rng.integers(3, 8)), 2: 28, 3: 4}[kind]
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False) + (math.pi / 4 if kind == 3 else 0)
    reach = np.full(corners, radius)
    if kind == 1:
        reach = reach * rng.uniform(0.6, 1.2, corners)
    if kind == 2:
        for wave in (2, 3, 5):
            reach = reach * (1 + rng.normal(0, 0.16) * np.cos(wave * angles + rng.uniform(0, 6.3)))
    squeeze = rng.uniform(0.05, 0.3) if kind == 3 else rng.uniform(0.4, 1)
    x, y = reach * np.cos(angles), reach * np.sin(angles) * squeeze
    turn = rng.uniform(0, 2 * math.pi)
    across = centre[0] + x * math.cos(turn) - y * math.sin(turn)
    down = centre[1] + x * math.sin(turn) + y * math.cos(turn)
    return list(zip(across.tolist(), down.tolist(), strict=True))


def parts(rng: np.random.Generator, side_px: int) -> Picture:
    """Draw one large part, a few or a regular array on a ground, each with a surface, shading and a rim."""
    size = side_px * OVERSAMPLING
    mask = Image.new("L", (size, size), 0)
    rim = Image.new("L", (size, size), 0)
    fill, edge = ImageDraw.Draw(mask), ImageDraw.Draw(rim)
    rim_width = int(rng.integers(1, 9))
    for outline in _part_outlines(rng, size):
        fill.polygon(outline, fill=255)
        edge.line([*outline, outline[0]], fill=255, width=rim_width)
    inside = reduced(mask)[..., None]
    border = reduced(rim)[..., None] * rng.uniform(-0.9, 0.9) * (rng.random() < 0.6)
    ground, surface = (_surface(rng, side_px) for _ in range(2))
    y, x = np.mgrid[-1 : 1 : side_px * 1j, -1 : 1 : side_px * 1j].astype(np.float32)
    light = 1 + rng.normal(0, 0.2) * x + rng.normal(0, 0.2) * y
    picture = (ground + (surface * light[..., None] - ground) * inside) * (1 + border)
    return to_bytes(picture)


def _part_outlines(rng: np.random.Generator, size: int) -> list[Points]:
    kind = int(rng.integers(5))
    match int(rng.integers(3)):
        case 0:
            places, radius = [rng.uniform(0.3, 0.7, 2) * size], rng.uniform(0.2, 0.48) * size
        case 1:
            places, radius = (
                list(rng.uniform(0, 1, (int(rng.integers(2, 12)), 2)) * size),
                rng.uniform(0.08, 0.2) * size,
            )
        case _:
            columns, rows = int(rng.integers(2, 9)), int(rng.integers(2, 9))
            steps = np.stack(np.meshgrid(np.arange(columns + 1), np.arange(rows + 1)), axis=-1).reshape(-1, 2)
            places = list((steps + rng.uniform(0, 1, 2)) * size / max(columns, rows))
            radius = rng.uniform(0.25, 0.5) * size / max(columns, rows)
            state = rng.integers(2**32)
            return [_outline(np.random.default_rng(state), place, radius, kind=kind) for place in places]
    return [_outline(rng, place, radius * rng.uniform(0.7, 1.2), kind=kind) for place in places]


def _surface(rng: np.random.Generator, side_px: int) -> npt.NDArray[np.float32]:
    """Return a plain or textured sheet of shape (side, side, 3)."""
    colour = random_colour(rng)
    if rng.random() < 0.3:
        return random_palette(rng)[(random_texture(rng, side_px) * 255).astype(np.uint8)].astype(np.float32)
    depth = log_uniform(rng, 2, 40)
    return colour + (depth * _fill(rng, side_px))[..., None]


def text(rng: np.random.Generator, side_px: int) -> Picture:
    """Draw lines of random characters in one size, turned by some angle, on a quiet or textured ground."""
    size = side_px * OVERSAMPLING
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    height = int(log_uniform(rng, 14, size / 2))
    font = _font(height)
    spacing = height * rng.uniform(0.9, 1.6)
    line_length = 2 + 3 * size // height
    for line in range(int(size / spacing) + 1):
        glyphs = rng.choice(list(GLYPHS + " " * 14), line_length)
        draw.text((rng.uniform(-height, height), line * spacing - height / 3), "".join(glyphs), fill=255, font=font)
    if rng.random() < 0.6:
        mask = mask.rotate(float(rng.normal(0, 30)), resample=Image.Resampling.BILINEAR)
    return _ink(rng, side_px, mask)


@functools.lru_cache(maxsize=256)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def lines(rng: np.random.Generator, side_px: int) -> Picture:
    """Draw polylines, arcs, circles, frames and rulings of varied width, as in plans, circuits and wiring."""
    size = side_px * OVERSAMPLING
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    style = rng.random()
    for _ in range(int(log_uniform(rng, 3, 40))):
        width = int(log_uniform(rng, 1.5, 14))
        x, y = rng.uniform(0, size, 2)
        reach = log_uniform(rng, 10, size)
        box = (x - reach / 2, y - reach / 2, x + reach / 2, y + reach / 2)
        match int(rng.integers(4)) if style < 0.6 else int(style * 100) % 4:
            case 0:
                steps = rng.normal(0, reach / 3, (int(rng.integers(2, 7)), 2)).cumsum(axis=0) + np.array([x, y])
                draw.line([(float(a), float(b)) for a, b in steps], fill=255, width=width, joint="curve")
            case 1:
                start = rng.uniform(0, 360)
                draw.arc(box, start, start + rng.uniform(40, 360), fill=255, width=width)
            case 2:
                draw.rectangle(box, outline=255, width=width)
            case _:
                across = bool(rng.random() < 0.5)
                draw.line([(0, y), (size, y)] if across else [(x, 0), (x, size)], fill=255, width=width)
    if rng.random() < 0.3:
        mask = mask.rotate(float(rng.uniform(0, 90)), resample=Image.Resampling.BILINEAR)
    return _ink(rng, side_px, mask)


def _ink(rng: np.random.Generator, side_px: int, mask: Image.Image) -> Picture:
    """Put ink of one surface, through an oversampled mask, on a ground of another."""
    covered = reduced(mask)[..., None] * rng.uniform(0.4, 1)
    ground, ink = _surface(rng, side_px), random_colour(rng)
    if float(np.abs(ground.mean(axis=(0, 1)) - ink).max()) < 25:  # ink that cannot be seen
        ink = 255 - ink
    return to_bytes(ground + (ink - ground) * covered)


def reduced(mask: Image.Image) -> Field:
    """Average an oversampled mask down; values from 0 to 1."""
    field: Field = np.asarray(mask.reduce(OVERSAMPLING), dtype=np.float32) / np.float32(255)
    return field
