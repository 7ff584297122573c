"""Parts of a picture with what lies around them, reflected at its border, and the tiles in which a large one is computed.

Shapes: B images, C channels, H W pixels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def reflect_pad(images: Tensor, margin: int) -> Tensor:
    """Pad by reflection at the border pixel, as often as needed, so that a picture may be smaller than its margin.

    Args:
        images: (B, C, H, W).
        margin: Pixels added on every side.

    Returns:
        (B, C, H + 2 margin, W + 2 margin), in the memory format of `images`.
    """
    height, width = images.shape[-2:]
    if margin < min(height, width):
        return nn.functional.pad(images, (margin, margin, margin, margin), mode="reflect")
    return reflect_window(images, margin, rows=(0, height), cols=(0, width))


def reflect_window(images: Tensor, margin: int, *, rows: tuple[int, int], cols: tuple[int, int]) -> Tensor:
    """Return a part of what `reflect_pad` gives without making the whole.

    Args:
        images: (B, C, H, W).
        margin: Pixels around the part on every side; what lies outside of the picture is reflected.
        rows: First row and end of rows, in pixels of the picture before padding.
        cols: First column and end of columns.

    Returns:
        (B, C, rows + 2 margin, columns + 2 margin).
    """
    height, width = images.shape[-2:]
    by_rows = images.index_select(-2, _reflected(height, margin, rows, images.device))
    return by_rows.index_select(-1, _reflected(width, margin, cols, images.device))


def _reflected(length: int, margin: int, span: tuple[int, int], device: torch.device) -> Tensor:
    """Return the indices ..., 2, 1, 0, 1, ..., n-1, n-2, ... of a reflected axis for `span` and `margin` more around it."""
    index = torch.arange(span[0] - margin, span[1] + margin, device=device)
    period = max(1, 2 * (length - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)


Span = tuple[int, int]
"""First row or column and the end of them."""
MAX_TILE_PIXELS = 256 * 256
"""Pixels of a tile that is computed at once: bounds the memory for pictures of any size."""


def tiles(height: int, width: int, *, max_positions: int, margin: int, multiple: int) -> Iterator[tuple[Span, Span]]:
    """Yield (rows, columns) of tiles that hold at most about `max_positions` pixels each.

    Every tile also computes a margin around it, so of all divisions the one with the fewest pixels, margins included, is
    taken.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
        max_positions: Pixels per tile.
        margin: Pixels that a tile needs around it on all sides together.
        multiple: Every tile but the last ones has a multiple of this many rows and columns, so that a grid goes on across tiles.
    """

    def side(length: int, parts: int) -> int:
        return -(-length // (parts * multiple)) * multiple

    def cost(sides: Span) -> int:
        rows, cols = sides
        return -(-height // rows) * (rows + margin) * -(-width // cols) * (cols + margin)

    candidates = []
    for parts in range(1, -(-width // multiple) + 1):
        cols = side(width, parts)
        most_rows = max(multiple, max_positions // min(cols, width) // multiple * multiple)
        rows = side(height, -(-height // most_rows))
        fits = min(rows, height) * min(cols, width) <= max_positions
        if fits or cols == multiple:
            candidates.append((rows, cols))
        if fits and rows >= height:  # narrower tiles would only add margins
            break
    rows, cols = min(candidates, key=cost)
    for top in range(0, height, rows):
        for left in range(0, width, cols):
            yield (top, min(height, top + rows)), (left, min(width, left + cols))
