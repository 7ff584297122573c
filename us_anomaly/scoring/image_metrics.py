"""Figures of the decision per image: how well scores rank, and how good the decisions at a threshold are.

Names, as they stand in `evaluation.json`:

- `image_auroc`, `image_average_precision`: no threshold.
- `f1`, `precision`, `recall`, `optimal_threshold`: at the threshold that is best *on these very images*. They
  peek, so the same four figures also carry the names `oracle_f1`, `oracle_precision`, `oracle_recall`,
  `oracle_threshold`.
- `deployed_f1`, `deployed_precision`, `deployed_recall`, `deployed_accuracy`, `deployed_false_positive_rate`,
  `deployed_threshold`, `false_positives`, `misses`: at the threshold that validation chose; what a user will
  see.
"""

import numpy as np
import numpy.typing as npt

from us_anomaly.scoring.metric_set import MetricSet
from us_anomaly.scoring.ranking import (
    Alarms,
    FloatArray,
    Ranking,
    auroc,
    average_precision,
    f1_score,
    precision,
    separating_threshold,
)

NO_ANOMALY = "no anomalous image in test"
NO_NORMAL = "no normal image in test"
NOTHING_CALLED = "no image was called anomalous at the deployed threshold"

_PEEKING = {"f1": "oracle_f1", "precision": "oracle_precision", "recall": "oracle_recall"}
_NEED_NORMAL = ("false_positives", "deployed_false_positive_rate")
_NEED_ANOMALY = ("misses", "deployed_recall")
_NEED_BOTH = (
    "image_auroc",
    "image_average_precision",
    *_PEEKING,
    *_PEEKING.values(),
    "optimal_threshold",
    "oracle_threshold",
    "deployed_f1",
    "deployed_precision",
)


def image_metrics(scores: npt.ArrayLike, labels: npt.ArrayLike, *, deployed_threshold: float) -> MetricSet:
    """Compute every figure of the images' scores and labels.

    Args:
        scores: Image scores, (n,).
        labels: Whether each image is anomalous, (n,).
        deployed_threshold: Anomalous means score >= this.

    Raises:
        ValueError: Lengths differ, there is no image, or a score is not finite.
    """
    ranking = Ranking.of(scores, labels)
    alarms = ranking.alarms()
    figures = {name: float(row[0]) for name, row in resampled_figures(alarms, deployed_threshold).items()}
    if ranking.labels.any() and not ranking.labels.all():
        best = int(np.argmax(f1_score(alarms)[0]))
        figures["optimal_threshold"] = figures["oracle_threshold"] = separating_threshold(alarms, best)
    figures["deployed_threshold"] = deployed_threshold
    values = {name: value for name, value in figures.items() if np.isfinite(value)}
    return MetricSet(values, _absent(ranking, values))


def resampled_figures(alarms: Alarms, deployed_threshold: float) -> dict[str, FloatArray]:
    """Compute every figure but the thresholds for each resample, (B,) each.

    Every resample holds the same number of images of each class, as stratified ones do. A figure that needs a
    class that is not there is left out; one that is 0/0 in a resample is not-a-number there.
    """
    num_anomalous, num_normal = float(alarms.true[0, -1]), float(alarms.false[0, -1])
    column = alarms.at(deployed_threshold)
    found, false_positives = alarms.true[:, column], alarms.false[:, column]
    right = found + (num_normal - false_positives)
    figures = {"deployed_accuracy": right / (num_anomalous + num_normal)}
    if num_normal:
        figures["false_positives"] = false_positives
        figures["deployed_false_positive_rate"] = false_positives / num_normal
    if num_anomalous:
        figures["misses"] = num_anomalous - found
        figures["deployed_recall"] = found / num_anomalous
    if num_normal and num_anomalous:
        called = found + false_positives
        undefined = np.full_like(called, np.nan)
        figures["deployed_precision"] = np.divide(found, called, out=undefined, where=called > 0)
        figures["deployed_f1"] = f1_score(alarms)[:, column]
        figures |= _without_threshold(alarms) | _at_best_threshold(alarms)
    return figures


def _without_threshold(alarms: Alarms) -> dict[str, FloatArray]:
    return {"image_auroc": auroc(alarms), "image_average_precision": average_precision(alarms)}


def _at_best_threshold(alarms: Alarms) -> dict[str, FloatArray]:
    scores = f1_score(alarms)
    rows, best = np.arange(len(scores)), np.argmax(scores, axis=1)
    figures = {
        "f1": scores[rows, best],
        "precision": precision(alarms)[rows, best],
        "recall": alarms.true[rows, best] / alarms.true[:, -1],
    }
    return figures | {alias: figures[name] for name, alias in _PEEKING.items()}


def _absent(ranking: Ranking, values: dict[str, float]) -> dict[str, str]:
    """Say why each figure that is not in `values` is not there."""
    has_anomaly, has_normal = bool(ranking.labels.any()), not ranking.labels.all()
    absent: dict[str, str] = {}
    if not has_normal:
        absent |= dict.fromkeys(_NEED_NORMAL + _NEED_BOTH, NO_NORMAL)
    if not has_anomaly:
        absent |= dict.fromkeys(_NEED_ANOMALY + _NEED_BOTH, NO_ANOMALY)
    if has_anomaly and has_normal and "deployed_precision" not in values:
        absent["deployed_precision"] = NOTHING_CALLED
    return absent
