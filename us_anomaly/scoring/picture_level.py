"""How high the map of a picture lies as a whole, which exposure, focus and material change.

Students err more on a picture that is a little brighter or sharper than most, and they do so everywhere in it. Its level is
the value that a tenth of its map lies below: quiet places, which a defect that is small against the picture hardly moves (one
of a tenth raises it by 3 %, one of half by a quarter, where the map is log-normal with deviation 0.5). The map is divided by
(level / typical level) ^ k. How far that is right is measured on normal pictures: k is the slope of the logarithm of their high
values (the 0.99 quantile) against that of their levels, from 0, where high values do not follow the level (think of a part
before a background), to 1. What is not sure of the slope is taken off first, in the manner of James and Stein: the part
that chance alone would give. And a level counts as no farther from the typical one than those of normal pictures reach, and
one standard deviation more: a picture that is foreign as a whole keeps what sets it apart.

The formula is ours: docs/accuracy.md tells what it gave and what else was tried.

Shapes: R S rows and columns of the grid of a raw map.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from us_anomaly.scoring.logarithm import SMALLEST, logarithm
from us_anomaly.scoring.sampling import evenly_drawn

LEVEL_QUANTILE = 0.1
HIGH_QUANTILE = 0.99
MAX_SAMPLED_VALUES = 2**20
"""Quantiles of a map are taken over at most this many of its values."""
MIN_PICTURES = 6
"""On fewer, maps stay as they are: where one is left out five must be left, because of four chance has no expected slope."""
MIN_SPREAD = 1e-6
"""Standard deviation of the logarithm below which all levels are the same."""


@dataclass(frozen=True, slots=True)
class PictureLevel:
    """Levels of one kind of raw map over the reference normals, all as natural logarithms."""

    typical: float
    """Mean of the levels."""
    low: float
    """Lowest level that counts: the lowest of the normal pictures, less one standard deviation."""
    high: float
    """Highest level that counts."""
    slope: float
    """By how much high values follow the level, from 0 to 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.low <= self.typical <= self.high:
            raise ValueError(f"level: typical={self.typical} must lie between low={self.low} and high={self.high}")
        if not 0 <= self.slope <= 1:
            raise ValueError(f"level: slope must be between 0 and 1, got {self.slope}")

    def even_out(self, values: Tensor) -> Tensor:
        """Return a copy of a raw map (R, S), divided by what its level says."""
        if torch.onnx.is_in_onnx_export():  # a graph holds tensors only
            seen = _log_quantile_tensor(values, LEVEL_QUANTILE).clamp(self.low, self.high)
            return values * torch.exp(self.slope * (self.typical - seen))
        (level,) = _log_quantiles(values, LEVEL_QUANTILE)
        return values * math.exp(self.slope * (self.typical - min(max(level, self.low), self.high)))


class LevelGatherer:
    """Gathers the levels of one kind of map, picture by picture."""

    def __init__(self) -> None:
        """Start with no picture seen."""
        self._seen: list[list[float]] = []

    def add(self, values: Tensor) -> None:
        """Take the raw map (R, S) of a normal picture into account."""
        self._seen.append(_log_quantiles(values, LEVEL_QUANTILE, HIGH_QUANTILE))

    def level(self, *, without: int | None = None) -> PictureLevel:
        """Return what the pictures so far, at least one, say.

        Args:
            without: Leave this picture out (counted from 0), unless it is the only one: what the others say about it is what
                is known of a new picture.
        """
        chosen = [seen for number, seen in enumerate(self._seen) if number != without or len(self._seen) == 1]
        levels, highs = np.array(chosen).T
        std = float(levels.std())
        return PictureLevel(
            typical=float(levels.mean().clip(levels.min(), levels.max())),  # the mean of equal numbers may miss them
            low=float(levels.min()) - std,
            high=float(levels.max()) + std,
            slope=_sure_slope(levels, highs) if len(self._seen) >= MIN_PICTURES else 0.0,
        )


def _log_quantiles(values: Tensor, *quantiles: float) -> list[float]:
    drawn = evenly_drawn(values, limit=MAX_SAMPLED_VALUES).numpy()
    places = [round(quantile * (drawn.size - 1)) for quantile in quantiles]
    ordered = np.partition(drawn, places)
    return [math.log(max(float(ordered[place]), SMALLEST)) for place in places]


def _log_quantile_tensor(values: Tensor, quantile: float) -> Tensor:
    """Return what `_log_quantiles` gives for one quantile, as a tensor without dimensions."""
    drawn = evenly_drawn(values, limit=MAX_SAMPLED_VALUES)
    place = round(quantile * (drawn.numel() - 1))
    lowest = drawn.topk(place + 1, largest=False).values
    return logarithm(lowest[place])


def _sure_slope(levels: npt.NDArray[np.float64], highs: npt.NDArray[np.float64]) -> float:
    """Return the slope of the regression of `highs` on `levels`, less what is not sure of it, within 0 and 1.

    Of n pictures whose high values do not follow the level, the squared ratio of the slope to its standard error is
    (n - 2) / (n - 4) on average: that of Student's t with n - 2 degrees of freedom.
    """
    num = len(levels)
    if levels.std() < MIN_SPREAD or not (highs > levels).any():  # the last: maps of one value
        return 0.0
    x, y = levels - levels.mean(), highs - highs.mean()
    slope = float(x @ y / (x @ x))
    if slope <= 0:
        return 0.0
    residual = y - slope * x
    variance = float(residual @ residual / (num - 2) / (x @ x))
    return min(max(slope - (num - 2) / (num - 4) * variance / slope, 0.0), 1.0)
