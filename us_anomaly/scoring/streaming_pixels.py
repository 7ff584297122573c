"""Pixel-level counts in bounded memory: two readings of the maps, whatever their number.

The first reading counts pixels in 65,536 coarse bins, the upper half of the bits of a float32, which spans
every scale at once. From it each coarse bin gets as many fine bins as its share of normal pixels, defect
pixels and regions deserves, down to single float32 numbers. The second reading counts in the fine bins. So no
fine bin holds more than a few millionths of anything, unless its pixels are equal anyway, and treating a bin
as one score moves no figure by more than that, however heavy the tails of the maps.

Legend: `C` coarse bins, `N` fine bins, in ascending order of the score.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from us_anomaly.scoring.map_files import FloatMap
from us_anomaly.scoring.pixel_curve import PixelCurve
from us_anomaly.scoring.ranking import FloatArray
from us_anomaly.scoring.region_overlap import PixelItem, PixelTruth, defect_pixels

Keys = npt.NDArray[np.uint32]

_COARSE_BITS = 16
_NUM_COARSE = 1 << _COARSE_BITS
_FINE_BINS = 1 << 19


def ordered_keys(scores: npt.NDArray[np.float32]) -> Keys:
    """Map float32 numbers to integers of the same order, equal for equal numbers."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    negative = bits >> np.uint32(31) != 0
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))


@dataclass(frozen=True, slots=True)
class Bins:
    """Fine bins: coarse bin c is cut into 2**bits[c] of them, the first of which is number first[c]."""

    bits: npt.NDArray[np.uint32]
    first: npt.NDArray[np.uint32]
    size: int

    def index(self, scores: npt.NDArray[np.float32]) -> Keys:
        """Return the fine bin of each score."""
        keys = ordered_keys(scores)
        coarse = keys >> np.uint32(_COARSE_BITS)
        within = (keys & np.uint32(_NUM_COARSE - 1)) >> (np.uint32(_COARSE_BITS) - self.bits[coarse])
        index: Keys = self.first[coarse] + within
        return index


COARSE = Bins(np.zeros(_NUM_COARSE, dtype=np.uint32), np.arange(_NUM_COARSE, dtype=np.uint32), _NUM_COARSE)


def refined(shares: FloatArray) -> Bins:
    """Cut coarse bins by their shares (C,), which add up to 1, into about `_FINE_BINS` fine bins."""
    wanted = np.maximum(shares * _FINE_BINS / 2, 1.0)
    bits = np.minimum(np.ceil(np.log2(wanted)), _COARSE_BITS).astype(np.uint32)
    sizes = np.uint64(1) << bits.astype(np.uint64)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.uint32)
    return Bins(bits, first, int(sizes.sum()))


@dataclass(slots=True)
class _Histograms:
    """Counts of one group by bin, (N,)."""

    normal: npt.NDArray[np.int64]
    defect: npt.NDArray[np.int64]
    overlap: FloatArray
    num_regions: int = 0


@dataclass(slots=True)
class BinnedPixels:
    """Collect maps one at a time in given bins."""

    bins: Bins
    _groups: dict[str, _Histograms] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """Names of the groups, sorted."""
        return sorted(self._groups)

    def add(self, anomaly_map: FloatMap, truth: PixelTruth, *, group: str) -> None:
        """Take in the map (H, W) of one image of `group`."""
        if group not in self._groups:
            empty = np.zeros(self.bins.size, dtype=np.int64)
            self._groups[group] = _Histograms(empty, empty.copy(), np.zeros(self.bins.size))
        counts = self._groups[group]
        normal = anomaly_map[~truth.mask] if truth.mask.any() else anomaly_map.ravel()
        _count(counts.normal, self.bins.index(normal))
        if normal.size < anomaly_map.size:
            found = defect_pixels(anomaly_map, truth)
            index = self.bins.index(found.scores)
            _count(counts.defect, index)
            np.add.at(counts.overlap, index, found.weights)
            counts.num_regions += found.num_regions

    def shares(self) -> FloatArray:
        """Return what part of the pixels and regions of an average group falls into each bin, (N,)."""
        parts = [
            histogram / histogram.sum()
            for counts in self._groups.values()
            for histogram in (counts.normal, counts.defect, counts.overlap)
            if histogram.sum() > 0
        ]
        return np.mean(parts, axis=0) if parts else np.zeros(self.bins.size)

    def curve(self, groups: Iterable[str] | None = None) -> PixelCurve:
        """Return the counts over the images of `groups`, or of all groups."""
        names = self._groups if groups is None else groups
        chosen = [self._groups[name] for name in names if name in self._groups]
        normal = np.sum([counts.normal for counts in chosen], axis=0)[::-1]
        defect = np.sum([counts.defect for counts in chosen], axis=0)[::-1]
        overlap = np.sum([counts.overlap for counts in chosen], axis=0)[::-1]
        points = np.flatnonzero(defect)
        normal_after = np.cumsum(normal)
        return PixelCurve(
            defect=np.cumsum(defect)[points].astype(np.float64),
            overlap=np.cumsum(overlap)[points],
            normal_before=(normal_after - normal)[points].astype(np.float64),
            normal_after=normal_after[points].astype(np.float64),
            num_normal=int(normal.sum()),
            num_regions=sum(counts.num_regions for counts in chosen),
        )


def count_streaming(items: Iterable[PixelItem]) -> BinnedPixels:
    """Go through `items` twice and return the counts in bins that suit them."""
    coarse = BinnedPixels(COARSE)
    for item in items:
        coarse.add(item.anomaly_map, item.truth, group=item.group)
    fine = BinnedPixels(refined(coarse.shares()))
    for item in items:
        fine.add(item.anomaly_map, item.truth, group=item.group)
    return fine


def _count(histogram: npt.NDArray[np.int64], index: Keys) -> None:
    """Add one for each index; a small image touches few bins, and counting all of them would cost more."""
    if index.size >= histogram.size:
        histogram += np.bincount(index, minlength=histogram.size)
    else:
        np.add.at(histogram, index, 1)
