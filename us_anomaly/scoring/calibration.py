"""Calibration: what validation pictures say about scale, threshold and colours. The test split is never looked at.

Shapes: H W pixels of the network's input.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from us_anomaly.scoring.anomaly_map import MapStatistics, combine, image_score
from us_anomaly.scoring.picture_level import LevelGatherer, PictureLevel
from us_anomaly.scoring.raw_maps import MAP_KINDS, Grid, RawMaps
from us_anomaly.scoring.sampling import evenly_drawn
from us_anomaly.scoring.thresholds import choose_threshold
from us_anomaly.settings import CalibrationSettings, ScoringSettings
from us_anomaly.training.normalization import RunningMoments

MapsOf = Callable[[], dict[int, RawMaps]]
"""Returns the raw maps of one picture by patch size."""
Levels = dict[int, dict[str, LevelGatherer]]
"""By patch size and kind of map; empty without `scoring.per_picture`."""
FORMAT_VERSION = 1
SAME_SCORE = 1e-6
"""Share of a score by which another one has to differ, or it is the same up to rounding."""
MAX_SAMPLED_PIXELS = 20_000_000
"""Quantiles of pixel scores are taken over at most this many pixels, evenly drawn from all pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Everything that turns maps into comparable scores, decisions and colours; content of `calibration.json`."""

    statistics: dict[int, dict[str, MapStatistics]]
    """By patch size, of `error` and `uncertainty` over the reference normals."""
    reference: str
    """Where the normal pictures came from: `val`, or `train` where validation has none."""
    num_normal: int
    """Number of these pictures."""
    num_anomalous: int
    """Number of anomalous validation pictures."""
    image_threshold: float
    """An image is anomalous when its score is at or above it."""
    threshold_rule: str
    """Rule that chose it."""
    threshold_reason: str | None
    """Why another rule than the requested one was used."""
    score_scale: float
    """Unit of the score in `normalized_score`."""
    pixel_threshold: float
    """Quantile `calibration.pixel_quantile` of the normal pixels' scores."""
    color_range: tuple[float, float]
    """Scores shown as the two ends of the heatmap's colours."""
    uncertainty_color_range: tuple[float, float]
    """The same for the uncertainty map."""
    num_false_positives: int | None = None
    """How many of the reference normals lie at or above the threshold; older files do not say."""
    num_found: int | None = None
    """How many of the anomalous validation pictures do."""

    def decide(self, score: float) -> bool:
        """Return whether a picture of this score is anomalous."""
        return score >= self.image_threshold

    def normalized_score(self, score: float) -> float:
        """Map a score to (0, 1) monotonically; the threshold becomes 0.5."""
        return 0.5 + 0.5 * math.tanh(0.5 * (score - self.image_threshold) / self.score_scale)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `calibration.json`."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}


class MapGatherer:
    """Statistics of one kind of map over the reference normals: mean and deviation over all pixels, quantiles over some."""

    def __init__(self, num_maps: int, *, level: PictureLevel | None = None) -> None:
        """Start with no map seen.

        Args:
            num_maps: So many will come; at most `MAX_SAMPLED_PIXELS` of all their pixels are kept.
            level: Their levels are evened out by it.
        """
        self._num_maps = num_maps
        self._level = level
        self._moments = RunningMoments()
        self._sampled: list[npt.NDArray[np.float32]] = []

    def add(self, values: torch.Tensor, grid: Grid) -> None:
        """Take a raw map (R, S) on a grid into account."""
        values = grid.at_every_pixel(values if self._level is None else self._level.even_out(values))
        self._moments.update(values.reshape(-1, 1))
        self._sampled.append(_sample(values, self._num_maps))

    def statistics(self) -> MapStatistics:
        """Return the statistics of the maps so far."""
        quantile_90, quantile_995 = np.quantile(np.concatenate(self._sampled), (0.9, 0.995))
        return MapStatistics(
            mean=float(self._moments.mean),
            std=float(self._moments.std),
            quantile_90=float(quantile_90),
            quantile_995=float(quantile_995),
            level=self._level,
        )


def _sample(values: torch.Tensor, num_maps: int) -> npt.NDArray[np.float32]:
    """Return evenly drawn pixels of a map; a copy, unless it is all of them, so that the map need not stay in memory."""
    return evenly_drawn(values, limit=MAX_SAMPLED_PIXELS // num_maps).contiguous().numpy()


def _measure(normals: Sequence[MapsOf], *, levels: Levels) -> dict[int, dict[str, MapStatistics]]:
    """Return the statistics of error and uncertainty by patch size, of maps whose levels are evened out if they are known."""
    gathered: dict[int, dict[str, MapGatherer]] = {}
    for patch_size, kind, values, grid in _each_map(normals):
        kinds = gathered.setdefault(patch_size, {})
        if kind not in kinds:
            level = levels[patch_size][kind].level() if levels else None
            kinds[kind] = MapGatherer(len(normals), level=level)
        kinds[kind].add(values, grid)
    return {size: {kind: maps.statistics() for kind, maps in kinds.items()} for size, kinds in gathered.items()}


def _gather_levels(normals: Sequence[MapsOf]) -> Levels:
    """Gather how the levels of pictures differ."""
    gathered: Levels = {}
    for patch_size, kind, values, _ in _each_map(normals):
        gathered.setdefault(patch_size, {}).setdefault(kind, LevelGatherer()).add(values)
    return gathered


def _each_map(normals: Sequence[MapsOf]) -> Iterator[tuple[int, str, torch.Tensor, Grid]]:
    """Yield patch size, kind, values (R, S) and grid of every raw map, picture by picture."""
    for maps in normals:
        for patch_size, raw in maps().items():
            for kind in MAP_KINDS:
                yield patch_size, kind, getattr(raw, kind), raw.grid


def _as_if_new(
    statistics: dict[int, dict[str, MapStatistics]], levels: Levels, number: int
) -> dict[int, dict[str, MapStatistics]]:
    """Return the statistics for a reference normal, its level evened out by what the others say.

    Else its score would be lower than that of a new picture, and with it the threshold.
    """
    return {
        size: {kind: replace(known, level=levels[size][kind].level(without=number)) for kind, known in kinds.items()}
        for size, kinds in statistics.items()
    }


def calibrate(
    normals: Sequence[MapsOf],
    anomalies: Sequence[MapsOf],
    *,
    reference: str,
    scoring: ScoringSettings,
    settings: CalibrationSettings,
) -> Calibration:
    """Measure score statistics on normal pictures and choose thresholds and colours.

    Args:
        normals: For each reference normal, a function that returns its raw maps by patch size. It is called two or three
            times per picture: what it returns may be kept or computed anew, depending on the memory there is.
        anomalies: The same for the anomalous validation pictures; called once each.
        reference: `val` or `train`.
        scoring: How maps become scores.
        settings: How thresholds are chosen.

    Raises:
        DataError: The rule for the threshold needs pictures that there are none of.
    """
    levels = _gather_levels(normals) if scoring.per_picture else {}
    statistics = _measure(normals, levels=levels)
    scores, pixels, doubts = [], [], []
    for number, maps in enumerate(normals):
        as_if_new = _as_if_new(statistics, levels, number) if levels else statistics
        anomaly_map, doubt = combine(maps(), statistics=as_if_new, settings=scoring)
        scores.append(image_score(anomaly_map, settings=scoring))
        pixels.append(_sample(anomaly_map, len(normals)))
        doubts.append(_sample(doubt, len(normals)))
    anomalous = [
        image_score(combine(maps(), statistics=statistics, settings=scoring)[0], settings=scoring) for maps in anomalies
    ]
    threshold = choose_threshold(
        scores + anomalous,
        [False] * len(scores) + [True] * len(anomalous),
        rule=settings.threshold,
        max_false_positive_rate=settings.max_false_positive_rate,
        min_recall=settings.min_recall,
        quantile=settings.quantile,
    )
    pixel_scores, doubt_scores = np.concatenate(pixels), np.concatenate(doubts)
    return Calibration(
        statistics=statistics,
        reference=reference,
        num_normal=len(normals),
        num_anomalous=len(anomalous),
        image_threshold=threshold.value,
        threshold_rule=threshold.rule,
        threshold_reason=threshold.reason,
        score_scale=_score_scale(np.array(scores), threshold.value),
        pixel_threshold=float(np.quantile(pixel_scores, settings.pixel_quantile)),
        color_range=_color_range(pixel_scores),
        uncertainty_color_range=_color_range(doubt_scores),
        num_false_positives=sum(score >= threshold.value for score in scores),
        num_found=sum(score >= threshold.value for score in anomalous),
    )


def _score_scale(normal_scores: npt.NDArray[np.float64], threshold: float) -> float:
    """Return the unit in which the median normal picture gets a normalised score of 0.1.

    A threshold that lies on the median itself, as that of a single picture does, says nothing about the unit: then the deviation
    of the scores stands for the distance, or the threshold where they have none.
    """
    distance, deviation = threshold - float(np.median(normal_scores)), float(normal_scores.std())
    if distance <= SAME_SCORE * max(abs(threshold), deviation):
        distance = deviation if deviation > SAME_SCORE * abs(threshold) else abs(threshold)
    return max(distance / math.log(9), 1e-12)


def _color_range(normal_values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return the fixed colour range of a detector: from the median of normal pixels to twice as far as their extremes.

    So the hottest normal pixel is at the middle of the scale, where a heatmap turns from cold to warm, and good parts stay
    calm in every picture.
    """
    low, extreme = np.quantile(normal_values, (0.5, 0.9999))
    return float(low), float(low + max(2 * (extreme - low), 1e-6 * abs(low), 1e-12))
