"""Settings as JSON knows them, and as they are typed."""

import dataclasses
from enum import Enum
from typing import Any


def plain(value: Any) -> Any:
    """Return a setting as JSON knows it."""
    match value:
        case Enum():
            return value.name
        case list():
            return [plain(item) for item in value]
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def flat(prefix: str, group: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the settings of one group by dotted key."""
    values = {"layout": type(group).__name__} if prefix in ("data", "backbone") else {}
    values |= {name: value for name, value in plain(group).items() if name not in without}
    return {f"{prefix}.{name}": value for name, value in values.items()}


def typed(value: Any) -> str:
    """Return a setting as it is typed on the command line; texts without the quotes that some need there."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{','.join(typed(item) for item in value)}]"
        case dict():
            return f"{{{','.join(f'{key}:{typed(item)}' for key, item in value.items())}}}"
    return str(value)
