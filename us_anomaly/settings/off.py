"""What provenance notes leave out: settings that came later than the first notes, where they are off."""

from typing import Any

from us_anomaly.settings.scoring import SCORING_OFF

OFF: dict[str, Any] = {
    "data.group_pattern": None,
    "data.white_level": None,
    "finetuning.enabled": False,
    "teacher.start_from": None,
    "teacher.whiten_targets": False,
    "teacher.optimizer": "adam",
    "students.extra_layers": 0,
    "students.optimizer": "adam",
    "students.noise": 0,
    "students.window_px": None,
    "students.validate_every_steps": None,
    "students.patience": None,
    **{f"scoring.{name}": value for name, value in SCORING_OFF.items()},
}
"""By dotted key, the value that changes nothing: a note that does not mention the setting means it."""


def without_what_is_off(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is off, so that what was made before there was such a setting is still up to date."""
    return {key: value for key, value in settings.items() if key not in OFF or value != OFF[key]}
