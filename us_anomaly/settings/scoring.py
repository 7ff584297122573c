"""Settings of the scores and thresholds."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from us_anomaly.errors import SettingsError
from us_anomaly.settings.checks import above, at_least, between

MAX_POSITION_COMPONENTS = 30
"""One for ten of the 300 pictures that positions are measured on."""

SCORING_OFF = {"border_px": 0, "per_position": False, "position_components": 0, "per_picture": False}
"""Settings of the scores that came later, and the values that change nothing: older detectors were made with these."""


class Normalization(Enum):
    """How error and uncertainty maps are put on a common scale."""

    none = "none"
    zscore = "zscore"
    quantile = "quantile"


class ImageScore(Enum):
    """How the anomaly map becomes one score per image."""

    max = "max"
    top_mean = "top_mean"
    quantile = "quantile"


@dataclass(kw_only=True, slots=True)
class ScoringSettings:
    """From descriptors to maps and image scores."""

    normalization: Normalization
    """`none`: e + v as computed; `zscore` and `quantile`: each map on a common scale by statistics of the validation
    normals (required for several scales)."""
    per_position: bool
    """Put each map in relation to what is normal at each position, measured on up to 300 training pictures: for parts that always
    lie in one place. For textures cut at random places it changes little, and false may be better. All pictures must have one
    size for the networks."""
    position_components: int
    """With `scoring.per_position`: at most so many ways in which the maps of good pictures vary together (parts that lie a little
    aside, other batches, grounds that change) are learned and taken off; one for ten training pictures, and none on textures
    cut at random places, which is measured. 0 for none."""
    per_picture: bool
    """Even out how high the map of a picture lies as a whole, as far as that is known to lift the high values of good pictures
    too: for exposure, focus or material that differ from picture to picture. Measured on the validation normals."""
    error_weight: float
    """Weight of the regression error in the sum."""
    uncertainty_weight: float
    """Weight of the predictive uncertainty in the sum."""
    stride_px: int
    """Maps are computed at every position (1) or on a grid, then interpolated; in pixels of the network's input."""
    border_px: int
    """Positions nearer to the border of the network's input than this, or than half a patch where that is less, take the score of
    the nearest one that is not. Their patches show the picture mirrored at its border, which scores high on good pictures
    too; 0 scores every position by its own patch."""
    smoothing_sigma_px: float
    """Standard deviation of a Gaussian that smooths the anomaly map, in pixels of the network's input; 0 for none."""
    image_score: ImageScore
    """`max`; `top_mean`: mean of the highest `scoring.image_score_fraction` of the map; `quantile`: that upper quantile."""
    image_score_fraction: float
    """Fraction of the map that `top_mean` and `quantile` look at."""

    def __post_init__(self) -> None:
        """Check ranges."""
        at_least("scoring.error_weight", self.error_weight, 0)
        at_least("scoring.uncertainty_weight", self.uncertainty_weight, 0)
        if self.error_weight + self.uncertainty_weight == 0:
            raise SettingsError("`scoring.error_weight` and `scoring.uncertainty_weight` must not both be 0")
        between("scoring.stride_px", self.stride_px, 1, 32)
        between("scoring.position_components", self.position_components, 0, MAX_POSITION_COMPONENTS)
        at_least("scoring.border_px", self.border_px, 0)
        at_least("scoring.smoothing_sigma_px", self.smoothing_sigma_px, 0)
        above("scoring.image_score_fraction", self.image_score_fraction, 0)
        between("scoring.image_score_fraction", self.image_score_fraction, 0, 1)


THRESHOLD_RULES = ("f1", "max_false_positive_rate", "min_recall", "quantile")


@dataclass(kw_only=True, slots=True)
class CalibrationSettings:
    """Choice of the thresholds, on train and validation only."""

    threshold: Any
    """Rule for the image threshold: `f1` (best on validation; falls back to `quantile` where validation has no anomaly),
    `max_false_positive_rate`, `min_recall`, `quantile` (of the validation normals), or an explicit number."""
    max_false_positive_rate: float
    """The rule of this name calls at most this share of the validation normals anomalous."""
    min_recall: float
    """The rule of this name finds at least this share of the validation anomalies."""
    quantile: float
    """The rule of this name takes this quantile of the validation normals' image scores."""
    pixel_quantile: float
    """Pixel threshold: this quantile of the validation normals' pixel scores."""

    def __post_init__(self) -> None:
        """Check the rule and ranges."""
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        number = number and math.isfinite(self.threshold)
        if not number and self.threshold not in THRESHOLD_RULES:
            raise SettingsError(
                f"`calibration.threshold` must be one of {', '.join(THRESHOLD_RULES)} or a number, got {self.threshold!r}"
            )
        between("calibration.max_false_positive_rate", self.max_false_positive_rate, 0, 1)
        between("calibration.min_recall", self.min_recall, 0, 1)
        between("calibration.quantile", self.quantile, 0, 1)
        between("calibration.pixel_quantile", self.pixel_quantile, 0, 1)
