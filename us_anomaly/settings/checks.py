"""Range checks whose messages quote the key as the user types it."""

from us_anomaly.errors import SettingsError


def at_least(key: str, value: float | None, low: float) -> None:
    """Refuse a value below `low`; None means "not set" and passes."""
    if value is not None and not value >= low:
        raise SettingsError(f"`{key}` must be at least {low:g}, got {value:g}")


def above(key: str, value: float | None, low: float) -> None:
    """Refuse a value that is not greater than `low`; None passes."""
    if value is not None and not value > low:
        raise SettingsError(f"`{key}` must be greater than {low:g}, got {value:g}")


def between(key: str, value: float | None, low: float, high: float) -> None:
    """Refuse a value outside the closed interval from `low` to `high`; None passes."""
    if value is not None and not low <= value <= high:
        raise SettingsError(f"`{key}` must be between {low:g} and {high:g}, got {value:g}")


def not_empty(key: str, value: str | list[int] | list[str], example: str) -> None:
    """Refuse an empty text or list."""
    if not value:
        raise SettingsError(f"`{key}` must not be empty: add for example {key}={example}")
