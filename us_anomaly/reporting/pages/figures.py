"""The plots of the overview."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from us_anomaly.errors import ArtifactError, UsadError
from us_anomaly.reporting.axes import Axis, loss_axis, score_axis
from us_anomaly.reporting.curves import (
    Curve,
    evenly_chosen,
    precision_recall_curve,
    region_overlap_curve,
    roc_curve,
    smoothed,
)
from us_anomaly.reporting.metric_names import LABELS
from us_anomaly.reporting.plots import Plot, Point
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.ranking import FloatArray, Ranking

log = logging.getLogger(__name__)

NUM_BINS = 36
MAX_SHOWN_STEPS = 400
OVERLAP_LIMIT = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A plot with what a reader must know to read it."""

    title: str
    svg: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    """Class and text of each line or bar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Scores and labels of the evaluated images, and the threshold."""

    values: FloatArray
    labels: np.ndarray
    threshold: float

    @property
    def has_both(self) -> bool:
        """Whether there are normal and anomalous images."""
        return bool(self.labels.any() and not self.labels.all())


def image_figures(scores: Scores) -> list[Figure]:
    """Return the score histogram and, where there are both kinds of images, ROC and precision-recall curves."""
    if len(scores.values) == 0:
        return []
    figures = [histogram(scores)]
    if scores.has_both:
        ranking = Ranking.of(scores.values, scores.labels)
        figures += [_roc(ranking, scores.threshold), _precision_recall(ranking, scores.threshold)]
    return figures


def histogram(scores: Scores) -> Figure:
    """Draw the scores of normal images upwards and those of anomalous ones downwards, with the threshold."""
    axis = score_axis("image score", [*scores.values.tolist(), scores.threshold])
    edges = _edges(axis, scores.threshold)
    counts = {
        is_anomalous: np.histogram(scores.values[scores.labels == is_anomalous], bins=edges)[0].tolist()
        for is_anomalous in (False, True)
    }
    most_up, most_down = max(counts[False]), max(counts[True])
    top = Axis(label="images", low=-1.12 * most_down or -0.1, high=1.22 * most_up or 0.1 * most_down, counts=True)
    plot = Plot("Scores of normal images (up) and anomalous images (down)", axis, top, y_is_mirrored=True)
    points = []
    for start, end, up, down in zip(edges, edges[1:], counts[False], counts[True], strict=False):
        plot.bar(start, end, base=0, top=up, kind="normal")
        plot.bar(start, end, base=0, top=-down, kind="anomalous")
        text = f"score {start:.4g} to {end:.4g}\n{up} normal\n{down} anomalous"
        points.append(Point(axis.value((axis.position(start) + axis.position(end)) / 2), 0, text))
    plot.line([axis.low, axis.high], [0, 0], kind="zero")
    plot.vertical(scores.threshold, label=f"threshold {scores.threshold:.4g}", kind="threshold")
    plot.tooltips(points)
    return Figure(
        title="Image scores",
        svg=plot.svg(),
        caption="Test images. Up: normal, down: anomalous. An image at or right of the threshold is called anomalous.",
        legend=(("normal", "normal"), ("anomalous", "anomalous")),
    )


def _edges(axis: Axis, threshold: float) -> list[float]:
    """Return the edges of equally wide bins, one of them at the threshold: so no bar is called both ways."""
    first = axis.position(threshold) % (1 / NUM_BINS) - 1 / NUM_BINS
    inner = [axis.value(first + number / NUM_BINS) for number in range(1, NUM_BINS + 1)]
    inner[min(range(NUM_BINS), key=lambda number: abs(inner[number] - threshold))] = threshold  # to the last digit
    return [axis.low, *(edge for edge in inner if axis.low < edge < axis.high), axis.high]


def _roc(ranking: Ranking, threshold: float) -> Figure:
    curve = roc_curve(ranking)
    plot = Plot("Recall against false-positive rate of images", _rate("false-positive rate"), _rate("recall"))
    plot.line([0, 1], [0, 1], kind="chance")
    plot.line(curve.x, curve.y, kind="first")
    alarms = ranking.alarms()
    column = alarms.at(threshold)
    plot.dot(alarms.false[0, column] / alarms.false[0, -1], alarms.true[0, column] / alarms.true[0, -1], kind="chosen")
    plot.tooltips(_curve_points(curve, "false-positive rate", "recall"))
    return Figure(title="ROC", svg=plot.svg(), caption="Dot: the threshold in use. Dashed: guessing.")


def _precision_recall(ranking: Ranking, threshold: float) -> Figure:
    curve = precision_recall_curve(ranking)
    plot = Plot("Precision against recall of images", _rate("recall"), _rate("precision"))
    share = float(ranking.labels.mean())
    plot.line([0, 1], [share, share], kind="chance")
    plot.steps(curve.x.tolist(), curve.y.tolist(), kind="first")
    alarms = ranking.alarms()
    column = alarms.at(threshold)
    found, false = float(alarms.true[0, column]), float(alarms.false[0, column])
    if found + false:
        plot.dot(found / float(alarms.true[0, -1]), found / (found + false), kind="chosen")
    plot.tooltips(_curve_points(curve, "recall", "precision"))
    caption = f"Dot: the threshold in use. Dashed: calling every image anomalous ({share:.0%} are)."
    return Figure(title="Precision and recall", svg=plot.svg(), caption=caption)


def overlap_figure(pixels: PixelSource | None) -> Figure | None:
    """Draw the PRO curve; None where there are no masks or maps."""
    if pixels is None:
        return None
    try:
        curve = region_overlap_curve(pixels, up_to=OVERLAP_LIMIT)
    except UsadError as error:
        log.warning("no PRO curve in the report: %s", error)
        return None
    if curve is None:
        return None
    x = Axis(label="false-positive rate of pixels", low=0, high=OVERLAP_LIMIT)
    plot = Plot(
        "Mean share of each defect region that is found, against false-positive rate of pixels",
        x,
        _rate("region overlap"),
    )
    plot.line(curve.x, curve.y, kind="first")
    plot.tooltips(_curve_points(curve, "false-positive rate", "overlap"))
    title, what, area = "PRO", "How much of each defect region is found", f"aupro_{OVERLAP_LIMIT:g}"
    if pixels.saturation is not None:
        title, area = "sPRO", f"auspro_{OVERLAP_LIMIT:g}"
        what += ", where the part that the data set asks for is all of it"
    caption = f"{what}, every region weighing the same; {LABELS[area]} is the area."
    return Figure(title=title, svg=plot.svg(), caption=caption)


def training_figure(title: str, curve_path: Path) -> Figure | None:
    """Draw the losses of one training; None where there are none, as with a reused teacher.

    Raises:
        ArtifactError: The file is damaged.
    """
    if not curve_path.exists():
        return None
    try:
        points = [json.loads(line) for line in curve_path.read_text(encoding="utf-8").splitlines()]
        names = [name for name in (points[-1] if points else {}) if name != "step"]
        if len(points) < 2 or not names:
            return None
        steps = np.array([point["step"] for point in points], dtype=np.float64)
        losses = {name: np.array([point.get(name, math.nan) for point in points], dtype=np.float64) for name in names}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{curve_path} is no list of losses ({error}); delete it, it is only drawn") from error
    return _losses(title, steps, losses)


def _losses(title: str, steps: FloatArray, losses: dict[str, FloatArray]) -> Figure:
    kinds = dict(zip(losses, ("first", "second", "third", "fourth"), strict=False))
    window = max(1, len(steps) // 40)
    known = {name: np.flatnonzero(np.isfinite(losses[name])) for name in kinds}  # validation is measured now and then
    smooth = {
        name: smoothed(losses[name][at], window=window if len(at) == len(steps) else 1) for name, at in known.items()
    }
    x = Axis(label="step", low=0.0, high=float(steps[-1]))
    plot = Plot(f"{title}: losses by step", x, loss_axis("loss", np.concatenate(list(smooth.values())).tolist()))
    for name, kind in kinds.items():
        chosen = evenly_chosen(len(known[name]), at_most=MAX_SHOWN_STEPS)
        shown = known[name][chosen]
        plot.line(steps[shown], losses[name][shown], kind=f"{kind} raw")
        plot.line(steps[shown], smooth[name][chosen], kind=kind)
    first = next(iter(kinds))
    chosen = evenly_chosen(len(known[first]), at_most=MAX_SHOWN_STEPS)
    plot.tooltips(
        Point(steps[index], height, _tooltip(steps[index], {name: losses[name][index] for name in kinds}))
        for index, height in zip(known[first][chosen], smooth[first][chosen], strict=True)
    )
    caption = "Pale: each step; strong: running mean." if window > 1 else ""
    return Figure(
        title=title, svg=plot.svg(), caption=caption, legend=tuple((kind, name) for name, kind in kinds.items())
    )


def _tooltip(step: float, values: dict[str, float]) -> str:
    shown = [f"{name} {value:.4g}" for name, value in values.items() if math.isfinite(value)]
    return "\n".join([f"step {step:.0f}", *shown])


def _rate(label: str) -> Axis:
    return Axis(label=label, low=0.0, high=1.0)


def _curve_points(curve: Curve, x_name: str, y_name: str) -> Sequence[Point]:
    thresholds = curve.threshold if curve.threshold is not None else [None] * len(curve.x)
    return [
        Point(x, y, "\n".join([f"{x_name} {x:.3f}", f"{y_name} {y:.3f}", *_threshold_text(threshold)]))
        for x, y, threshold in zip(curve.x.tolist(), curve.y.tolist(), thresholds, strict=True)
    ]


def _threshold_text(threshold: float | None) -> list[str]:
    if threshold is None:
        return []
    return ["nothing called anomalous" if math.isinf(threshold) else f"threshold {threshold:.4g}"]
