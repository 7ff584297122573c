"""Curves behind the figures of an evaluation, thinned out to what a plot can show.

Legend: `k` points of a curve.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from us_anomaly.scoring.ranking import FloatArray, Ranking, precision
from us_anomaly.scoring.region_overlap import PixelItem
from us_anomaly.scoring.streaming_pixels import BinnedPixels, coarse_bins

MAX_POINTS = 240


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve over all thresholds."""

    x: FloatArray
    """(k,)."""
    y: FloatArray
    """(k,)."""
    threshold: FloatArray | None = None
    """Threshold at each point, (k,); infinite where nothing is called anomalous."""


def roc_curve(ranking: Ranking) -> Curve:
    """Return recall against false-positive rate; both classes must be there."""
    alarms = ranking.alarms()
    x, y = alarms.false[0] / alarms.false[0, -1], alarms.true[0] / alarms.true[0, -1]
    return _thinned(Curve(x, y, np.append(np.inf, alarms.thresholds)))


def precision_recall_curve(ranking: Ranking) -> Curve:
    """Return precision against recall, from the first threshold that calls an image anomalous."""
    alarms = ranking.alarms()
    x, y = alarms.true[0] / alarms.true[0, -1], precision(alarms)[0]
    return _thinned(Curve(x[1:], y[1:], alarms.thresholds))


def region_overlap_curve(items: Iterable[PixelItem], *, up_to: float) -> Curve | None:
    """Return mean region overlap against the false-positive rate of pixels, up to that rate; None without any region.

    Scores are counted in the 65,536 bins that the upper half of a float32 makes, which moves a point by less than 0.8 % of
    its threshold: for the eye. The figures themselves are in `evaluation.json`.
    """
    binned = BinnedPixels(coarse_bins())
    for item in items:
        binned.add(item.anomaly_map, item.truth, group=item.group)
    if not binned.groups:
        return None
    curve = binned.curve()
    if curve.num_regions == 0 or curve.num_normal == 0:
        return None
    x = np.concatenate([[0.0], curve.normal_after / curve.num_normal])
    y = np.concatenate([[0.0], curve.overlap / curve.num_regions])
    inside = int(np.searchsorted(x, up_to, side="right"))
    at_end = float(np.interp(up_to, x, y))
    return _thinned(Curve(np.append(x[:inside], up_to), np.append(y[:inside], at_end)))


def smoothed(values: FloatArray, *, window: int) -> FloatArray:
    """Return the running mean of (k,) over `window` points around each, fewer at the ends."""
    reach = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    positions = np.arange(len(values))
    first, last = np.maximum(positions - reach, 0), np.minimum(positions + reach + 1, len(values))
    means: FloatArray = (sums[last] - sums[first]) / (last - first)
    return means


def evenly_chosen(length: int, *, at_most: int) -> npt.NDArray[np.intp]:
    """Return at most `at_most` evenly spaced positions of a list, its first and last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, at_most)).round().astype(np.intp))


def _thinned(curve: Curve) -> Curve:
    """Keep points at even distances along the curve, so that steep and flat parts are drawn equally well."""
    if len(curve.x) <= MAX_POINTS:
        return curve
    along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y)))])
    wanted = np.linspace(0, along[-1], MAX_POINTS)
    kept = np.unique(np.concatenate([[0], np.searchsorted(along, wanted).clip(max=len(along) - 1), [len(along) - 1]]))
    return Curve(curve.x[kept], curve.y[kept], None if curve.threshold is None else curve.threshold[kept])
