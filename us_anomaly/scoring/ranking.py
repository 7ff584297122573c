"""Counts of true and false alarms over all thresholds, for one sample or for many weighted resamples at once.

Legend: `n` images, `k` distinct scores, `B` resamples. A resample is a row of weights: how often it holds
each image. Equal scores cannot be told apart by any threshold, so they always move together.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Images in descending order of their score."""

    order: npt.NDArray[np.intp]
    """Index of each image, highest score first, (n,)."""
    labels: BoolArray
    """Whether the image is anomalous, in that order, (n,)."""
    thresholds: FloatArray
    """Distinct scores, descending, (k,)."""
    last: npt.NDArray[np.intp]
    """Position of the last image of each distinct score, (k,)."""

    @classmethod
    def of(cls, scores: npt.ArrayLike, labels: npt.ArrayLike) -> "Ranking":
        """Rank `scores` (n,) of images with `labels` (n,), True for anomalous.

        Raises:
            ValueError: The two differ in length, are empty, or a score is not finite.
        """
        score_array = np.asarray(scores, dtype=np.float64)
        label_array = np.asarray(labels, dtype=bool)
        if score_array.ndim != 1 or score_array.shape != label_array.shape or score_array.size == 0:
            raise ValueError(f"scores and labels must be as long, got {score_array.shape} and {label_array.shape}")
        if not np.isfinite(score_array).all():
            raise ValueError("every score must be finite")
        order = np.argsort(-score_array, kind="stable")
        descending = score_array[order]
        last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
        return cls(order, label_array[order], descending[last], last)

    def alarms(self, weights: FloatArray | None = None) -> "Alarms":
        """Count the alarms at every threshold for each row of `weights` (B, n); None is one row of ones."""
        ones = np.ones((1, len(self.order)))
        ranked = (ones if weights is None else weights)[:, self.order]
        anomalous = np.cumsum(ranked * self.labels, axis=1)[:, self.last]
        every = np.cumsum(ranked, axis=1)[:, self.last]
        none_yet = np.zeros((len(ranked), 1))
        return Alarms(self.thresholds, np.hstack([none_yet, anomalous]), np.hstack([none_yet, every - anomalous]))


@dataclass(frozen=True, slots=True)
class Alarms:
    """Cumulative counts; column 0 is the threshold above every score, column j the j-th distinct score."""

    thresholds: FloatArray
    """Distinct scores, descending, (k,)."""
    true: FloatArray
    """Anomalous images at or above each threshold, (B, k + 1)."""
    false: FloatArray
    """Normal images at or above each threshold, (B, k + 1)."""

    def at(self, threshold: float) -> int:
        """Return the column that holds the counts of all images with score >= `threshold`."""
        return int(np.searchsorted(-self.thresholds, -threshold, side="right"))


def auroc(alarms: Alarms) -> FloatArray:
    """Return the area under the ROC curve of each resample, (B,).

    It is the probability that an anomalous image outranks a normal one, ties counting half. Both classes must
    be there.
    """
    steps = np.diff(alarms.false, axis=1)
    heights = (alarms.true[:, 1:] + alarms.true[:, :-1]) / 2
    area: FloatArray = (steps * heights).sum(axis=1) / (alarms.true[:, -1] * alarms.false[:, -1])
    return area


def average_precision(alarms: Alarms) -> FloatArray:
    """Return sum_j (recall_j - recall_{j-1}) precision_j of each resample, (B,), without interpolation."""
    gains = np.diff(alarms.true, axis=1)
    summed: FloatArray = (gains * precision(alarms)[:, 1:]).sum(axis=1) / alarms.true[:, -1]
    return summed


def precision(alarms: Alarms) -> FloatArray:
    """Return the precision at every threshold, (B, k + 1); 0 where nothing is called anomalous."""
    called = alarms.true + alarms.false
    return np.divide(alarms.true, called, out=np.zeros_like(called), where=called > 0)


def f1_score(alarms: Alarms) -> FloatArray:
    """Return F1 = 2 TP / (2 TP + FP + FN) at every threshold, (B, k + 1); needs an anomalous image."""
    scores: FloatArray = 2 * alarms.true / (alarms.true + alarms.false + alarms.true[:, -1:])
    return scores


def separating_threshold(alarms: Alarms, column: int) -> float:
    """Return a threshold that separates exactly the scores of `column`: midway to the next lower score.

    Midway, because a threshold that sits on the score of one image turns with the last digit of that image.
    The score itself is returned where no lower one exists or no number lies between.
    """
    score = float(alarms.thresholds[column - 1])
    if column == len(alarms.thresholds):
        return score
    lower = float(alarms.thresholds[column])
    midway = lower / 2 + score / 2  # the sum of the two could overflow
    return midway if lower < midway < score else score
