"""How far the figures could move with other test images: percentile bootstrap, stratified by class.

Images are drawn with replacement within each class, so that no resample lacks a class; all figures of all
resamples come out of a few array operations. Efron and Tibshirani, An Introduction to the Bootstrap (1993),
chapter 13. The interval says what the choice of test images does, not what another seed of the training would
do. Where all resamples give one value, as where a figure is perfect on the sample, there is no interval: one without
width would claim a certainty that no sample gives.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from us_anomaly.scoring.image_metrics import resampled_figures
from us_anomaly.scoring.ranking import BoolArray, FloatArray, Ranking

CONFIDENCE = 0.95
_CELLS_AT_ONCE = 2_000_000

Interval = tuple[float, float]


def bootstrap_intervals(
    scores: npt.ArrayLike, labels: npt.ArrayLike, *, deployed_threshold: float, num_resamples: int, seed: int
) -> dict[str, Interval]:
    """Return the central 95 % interval of every image-level figure whose resamples differ, by name.

    Args:
        scores: Image scores, (n,).
        labels: Whether each image is anomalous, (n,).
        deployed_threshold: Anomalous means score >= this.
        num_resamples: Number of resamples; 0 gives no interval.
        seed: The same seed gives the same intervals.

    Raises:
        ValueError: Lengths differ, there is no image, or a score is not finite.
    """
    ranking = Ranking.of(scores, labels)
    parts: dict[str, list[FloatArray]] = {}
    for weights in stratified_weights(np.asarray(labels, dtype=bool), num_resamples=num_resamples, seed=seed):
        for name, row in resampled_figures(ranking.alarms(weights), deployed_threshold).items():
            parts.setdefault(name, []).append(row)
    intervals = {name: central_interval(np.concatenate(rows)) for name, rows in parts.items()}
    return {name: interval for name, interval in intervals.items() if interval is not None}


def paired_differences(
    scores: npt.ArrayLike,
    baseline_scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    deployed_thresholds: tuple[float, float],
    num_resamples: int,
    seed: int,
) -> dict[str, FloatArray]:
    """Return what two detectors differ by in every image-level figure, for each resample, (num_resamples,) by name.

    Both scored the same images in the same order, and both get the same resamples, so that what is hard about an
    image cancels out.

    Args:
        scores: Image scores of the detector, (n,).
        baseline_scores: Image scores of the baseline, (n,).
        labels: Whether each image is anomalous, (n,).
        deployed_thresholds: Threshold of the detector and of the baseline.
        num_resamples: Number of resamples.
        seed: The same seed gives the same resamples.

    Raises:
        ValueError: Lengths differ, there is no image, or a score is not finite.
    """
    ranking, baseline = Ranking.of(scores, labels), Ranking.of(baseline_scores, labels)
    parts: dict[str, list[FloatArray]] = {}
    for weights in stratified_weights(np.asarray(labels, dtype=bool), num_resamples=num_resamples, seed=seed):
        ours = resampled_figures(ranking.alarms(weights), deployed_thresholds[0])
        theirs = resampled_figures(baseline.alarms(weights), deployed_thresholds[1])
        for name, row in ours.items():
            parts.setdefault(name, []).append(row - theirs[name])
    return {name: np.concatenate(rows) for name, rows in parts.items()}


def stratified_weights(labels: BoolArray, *, num_resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield `num_resamples` resamples in blocks (b, n): how often each image was drawn."""
    generator = np.random.default_rng(seed)
    rows_at_once = max(1, _CELLS_AT_ONCE // labels.size)
    for start in range(0, num_resamples, rows_at_once):
        weights = np.zeros((min(rows_at_once, num_resamples - start), labels.size))
        for members in (np.flatnonzero(labels), np.flatnonzero(~labels)):
            if members.size:
                weights[:, members] = _draws(generator, rows=len(weights), size=members.size)
        yield weights


def _draws(generator: np.random.Generator, *, rows: int, size: int) -> npt.NDArray[np.int64]:
    """Draw `size` of `size` things with replacement, `rows` times, and count each, (rows, size)."""
    drawn = generator.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)


def central_interval(values: FloatArray) -> Interval | None:
    """Return the percentiles around the central 95 % of the defined values; None without width or values."""
    defined = values[np.isfinite(values)]
    if defined.size == 0:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return (float(low), float(high)) if low < high else None
