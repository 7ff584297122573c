"""Pixel-level counts in bounded memory: two readings of the maps, whatever their number.

The first reading counts pixels in 65,536 coarse bins, the upper half of the bits of a float32, which spans
every scale at once. From it each coarse bin gets as many fine bins as its share of normal pixels, defect
pixels and regions deserves, down to single float32 numbers. The second reading counts in the fine bins. So no
fine bin holds more than a few hundred-thousandths of anything, unless its pixels are equal anyway; treating a
bin as one score then moves no figure by more than that, however heavy the tails of the maps.

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
_FINE_BINS = 1 << 17


class Bins:
    """Fine bins: coarse bin c is cut into 2**bits[c] of them, the first of which is number first[c].

    Turning scores into bins is where the time goes, so it works in arrays that are kept from image to image: fresh ones
    would cost more in page faults than the arithmetic does.
    """

    def __init__(self, bits: npt.NDArray[np.uint32]) -> None:
        """Cut each coarse bin into 2**bits of them, bits (C,) from 0 to 16."""
        sizes = np.uint64(1) << bits.astype(np.uint64)
        self.size = int(sizes.sum())
        self._shift = np.uint32(_COARSE_BITS) - bits
        self._first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
        self._reserve(0)

    def index(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        """Return the bin of each score, (n,); valid until the next call."""
        if scores.size > self._keys.size:
            self._reserve(scores.size)
        keys, coarse = self._keys[: scores.size], self._coarse[: scores.size]
        ordered_keys(scores, out=keys)
        np.right_shift(keys, np.uint32(_COARSE_BITS), out=coarse, casting="unsafe")
        if self.size == _NUM_COARSE:
            return coarse
        number, shift = self._number[: scores.size], self._within[: scores.size]
        self._first.take(coarse, out=number, mode="clip")
        self._shift.take(coarse, out=shift, mode="clip")
        np.bitwise_and(keys, np.uint32(_NUM_COARSE - 1), out=keys)
        np.right_shift(keys, shift, out=keys)
        np.add(number, keys, out=number)
        return number

    def _reserve(self, size: int) -> None:
        self._keys, self._within = np.empty(size, dtype=np.uint32), np.empty(size, dtype=np.uint32)
        self._coarse, self._number = np.empty(size, dtype=np.intp), np.empty(size, dtype=np.intp)


def ordered_keys(scores: npt.NDArray[np.float32], *, out: Keys) -> None:
    """Write integers of the same order as float32 numbers, equal for equal numbers, to `out` (n,)."""
    np.add(scores, np.float32(0), out=out.view(np.float32))  # -0.0 + 0.0 is 0.0
    signs = out.view(np.int32) >> 31  # all ones where negative: there every bit turns round, elsewhere the first
    np.bitwise_xor(out, signs.view(np.uint32) | np.uint32(1 << 31), out=out)


def coarse_bins() -> Bins:
    """Return the bins of the first reading."""
    return Bins(np.zeros(_NUM_COARSE, dtype=np.uint32))


def refined(shares: FloatArray) -> Bins:
    """Cut coarse bins by their shares (C,), which add up to 1, into about `_FINE_BINS` fine bins."""
    wanted = np.maximum(shares * _FINE_BINS / 2, 1.0)
    return Bins(np.minimum(np.ceil(np.log2(wanted)), _COARSE_BITS).astype(np.uint32))


@dataclass(slots=True)
class _Histograms:
    """Counts of one group by bin, (N,)."""

    pixels: npt.NDArray[np.int64]
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
        np.add.at(counts.pixels, self.bins.index(anomaly_map.ravel()), 1)
        if truth.mask.any():
            found = defect_pixels(anomaly_map, truth)
            index = self.bins.index(found.scores)
            np.add.at(counts.defect, index, 1)
            np.add.at(counts.overlap, index, found.weights)
            counts.num_regions += found.num_regions

    def shares(self) -> FloatArray:
        """Return what part of the pixels and regions of an average group falls into each bin, (N,)."""
        parts = [
            histogram / histogram.sum()
            for counts in self._groups.values()
            for histogram in (counts.pixels - counts.defect, counts.defect, counts.overlap)
            if histogram.sum() > 0
        ]
        return np.mean(parts, axis=0) if parts else np.zeros(self.bins.size)

    def curve(self, groups: Iterable[str] | None = None) -> PixelCurve:
        """Return the counts over the images of `groups`, or of all groups."""
        names = self._groups if groups is None else groups
        chosen = [self._groups[name] for name in names if name in self._groups]
        none = np.zeros(self.bins.size, dtype=np.int64)
        pixels = np.sum([none, *(counts.pixels for counts in chosen)], axis=0)[::-1]
        defect = np.sum([none, *(counts.defect for counts in chosen)], axis=0)[::-1]
        overlap = np.sum([none, *(counts.overlap for counts in chosen)], axis=0)[::-1]
        normal = pixels - defect
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
    coarse = BinnedPixels(coarse_bins())
    for item in items:
        coarse.add(item.anomaly_map, item.truth, group=item.group)
    fine = BinnedPixels(refined(coarse.shares()))
    for item in items:
        fine.add(item.anomaly_map, item.truth, group=item.group)
    return fine
