"""Anomaly maps: where students err and disagree, put on a common scale and added up.

Shapes: M students, B images, D descriptor dimensions, H W pixels of the network's input, R S grid rows and columns.

Source: Bergmann et al., *Uninformed Students* (CVPR 2020), section 3.3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import dense_descriptors_of_padded, reflect_pad, row_bands
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import ImageScore, Normalization, ScoringSettings
from us_anomaly.training.normalization import TeacherStatistics

MAX_BAND_PIXELS = 256 * 256
"""Pixels of a band of rows that is computed at once: bounds the memory for pictures of any size."""


@dataclass(frozen=True, slots=True)
class RawMaps:
    """Regression error and predictive uncertainty of one picture at one scale, both (H, W) float32."""

    error: Tensor
    uncertainty: Tensor


@dataclass(frozen=True, slots=True)
class MapStatistics:
    """Statistics of one kind of map over the validation normals."""

    mean: float
    std: float
    quantile_90: float
    quantile_995: float

    def normalize(self, values: Tensor, *, normalization: Normalization) -> Tensor:
        """Return the map on the common scale.

        `zscore`: (x - mean) / std. `quantile`: the line that maps the 0.9 quantile to 0 and the 0.995 quantile to 0.1, as in
        Batzner et al., *EfficientAD* (WACV 2024).
        """
        match normalization:
            case Normalization.none:
                return values
            case Normalization.zscore:
                return (values - self.mean) / max(self.std, 1e-12)
            case Normalization.quantile:
                return 0.1 * (values - self.quantile_90) / max(self.quantile_995 - self.quantile_90, 1e-12)


def error_and_uncertainty(students: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """Return regression error e = ||mean_k S_k - target||^2 and predictive uncertainty v = mean_k ||S_k - mean S||^2.

    Args:
        students: M answers (B, D, R, S), of any number format.
        target: (B, D, R, S) float32, the normalised teacher.

    Returns:
        Two maps (B, R, S), float32.
    """
    mean = torch.zeros_like(target)
    for answer in students:
        mean += answer
    mean /= len(students)
    uncertainty = torch.zeros_like(target[:, 0])
    for answer in students:
        uncertainty += (answer - mean).square_().sum(dim=1)
    return mean.sub_(target).square_().sum(dim=1), uncertainty / len(students)


@torch.inference_mode()
def raw_maps(
    image: Tensor,
    *,
    teacher: PatchNetwork,
    ensemble: StudentEnsemble,
    statistics: TeacherStatistics,
    stride: int,
    compute: Compute,
) -> RawMaps:
    """Compute error and uncertainty of one picture, band of rows by band of rows.

    Args:
        image: (3, H, W), normalised, any size.
        teacher: In the number format of `compute`, like the students.
        ensemble: The students.
        statistics: Of the teacher.
        stride: Grid in pixels; maps on a grid are interpolated to every pixel.
        compute: Device and number format.
    """
    height, width = image.shape[-2:]
    error, uncertainty = [], []
    for maps in _bands(image, teacher, ensemble, statistics, stride, compute):
        error.append(maps[0])
        uncertainty.append(maps[1])
    full = [torch.cat(bands, dim=0) for bands in (error, uncertainty)]
    if stride > 1:
        full = [_from_grid(grid, height, width, stride) for grid in full]
    return RawMaps(*full)


def _bands(
    image: Tensor,
    teacher: PatchNetwork,
    ensemble: StudentEnsemble,
    statistics: TeacherStatistics,
    stride: int,
    compute: Compute,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield error and uncertainty (R, S) of each band of rows of the grid."""
    height, width = image.shape[-2:]
    padded = reflect_pad(image[None].to(compute.dtype), teacher.patch_size // 2)
    top, left = min(stride // 2, height - 1), min(stride // 2, width - 1)
    for start, end in row_bands(height, width, max_positions=MAX_BAND_PIXELS, multiple=stride):
        rows, cols = (start + top, end), (left, width)
        if rows[0] >= end:
            continue
        crop = padded[..., rows[0] : end + teacher.patch_size - 1, :].to(compute.device)
        crop = crop.contiguous(memory_format=torch.channels_last)
        span = (0, end - rows[0])
        target = statistics.normalize(dense_descriptors_of_padded(teacher, crop, rows=span, cols=cols, stride=stride))
        answers = [
            dense_descriptors_of_padded(student, crop, rows=span, cols=cols, stride=stride)
            for student in ensemble.networks
        ]
        error, uncertainty = error_and_uncertainty(answers, target)
        yield error[0].cpu(), uncertainty[0].cpu()


def _from_grid(grid: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Interpolate values at rows and columns stride // 2 + k * stride to every pixel; constant beyond the outermost."""
    for axis, length in ((0, height), (1, width)):
        first = min(stride // 2, length - 1)
        position = ((torch.arange(length) - first) / stride).clamp(0, grid.shape[axis] - 1)
        low = position.floor().long()
        high = (low + 1).clamp(max=grid.shape[axis] - 1)
        weight = (position - low).unsqueeze(1 - axis)
        grid = grid.index_select(axis, low) * (1 - weight) + grid.index_select(axis, high) * weight
    return grid


def combine(
    maps: dict[int, RawMaps], *, statistics: dict[int, dict[str, MapStatistics]], settings: ScoringSettings
) -> tuple[Tensor, Tensor]:
    """Return the anomaly map and the uncertainty map of one picture.

    The anomaly map is the mean over scales of the weighted sum of error and uncertainty, each on its common scale, then
    smoothed.

    Args:
        maps: Raw maps by patch size.
        statistics: By patch size, the statistics of `error` and `uncertainty`; unused without normalisation.
        settings: Normalisation, weights and smoothing.

    Returns:
        Two maps (H, W).
    """
    total = doubt = torch.zeros(())
    for patch_size, raw in maps.items():
        error, uncertainty = raw.error, raw.uncertainty
        if settings.normalization is not Normalization.none:
            known = statistics[patch_size]
            error = known["error"].normalize(error, normalization=settings.normalization)
            uncertainty = known["uncertainty"].normalize(uncertainty, normalization=settings.normalization)
        total = total + (settings.error_weight * error + settings.uncertainty_weight * uncertainty) / len(maps)
        doubt = doubt + uncertainty / len(maps)
    return smooth(total, sigma_px=settings.smoothing_sigma_px), doubt


def smooth(values: Tensor, *, sigma_px: float) -> Tensor:
    """Smooth a map (H, W) by a Gaussian of standard deviation `sigma_px`, mirrored at the border."""
    if sigma_px == 0:
        return values
    radius = max(1, round(4 * sigma_px))
    axis = torch.arange(-radius, radius + 1, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    padded = reflect_pad(values[None, None], radius)
    return nn.functional.conv2d(nn.functional.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None])[
        0, 0
    ]


def image_score(anomaly_map: Tensor, *, settings: ScoringSettings) -> float:
    """Return one score for a picture from its map (H, W): the maximum, the mean of the highest values, or a quantile."""
    values = anomaly_map.flatten()
    count = max(1, round(settings.image_score_fraction * values.numel()))
    match settings.image_score:
        case ImageScore.max:
            return float(values.max())
        case ImageScore.top_mean:
            return float(values.topk(count).values.mean())
        case ImageScore.quantile:
            return float(values.topk(count).values[-1])
