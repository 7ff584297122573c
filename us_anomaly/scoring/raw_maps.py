"""Raw maps: where students err and disagree, at the positions of a grid in one picture.

Shapes: M students, B images, D descriptor dimensions, H W pixels of the network's input, R S rows and columns of the grid whose
positions are computed.

Source: Bergmann et al., *Uninformed Students* (CVPR 2020), section 3.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from us_anomaly.data.bands import bands
from us_anomaly.models.compute import COMPARED_AT_ONCE, Compute
from us_anomaly.models.dense import descriptors_by_phase, weave
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.models.windows import MAX_TILE_PIXELS, reflect_window, tiles
from us_anomaly.training.normalization import TeacherStatistics

MAX_RECORDED_TILE_PIXELS = 1024 * 1024
"""Instead of `MAX_TILE_PIXELS` in a graph that is recorded, which holds every tile: to record many takes far longer than to
compute them."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The positions of a picture at which maps are computed: rows stride // 2 + k * stride, columns alike."""

    height: int
    """Rows of the picture."""
    width: int
    """Columns of the picture."""
    stride: int
    """Distance of the positions in pixels."""

    @property
    def axes(self) -> tuple[range, range]:
        """Rows and columns, in pixels; one of each at least."""
        rows, cols = (
            range(min(self.stride // 2, length - 1), length, self.stride) for length in (self.height, self.width)
        )
        return rows, cols

    def at_every_pixel(self, values: Tensor) -> Tensor:
        """Interpolate values (R, S) to (H, W), linearly between positions and constant beyond the outermost ones."""
        if self.stride == 1:
            return values
        full = values.new_empty(self.height, self.width)
        for rows in bands(self.height, self.width):
            band = self._interpolated(values, axis=0, first=rows.start, end=rows.stop)
            full[rows] = self._interpolated(band, axis=1, first=0, end=self.width)
        return full

    def _interpolated(self, values: Tensor, *, axis: int, first: int, end: int) -> Tensor:
        distance = torch.arange(first, end, dtype=torch.float32) - self.axes[axis][0]
        position = (distance / self.stride).clamp(0, values.shape[axis] - 1)
        low = position.floor().long()
        high = (low + 1).clamp(max=values.shape[axis] - 1)
        weight = (position - low).unsqueeze(1 - axis).to(values.dtype)
        return values.index_select(axis, low).lerp_(values.index_select(axis, high), weight)


MAP_KINDS = ("error", "uncertainty")
"""Names of both raw maps."""


@dataclass(frozen=True, slots=True)
class RawMaps:
    """Regression error and predictive uncertainty of one picture at one scale, both (R, S) float32, on a grid."""

    error: Tensor
    uncertainty: Tensor
    grid: Grid


def error_and_uncertainty(students: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """Return regression error e = ||mean_k S_k - target||^2 and predictive uncertainty v = mean_k ||S_k - mean S||^2.

    Args:
        students: M answers (B, D, R, S), of any number format.
        target: (B, D, R, S) float32, the normalised teacher.

    Returns:
        Two maps (B, R, S), float32.
    """
    mean = students[0].to(target.dtype, copy=True)
    for answer in students[1:]:
        mean += answer
    mean /= len(students)
    uncertainty = torch.zeros_like(target[:, 0])
    for answer in students:
        uncertainty += (answer - mean).square_().sum(dim=1)
    return mean.sub_(target).square_().sum(dim=1), uncertainty / len(students)


@torch.inference_mode()
def raw_maps(
    image: Tensor,
    *,
    teacher: PatchNetwork,
    ensemble: StudentEnsemble,
    statistics: TeacherStatistics,
    stride: int,
    border_px: int,
    compute: Compute,
    finish: Callable[[Tensor], Tensor] = lambda image: image,
) -> RawMaps:
    """Compute error and uncertainty of one picture, tile by tile.

    Args:
        image: (3, H, W), any size.
        teacher: In the number format of `compute`, like the students.
        ensemble: The students.
        statistics: Of the teacher.
        stride: Grid in pixels.
        border_px: Positions nearer to the border take the values of the nearest one that is not.
        compute: Device and number format.
        finish: Makes the normalised input (3, h, w) of the networks of a part of `image`, each pixel alone; the identity for an
            image that is normalised. The input of a large picture is never there as a whole.
    """
    height, width = image.shape[-2:]
    margin = teacher.patch_size // 2
    grid = Grid(height, width, stride)
    inner_rows, inner_cols = (
        _inside(axis, length, min(border_px, margin)) for axis, length in zip(grid.axes, (height, width), strict=True)
    )
    rows, cols = grid.axes[0][inner_rows], grid.axes[1][inner_cols]
    whole_maps = [torch.empty(*map(len, grid.axes), dtype=torch.float32) for _ in range(2)]
    computed = [values[inner_rows, inner_cols] for values in whole_maps]
    sides = rows[-1] - rows[0] + 1, cols[-1] - cols[0] + 1
    most = MAX_RECORDED_TILE_PIXELS if torch.onnx.is_in_onnx_export() else MAX_TILE_PIXELS
    for part_rows, part_cols in tiles(*sides, max_positions=most, margin=2 * margin, multiple=stride):
        spans = [(part[0] + axis[0], part[1] + axis[0]) for part, axis in ((part_rows, rows), (part_cols, cols))]
        window = reflect_window(image[None], margin, rows=spans[0], cols=spans[1])
        window = compute.to_device(finish(window[0])[None], dtype=compute.dtype)
        local_rows, local_cols = ((0, part[1] - part[0]) for part in (part_rows, part_cols))
        maps = compute.compiled(_maps_of_window)(
            [teacher, *ensemble.networks], window, statistics, rows=local_rows, cols=local_cols, stride=stride
        ).cpu()
        num_rows, num_cols = maps.shape[1:]
        for whole, part in zip(computed, maps, strict=True):
            row, col = part_rows[0] // stride, part_cols[0] // stride
            whole[row : row + num_rows, col : col + num_cols] = part
    for values in whole_maps:
        _fill_border(values, inner_rows, inner_cols)
    error, uncertainty = whole_maps
    return RawMaps(error, uncertainty, grid)


def _inside(grid: range, length: int, border_px: int) -> slice:
    """Return the part of the rows (or columns) of a grid that keeps its distance from the border.

    A picture so small that there is none is computed as a whole.
    """
    inside = [number for number, position in enumerate(grid) if border_px <= position < length - border_px]
    return slice(inside[0], inside[-1] + 1) if inside else slice(0, len(grid))


def _fill_border(values: Tensor, rows: slice, cols: slice) -> None:
    """Give what lies around `values[rows, cols]` the nearest of them, in place."""
    if rows.start > 0:  # onnxruntime refuses to write to nothing
        values[: rows.start, cols] = values[rows.start, cols]
    if rows.stop < values.shape[0]:
        values[rows.stop :, cols] = values[rows.stop - 1, cols]
    if cols.start > 0:
        values[:, : cols.start] = values[:, cols.start, None]
    if cols.stop < values.shape[1]:
        values[:, cols.stop :] = values[:, cols.stop - 1, None]


def _maps_of_window(
    networks: Sequence[PatchNetwork],
    window: Tensor,
    statistics: TeacherStatistics,
    *,
    rows: tuple[int, int],
    cols: tuple[int, int],
    stride: int,
) -> Tensor:
    """Return error and uncertainty (2, R, S) at rows ``range(*rows, stride)`` and columns ``range(*cols, stride)``.

    All that a graphics card does for a part of a picture is here, so that it is compiled as one.

    Args:
        networks: The teacher, then the students.
        window: (1, 3, rows + p - 1, columns + p - 1), the part and what lies around it.
        statistics: Of the teacher.
        rows: First row and end of rows, in pixels of the part.
        cols: First column and end of columns.
        stride: Grid in pixels.
    """
    answers = [descriptors_by_phase(network, window, rows=rows, cols=cols, stride=stride) for network in networks]
    phases, dims, height, width = answers[0].shape
    flat = [answer.permute(0, 2, 3, 1).reshape(-1, dims) for answer in answers]  # (F F height width, D)
    is_one_pass = window.device.type != "cpu" or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    at_once = len(flat[0]) if is_one_pass else max(1, COMPARED_AT_ONCE // dims)
    parts: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(flat[0]), at_once):
        descriptors, *others = (answer[None, start : start + at_once, None].permute(0, 3, 1, 2) for answer in flat)
        parts.append(error_and_uncertainty(others, statistics.normalize(descriptors)))  # (1, D, N, 1) -> (1, N, 1)
    maps = torch.stack(
        [torch.cat(kind, dim=1).reshape(phases, height, width) for kind in zip(*parts, strict=True)], dim=1
    )
    return weave(maps, num_images=1)[0, :, : len(range(*rows, stride)), : len(range(*cols, stride))]
