"""Teacher statistics over the normal training pictures: mean and deviation of each dimension, and a whitening matrix.

Shapes: B images, D descriptor dimensions, N positions, R S rows and columns of the output grid.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import descriptors_by_tile
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import StudentPositions
from us_anomaly.training.course import OnStep

MIN_STD_FRACTION = 1e-4
"""A dimension whose deviation is below this fraction of the median deviation counts as constant."""


@dataclass(frozen=True, slots=True)
class TeacherStatistics:
    """Mean and standard deviation of each descriptor dimension, both (D,) float32, and a whitening matrix (D, D) or None."""

    mean: Tensor
    std: Tensor
    whitening: Tensor | None = None

    def to(self, device: torch.device) -> "TeacherStatistics":
        """Return them on a device: copied once, instead of at each use."""
        whitening = None if self.whitening is None else self.whitening.to(device)
        return TeacherStatistics(self.mean.to(device), self.std.to(device), whitening)

    def normalize(self, descriptors: Tensor) -> Tensor:
        """Return (T - mu) / sigma for descriptors (B, D, R, S) or (N, D), times the whitening matrix where there is one."""
        by_dim = (-1, *[1] * (descriptors.dim() - 2))
        mean, std = (value.to(descriptors.device).view(by_dim) for value in (self.mean, self.std))
        normalized = descriptors.to(torch.float32, copy=True)
        normalized.sub_(mean).div_(std)  # in place: new memory costs more than the arithmetic
        if self.whitening is None:
            return normalized
        with torch.autocast(descriptors.device.type, enabled=False):
            matrix = self.whitening.to(descriptors.device)
            if descriptors.dim() == 2:
                return nn.functional.linear(normalized, matrix)
            whitened: Tensor = nn.functional.conv2d(normalized, matrix[:, :, None, None])
        return whitened


def whitening_matrix(correlation: Tensor, *, floor: float) -> Tensor:
    """Return the matrix (D, D) that turns standardised descriptors into uncorrelated ones of unit variance.

    Its rows are the principal axes, each divided by the deviation along it. What hardly varies on normal pictures is
    stretched: a squared distance after it is the Mahalanobis distance.

    Args:
        correlation: (D, D) of the standardised descriptors.
        floor: Added to every variance, so that an axis without variance is not stretched without end; the variances have
            the mean 1.
    """
    variances, axes = torch.linalg.eigh(correlation.double())
    matrix: Tensor = (axes / (variances.clamp(min=0) + floor).sqrt()).T
    return matrix


class RunningMoments:
    """Mean and variance of a stream, in float64, merged block by block.

    Source: Chan, Golub, LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing Sample Variances*, 1979. A sum of
    squares minus a squared sum would lose all digits where the mean is large against the deviation. All values are counted
    from the first one, because the difference of two large means has lost digits, too.
    """

    def __init__(self, *, with_covariance: bool = False) -> None:
        """Start with nothing seen; `with_covariance` also gathers how dimensions go together."""
        self.count = 0
        self._with_covariance = with_covariance
        self._origin = torch.zeros((), dtype=torch.float64)
        self._mean = torch.zeros((), dtype=torch.float64)  # counted from the origin
        self._squares = torch.zeros((), dtype=torch.float64)
        self._products = torch.zeros((), dtype=torch.float64)

    def update(self, block: Tensor) -> None:
        """Add a block of values (N, D) with N >= 1."""
        values = block.double()
        if self.count == 0:
            self._origin = values[0].clone()
        values = values - self._origin
        mean = values.mean(dim=0)
        centred = values - mean
        products = centred.T @ centred if self._with_covariance else self._products
        self._merge(values.shape[0], mean, centred.square().sum(dim=0), products)

    def _merge(self, count: int, mean: Tensor, squares: Tensor, products: Tensor) -> None:
        """Add `count` values of a mean (D,), counted from the origin, with sums of squares (D,) and products around it."""
        total = self.count + count
        delta = mean - self._mean
        if self._with_covariance:
            self._products = self._products + products + torch.outer(delta, delta) * (self.count * count / total)
        self._squares = self._squares + squares + delta.square() * (self.count * count / total)
        self._mean = self._mean + delta * (count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Mean (D,)."""
        return self._origin + self._mean

    @property
    def std(self) -> Tensor:
        """Population standard deviation (D,)."""
        return (self._squares / max(1, self.count)).sqrt()

    @property
    def covariance(self) -> Tensor:
        """Population covariance (D, D); with `with_covariance` only."""
        return self._products / max(1, self.count)


@torch.no_grad()
def teacher_statistics(
    teacher: PatchNetwork,
    images: Iterable[Tensor],
    *,
    positions: StudentPositions,
    compute: Compute,
    whitening_floor: float | None = None,
    on_step: OnStep = lambda done, values: None,
) -> TeacherStatistics:
    """Measure the statistics over the training pictures.

    Args:
        teacher: The distilled patch network.
        images: Normalised pictures (3, H, W), one at a time.
        positions: `dense` looks at every position; `grid` at the grid of `PatchNetwork.grid_stride_px`, whose phase goes
            round from picture to picture, so that all positions are seen alike at a tenth of the cost.
        compute: Device and number format.
        whitening_floor: The floor of `whitening_matrix`; None for no whitening.
        on_step: Called after every picture.

    Returns:
        Statistics whose `std` has no zero: a dimension that is constant on the training pictures gets the median deviation,
        so that it counts as little as it says instead of dividing by zero.
    """
    moments = RunningMoments(with_covariance=whitening_floor is not None)
    for number, image in enumerate(images):
        batch = compute.to_device(image[None])
        is_dense = positions is StudentPositions.dense
        stride = 1 if is_dense else teacher.grid_stride_px
        offset = (0, 0) if is_dense else _phase(number, batch, stride=stride)
        for (descriptors,) in descriptors_by_tile([teacher], batch, stride=stride, offset=offset, compute=compute):
            moments.update(descriptors)
        on_step(number + 1, {})
    std = moments.std
    constant = std <= std.median() * MIN_STD_FRACTION
    typical = std[~constant].median() if bool((~constant).any()) else torch.ones((), dtype=torch.float64)
    std = torch.where(constant, typical, std)
    whitening = None
    if whitening_floor is not None:
        whitening = whitening_matrix(moments.covariance / torch.outer(std, std), floor=whitening_floor).float().cpu()
    return TeacherStatistics(moments.mean.float().cpu(), std.float().cpu(), whitening)


def _phase(number: int, images: Tensor, *, stride: int) -> tuple[int, int]:
    """Return the first row and column of the grid in picture `number`: stride^2 pictures in a row show all of them."""
    height, width = images.shape[-2:]
    row, col = divmod(number * 5 % stride**2, stride)  # 5 and a power of two have no common divisor
    return min(row, height - 1), min(col, width - 1)
