"""Files beside the pictures that somebody may take for pictures: they are not looked at, and that is said."""

import logging
import os
from pathlib import Path

from us_anomaly.data.listing import relative, some

log = logging.getLogger(__name__)

MAX_OTHERS_NAMED = 5
FORMATS = "PNG, JPEG, BMP, TIFF or WebP"
"""What is read, in words."""
_told: set[tuple[str, str]] = set()
"""Data sets with what was said of their other files: every stage of `usad run` reads the data set, and one says it."""


def others_in_words(others: list[Path], *, base: Path) -> str:
    """Say that files were not looked at and why, with the first of them relative to `base`."""
    named = some([relative(base, path) for path in others], limit=MAX_OTHERS_NAMED)
    if len(others) == 1:
        return f"1 other file was not looked at, because it is no {FORMATS} by its name: {named}"
    return f"{len(others)} other files were not looked at, because they are no {FORMATS} by their names: {named}"


def warn_about_others(others: list[Path], *, root: Path) -> None:
    """Warn, once in a process, about the files of a data set that are beside its pictures and are not looked at."""
    if not others:
        return
    said = (os.path.realpath(root), others_in_words(sorted(others, key=Path.as_posix), base=root))
    if said not in _told:
        _told.add(said)
        log.warning("%s", said[1])
