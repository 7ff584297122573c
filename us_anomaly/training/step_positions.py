"""Which positions students look at in a step: a random phase of a grid, or all, of whole pictures or of a window of them."""

import math
from dataclasses import dataclass

import torch

from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import StudentPositions, StudentSettings


@dataclass(frozen=True, slots=True)
class StepPositions:
    """Positions of a step, and the part of the pictures that holds their patches."""

    rows: slice
    """Rows of the pictures that the step needs."""
    cols: slice
    """Columns of them."""
    stride: int
    """Distance of the positions in pixels."""
    offset: tuple[int, int]
    """First row and column of the positions, counted from the beginning of the part."""
    ends: tuple[int, int]
    """Where rows and columns of positions end, counted alike."""


def draw_positions(
    network: PatchNetwork, size: tuple[int, int], settings: StudentSettings, generator: torch.Generator
) -> StepPositions:
    """Return the positions of a step.

    With `students.window_px` they lie in one of the windows of that side that cover the picture, as few and as evenly as can be:
    each is equally likely, so positions that two windows share are seen more often. A window comes with what lies around it, so a
    position has there the descriptor that it has in the whole picture. Every phase of the grid is equally likely, too.

    Args:
        network: Whose patches they are.
        size: Height and width of the pictures.
        settings: How the students learn.
        generator: Decides everything.
    """
    stride = network.grid_stride_px if settings.positions is StudentPositions.grid else 1
    (rows, row, bottom), (cols, col, right) = (
        _axis(length, settings.window_px, margin=network.patch_size // 2, stride=stride, generator=generator)
        for length in size
    )
    return StepPositions(rows, cols, stride, offset=(row, col), ends=(bottom, right))


def _axis(
    length: int, window_px: int | None, *, margin: int, stride: int, generator: torch.Generator
) -> tuple[slice, int, int]:
    """Return the part of an axis that holds the patches of a window, and there the first position and the end of them."""
    start, end = 0, length
    if window_px is not None and length > window_px:
        last = math.ceil(length / window_px) - 1
        start = round(int(torch.randint(last + 1, (), generator=generator)) * (length - window_px) / last)
        end = start + window_px
    phase = int(torch.randint(min(stride, end - start), (), generator=generator)) if stride > 1 else 0
    part = slice(max(0, start - margin), min(length, end + margin))
    return part, start - part.start + phase, end - part.start
