"""Bands of rows: what is done pixel by pixel to a large picture or map takes the memory of one band, not of the whole."""

from collections.abc import Iterator

PIXELS_AT_ONCE = 2**20
"""Pixels of a band."""


def bands(height: int, width: int, *, multiple: int = 1) -> Iterator[slice]:
    """Yield the rows of each band, from the top.

    Args:
        height: Rows of the whole.
        width: Columns of the whole.
        multiple: Every band but the last has a multiple of this many rows.
    """
    num_rows = -(-max(1, PIXELS_AT_ONCE // max(1, width)) // multiple) * multiple
    for top in range(0, height, num_rows):
        yield slice(top, min(top + num_rows, height))
