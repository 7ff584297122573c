"""Whether the normal pictures of the calibration are enough for the threshold that was chosen from them.

Of N pictures each is 1/N: a rule that allows a smaller share allows none, and the threshold lies just above the highest of them,
whatever was asked for. A new normal picture is then as likely as each of the N to be the highest of all N + 1.
"""

import math
from dataclasses import dataclass

from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.thresholds import num_allowed
from us_anomaly.settings import CalibrationSettings

MIN_NORMAL = 5
"""From fewer, no threshold can be trusted: above the highest of four lies one in five new good pictures on average."""
STRICT_SHARE = 0.01
"""Who asks for a smaller share of false alarms than this is warned that it is not granted. A coarser one, as it goes with the
default, few validation splits resolve: there it is enough to know what to expect."""
_LEAST_SHARE = 1e-9  # who asks for less asks for none

_WAYS_OUT = (
    "give validation more (split.ratios, or split.validation_fraction where the data set has its own split), or set a number: "
    "calibration.threshold=NUMBER"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """What must be known about a threshold."""

    text: str
    """In one line."""
    is_grave: bool
    """Whether what was asked for is not granted, or the threshold cannot be trusted at all."""


def threshold_doubt(calibration: Calibration, settings: CalibrationSettings) -> Doubt | None:
    """Return why the threshold says less than its rule promises; None where the normal pictures are enough, or not asked."""
    rule, num_normal = calibration.threshold_rule, calibration.num_normal
    split, chance = ("validation", "on average") if calibration.reference == "val" else ("training", "more than")
    if num_normal < MIN_NORMAL and rule in ("f1", "max_false_positive_rate", "quantile"):
        few = f"1 normal {split} picture is" if num_normal == 1 else f"{num_normal} normal {split} pictures are"
        return Doubt(
            text=f"{few} too few for a threshold that can be trusted: take at least {MIN_NORMAL}, better many more; {_WAYS_OUT}",
            is_grave=True,
        )
    if rule == "max_false_positive_rate":
        share, setting = settings.max_false_positive_rate, f"{rule}={settings.max_false_positive_rate:.10g}"
    elif rule == "quantile":
        share, setting = 1 - settings.quantile, f"{rule}={settings.quantile:.10g}"
    else:
        return None
    if num_allowed(share, num_normal) > 0:
        return None
    pictures = f"{num_normal} normal {split} pictures"
    reached = f"{chance} 1 in {num_normal + 1} new good pictures will reach it"
    takes = f"it takes {_num_needed(share)}" if share >= _LEAST_SHARE else "no number of them is enough"
    if _LEAST_SHARE <= share < STRICT_SHARE:
        return Doubt(
            text=f"{pictures} cannot support calibration.{setting}: they resolve 1 in {num_normal} at best, so the threshold "
            f"lies just above the highest of them, and {reached}; {takes}: {_WAYS_OUT}",
            is_grave=True,
        )
    return Doubt(
        text=f"the threshold lies just above the highest of {pictures}: {reached} (for calibration.{setting} {takes})",
        is_grave=False,
    )


def _num_needed(share: float) -> int:
    """Return how many pictures resolve a share."""
    num_needed = math.ceil(1 / share)
    return num_needed - 1 if num_allowed(share, num_needed - 1) else num_needed  # 1 / (1 - 0.9999) is 10000.0000000011
