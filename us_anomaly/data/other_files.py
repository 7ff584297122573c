"""What lies among the pictures of a data set and is not looked at, because it is no picture of it: that is said."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from us_anomaly.data.listing import Listing, holds_results, relative, some, subfolders
from us_anomaly.run_dir.said import note_said, was_said

log = logging.getLogger(__name__)

MAX_OTHERS_NAMED = 5
FORMATS = "PNG, JPEG, BMP, TIFF or WebP"
"""What is read, in words."""


def others_in_words(others: list[Path], *, base: Path) -> str:
    """Say that files were not looked at and why, with the first of them relative to `base`."""
    named = some([relative(base, path) for path in others], limit=MAX_OTHERS_NAMED)
    if len(others) == 1:
        return f"1 other file was not looked at, because it is no {FORMATS} by its name: {named}"
    return f"{len(others)} other files were not looked at, because they are no {FORMATS} by their names: {named}"


def warn_about_others(others: list[Path], *, root: Path) -> None:
    """Warn, once for a command, about the files of a data set that are beside its pictures and are not looked at."""
    if others:
        say_once(logging.WARNING, others_in_words(sorted(others, key=Path.as_posix), base=root), root=root)


def tell_left_out(folder: Path, listings: Mapping[str, Listing], *, root: Path) -> None:
    """Tell, once for a command, which folders among those of pictures hold results of commands and were left out.

    Args:
        folder: The folders of pictures lie in it.
        listings: What was found in each, by its name.
        root: Folder of the data set.
    """
    left_out = [folder / name for name in subfolders(folder) if name not in listings and holds_results(folder / name)]
    left_out += [path for listing in listings.values() for path in listing.results]
    if left_out:
        named = some([relative(root, path) for path in left_out], limit=MAX_OTHERS_NAMED)
        say_once(logging.INFO, f"left out of the data set, because of results of usad in it: {named}", root=root)


def say_once(level: int, text: str, *, root: Path) -> None:
    """Log a text about a data set once for a command."""
    said = ("data set", os.path.realpath(root), text)
    if not was_said(*said):
        note_said(*said)
        log.log(level, "%s", text)
