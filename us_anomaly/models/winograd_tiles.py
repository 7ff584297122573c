"""The tiles of minimal filtering: cut out of pictures and transformed, and put back to their places.

Shapes: B images, C channels in, D channels out, H W pixels in, R S positions out, T tiles,
m positions (side of a tile of outputs), n inputs (side of a tile of them).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from us_anomaly.models.toom_cook import Transforms

TILES_AT_ONCE = 256
"""Tiles that are multiplied at once: enough to be worth loading the weights, few enough for the processor's cache."""


class Workspace:
    """Memory that all parts of the tiles use one after the other; memory that is new each time took a tenth of the time."""

    def __init__(self) -> None:
        self._blocks: dict[str, Tensor] = {}

    def empty(self, name: str, *shape: int) -> Tensor:
        """Return float32 numbers that nobody set; they are the same memory whenever the name is the same."""
        numel = math.prod(shape)
        if name not in self._blocks or self._blocks[name].numel() < numel:
            self._blocks[name] = torch.empty(numel, dtype=torch.float32, device="cpu")
        return self._blocks[name][:numel].view(shape)


@dataclass(frozen=True, slots=True)
class Span:
    """Some rows of tiles of one image."""

    image: int
    tile_rows: range
    places: slice
    """Where they lie among all rows of tiles of the part."""


def parts(num_images: int, rows: int, cols: int, known: Transforms) -> Iterator[list[Span]]:
    """Yield all tiles in parts of about `TILES_AT_ONCE`: some rows of them in one image, or several whole images."""
    num_rows, num_cols = known.tiles_along(rows), known.tiles_along(cols)
    images_at_once = max(1, TILES_AT_ONCE // (num_rows * num_cols))
    rows_at_once = min(num_rows, max(1, TILES_AT_ONCE // num_cols))
    for first in range(0, num_images, images_at_once):
        images = range(first, min(num_images, first + images_at_once))
        for top in range(0, num_rows, rows_at_once):
            tile_rows = range(top, min(num_rows, top + rows_at_once))
            count = len(tile_rows)
            yield [Span(image, tile_rows, slice(k * count, (k + 1) * count)) for k, image in enumerate(images)]


def tiles_of(
    images: Tensor, spans: Sequence[Span], cols: int, matrix: Tensor, step: int, workspace: Workspace, *, name: str
) -> Tensor:
    """Return M d M^T (n, n, T, C) of tiles d, which lie `step` apart; what lies beyond an image is 0.

    Columns are transformed before rows, because neighbouring tiles share rows.

    Args:
        images: (B, H, W, C), contiguous.
        spans: The rows of tiles.
        cols: Positions in a row of an image.
        matrix: M (n, k), of tiles of k x k.
        step: m.
        workspace: Holds the result.
        name: Of the result there.
    """
    side, seen = matrix.shape
    channels, num_cols = images.shape[-1], -(-cols // step)
    result = workspace.empty(name, side, spans[-1].places.stop, num_cols, side, channels)
    pitch = num_cols + -(-(seen - step) // step)  # tiles that fit into a line, the last of which nobody reads
    for span in spans:
        num_rows = len(span.tile_rows)
        num_lines = (num_rows - 1) * step + seen
        lines = images[span.image, span.tile_rows.start * step :][:num_lines, : pitch * step]
        window = workspace.empty("window", num_lines, pitch * step, channels)
        window[: lines.shape[0], : lines.shape[1]] = lines
        window[: lines.shape[0], lines.shape[1] :] = 0
        window[lines.shape[0] :] = 0
        num_windows = num_lines * pitch - (pitch - num_cols)
        windows = window.as_strided((num_windows, seen, channels), (step * channels, channels, 1))
        by_cols = workspace.empty("columns", num_lines * pitch, side, channels)
        torch.bmm(matrix.expand(num_windows, side, seen), windows, out=by_cols[:num_windows])
        line, strip = pitch * side * channels, num_cols * side * channels
        strips = by_cols.as_strided((num_rows, seen, strip), (step * line, line, 1))
        into = result.view(side, -1, strip)[:, span.places].transpose(0, 1)
        torch.bmm(matrix.expand(num_rows, side, seen), strips, out=into)
    return result.view(side, -1, side, channels).transpose(1, 2)


def put(tiles: Tensor, out: Tensor, spans: Sequence[Span]) -> None:
    """Write tiles (m, m, T, D) to their places in images (B, R, S, D); the last of a row or column may stand over."""
    positions, dims = len(tiles), tiles.shape[-1]
    by_place = tiles.view(positions, positions, spans[-1].places.stop, -1, dims).permute(2, 0, 3, 1, 4)
    for span in spans:
        strip = out[span.image, span.tile_rows.start * positions : span.tile_rows.stop * positions]
        part = by_place[span.places]
        line, column, _ = strip.stride()
        for rows, lines in _whole_and_cut(strip.shape[0], positions):
            for cols, columns in _whole_and_cut(strip.shape[1], positions):
                places = strip[rows.start * positions :, cols.start * positions :].as_strided(
                    (len(rows), lines, len(cols), columns, dims),
                    (positions * line, line, positions * column, column, 1),
                )
                places.copy_(part[rows.start : rows.stop, :lines, cols.start : cols.stop, :columns])


def _whole_and_cut(length: int, positions: int) -> Iterator[tuple[range, int]]:
    """Yield the tiles that lie in `length` positions and the one that stands over their end, with what of them lies inside."""
    whole, rest = divmod(length, positions)
    if whole:
        yield range(whole), positions
    if rest:
        yield range(whole, whole + 1), rest
