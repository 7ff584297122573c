"""What is normal at each position of the picture: raw maps in relation to it.

Where parts are photographed in one place, the edge of a part or of its frame scores high on every good picture. A map is
therefore compared, position by position, with the maps of normal training pictures. Errors are positive and their
distribution has a long tail, so that is done with logarithms: with mean m and deviation s of the logarithm at a position, and
S the deviation at a typical one, a value x becomes exp(S (log x - m) / s). Where all positions are alike, as on textures, only
the unit changes.

Where positions matter, normal maps also vary together: what their principal components explain of a map is taken off log x,
and s is the deviation that they leave in normal maps (`us_anomaly.scoring.map_components`).

Of few pictures m and s are uncertain, so both are mixed with what holds for all positions; and s is never taken for less than
S / 1.5, because a position where normal pictures hardly differ would blow up any speck of dust. The formula is ours:
docs/accuracy.md tells what else was tried.

Shapes: R S rows and columns of the grid of a raw map.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from us_anomaly.run_dir.atomic import write_tensors
from us_anomaly.scoring.logarithm import logarithm
from us_anomaly.scoring.map_components import (
    MapComponents,
    alignment,
    bounded_deviation,
    explained_variance,
    find_components,
    shape_of_cells,
    to_cells,
)
from us_anomaly.scoring.raw_maps import MAP_KINDS, RawMaps
from us_anomaly.training.artifacts import FORMAT_VERSION, built_from, finite, read_state
from us_anomaly.training.normalization import RunningMoments

PRIOR_PICTURES = 10
"""Mean and deviation of a position are mixed with those of all positions as if so many more pictures showed the latter."""
MIN_VARIANCE = 1e-12
"""Pictures may be all the same."""
MIN_UNEXPLAINED = 0.02
"""Smallest share of the variance at a position that components leave."""
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
    alignment: float | None = None
    """How much of the maps is the same in all of them, from 0 to 1; None in files of before it was measured."""
    components: MapComponents | None = None
    """How maps vary together; None where they do not, or where there are too few."""

    def relate(self, values: Tensor) -> Tensor:
        """Return a raw map (R, S) in relation to what is normal at each position."""
        logs = logarithm(values)
        explained = 0.0 if self.components is None else self.components.explained(logs)
        deviation = logs.sub_(self.mean).sub_(explained).div_(self.std)
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
    """Gathers the statistics of one patch size, picture by picture. Of each picture a few thousand numbers are kept."""

    def __init__(self, *, max_components: int) -> None:
        """Start with no picture seen.

        Args:
            max_components: Look for at most so many ways in which maps vary together.
        """
        self._max_components = max_components
        self._moments = {kind: RunningMoments() for kind in MAP_KINDS}
        self._cells: dict[str, list[Tensor]] = {kind: [] for kind in MAP_KINDS}

    def add(self, raw: RawMaps) -> None:
        """Take the raw maps of a normal picture into account; all must have the same shape."""
        for kind, moments in self._moments.items():
            logs = logarithm(getattr(raw, kind))
            moments.update(logs.reshape(1, -1))
            self._cells[kind].append(to_cells(logs))
        self._shape = raw.error.shape

    def statistics(self) -> ScalePositionStatistics:
        """Return the statistics of the pictures so far, at least two."""
        return ScalePositionStatistics(**{kind: self._statistics(kind) for kind in MAP_KINDS})

    def _statistics(self, kind: str) -> PositionStatistics:
        moments, cells = self._moments[kind], torch.stack(self._cells[kind])
        mean, variance = moments.mean, moments.std.square().clamp(min=MIN_VARIANCE)
        components = find_components(cells, max_components=self._max_components)
        if components is not None:
            left = variance - explained_variance(components, cells, self._shape).flatten()
            variance = torch.maximum(left, MIN_UNEXPLAINED * variance)
        weight = moments.count / (moments.count + PRIOR_PICTURES)
        mean = mean.lerp(mean.mean(), 1 - weight)
        typical = variance.mean()
        std = bounded_deviation(variance.lerp(typical, 1 - weight), typical)
        return PositionStatistics(
            mean=mean.float().reshape(self._shape),
            std=std.float().reshape(self._shape),
            typical_std=float(typical.sqrt()),
            alignment=alignment(cells),
            components=components,
        )


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
        content[kind] = {
            "mean": known.mean,
            "std": known.std,
            "typical_std": known.typical_std,
            "alignment": known.alignment,
            "components": None if known.components is None else asdict(known.components),
        }
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
        agreement = content.get("alignment")
        if agreement is not None and not 0 <= float(agreement) <= 1:
            raise ValueError("alignment must be between 0 and 1")
        return PositionStatistics(mean, std, typical_std, agreement, _components(content, mean.shape))

    def build() -> ScalePositionStatistics:
        positions = ScalePositionStatistics(**{kind: statistics(state[kind]) for kind in MAP_KINDS})
        if positions.error.mean.shape != positions.uncertainty.mean.shape:
            raise ValueError("both maps must have one shape")
        return positions

    return built_from(path, "position statistics", "calibrate", build)


def _components(content: dict[str, Any], shape: torch.Size) -> MapComponents | None:
    """Read the components of maps of a shape (R, S); older files know nothing of them.

    Raises:
        KeyError, TypeError, ValueError: They are damaged, or of other maps.
    """
    if (known := content.get("components")) is None:
        return None
    components = MapComponents(**{name: finite(name, known[name]) for name in MapComponents.__slots__})
    cells, count = shape_of_cells(shape), len(components.directions)
    if not components.center.shape == components.deviation.shape == components.directions.shape[1:] == cells:
        raise ValueError("components must be those of maps of the shape of mean")
    flat = components.directions.flatten(1)
    if not torch.allclose(flat @ flat.T, torch.eye(count), atol=1e-3) or not bool((components.deviation > 0).all()):
        raise ValueError("directions must be orthonormal, and every deviation above 0")
    if not components.low.shape == components.high.shape == (count,) or bool((components.low > components.high).any()):
        raise ValueError("each component must have a lowest and a highest coefficient")
    return components
