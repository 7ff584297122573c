"""`calibration.json` as it is read back: numbers, and the scoring and transforms they belong to. No network is needed for it."""

import math
from pathlib import Path
from typing import Any

from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.format_version import check_format
from us_anomaly.scoring.anomaly_map import MapStatistics
from us_anomaly.scoring.calibration import FORMAT_VERSION, Calibration
from us_anomaly.scoring.picture_level import PictureLevel
from us_anomaly.scoring.raw_maps import MAP_KINDS
from us_anomaly.settings import SCORING_OFF, ImageScore, Normalization, ScoringSettings, TransformSettings

_OF_OTHER_SHAPE = (KeyError, TypeError, ValueError, AttributeError)
"""What is raised where content of another shape is read."""


def load_calibration(path: Path) -> Calibration:
    """Read the calibration in a file.

    Raises:
        ArtifactError: It does not follow the schema.
    """
    return read_calibration(read_json(path), path=path)[0]


def read_calibration(
    content: dict[str, Any], *, path: Path
) -> tuple[Calibration, ScoringSettings, list[TransformSettings]]:
    """Read the content of `calibration.json`: numbers, and the scoring and transforms they belong to.

    Args:
        content: The content.
        path: Where it was read, for the messages.

    Raises:
        ArtifactError: It does not follow the schema, or is of another format version.
    """
    try:
        scoring: dict[str, Any] = SCORING_OFF | content["scoring"]
        scoring["normalization"] = Normalization(scoring["normalization"])
        scoring["image_score"] = ImageScore(scoring["image_score"])
        transforms = [TransformSettings(**entry) for entry in content["transforms"]]
        calibration = read_numbers(content["calibration"], path=path)
        known = [numbers for kinds in calibration.statistics.values() for numbers in kinds.values()]
        if scoring["per_picture"] and any(numbers.level is None for numbers in known):
            raise ValueError("scoring.per_picture=true, and no level was measured")
        return calibration, ScoringSettings(**scoring), transforms
    except _OF_OTHER_SHAPE as error:
        raise _other_schema(path, repr(error)) from error


def read_numbers(content: dict[str, Any], *, path: Path) -> Calibration:
    """Read what `Calibration.to_json` gave.

    Args:
        content: The part `calibration` of the content of `calibration.json`.
        path: Where it was read, for the messages.

    Raises:
        ArtifactError: It does not follow the schema, or is of another format version.
    """
    try:
        check_format(path, content["format_version"], reads=FORMAT_VERSION, command="calibrate")
        values = {key: value for key, value in content.items() if key != "format_version"}
        values["statistics"] = {
            int(patch_size): {kind: _map_statistics(numbers) for kind, numbers in kinds.items()}
            for patch_size, kinds in content["statistics"].items()
        }
        if any(set(kinds) != set(MAP_KINDS) for kinds in values["statistics"].values()):
            raise ValueError(f"statistics must be those of {' and '.join(MAP_KINDS)} for each patch size")
        for key in ("image_threshold", "score_scale", "pixel_threshold"):
            values[key] = _number(key, content[key])
        if values["score_scale"] <= 0:
            raise ValueError("score_scale must be above 0")
        for key in ("color_range", "uncertainty_color_range"):
            low, high = (_number(key, number) for number in content[key])
            if low >= high:
                raise ValueError(f"{key} must rise")
            values[key] = (low, high)
        return Calibration(**values)
    except _OF_OTHER_SHAPE as error:
        raise _other_schema(path, repr(error)) from error


def calibrated_precision(content: dict[str, Any], *, path: Path) -> str | None:
    """Return the number format that `calibration.json` was made in; None where an older file does not say it.

    Args:
        content: The content.
        path: Where it was read, for the message.

    Raises:
        ArtifactError: It is none.
    """
    precision = content.get("precision")
    if precision not in (None, "float32", "bfloat16"):
        raise _other_schema(path, f"precision {precision!r}")
    return precision


def read_white_level(content: dict[str, Any], *, path: Path) -> float | None:
    """Return which value is white in pictures of more than 8 bits (`data.white_level`); None where it is guessed for each.

    Args:
        content: The content of `calibration.json`.
        path: Where it was read, for the message.

    Raises:
        ArtifactError: It is no number above 0.
    """
    level = content.get("white_level")
    try:
        if level is None or (level := _number("white_level", level)) > 0:
            return level
    except ValueError:
        pass
    raise _other_schema(path, f"white_level {level!r}")


def _map_statistics(content: dict[str, Any]) -> MapStatistics:
    """Read the statistics of one kind of map; older files know nothing of levels."""
    numbers = {name: _number(name, number) for name, number in content.items() if name != "level"}
    level = content.get("level")
    return MapStatistics(
        **numbers,
        level=None
        if level is None
        else PictureLevel(**{name: _number(name, number) for name, number in level.items()}),
    )


def _number(name: str, value: object) -> float:
    """Return a finite number, as JSON knows it.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def _other_schema(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path} does not follow its schema ({what}); delete it and run `usad calibrate`")
