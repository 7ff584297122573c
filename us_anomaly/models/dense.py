"""The exact dense form of a patch network: a descriptor for every position of an image at a fraction of the cost.

Shapes: B images, C channels, H W pixels, D descriptor dimensions, R S rows and columns of the output grid.

`dense_descriptors(network, x)[b, :, i, j]` equals the network applied to the p x p crop centred at row ``offset[0] + i * stride``
and column ``offset[1] + j * stride`` of the reflect-padded image. Convolutions are shared by overlapping crops as they are. A
pooling of stride 2 sees other pairs of rows in crops at even and at odd positions, so its input is taken once per
shift, and the shifts go on as images of a larger batch (Bailer et al., *Fast Feature Extraction with CNNs with Pooling
Layers*, 2018). A grid whose stride is even needs one shift only: that is why stride 4 costs a sixteenth of the
positions and, after the first poolings, about as little of the time.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from us_anomaly.models.compute import Compute
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.models.windows import MAX_TILE_PIXELS, reflect_pad, reflect_window, tiles


def dense_descriptors(
    network: PatchNetwork, images: Tensor, *, stride: int = 1, offset: tuple[int, int] | None = None
) -> Tensor:
    """Return the descriptors of an image at every position, or on a grid.

    Args:
        network: Any patch network.
        images: (B, C, H, W), normalised pictures of any size.
        stride: Distance of the grid in pixels.
        offset: First row and column of the grid; by default `stride // 2`, or the last one of a smaller picture.

    Returns:
        (B, D, R, S) with R = ceil((H - offset[0]) / stride), S alike.
    """
    padded, grid = _padded(network, images, stride=stride, offset=offset)
    return dense_descriptors_of_padded(network, padded, **grid, stride=stride)


def listed_descriptors(
    network: PatchNetwork,
    images: Tensor,
    *,
    stride: int = 1,
    offset: tuple[int, int] | None = None,
    ends: tuple[int, int] | None = None,
) -> Tensor:
    """Return the descriptors of `dense_descriptors` as rows (N, D), contiguous, N = B R S.

    Their order is the same for all networks of a patch size, pictures of a size, and a grid. What is compared or averaged
    needs not be put to its place, which moves whole descriptors in memory, and their gradients back.

    Args:
        network: Any patch network.
        images: (B, C, H, W), normalised pictures of any size.
        stride: Distance of the grid in pixels.
        offset: First row and column of the grid; by default `stride // 2`, or the last one of a smaller picture.
        ends: Where its rows and columns end; by default with the picture.
    """
    padded, grid = _padded(network, images, stride=stride, offset=offset, ends=ends)
    return _listed(network, padded, **grid, stride=stride)


def descriptors_by_tile(
    networks: Sequence[PatchNetwork],
    images: Tensor,
    *,
    stride: int,
    offset: tuple[int, int] | None = None,
    compute: Compute,
) -> Iterator[list[Tensor]]:
    """Yield `listed_descriptors` of networks of one patch size, tile by tile, so that memory does not grow with pictures.

    Args:
        networks: Any patch networks of one patch size.
        images: (B, C, H, W), normalised pictures of any size.
        stride: Distance of the grid in pixels.
        offset: First row and column of the grid; by default `stride // 2`, or the last one of a smaller picture.
        compute: Number format.

    Yields:
        Rows (N, D) of each network, in one order for all of them. A picture of up to `MAX_TILE_PIXELS` is one tile.
    """
    (top, left), (bottom, right) = _first(images, stride=stride, offset=offset), images.shape[-2:]
    margin = networks[0].patch_size // 2
    for rows, cols in tiles(
        bottom - top, right - left, max_positions=MAX_TILE_PIXELS, margin=2 * margin, multiple=stride
    ):
        spans = {"rows": (top + rows[0], top + rows[1]), "cols": (left + cols[0], left + cols[1])}
        padded = reflect_window(images, margin, **spans).contiguous(memory_format=torch.channels_last)
        local = {"rows": (0, rows[1] - rows[0]), "cols": (0, cols[1] - cols[0])}
        with compute.autocast():
            listed = [_listed(network, padded, **local, stride=stride) for network in networks]
        yield listed


def _listed(
    network: PatchNetwork, padded: Tensor, *, rows: tuple[int, int], cols: tuple[int, int], stride: int
) -> Tensor:
    """Return the descriptors of `descriptors_by_phase`, without those beyond the end, as rows (N, D)."""
    phases = descriptors_by_phase(network, padded, rows=rows, cols=cols, stride=stride)
    wanted = len(padded) * len(range(*rows, stride)) * len(range(*cols, stride))
    if phases.shape[0] * math.prod(phases.shape[2:]) > wanted:  # there are positions beyond the end
        phases = _woven(phases, num_images=len(padded), rows=rows, cols=cols, stride=stride)
    return phases.permute(0, 2, 3, 1).reshape(wanted, -1).contiguous()


def _first(images: Tensor, *, stride: int, offset: tuple[int, int] | None) -> tuple[int, int]:
    """Return first row and column of a grid."""
    height, width = images.shape[-2:]
    return offset if offset is not None else (min(stride // 2, height - 1), min(stride // 2, width - 1))


def _padded(
    network: PatchNetwork,
    images: Tensor,
    *,
    stride: int,
    offset: tuple[int, int] | None,
    ends: tuple[int, int] | None = None,
) -> tuple[Tensor, dict[str, tuple[int, int]]]:
    """Return pictures with the margin of the network, and first row and column of the grid with their ends."""
    top, left = _first(images, stride=stride, offset=offset)
    bottom, right = ends if ends is not None else images.shape[-2:]
    return reflect_pad(images, network.patch_size // 2), {"rows": (top, bottom), "cols": (left, right)}


def dense_descriptors_of_padded(
    network: PatchNetwork, padded: Tensor, *, rows: tuple[int, int], cols: tuple[int, int], stride: int
) -> Tensor:
    """Return the descriptors at rows ``range(*rows, stride)`` and columns ``range(*cols, stride)``.

    Args:
        network: Any patch network.
        padded: (B, C, H + p - 1, W + p - 1), the picture after `reflect_pad`.
        rows: First row and end of rows, in pixels of the picture before padding.
        cols: First column and end of columns.
        stride: Distance of the grid in pixels.
    """
    phases = descriptors_by_phase(network, padded, rows=rows, cols=cols, stride=stride)
    return _woven(phases, num_images=len(padded), rows=rows, cols=cols, stride=stride)


def _woven(phases: Tensor, *, num_images: int, rows: tuple[int, int], cols: tuple[int, int], stride: int) -> Tensor:
    """Return (B, D, R, S): values at their places, without those beyond the end."""
    return weave(phases, num_images=num_images)[..., : len(range(*rows, stride)), : len(range(*cols, stride))]


def descriptors_by_phase(
    network: PatchNetwork, padded: Tensor, *, rows: tuple[int, int], cols: tuple[int, int], stride: int
) -> Tensor:
    """Return the descriptors of the same positions as a batch that is sorted by pooling shifts: see `weave`.

    What treats every position alike, such as the error of the students, is computed on this batch and woven afterwards: a
    map of scalars moves in memory then, not one of descriptors.

    Args:
        network: Any patch network.
        padded: (B, C, H + p - 1, W + p - 1), the picture after `reflect_pad`.
        rows: First row and end of rows, in pixels of the picture before padding.
        cols: First column and end of columns.
        stride: Distance of the grid in pixels.

    Returns:
        (F * F * B, D, R, S) with F pooling shifts per axis; there may be rows and columns beyond the end, to be cut off.
    """
    num_rows, num_cols = len(range(*rows, stride)), len(range(*cols, stride))
    unit = _num_phases(network, stride)  # shifts go on as one batch only if each has the same number of positions
    full_rows, full_cols = -(-num_rows // unit) * unit, -(-num_cols // unit) * unit
    height = (full_rows - 1) * stride + network.patch_size
    width = (full_cols - 1) * stride + network.patch_size
    crop = padded[..., rows[0] : rows[0] + height, cols[0] : cols[0] + width]
    missing = (0, width - crop.shape[-1], 0, height - crop.shape[-2])
    if any(missing):
        crop = nn.functional.pad(crop, missing)
    features = crop
    for index, layer in enumerate(network.layers):
        if isinstance(layer, nn.Conv2d):
            taken = stride if index == network.strided_layer else 1
            features = network.apply_layer(index, features, stride=taken)
        else:  # even positions see the pooling from row 0 on, odd ones from row `stride` on; pooled, both are that far apart
            shifts = (0,) if stride % 2 == 0 else (0, stride)
            features = network.activate(index, _pooled(features, layer, shifts=shifts))
            stride = stride if len(shifts) > 1 else stride // 2
    return features


def _pooled(features: Tensor, layer: nn.Module, *, shifts: tuple[int, ...]) -> Tensor:
    """Pool 2x2 once per shift and axis; the results, row shift first, go on as one batch (F * F * B, C, R, S).

    Where no gradient is wanted the maximum of neighbours is taken by rows and then by columns, from the one input and into the
    one batch: a quarter of the time of pooling copies of shifted inputs.
    """
    height, width = ((length - shifts[-1]) // 2 for length in features.shape[-2:])
    if isinstance(layer, nn.AvgPool2d) or (torch.is_grad_enabled() and features.requires_grad):
        if shifts == (0,):  # the gradient of a slice is zeros in another layout, on which all that follows is slow
            whole: Tensor = layer(features)
            return whole
        return torch.cat(
            [layer(features[..., row : row + 2 * height, col : col + 2 * width]) for row in shifts for col in shifts]
        )
    if torch.compiler.is_compiling():  # one kernel in the end, which writes in place would break into several
        rows_of, cols_of = ([slice(shift, shift + 2 * length) for shift in shifts] for length in (height, width))
        return torch.cat([_maximum(features[..., rows, cols]) for rows in rows_of for cols in cols_of])
    batch, channels = features.shape[:2]
    out = features.new_empty(len(shifts) ** 2, batch, height, width, channels).permute(0, 1, 4, 2, 3)
    for number, row in enumerate(shifts):
        ends = row + 2 * height
        by_rows = torch.maximum(features[..., row:ends:2, :], features[..., row + 1 : ends : 2, :])
        for other, col in enumerate(shifts):
            end = col + 2 * width
            into = out[number * len(shifts) + other]
            torch.maximum(by_rows[..., col:end:2], by_rows[..., col + 1 : end : 2], out=into)
    return out.flatten(0, 1)


def _maximum(features: Tensor) -> Tensor:
    """Return the maximum of each 2x2 positions (B, C, R, S) of features (B, C, 2 R, 2 S)."""
    by_rows = torch.maximum(features[..., ::2, :], features[..., 1::2, :])
    return torch.maximum(by_rows[..., ::2], by_rows[..., 1::2])


def weave(phases: Tensor, *, num_images: int) -> Tensor:
    """Put values that are sorted by pooling shifts to their places.

    With L poolings that were shifted, F = 2^L. The batch is (r_L, c_L, ..., r_1, c_1, B), where r_k is the row shift of the
    k-th of them, 0 or 1; row i of that part is row F i + 2^(L-1) r_L + ... + r_1 of the grid, and columns alike.

    Args:
        phases: (F * F * B, D, R, S).
        num_images: B.

    Returns:
        (B, D, F R, F S), channels last in memory.
    """
    if phases.shape[0] == num_images:
        return phases
    dims, rows, cols = phases.shape[1:]
    levels = ((phases.shape[0] // num_images).bit_length() - 1) // 2
    parts = phases.permute(0, 2, 3, 1).reshape(*[2] * (2 * levels), num_images, rows, cols, dims)
    images, row, col, dim = range(2 * levels, 2 * levels + 4)
    order = (images, row, *range(0, 2 * levels, 2), col, *range(1, 2 * levels, 2), dim)
    woven = parts.permute(order).reshape(num_images, rows << levels, cols << levels, dims)
    return woven.permute(0, 3, 1, 2)


def _num_phases(network: PatchNetwork, stride: int) -> int:
    """Return the number F of pooling shifts per axis that a grid of this stride needs."""
    phases = 1
    for layer in network.layers:
        if not isinstance(layer, nn.Conv2d):
            if stride % 2 == 0:
                stride //= 2
            else:
                phases *= 2
    return phases
