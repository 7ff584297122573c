"""How the maps of normal pictures vary together: principal components, and what they explain of a new map.

A part lies a little aside, its material comes from another batch, a shadow falls on it: such things lift the map of a good
picture at many positions at once, and always at the same ones. They are the principal components of the logarithms of normal
maps; what these explain of a new map is taken off before it is judged. So a ground that changes from picture to picture tells
nothing about the part on it, which one number for the whole picture (`us_anomaly.scoring.picture_level`) cannot see.

A defect is explained in part, too, the more the larger and the weaker it is. Therefore the fit is one-sided and robust: a cell
that lies r above what is explained, in units of what normal maps leave there, counts 1 / (1 + (r / s)^2), with s in proportion
to the median absolute deviation of the map (the weights of a Cauchy distribution, in reweighted least squares; Holland, Welsch,
*Robust regression using iteratively reweighted least-squares*, 1977). And no coefficient leaves the range that normal pictures
reach, widened by a standard deviation.

All this needs parts that lie in one place. On a texture that is cut at random, smooth components explain any smooth map,
large defects included; see `alignment`. The formula is ours: docs/accuracy.md tells what it gave.

Shapes: N maps, J components, R S rows and columns of a raw map, r s rows and columns of its cells, at most `MAX_CELLS` each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

MAX_CELLS = 32
"""Components are known at this resolution, which bounds memory, and interpolated: they are smooth."""
MIN_ALIGNMENT = 0.2
"""Where positions explain less of the maps, these have no components."""
MAPS_PER_COMPONENT = 10
"""Fewer maps than this for each component would not tell it from chance."""
CELLS_PER_COMPONENT = 10
"""Fewer cells than this for each component could not tell it from a defect."""
MIN_SHARE_OF_DEVIATION = 1e-6
"""A direction along which maps vary by less, as a share of the first one, is none."""
MIN_DEVIATION = 1e-6
"""Where logarithms differ by less, maps are the same."""
MAX_STRETCH = 1.5
"""Largest ratio of the deviation at a typical place to the one at a place."""
NUM_FITS = 10
"""Weighted fits, one after the other; more of them changed no figure of a validation set by more than 0.002."""
DOUBTED_ABOVE = 0.5
"""The s of the weights, in standard deviations of the map."""
MAD_OF_A_NORMAL_DISTRIBUTION = 0.6745
RIDGE = 1e-9
"""Keeps the fit solvable, as a share of the mean weight."""
ONNX_SOLVER = "us_anomaly::Solution"
"""Function of an exported detector that solves equations, for which ONNX has none: `us_anomaly.onnx_model` defines it."""


@dataclass(frozen=True, slots=True)
class MapComponents:
    """Principal components of the logarithms of normal maps."""

    center: Tensor
    """(r, s) float32, the mean map."""
    directions: Tensor
    """(J, r, s) float32, orthonormal, the largest variance first."""
    low: Tensor
    """(J,) float32: the lowest coefficient that is believed."""
    high: Tensor
    """(J,) float32: the highest one."""
    deviation: Tensor
    """(r, s) float32: the standard deviation of what the components leave of normal maps, bounded from below."""

    def explained(self, logarithms: Tensor) -> Tensor:
        """Return how the components say that a map differs from the mean one.

        Args:
            logarithms: (R, S), of a raw map.

        Returns:
            (R, S) float32.
        """
        cells = (to_cells(logarithms) - self.center).double().flatten()
        directions, deviation = self.directions.double().flatten(1), self.deviation.double().flatten()
        coefficients = directions @ cells
        for _ in range(NUM_FITS):
            above = (cells - coefficients @ directions) / deviation
            spread = _median((above - _median(above)).abs()) / MAD_OF_A_NORMAL_DISTRIBUTION
            doubt = above.clamp(min=0) / (DOUBTED_ABOVE * spread.clamp(min=1))
            weights = 1 / ((1 + doubt.square()) * deviation.square())
            weighted = directions * weights
            ridge = RIDGE * weights.mean() * torch.eye(len(directions), dtype=torch.float64)
            coefficients = _solution(weighted @ directions.T + ridge, weighted @ cells)
        coefficients = coefficients.clamp(self.low.double(), self.high.double())
        together = (coefficients @ directions).reshape(self.center.shape)
        return _at_every_position(together.float(), logarithms.shape)


def _median(values: Tensor) -> Tensor:
    """Return the lower median of a vector, as `torch.median`, which ONNX does not know."""
    return values.sort().values[(len(values) - 1) // 2] if torch.onnx.is_in_onnx_export() else values.median()


def _solution(matrix: Tensor, right: Tensor) -> Tensor:
    """Return x (J,) of ``matrix @ x = right`` for a positive definite matrix (J, J)."""
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(ONNX_SOLVER, (matrix, right), dtype=right.dtype, shape=right.shape, version=1)
    solution: Tensor = torch.linalg.solve(matrix, right)
    return solution


def bounded_deviation(variance: Tensor, typical: Tensor) -> Tensor:
    """Return the roots of variances, none of which counts as less than the typical one divided by `MAX_STRETCH` squared.

    A place where normal maps are always the same would else rule the fit, or blow up any speck of dust.
    """
    return variance.clamp(min=typical / MAX_STRETCH**2).sqrt()


def to_cells(values: Tensor) -> Tensor:
    """Return the means (r, s) of a map (R, S) over the cells of a coarse grid; the map itself where it is small."""
    return nn.functional.adaptive_avg_pool2d(values[None], shape_of_cells(values.shape))[0]


def shape_of_cells(shape: torch.Size) -> tuple[int, int]:
    """Return r and s for maps of a shape (R, S)."""
    rows, cols = (min(length, MAX_CELLS) for length in shape)
    return rows, cols


def _at_every_position(cells: Tensor, shape: torch.Size) -> Tensor:
    """Return the map (R, S) of a shape that interpolates one of cells (r, s)."""
    rows, cols = shape
    return nn.functional.interpolate(cells[None, None], size=(rows, cols), mode="bilinear", align_corners=False)[0, 0]


def alignment(maps: Tensor) -> float:
    """Return how much of what differs within maps is the same in all of them, from 0 to 1.

    It is the variance of the mean map over its positions, divided by the mean variance of the maps over theirs, each map
    counted from its own mean; less the 1 / N that N maps without anything in common show.

    Args:
        maps: (N, r, s) logarithms, N at least 2.
    """
    centred = maps.double()
    centred = centred - centred.mean(dim=(1, 2), keepdim=True)
    whole = float(centred.square().mean())
    if whole <= MIN_DEVIATION**2:
        return 0.0
    by_chance = 1 / len(maps)
    shared = float(centred.mean(dim=0).square().mean()) / whole
    return min(max((shared - by_chance) / (1 - by_chance), 0.0), 1.0)


def find_components(maps: Tensor, *, max_components: int) -> MapComponents | None:
    """Return the principal components of maps, or None where these are too few, too small or not aligned.

    Args:
        maps: (N, r, s) logarithms in cells, N at least 2.
        max_components: At most so many.
    """
    num, num_cells = len(maps), maps[0].numel()
    count = min(max_components, num // MAPS_PER_COMPONENT, num_cells // CELLS_PER_COMPONENT)
    if count == 0 or alignment(maps) < MIN_ALIGNMENT:
        return None
    center = maps.double().mean(dim=0)
    deviations = (maps - center).flatten(1)
    _, sizes, directions = torch.linalg.svd(deviations, full_matrices=False)
    smallest = max(MIN_DEVIATION * (num * num_cells) ** 0.5, MIN_SHARE_OF_DEVIATION * float(sizes[0]))
    count = min(count, int((sizes > smallest).sum()))
    if count == 0:
        return None
    directions = directions[:count]
    coefficients = deviations @ directions.T
    std = coefficients.std(dim=0, correction=0)
    left = (deviations - coefficients @ directions).square().mean(dim=0)
    typical = left.mean().clamp(min=MIN_DEVIATION**2)
    return MapComponents(
        center=center.float(),
        directions=directions.reshape(count, *center.shape).float(),
        low=(coefficients.amin(dim=0) - std).float(),
        high=(coefficients.amax(dim=0) + std).float(),
        deviation=bounded_deviation(left, typical).reshape(center.shape).float(),
    )


def explained_variance(components: MapComponents, maps: Tensor, shape: torch.Size) -> Tensor:
    """Return the variance (R, S) float64 that components explain at each position of maps of a shape (R, S).

    Args:
        components: Of these maps.
        maps: (N, r, s), as `find_components` takes them.
        shape: R and S.
    """
    directions = components.directions.double()
    coefficients = (maps.double() - components.center.double()).flatten(1) @ directions.flatten(1).T
    variance = torch.zeros(shape, dtype=torch.float64)
    for direction, std in zip(directions, coefficients.std(dim=0, correction=0), strict=True):
        variance += _at_every_position(direction * std, shape).square_()
    return variance
