"""What is normal at each position of the picture: raw maps in relation to it.

Where parts are photographed in one place, the edge of a part or of its frame scores high on every good picture. A map is
therefore compared, position by position, with the maps of normal training pictures. Errors are positive and their
distribution has a long tail, so that is done with logarithms: with mean m and deviation s of the logarithm at a position, and
S the deviation at a typical one, a value x becomes exp(S (log x - m) / s). Where all positions are alike, as on textures, only
the unit changes.

Of few pictures m and s are uncertain, so both are mixed with what holds for all positions; and s is never taken for less than
S / 1.5, because a position where normal pictures hardly differ would blow up any speck of dust. The formula is ours:
docs/accuracy.md tells what else was tried.

Shapes: R S rows and columns of the grid of a raw map.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from us_anomaly.run_dir.atomic import write_tensors
from us_anomaly.scoring.anomaly_map import MAP_KINDS, RawMaps
from us_anomaly.training.artifacts import FORMAT_VERSION, built_from, finite, read_state
from us_anomaly.training.normalization import RunningMoments

PRIOR_PICTURES = 10
"""Mean and deviation of a position are mixed with those of all positions as if so many more pictures showed the latter."""
SMALLEST = 1e-12
"""What counts as zero in a map."""
MAX_STRETCH = 1.5
"""Largest S / s."""
LARGEST_EXPONENT = 30.0
"""Keeps values and sums of them finite in float32."""


@dataclass(frozen=True, slots=True)
class PositionStatistics:
    """The logarithm of one kind of raw map over normal pictures."""

    mean: Tensor
    """(R, S) float32."""
    std: Tensor
    """(R, S) float32."""
    typical_std: float
    """The deviation at a typical position: the root of the mean variance."""

    def relate(self, values: Tensor) -> Tensor:
        """Return a raw map (R, S) in relation to what is normal at each position."""
        deviation = _logarithm(values).sub_(self.mean).div_(self.std)
        return deviation.mul_(self.typical_std).clamp_(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp_()


@dataclass(frozen=True, slots=True)
class ScalePositionStatistics:
    """Position statistics of one patch size."""

    error: PositionStatistics
    uncertainty: PositionStatistics

    def relate(self, raw: RawMaps) -> RawMaps:
        """Return both maps in relation to what is normal at each position."""
        return RawMaps(self.error.relate(raw.error), self.uncertainty.relate(raw.uncertainty), raw.grid)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        rows, cols = self.error.mean.shape
        return rows, cols


class PositionGatherer:
    """Gathers the statistics of one patch size, picture by picture, in a memory that does not depend on their number."""

    def __init__(self) -> None:
        """Start with no picture seen."""
        self._moments = {kind: RunningMoments() for kind in MAP_KINDS}

    def add(self, raw: RawMaps) -> None:
        """Take the raw maps of a normal picture into account; all must have the same shape."""
        for kind, moments in self._moments.items():
            moments.update(_logarithm(getattr(raw, kind)).reshape(1, -1))
        self._shape = raw.error.shape

    def statistics(self) -> ScalePositionStatistics:
        """Return the statistics of the pictures so far, at least two."""
        return ScalePositionStatistics(**{kind: self._statistics(moments) for kind, moments in self._moments.items()})

    def _statistics(self, moments: RunningMoments) -> PositionStatistics:
        mean, variance = moments.mean, moments.std.square().clamp(min=SMALLEST)  # pictures may be all the same
        weight = moments.count / (moments.count + PRIOR_PICTURES)
        mean = mean.lerp(mean.mean(), 1 - weight)
        typical = variance.mean()
        std = variance.lerp(typical, 1 - weight).clamp(min=typical / MAX_STRETCH**2).sqrt()
        return PositionStatistics(
            mean=mean.float().reshape(self._shape),
            std=std.float().reshape(self._shape),
            typical_std=float(typical.sqrt()),
        )


def _logarithm(values: Tensor) -> Tensor:
    return values.clamp(min=SMALLEST).log_()


def save_position_statistics(
    path: Path, positions: ScalePositionStatistics, *, num_images: int, precision: str
) -> None:
    """Write the statistics of one patch size, whole or not at all.

    Args:
        path: Where to.
        positions: The statistics.
        num_images: Number of pictures they were measured on.
        precision: Number format they were measured in, for example `float32`.
    """
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, "num_images": num_images, "precision": precision}
    for kind in MAP_KINDS:
        known: PositionStatistics = getattr(positions, kind)
        content[kind] = {"mean": known.mean, "std": known.std, "typical_std": known.typical_std}
    write_tensors(path, content)


def measured_precision(path: Path) -> str:
    """Return the number format that position statistics were measured in, for example `float32`.

    Raises:
        ArtifactError: The file is damaged, or of another format version.
    """
    return str(read_state(path, "calibrate").get("precision"))


def load_position_statistics(path: Path) -> ScalePositionStatistics:
    """Read what `save_position_statistics` wrote.

    Raises:
        ArtifactError: The file is damaged, of another format version, or holds something else.
    """
    state = read_state(path, "calibrate")

    def statistics(content: dict[str, Any]) -> PositionStatistics:
        mean, std = finite("mean", content["mean"]), finite("std", content["std"])
        typical_std = float(content["typical_std"])
        if mean.ndim != 2 or mean.shape != std.shape or not bool((std > 0).all()):
            raise ValueError("mean and std must be maps of one shape, and every std above 0")
        if not 0 < typical_std < float("inf"):
            raise ValueError("typical_std must be a number above 0")
        return PositionStatistics(mean, std, typical_std)

    def build() -> ScalePositionStatistics:
        positions = ScalePositionStatistics(**{kind: statistics(state[kind]) for kind in MAP_KINDS})
        if positions.error.mean.shape != positions.uncertainty.mean.shape:
            raise ValueError("both maps must have one shape")
        return positions

    return built_from(path, "position statistics", "calibrate", build)
