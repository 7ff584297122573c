"""Pixel-level counts without any rounding: normal pixels are sorted once, four bytes each.

Only the few defect pixels are looked up among the normal ones. Normal pixels are kept in sorted blocks, whose
ranks add up; blocks belong to a group (a defect type, or the normal images), so that the figures of one
defect type against all normal images cost look-ups and no further sort.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from us_anomaly.scoring.map_files import FloatMap
from us_anomaly.scoring.pixel_curve import PixelCurve
from us_anomaly.scoring.ranking import FloatArray
from us_anomaly.scoring.region_overlap import PixelItem, PixelTruth, defect_pixels

Scores = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

_BLOCK_PIXELS = 1 << 24


@dataclass(slots=True)
class _Group:
    pending: list[Scores] = field(default_factory=list)
    num_pending: int = 0
    blocks: list[Scores] = field(default_factory=list)
    defect_scores: list[Scores] = field(default_factory=list)
    defect_weights: list[FloatArray] = field(default_factory=list)
    num_regions: int = 0

    def close_block(self) -> None:
        """Sort what has been collected."""
        if self.num_pending:
            block = np.concatenate(self.pending)
            block.sort()
            self.blocks.append(block)
            self.pending, self.num_pending = [], 0


class ExactPixels:
    """Collect maps one at a time, then give the exact counts."""

    def __init__(self) -> None:
        """Start with no image."""
        self._groups: dict[str, _Group] = {}

    @property
    def groups(self) -> list[str]:
        """Names of the groups, sorted."""
        return sorted(self._groups)

    def add(self, anomaly_map: FloatMap, truth: PixelTruth, *, group: str) -> None:
        """Take in the map (H, W) of one image of `group`."""
        members = self._groups.setdefault(group, _Group())
        if truth.mask.any():
            found = defect_pixels(anomaly_map, truth)
            members.defect_scores.append(found.scores)
            members.defect_weights.append(found.weights)
            members.num_regions += found.num_regions
            normal = anomaly_map[~truth.mask]
        else:
            normal = anomaly_map.ravel()
        members.pending.append(normal)
        members.num_pending += normal.size
        if members.num_pending >= _BLOCK_PIXELS:
            members.close_block()

    def curve(self, groups: Iterable[str] | None = None) -> PixelCurve:
        """Return the counts over the images of `groups`, or of all groups."""
        chosen = [self._groups[name] for name in (self._groups if groups is None else groups) if name in self._groups]
        for members in chosen:
            members.close_block()
        scores, weights = _descending(chosen)
        last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if scores.size else np.empty(0, dtype=np.intp)
        thresholds = scores[last][::-1]  # ascending, as the blocks are
        above, at_or_above = np.zeros(last.size, dtype=np.int64), np.zeros(last.size, dtype=np.int64)
        for block in (block for members in chosen for block in members.blocks):
            block_above, block_at_or_above = _ranks(block, thresholds)
            above += block_above
            at_or_above += block_at_or_above
        return PixelCurve(
            defect=(last + 1).astype(np.float64),
            overlap=np.cumsum(weights)[last],
            normal_before=above[::-1].astype(np.float64),
            normal_after=at_or_above[::-1].astype(np.float64),
            num_normal=sum(block.size for members in chosen for block in members.blocks),
            num_regions=sum(members.num_regions for members in chosen),
        )


def count_exactly(items: Iterable[PixelItem]) -> ExactPixels:
    """Go through `items` once and return the counts."""
    counted = ExactPixels()
    for item in items:
        counted.add(item.anomaly_map, item.truth, group=item.group)
    return counted


def _descending(groups: list[_Group]) -> tuple[Scores, FloatArray]:
    """Return scores and weights of all defect pixels, highest score first."""
    scores = [part for members in groups for part in members.defect_scores]
    weights = [part for members in groups for part in members.defect_weights]
    if not scores:
        return np.empty(0, dtype=np.float32), np.empty(0)
    all_scores = np.concatenate(scores)
    order = np.argsort(all_scores)[::-1]
    return all_scores[order], np.concatenate(weights)[order]


def _ranks(block: Scores, thresholds: Scores) -> tuple[Counts, Counts]:
    """Count the pixels of an ascending block above, and at or above, each ascending threshold."""
    smaller = np.searchsorted(block, thresholds, side="left")
    not_larger = smaller.copy()
    # Equal scores are rare in real maps: the second search is for those thresholds only that meet an equal.
    equal = np.flatnonzero(block[np.minimum(smaller, block.size - 1)] == thresholds)
    not_larger[equal] = np.searchsorted(block, thresholds[equal], side="right")
    return block.size - not_larger, block.size - smaller
