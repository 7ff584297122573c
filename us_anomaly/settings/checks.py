"""Range checks whose messages quote the key as the user types it."""

import math
import re
from pathlib import Path

from us_anomaly.errors import SettingsError


def at_least(key: str, value: float | None, low: float) -> None:
    """Refuse a value below `low`, and infinity; None means "not set" and passes."""
    if value is not None and not low <= value < math.inf:
        raise SettingsError(f"`{key}` must be at least {low:g}{_and_finite(value)}, got {value:g}")


def above(key: str, value: float | None, low: float) -> None:
    """Refuse a value that is not greater than `low`, and infinity; None passes."""
    if value is not None and not low < value < math.inf:
        raise SettingsError(f"`{key}` must be greater than {low:g}{_and_finite(value)}, got {value:g}")


def _and_finite(value: float) -> str:
    return " and finite" if value == math.inf else ""


def between(key: str, value: float | None, low: float, high: float) -> None:
    """Refuse a value outside the closed interval from `low` to `high`; None passes."""
    if value is not None and not low <= value <= high:
        raise SettingsError(f"`{key}` must be between {low:g} and {high:g}, got {value:g}")


def not_empty(key: str, value: str | list[int] | list[str], example: str) -> None:
    """Refuse an empty text or list."""
    if not value:
        raise SettingsError(f"`{key}` must not be empty: add for example {key}={example}")


def device_name(key: str, value: str) -> None:
    """Refuse what is no name of a device that networks compute on."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
        raise SettingsError(f"`{key}` must be auto, cpu, cuda or cuda:N, got {value!r}")


def expanded(key: str, path: str) -> str:
    """Return a path whose leading `~` or `~user` is the home folder that it stands for.

    Raises:
        SettingsError: There is no user of that name.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise SettingsError(f"`{key}`: there is no user of that name, got {path!r}") from error
