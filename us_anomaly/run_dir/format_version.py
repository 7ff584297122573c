"""Files of another format version than the one that is read."""

from pathlib import Path
from typing import Any

from us_anomaly.errors import ArtifactError
from us_anomaly.version import __version__


def check_format(path: Path, version: Any, *, reads: int, command: str) -> None:
    """Refuse a file of another format version.

    Args:
        path: The file, for the message.
        version: The version that it names; None if it names none.
        reads: The version that is read.
        command: The command that makes it.

    Raises:
        ArtifactError: The versions differ; the message says what to do.
    """
    if isinstance(version, bool) or version != reads:
        named = "names no format version" if version is None else f"has format version {version}"
        raise ArtifactError(f"{path} {named}, {advice_on_version(version, reads=reads, command=command)}")


def advice_on_version(version: Any, *, reads: int, command: str) -> str:
    """Return what to do about a file of a version that is not read."""
    if isinstance(version, int) and version > reads:
        return (
            f"which a newer us_anomaly writes (this is {__version__}, which reads version {reads}): update us_anomaly"
        )
    return (
        f"and this us_anomaly ({__version__}) reads version {reads}: make it again with `usad {command} overwrite=true`"
    )
