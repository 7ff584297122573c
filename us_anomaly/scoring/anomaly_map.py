"""Anomaly maps: raw maps put on a common scale and added up, and the score of a picture.

Shapes: H W pixels of the network's input, R S rows and columns of the grid. Scales are put on a common scale and added up on the
grid, which is small; pixels between its positions are interpolated once, at the end.

Source: Bergmann et al., *Uninformed Students* (CVPR 2020), sections 3.2 and 3.3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from us_anomaly.data.bands import bands
from us_anomaly.models.windows import reflect_window
from us_anomaly.scoring.picture_level import PictureLevel
from us_anomaly.scoring.raw_maps import RawMaps
from us_anomaly.settings import ImageScore, Normalization, ScoringSettings

VALUES_AT_ONCE = 2**22
"""Values of a map that are sorted at once."""


@dataclass(frozen=True, slots=True)
class MapStatistics:
    """Statistics of one kind of map over the validation normals."""

    mean: float
    std: float
    quantile_90: float
    quantile_995: float
    level: PictureLevel | None = None
    """How their levels differ; with `scoring.per_picture` only, and the other numbers are then those of evened maps."""

    def normalize(self, values: Tensor, *, normalization: Normalization) -> Tensor:
        """Return the map on the common scale.

        `zscore`: (x - mean) / std. `quantile`: the line that maps the 0.9 quantile to 0 and the 0.995 quantile to 0.1, as in
        Batzner et al., *EfficientAD* (WACV 2024).
        """
        match normalization:
            case Normalization.none:
                return values
            case Normalization.zscore:
                return (values - self.mean).div_(max(self.std, 1e-12))
            case Normalization.quantile:
                return (values - self.quantile_90).mul_(0.1).div_(max(self.quantile_995 - self.quantile_90, 1e-12))


def combine(
    maps: dict[int, RawMaps], *, statistics: dict[int, dict[str, MapStatistics]], settings: ScoringSettings
) -> tuple[Tensor, Tensor]:
    """Return the anomaly map and the uncertainty map of one picture.

    The anomaly map is the mean over scales of the weighted sum of error and uncertainty, each with the picture's level evened
    out, if that is wanted, and on its common scale; then smoothed.

    Args:
        maps: Raw maps by patch size, on one grid.
        statistics: By patch size, the statistics of `error` and `uncertainty`; unused without normalisation and
            `scoring.per_picture`.
        settings: Normalisation, weights and smoothing.

    Returns:
        Two maps (H, W).
    """
    total = doubt = torch.zeros(())
    for patch_size, raw in maps.items():
        known = statistics.get(patch_size, {})
        weighted = _on_common_scale(raw.error, known.get("error"), settings).mul_(settings.error_weight)
        uncertainty = _on_common_scale(raw.uncertainty, known.get("uncertainty"), settings)
        weighted.add_(uncertainty, alpha=settings.uncertainty_weight)
        total = weighted.div_(len(maps)).add_(total)
        doubt = uncertainty.div_(len(maps)).add_(doubt)
    grid = next(iter(maps.values())).grid
    return smooth(grid.at_every_pixel(total), sigma_px=settings.smoothing_sigma_px), grid.at_every_pixel(doubt)


def _on_common_scale(values: Tensor, known: MapStatistics | None, settings: ScoringSettings) -> Tensor:
    """Return a copy of a map on the common scale, which may be changed in place."""
    if not settings.per_picture and settings.normalization is Normalization.none:
        return values.clone()
    assert known is not None
    if settings.per_picture:
        assert known.level is not None
        values = known.level.even_out(values)
    return known.normalize(values, normalization=settings.normalization)


def smooth(values: Tensor, *, sigma_px: float) -> Tensor:
    """Smooth a map (H, W) by a Gaussian of standard deviation `sigma_px`, mirrored at the border."""
    if sigma_px == 0:
        return values
    radius = max(1, round(4 * sigma_px))
    axis = torch.arange(-radius, radius + 1, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (axis / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    height, width = values.shape
    smoothed = torch.empty_like(values)
    for rows in bands(height, width):
        window = reflect_window(values[None, None], radius, rows=(rows.start, rows.stop), cols=(0, width))
        by_rows = nn.functional.conv2d(window, kernel[None, None, :, None])
        smoothed[rows] = nn.functional.conv2d(by_rows, kernel[None, None, None])[0, 0]
    return smoothed


def image_score(anomaly_map: Tensor, *, settings: ScoringSettings) -> float:
    """Return one score for a picture from its map (H, W): the maximum, the mean of the highest values, or a quantile."""
    return float(image_score_tensor(anomaly_map, settings=settings))


def image_score_tensor(anomaly_map: Tensor, *, settings: ScoringSettings) -> Tensor:
    """Return the score of `image_score` as a tensor without dimensions."""
    values = anomaly_map.flatten()
    count = max(1, round(settings.image_score_fraction * values.numel()))
    match settings.image_score:
        case ImageScore.max:
            return values.max()
        case ImageScore.top_mean:
            return _highest(values, count).mean()
        case ImageScore.quantile:
            return _highest(values, count)[-1]


def _highest(values: Tensor, count: int) -> Tensor:
    """Return the highest values, descending; block by block, because `topk` takes sixteen bytes for each value it looks at."""
    blocks = [block.topk(min(count, len(block))).values for block in torch.split(values, VALUES_AT_ONCE)]
    return torch.cat(blocks).topk(count).values if len(blocks) > 1 else blocks[0]
