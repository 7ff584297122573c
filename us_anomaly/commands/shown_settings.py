"""The settings that decide results, as the report shows them and trackers are told them."""

from typing import Any

from us_anomaly.settings import Settings
from us_anomaly.settings.plain import flat, plain

KEYS = ("seed", "scales", "image_size")
GROUPS = (
    "data",
    "split",
    "augmentation",
    "backbone",
    "finetuning",
    "teacher",
    "students",
    "scoring",
    "calibration",
    "evaluation",
)


def by_key(settings: Settings) -> dict[str, Any]:
    """Return plain values by dotted key."""
    values = {key: plain(getattr(settings, key)) for key in KEYS}
    for group in GROUPS:
        values |= flat(group, getattr(settings, group))
    return values


def by_group(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return plain values by group, transforms by their names alone; without `finetuning` where it is off."""
    groups = {"run": {key: plain(getattr(settings, key)) for key in KEYS}}
    groups |= {name: plain(getattr(settings, name)) for name in GROUPS}
    groups["augmentation"] = {
        key: [entry["name"] for entry in entries] for key, entries in groups["augmentation"].items()
    }
    if not settings.finetuning.enabled:
        del groups["finetuning"]
    return groups
