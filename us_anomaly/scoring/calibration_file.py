"""`calibration.json` as it is read back: numbers, and the scoring and transforms they belong to. No network is needed for it."""

from pathlib import Path
from typing import Any

from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.settings import SCORING_OFF, ImageScore, Normalization, ScoringSettings, TransformSettings


def load_calibration(path: Path) -> Calibration:
    """Read the calibration in a file.

    Raises:
        ArtifactError: It does not follow the schema.
    """
    return read_calibration(read_json(path))[0]


def read_calibration(content: dict[str, Any]) -> tuple[Calibration, ScoringSettings, list[TransformSettings]]:
    """Read the content of `calibration.json`: numbers, and the scoring and transforms they belong to.

    Raises:
        ArtifactError: It does not follow the schema.
    """
    try:
        scoring: dict[str, Any] = SCORING_OFF | content["scoring"]
        scoring["normalization"] = Normalization(scoring["normalization"])
        scoring["image_score"] = ImageScore(scoring["image_score"])
        transforms = [TransformSettings(**entry) for entry in content["transforms"]]
        calibration = Calibration.from_json(content["calibration"])
        known = [numbers for kinds in calibration.statistics.values() for numbers in kinds.values()]
        if scoring["per_picture"] and any(numbers.level is None for numbers in known):
            raise ValueError("scoring.per_picture=true, and no level was measured")
        return calibration, ScoringSettings(**scoring), transforms
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"calibration.json does not follow its schema ({error!r}); delete it and run `usad calibrate`"
        ) from error


def calibrated_precision(content: dict[str, Any]) -> str | None:
    """Return the number format that `calibration.json` was made in; None where an older file does not say it.

    Raises:
        ArtifactError: It is none.
    """
    precision = content.get("precision")
    if precision not in (None, "float32", "bfloat16"):
        raise ArtifactError(
            f"calibration.json does not follow its schema (precision {precision!r}); delete it and run `usad calibrate`"
        )
    return precision
