"""The detector of a run directory under the settings in force."""

from us_anomaly.detector import Detector
from us_anomaly.loading import detector_of
from us_anomaly.models.compute import choose_compute
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.environment import say_if_calibrated_otherwise
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.calibration_file import calibrated_precision
from us_anomaly.settings import ScoringSettings, Settings


def build_detector(settings: Settings, calibration: Calibration | None) -> Detector:
    """Build the detector of a run directory under the settings in force."""
    detector = detector_of_scales(settings, settings.scales, scoring=settings.scoring, calibration=calibration)
    if calibration is not None:
        run_dir = RunDir(settings.run_dir)
        calibrated = calibrated_precision(read_json(run_dir.calibration), path=run_dir.calibration)
        say_if_calibrated_otherwise(run_dir.root, calibrated=calibrated, now=detector.compute.precision)
    return detector


def detector_of_scales(
    settings: Settings, scales: list[int], *, scoring: ScoringSettings, calibration: Calibration | None = None
) -> Detector:
    """Build the detector of some of the scales under the settings in force."""
    return detector_of(
        RunDir(settings.run_dir),
        scales,
        transforms=settings.augmentation.evaluation,
        scoring=scoring,
        calibration=calibration,
        compute=choose_compute(settings.runtime),
        max_image_pixels=settings.data.max_image_pixels,
        white_level=settings.data.white_level,
    )
