"""How high the map of a picture lies as a whole, which exposure, focus and material change, and a defect does not.

Students err more on a picture that is a little brighter or sharper than most, and they do so everywhere in it. Its level is
the value that a tenth of its map lies below: quiet places, which no defect reaches unless it covers nearly all of the
picture. The map is divided by (level / typical level) ^ k. How far that is right is measured on normal pictures: k is the
slope of the logarithm of their high values (the 0.99 quantile) against that of their levels, from 0, where high values do not
follow the level (think of a part before a background), to 1. A slope that is not sure is made smaller by the factor
1 - (standard error / slope)^2, after James and Stein. And no level counts as farther from the typical one than those of
normal pictures reach: a picture that is foreign as a whole keeps what sets it apart.

The formula is ours: docs/accuracy.md tells what it gave and what else was tried.

Shapes: R S rows and columns of the grid of a raw map.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

LEVEL_QUANTILE = 0.1
HIGH_QUANTILE = 0.99
MAX_SAMPLED_VALUES = 2**20
"""Quantiles of a map are taken over at most this many of its values, evenly drawn."""
SMALLEST = 1e-12
"""What counts as zero in a map."""
MIN_PICTURES = 3
"""A slope has no standard error on fewer."""


@dataclass(frozen=True, slots=True)
class PictureLevel:
    """Levels of one kind of raw map over the reference normals, all as natural logarithms."""

    typical: float
    """Mean level."""
    low: float
    """Lowest level that counts: that of a normal picture, less one standard deviation."""
    high: float
    """Highest level that counts."""
    slope: float
    """By how much high values follow the level, from 0 to 1."""

    def even_out(self, values: Tensor) -> Tensor:
        """Return a copy of a raw map (R, S), divided by what its level says."""
        level = min(max(_log_quantile(values, LEVEL_QUANTILE), self.low), self.high)
        return values * math.exp(self.slope * (self.typical - level))


class LevelGatherer:
    """Gathers the levels of one kind of map, picture by picture."""

    def __init__(self) -> None:
        """Start with no picture seen."""
        self._levels: list[float] = []
        self._highs: list[float] = []

    def add(self, values: Tensor) -> None:
        """Take the raw map (R, S) of a normal picture into account."""
        self._levels.append(_log_quantile(values, LEVEL_QUANTILE))
        self._highs.append(_log_quantile(values, HIGH_QUANTILE))

    def level(self) -> PictureLevel:
        """Return what the pictures so far, at least one, say."""
        levels, std = np.array(self._levels), float(np.std(self._levels))
        return PictureLevel(
            typical=float(levels.mean()),
            low=float(levels.min()) - std,
            high=float(levels.max()) + std,
            slope=_sure_slope(levels, np.array(self._highs)),
        )


def _log_quantile(values: Tensor, quantile: float) -> float:
    step = max(1, math.ceil(values.numel() / MAX_SAMPLED_VALUES))
    sampled = values.flatten()[::step]
    value = sampled.kthvalue(1 + round(quantile * (sampled.numel() - 1))).values
    return math.log(max(float(value), SMALLEST))


def _sure_slope(levels: npt.NDArray[np.float64], highs: npt.NDArray[np.float64]) -> float:
    """Return the slope of the regression of `highs` on `levels`, shrunk by what is not sure of it, within 0 and 1."""
    if len(levels) < MIN_PICTURES:
        return 0.0
    x, y = levels - levels.mean(), highs - highs.mean()
    spread = float(x @ x)
    if spread <= len(levels) * SMALLEST:  # all pictures have one level
        return 0.0
    slope = float(x @ y) / spread
    if slope <= 0:
        return 0.0
    residual = y - slope * x
    variance = float(residual @ residual) / (len(levels) - 2) / spread
    return min(max(slope - variance / slope, 0.0), 1.0)
