"""Pixel-level evaluation of a whole set of maps, over all images and per group, by either algorithm."""

from collections.abc import Iterable
from dataclasses import dataclass

from us_anomaly.data.sample import NORMAL_TYPE
from us_anomaly.scoring.exact_pixels import ExactPixels, count_exactly
from us_anomaly.scoring.metric_set import MetricSet
from us_anomaly.scoring.pixel_curve import pixel_figures
from us_anomaly.scoring.region_overlap import PixelItem
from us_anomaly.scoring.streaming_pixels import BinnedPixels, count_streaming
from us_anomaly.settings import MetricAlgorithm

MAX_EXACT_PIXELS = 1 << 24
"""`auto` sorts up to so many pixels, a second of work, and takes histograms above, which are five times as fast there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelEvaluation:
    """Pixel-level figures and how they came about."""

    algorithm: MetricAlgorithm
    """The algorithm that was really used: exact or streaming."""
    overall: MetricSet
    """Figures over all images."""
    per_group: dict[str, MetricSet]
    """Figures of each defect type against all normal images, by its name."""
    num_regions: int
    """Regions whose overlap was averaged."""


def evaluate_pixels(
    items: Iterable[PixelItem], *, algorithm: MetricAlgorithm, num_pixels: int, saturated: bool
) -> PixelEvaluation:
    """Compute the figures of `items`, which are gone through once (exact) or twice (streaming).

    Args:
        items: Maps with their truth; every iteration must give the same.
        algorithm: exact, streaming, or auto, which picks by `num_pixels`.
        num_pixels: Pixels of all maps together.
        saturated: Whether the overlap saturates, which decides the names of the figures.
    """
    if algorithm is MetricAlgorithm.auto:
        is_small = num_pixels <= MAX_EXACT_PIXELS
        algorithm = MetricAlgorithm.exact if is_small else MetricAlgorithm.streaming
    is_exact = algorithm is MetricAlgorithm.exact
    counted: ExactPixels | BinnedPixels = count_exactly(items) if is_exact else count_streaming(items)
    everything = counted.curve()
    per_group = {
        group: pixel_figures(counted.curve([NORMAL_TYPE, group]), saturated=saturated)
        for group in counted.groups
        if group != NORMAL_TYPE
    }
    return PixelEvaluation(
        algorithm=algorithm,
        overall=pixel_figures(everything, saturated=saturated),
        per_group=per_group,
        num_regions=everything.num_regions,
    )
