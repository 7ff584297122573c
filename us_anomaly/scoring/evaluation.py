"""The whole evaluation of one detector on its test images, as the dictionary that `evaluation.json` holds.

Everything here is a function of what it is given; `commands/evaluate.py` reads and writes the files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from us_anomaly.errors import DataError
from us_anomaly.scoring.bootstrap import CONFIDENCE, Interval
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.image_metrics import image_metrics
from us_anomaly.scoring.intervals import image_intervals
from us_anomaly.scoring.metric_set import MetricSet, united
from us_anomaly.scoring.pixel_curve import figure_names
from us_anomaly.scoring.pixel_metrics import PixelEvaluation, evaluate_pixels
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.scored_images import ScoredImage
from us_anomaly.scoring.thresholds import Threshold, is_anomalous
from us_anomaly.settings import EvaluationSettings, MetricAlgorithm

FORMAT_VERSION = 1

NO_TEST_IMAGE = "the test split holds no image: choose split.ratios with a test share, as 70-15-15"
NO_MASKS = "no masks in the data set"
NO_MAPS = "no maps were saved: run `usad infer overwrite=true inference.save_maps=true`"

WHOLE_NUMBERS = ("false_positives", "misses")
"""Figures that are counts."""
_PER_TYPE = ("image_auroc", "image_average_precision", "deployed_recall", "misses")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """How intervals are resampled, where they do not follow from counts."""

    num_resamples: int
    """0 leaves all intervals out."""
    seed: int
    """The same seed gives the same intervals."""


def evaluate(
    images: Sequence[ScoredImage],
    *,
    source: PixelSource,
    threshold: Threshold,
    settings: EvaluationSettings,
    seed: int,
    data_set: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of `evaluation.json`.

    Args:
        images: The test images.
        source: Their maps and masks; `source.problems` may already hold problems and receives more.
        threshold: The threshold that validation chose.
        settings: Algorithm, resolution and number of resamples.
        seed: Decides the resamples.
        data_set: What names the data set: plain values.

    Raises:
        ArtifactError, BadImageError, DataError: As `PixelSource`; also DataError where there is no image.
    """
    if not images:
        raise DataError(NO_TEST_IMAGE)
    resampling = Resampling(num_resamples=settings.bootstrap_samples, seed=seed)
    pixels, reason = _pixels(images, source=source, algorithm=settings.algorithm)
    overall = _image_level(images, threshold=threshold.value, resampling=resampling)
    absent = _absent_pixels(reason, saturated=source.saturation is not None)
    pixel_set = absent if pixels is None else pixels.overall
    return {
        "format_version": FORMAT_VERSION,
        "split": "test",
        "data_set": data_set,
        "resolution": settings.resolution.value,
        "resolution_px": None if pixels is None else _resolution(source),
        "algorithm": None if pixels is None else pixels.algorithm.value,
        "bootstrap": {**asdict(resampling), "confidence": CONFIDENCE},
        "counts": _counts(images, pixels, source.problems),
        **_as_json(united([overall.metrics, pixel_set]), overall.intervals),
        "per_defect_type": {
            defect_type: _one_type(
                images,
                defect_type,
                threshold=threshold.value,
                resampling=resampling,
                pixel_set=absent if pixels is None else pixels.per_group.get(defect_type, absent),
            )
            for defect_type in sorted({image.defect_type for image in images if image.is_anomalous})
        },
        "threshold": asdict(threshold),
        "most_anomalous_found": _most_anomalous_found(images, threshold=threshold.value),
        "warnings": source.problems.counts(),
        "warning_examples": source.problems.examples(),
    }


@dataclass(frozen=True, slots=True)
class _ImageLevel:
    metrics: MetricSet
    intervals: dict[str, Interval]


def _image_level(images: Sequence[ScoredImage], *, threshold: float, resampling: Resampling) -> _ImageLevel:
    scores = [image.score for image in images]
    labels = [image.is_anomalous for image in images]
    intervals = image_intervals(
        scores,
        labels,
        deployed_threshold=threshold,
        num_resamples=resampling.num_resamples,
        seed=resampling.seed,
    )
    return _ImageLevel(image_metrics(scores, labels, deployed_threshold=threshold), intervals)


def _one_type(
    images: Sequence[ScoredImage],
    defect_type: str,
    *,
    threshold: float,
    resampling: Resampling,
    pixel_set: MetricSet,
) -> dict[str, Any]:
    """Return the figures of one defect type against all normal images."""
    chosen = [image for image in images if not image.is_anomalous or image.defect_type == defect_type]
    level = _image_level(chosen, threshold=threshold, resampling=resampling)
    metrics = united([_only(level.metrics, _PER_TYPE), pixel_set])
    intervals = {name: interval for name, interval in level.intervals.items() if name in _PER_TYPE}
    return {
        "count": sum(image.is_anomalous for image in chosen),
        **_as_json(metrics, intervals),
    }


def _only(metrics: MetricSet, names: Iterable[str]) -> MetricSet:
    kept = set(names)
    return MetricSet(
        {name: value for name, value in metrics.values.items() if name in kept},
        {name: reason for name, reason in metrics.absent.items() if name in kept},
    )


def _pixels(
    images: Sequence[ScoredImage], *, source: PixelSource, algorithm: MetricAlgorithm
) -> tuple[PixelEvaluation | None, str]:
    """Return the pixel-level figures, or None and the reason why there are none."""
    if not any(image.mask_path for image in images):
        return None, NO_MASKS
    if len(source.images) < len(images):
        return None, NO_MAPS
    num_pixels = sum(height * width for height, width in source.sizes())
    saturated = source.saturation is not None
    return evaluate_pixels(source, algorithm=algorithm, num_pixels=num_pixels, saturated=saturated), ""


def _absent_pixels(reason: str, *, saturated: bool) -> MetricSet:
    """Return the figures as absent, for `reason` or because no image of the type takes part."""
    names = figure_names(saturated=saturated)
    return MetricSet(absent=dict.fromkeys(names, reason or "no image of this type has a mask of its defect"))


def _resolution(source: PixelSource) -> dict[str, list[int]]:
    """Return the smallest and the largest [width, height] at which maps and masks were compared."""
    sizes = sorted({(width, height) for height, width in source.sizes()}, key=lambda size: size[0] * size[1])
    return {"smallest": list(sizes[0]), "largest": list(sizes[-1])}


def _counts(images: Sequence[ScoredImage], pixels: PixelEvaluation | None, problems: DataProblems) -> dict[str, int]:
    num_anomalous = sum(image.is_anomalous for image in images)
    left_out = problems.num_left_out() if pixels is not None else len(images)
    return {
        "images": len(images),
        "normal": len(images) - num_anomalous,
        "anomalous": num_anomalous,
        "images_in_pixel_metrics": len(images) - left_out,
        "images_left_out_of_pixel_metrics": left_out,
        "regions": 0 if pixels is None else pixels.num_regions,
    }


def _as_json(metrics: MetricSet, intervals: dict[str, Interval]) -> dict[str, Any]:
    """Return figures as JSON has them, counts as whole numbers."""
    values: dict[str, float | int] = dict(metrics.values)
    for name in WHOLE_NUMBERS:
        if name in values:
            values[name] = round(values[name])
    return {
        "metrics": values,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "absent": metrics.absent,
    }


def _most_anomalous_found(images: Iterable[ScoredImage], *, threshold: float) -> dict[str, str | None] | None:
    """Return the image to look at first: rightly called anomalous, with the highest score; or None."""
    found = [image for image in images if image.is_anomalous and is_anomalous(image.score, threshold)]
    if not found:
        return None
    best = max(found, key=lambda image: image.score)
    return {"filename": best.filename, "heatmap_path": best.heatmap_path}
