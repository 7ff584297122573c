"""Defects drawn onto a clean grey picture, with the exact mask of what was drawn.

Legend: pictures are uint8 (S, S), masks bool (S, S), lengths in pixels; sizes grow with the side S.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

DefectType = Literal["hole", "patch", "scratch", "stain"]
DEFECT_TYPES: tuple[DefectType, ...] = get_args(DefectType)
MIN_DIFFERENCE = 8
"""Marked pixels differ from the clean picture by at least this many grey levels; no other pixel differs."""

Picture = NDArray[np.uint8]
Field = NDArray[np.float64]
Random = np.random.RandomState
"""NumPy's frozen generator: the same numbers with every version, which `default_rng` does not promise."""


def draw_defect(
    clean: Picture, defect_type: DefectType, random: Random, *, foreign: Picture
) -> tuple[Picture, NDArray[np.bool_]]:
    """Return a copy of `clean` with one defect and the mask of exactly the pixels that changed.

    Args:
        clean: The picture.
        defect_type: *scratch*, a thin bright or dark curve; *stain*, a soft spot that veils the texture;
            *hole*, one to three dark holes with a bright rim; *patch*, a piece of another material.
        random: Where and how.
        foreign: Another texture of the same shape, for *patch*.
    """
    match defect_type:
        case "scratch":
            drawn, mask = _scratch(clean, random)
        case "stain":
            drawn, mask = _stain(clean, random)
        case "hole":
            drawn, mask = _holes(clean, random)
        case "patch":
            drawn, mask = foreign.astype(np.float64), _blob(clean.shape[0], random, 0.12, 0.2) < 1
    return _visibly_changed(clean, drawn, mask), mask


def _scratch(clean: Picture, random: Random) -> tuple[Field, NDArray[np.bool_]]:
    side = clean.shape[0]
    angle = random.uniform(0, np.pi)
    half_length = random.uniform(0.2, 0.35) * side
    bend = random.uniform(-0.15, 0.15) * side
    along = np.linspace(-1, 1, 2 * side)
    centre_row, centre_column = random.uniform(0.35, 0.65, size=2) * side
    across = bend * (1 - along**2)
    rows = centre_row + half_length * along * np.sin(angle) + across * np.cos(angle)
    columns = centre_column + half_length * along * np.cos(angle) - across * np.sin(angle)
    half_width = random.uniform(0.009, 0.016) * side * (1 - 0.6 * along**2)  # thin ends
    grid_rows, grid_columns = np.mgrid[:side, :side].astype(np.float64)
    mask = np.zeros((side, side), dtype=bool)
    for row, column, reach in zip(rows, columns, np.maximum(half_width, 0.7), strict=True):
        mask |= (grid_rows - row) ** 2 + (grid_columns - column) ** 2 <= reach**2
    tone = random.choice([20.0, 240.0])
    return tone + random.normal(0, 6, size=(side, side)), mask


def _stain(clean: Picture, random: Random) -> tuple[Field, NDArray[np.bool_]]:
    side = clean.shape[0]
    distance = _blob(side, random, 0.12, 0.2)
    opacity = 0.85 * np.clip((1 - distance) / 0.4, 0, 1)  # soft towards the edge
    tone = random.choice([35.0, 215.0]) + random.normal(0, 3, size=(side, side))
    return clean * (1 - opacity) + tone * opacity, distance < 0.95


def _holes(clean: Picture, random: Random) -> tuple[Field, NDArray[np.bool_]]:
    side = clean.shape[0]
    drawn = clean.astype(np.float64)
    mask = np.zeros((side, side), dtype=bool)
    for _ in range(random.randint(1, 4)):
        distance = _blob(side, random, 0.05, 0.08, waviness=0.05)
        inside, rim = distance < 0.8, (distance >= 0.8) & (distance < 1)
        drawn[rim] = 225.0
        drawn[inside] = 12.0
        mask |= inside | rim
    return drawn + random.normal(0, 4, size=(side, side)), mask


def _blob(side: int, random: Random, smallest: float, largest: float, *, waviness: float = 0.12) -> Field:
    """Return the distance from a random centre in units of a wavy radius, (S, S); it is 1 on the edge.

    Args:
        side: S.
        random: Centre, radius and waves.
        smallest: Smallest mean radius as a fraction of the side.
        largest: Largest mean radius.
        waviness: Largest height of each of three waves as a fraction of the radius.
    """
    centre_row, centre_column = random.uniform(0.25, 0.75, size=2) * side
    radius = random.uniform(smallest, largest) * side
    rows, columns = np.mgrid[:side, :side].astype(np.float64)
    angle = np.arctan2(rows - centre_row, columns - centre_column)
    waves = sum(random.uniform(0, waviness) * np.cos(k * angle + random.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    distance: Field = np.hypot(rows - centre_row, columns - centre_column) / (radius * (1 + waves))
    return distance


def _visibly_changed(clean: Picture, drawn: Field, mask: NDArray[np.bool_]) -> Picture:
    """Take `drawn` where the mask is, at least `MIN_DIFFERENCE` away from `clean`."""
    before = clean.astype(np.int64)
    after = np.clip(np.rint(drawn), 0, 255).astype(np.int64)
    too_close = np.abs(after - before) < MIN_DIFFERENCE
    pushed = np.where((after >= before) & (before <= 255 - MIN_DIFFERENCE), MIN_DIFFERENCE, -MIN_DIFFERENCE)
    pushed = np.where(before < MIN_DIFFERENCE, MIN_DIFFERENCE, pushed)
    after = np.where(too_close, before + pushed, after)
    return np.where(mask, after, before).astype(np.uint8)
