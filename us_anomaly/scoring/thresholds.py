"""Choice of the threshold that turns an image score into a decision, from validation images only.

The rule everywhere: an image is anomalous if and only if its score is at or above the threshold.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from us_anomaly.errors import DataError
from us_anomaly.scoring.ranking import BoolArray, FloatArray, Ranking, f1_score, separating_threshold

_ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996 and means 29


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """A threshold and how it came about."""

    value: float
    """Anomalous means score >= value."""
    rule: str
    """The rule that was really used: f1, max_false_positive_rate, min_recall, quantile or number."""
    requested: str
    """The rule that was asked for."""
    reason: str | None = None
    """Why another rule was used than the one asked for; None where it is the same."""


def is_anomalous(score: float, threshold: float) -> bool:
    """Return the decision for an image of this score."""
    return score >= threshold


def choose_threshold(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    rule: Any,
    max_false_positive_rate: float,
    min_recall: float,
    quantile: float,
) -> Threshold:
    """Choose the threshold by `rule` from validation images.

    - `f1`: the best F1; of equally good ones the highest, midway to the next lower score.
    - `max_false_positive_rate`: the lowest threshold that calls at most this share of the normal images
      anomalous.
    - `min_recall`: the highest threshold that calls at least this share of the anomalous images anomalous.
    - `quantile`: the lowest threshold with at least this share of the normal images below it.
    - a number: that number.

    What a rule states holds exactly on the images given, ties included. `f1` and `min_recall` need an
    anomalous image; without one, `quantile` is used and the result says so.

    Args:
        scores: Image scores, (n,).
        labels: Whether each image is anomalous, (n,).
        rule: Name of the rule or a number.
        max_false_positive_rate: Share for the rule of this name.
        min_recall: Share for the rule of this name.
        quantile: Share for the rule of this name and for the fallback.

    Raises:
        DataError: There is no image, a score is not finite, or the rule needs a normal image and there is
            none.
    """
    if isinstance(rule, int | float):
        return Threshold(value=float(rule), rule="number", requested="number")
    score_array, anomalous = _checked(scores, labels)
    requested = str(rule)
    reason = None
    if requested in ("f1", "min_recall") and not anomalous.any():
        reason = f"validation has no anomalous image for the rule {requested}"
    used = "quantile" if reason else requested
    if used != "min_recall" and anomalous.all():
        raise DataError(
            f"validation has no normal image, which calibration.threshold={requested} needs: "
            "give a number (calibration.threshold=NUMBER) or another split"
        )
    match used:
        case "f1":
            value = _best_f1(score_array, anomalous)
        case "max_false_positive_rate":
            value = _lowest_with_at_most(score_array[~anomalous], max_false_positive_rate)
        case "min_recall":
            value = _highest_with_at_least(score_array[anomalous], min_recall)
        case "quantile":
            value = _lowest_with_at_most(score_array[~anomalous], 1 - quantile)
        case _:
            raise ValueError(f"unknown threshold rule {requested!r}")
    return Threshold(value=value, rule=used, requested=requested, reason=reason)


def _checked(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    score_array = np.asarray(scores, dtype=np.float64)
    if score_array.size == 0:
        raise DataError(
            "there is no validation image to choose a threshold from: give a number "
            "(calibration.threshold=NUMBER) or a split with a validation share, as split.ratios=70-15-15"
        )
    if not np.isfinite(score_array).all():
        count = int((~np.isfinite(score_array)).sum())
        raise DataError(
            f"{count} of {score_array.size} validation scores are not finite numbers: the detector is "
            "damaged or did not train; run `usad train-students overwrite=true`, then `usad calibrate`"
        )
    return score_array, np.asarray(labels, dtype=bool)


def _best_f1(scores: FloatArray, anomalous: BoolArray) -> float:
    alarms = Ranking.of(scores, anomalous).alarms()
    return separating_threshold(alarms, int(np.argmax(f1_score(alarms)[0])))


def num_allowed(share: float, num_normal: int) -> int:
    """Return how many of `num_normal` pictures a rule may call anomalous that allows at most `share` of them."""
    return math.floor(share * num_normal + _ROUNDING)


def _lowest_with_at_most(normal_scores: FloatArray, share: float) -> float:
    """Return the lowest threshold that at most `share` of the scores reach."""
    allowed = num_allowed(share, normal_scores.size)
    descending = np.sort(normal_scores)[::-1]
    if allowed >= descending.size:
        return float(descending[-1])
    return _just_above(float(descending[allowed]))


def _just_above(score: float) -> float:
    """Return the next higher number: of float32 where the score is one, as that of every picture is.

    An exported detector knows no others.
    """
    single = np.float32(score)
    return float(np.nextafter(single, np.float32(np.inf)) if float(single) == score else np.nextafter(score, np.inf))


def _highest_with_at_least(anomalous_scores: FloatArray, share: float) -> float:
    """Return the highest threshold that at least `share` of the scores, and at least one, reach."""
    needed = max(1, math.ceil(share * anomalous_scores.size - _ROUNDING))
    return float(np.sort(anomalous_scores)[::-1][needed - 1])
