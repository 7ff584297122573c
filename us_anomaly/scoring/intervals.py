"""How far the image-level figures could be off: 95 % intervals that stay honest on few pictures.

- Rates at the deployed threshold are counts over images, so their intervals follow from the counts. They are score intervals:
  those true values count as possible from which the figure seen is at most 1.96 standard deviations away, as large as such a
  value makes them. No false alarm among seven normal images is then 0 to 0.354, and not 0 to 0.
- Figures without a threshold, and those at the test-optimal one, are resampled (`bootstrap.py`). Where resampling says
  nothing, because all resamples are equal or a class has one image, the AUROC has a score interval too, and the others none.
"""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from us_anomaly.scoring.bootstrap import CONFIDENCE, Interval, bootstrap_intervals
from us_anomaly.scoring.ranking import Alarms, Ranking, auroc

_NUM_DEVIATIONS = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_EDGE = 1e-12  # a figure of 0 or 1 solves its own equation, and the end that is looked for lies farther inside


def image_intervals(
    scores: npt.ArrayLike, labels: npt.ArrayLike, *, deployed_threshold: float, num_resamples: int, seed: int
) -> dict[str, Interval]:
    """Return the central 95 % interval of every image-level figure that has one, by name.

    Args:
        scores: Image scores, (n,).
        labels: Whether each image is anomalous, (n,).
        deployed_threshold: Anomalous means score >= this.
        num_resamples: Number of resamples; 0 gives no interval at all.
        seed: The same seed gives the same intervals.

    Raises:
        ValueError: Lengths differ, there is no image, or a score is not finite.
    """
    if num_resamples == 0:
        return {}
    alarms = Ranking.of(scores, labels).alarms()
    num_anomalous, num_normal = int(alarms.true[0, -1]), int(alarms.false[0, -1])
    intervals: dict[str, Interval] = {}
    if min(num_anomalous, num_normal) > 1:
        intervals = bootstrap_intervals(
            scores, labels, deployed_threshold=deployed_threshold, num_resamples=num_resamples, seed=seed
        )
    if num_anomalous and num_normal and "image_auroc" not in intervals:
        intervals["image_auroc"] = auroc_interval(
            float(auroc(alarms)[0]), num_anomalous=num_anomalous, num_normal=num_normal
        )
    return intervals | _counted(alarms, deployed_threshold)


def share_interval(count: int, total: int) -> Interval:
    """Return the interval of a share, `count` of `total` pictures.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), 209-212; advised for few
    pictures by Brown, Cai and DasGupta, Interval estimation for a binomial proportion, Statistical Science 16 (2001), 101-133.
    """
    return _score_interval(count / total, lambda share: share * (1 - share) / total)


def f1_interval(*, found: int, wrong: int) -> Interval:
    """Return the interval of F1 = 2 J / (1 + J), where J = found / (found + wrong) is a share.

    The indirect Wilson method of Lam, Gopal and Qian, Confidence intervals for the F1 score: a comparison of four methods,
    arXiv:2309.14621 (2023).

    Args:
        found: Anomalous pictures that are found.
        wrong: Misses and false alarms.
    """
    low, high = share_interval(found, found + wrong)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def auroc_interval(area: float, *, num_anomalous: int, num_normal: int) -> Interval:
    """Return the interval of an area under the ROC curve.

    Method 5 of Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2, Statistics
    in Medicine 25 (2006), 559-573: a score interval with the variance of Hanley and McNeil, The meaning and use of the area
    under a receiver operating characteristic (ROC) curve, Radiology 143 (1982), 29-36, in which the mean stands for both numbers.
    """
    others = (num_anomalous + num_normal) / 2 - 1

    def variance(value: float) -> float:
        correlated = (1 - value) / (2 - value) + value / (1 + value)
        return value * (1 - value) * (1 + others * correlated) / (num_anomalous * num_normal)

    return _score_interval(area, variance)


def _score_interval(seen: float, variance: Callable[[float], float]) -> Interval:
    """Return the values from which `seen`, in [0, 1], is 1.96 standard deviations away; `variance` is 0 at 0 and 1."""

    def excess(value: float) -> float:
        return (value - seen) ** 2 - _NUM_DEVIATIONS**2 * variance(value)

    inside = float(np.clip(seen, _EDGE, 1 - _EDGE))
    low = brentq(excess, 0, inside) if seen > 0 else 0
    high = brentq(excess, inside, 1) if seen < 1 else 1
    return float(low), float(high)


def _counted(alarms: Alarms, deployed_threshold: float) -> dict[str, Interval]:
    """Return the intervals of the figures at the deployed threshold; those of counts are expected ones in as many pictures."""
    num_anomalous, num_normal = int(alarms.true[0, -1]), int(alarms.false[0, -1])
    column = alarms.at(deployed_threshold)
    found, false_positives = int(alarms.true[0, column]), int(alarms.false[0, column])
    misses = num_anomalous - found
    wrong, total = misses + false_positives, num_anomalous + num_normal
    intervals = {"deployed_accuracy": share_interval(total - wrong, total)}
    if num_normal:
        rate = share_interval(false_positives, num_normal)
        intervals["deployed_false_positive_rate"] = rate
        intervals["false_positives"] = (num_normal * rate[0], num_normal * rate[1])
    if num_anomalous:
        rate = share_interval(misses, num_anomalous)
        intervals["deployed_recall"] = share_interval(found, num_anomalous)
        intervals["misses"] = (num_anomalous * rate[0], num_anomalous * rate[1])
    if num_normal and num_anomalous:
        intervals["deployed_f1"] = f1_interval(found=found, wrong=wrong)
        if found + false_positives:
            intervals["deployed_precision"] = share_interval(found, found + false_positives)
    return intervals
