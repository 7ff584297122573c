"""Data sets of several categories: which there are, and which of them a name, a list or a pattern means."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from us_anomaly.data.listing import some
from us_anomaly.errors import DataError


def category_folder(root: Path, category: str | None, categories: Sequence[str]) -> Path:
    """Return the folder of one category, or `root` when there is no category to choose.

    Raises:
        DataError: There is no such category; the message lists those there are.
    """
    if category is None:
        return root
    if category in categories:
        return root / category
    if means_several(category):
        raise DataError(f"data.category={category} means several categories: add -m for a job for each")
    raise DataError(_unknown(root, category, categories))


def means_several(category: str) -> bool:
    """Return whether a text stands for all categories or is a pattern, and not the name of one."""
    return category == "all" or any(sign in category for sign in "*?[")


def choose(root: Path, wanted: str | None, categories: Sequence[str]) -> list[str]:
    """Return the categories that `wanted` means: null or `all`, or names and patterns with commas between.

    The order is that of `categories`, without repeats.

    Raises:
        DataError: There are no categories, or a name or pattern matches none.
    """
    if not categories:
        raise DataError(f"data.root={root} holds no categories")
    if wanted is None or wanted == "all":
        return list(categories)
    chosen: set[str] = set()
    for pattern in (part.strip() for part in wanted.split(",")):
        matching = {name for name in categories if fnmatchcase(name, pattern)}
        if not matching:
            raise DataError(_unknown(root, pattern, categories))
        chosen |= matching
    return [name for name in categories if name in chosen]


def _unknown(root: Path, category: str, categories: Sequence[str]) -> str:
    if not categories:
        return (
            f"data.root={root} holds no categories, so there is no data.category={category}: "
            "leave it out if data.root is the category itself"
        )
    close = difflib.get_close_matches(category, categories, n=1)
    hint = f"; did you mean data.category={close[0]}?" if close else ""
    return f"data.root={root} has no category {category!r}, it has {some(list(categories))}{hint}"
