"""Settings of the scores and a calibration with round numbers, of which a test changes what it is about."""

from typing import Any

from us_anomaly.scoring.anomaly_map import MapStatistics
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.settings import ImageScore, Normalization, ScoringSettings


def scoring(**changed: Any) -> ScoringSettings:
    """Error plus uncertainty at every pixel, as they are; the image score is the maximum."""
    values: dict[str, Any] = {
        "normalization": Normalization.none,
        "error_weight": 1.0,
        "uncertainty_weight": 1.0,
        "stride_px": 1,
        "border_px": 0,
        "per_position": False,
        "position_components": 16,
        "per_picture": False,
        "smoothing_sigma_px": 0.0,
        "image_score": ImageScore.max,
        "image_score_fraction": 0.1,
    }
    return ScoringSettings(**(values | changed))


def calibration(**changed: Any) -> Calibration:
    """Of one normal validation picture, with the threshold 1."""
    numbers = MapStatistics(mean=0.0, std=1.0, quantile_90=1.0, quantile_995=2.0)
    values: dict[str, Any] = {
        "statistics": {33: {"error": numbers, "uncertainty": numbers}},
        "reference": "val",
        "num_normal": 1,
        "num_anomalous": 0,
        "image_threshold": 1.0,
        "threshold_rule": "number",
        "threshold_reason": None,
        "score_scale": 1.0,
        "pixel_threshold": 1.0,
        "color_range": (0.0, 1.0),
        "uncertainty_color_range": (0.0, 1.0),
    }
    return Calibration(**(values | changed))
