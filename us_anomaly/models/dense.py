"""The exact dense form of a patch network: a descriptor for every position of an image at a fraction of the cost.

Shapes: B images, C channels, H W pixels, D descriptor dimensions, R S rows and columns of the output grid.

`dense_descriptors(network, x)[b, :, i, j]` equals the network applied to the p x p crop centred at row ``offset[0] + i * stride``
and column ``offset[1] + j * stride`` of the reflect-padded image. Convolutions are shared by overlapping crops as they are. A
pooling of stride 2 sees other pairs of rows in crops at even and at odd positions, so its input is taken once per
shift, and the shifts go on as images of a larger batch (Bailer et al., *Fast Feature Extraction with CNNs with Pooling
Layers*, 2018). A grid whose stride is even needs one shift only: that is why stride 4 costs a sixteenth of the
positions and about as little of the time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from us_anomaly.models.patch_network import PatchNetwork


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
    height, width = images.shape[-2:]
    top, left = offset if offset is not None else (min(stride // 2, height - 1), min(stride // 2, width - 1))
    padded = reflect_pad(images, network.patch_size // 2)
    return dense_descriptors_of_padded(network, padded, rows=(top, height), cols=(left, width), stride=stride)


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
    num_rows, num_cols = len(range(*rows, stride)), len(range(*cols, stride))
    unit = _num_phases(network, stride)  # shifts go on as one batch only if each has the same number of positions
    full_rows, full_cols = -(-num_rows // unit) * unit, -(-num_cols // unit) * unit
    height = (full_rows - 1) * stride + network.patch_size
    width = (full_cols - 1) * stride + network.patch_size
    crop = padded[..., rows[0] : rows[0] + height, cols[0] : cols[0] + width]
    missing = (0, width - crop.shape[-1], 0, height - crop.shape[-2])
    if any(missing):
        crop = nn.functional.pad(crop, missing)
    return _positions(network, crop, index=0, stride=stride)[..., :num_rows, :num_cols]


def _positions(network: PatchNetwork, features: Tensor, *, index: int, stride: int) -> Tensor:
    """Apply the layers from `index` on at positions 0, stride, 2 * stride, ... of `features`."""
    while index < len(network.layers):
        if isinstance(network.layers[index], nn.Conv2d):
            taken = stride if index == network.strided_layer else 1
            features = network.apply_layer(index, features, stride=taken)
            index += 1
        elif stride % 2 == 0:
            features = network.apply_layer(index, features)
            stride //= 2
            index += 1
        else:
            return _both_shifts(network, features, index=index, stride=stride)
    return features


def _both_shifts(network: PatchNetwork, features: Tensor, *, index: int, stride: int) -> Tensor:
    """Pool once for the even and once for the odd positions, per axis, and weave the results together.

    Even positions 0, 2s, 4s, ... see the pooling from row 0 on, odd ones s, 3s, 5s, ... from row s on; on the pooled
    grid both are s apart, so the four combinations go on as one batch.
    """
    batch = features.shape[0]
    height, width = features.shape[-2] - stride, features.shape[-1] - stride
    shifted = [
        network.apply_layer(index, features[..., row : row + height, col : col + width])
        for row in (0, stride)
        for col in (0, stride)
    ]
    out = _positions(network, torch.cat(shifted), index=index + 1, stride=stride)  # (4 B, D, R, S)
    rows, cols = out.shape[-2:]
    woven = out.new_empty(batch, out.shape[1], 2 * rows, 2 * cols).contiguous(memory_format=torch.channels_last)
    for position, part in enumerate(out.reshape(4, batch, -1, rows, cols)):
        woven[..., position // 2 :: 2, position % 2 :: 2] = part
    return woven  # (B, D, 2 R, 2 S)


def _num_phases(network: PatchNetwork, stride: int) -> int:
    """Return the number of pooling shifts per axis that a grid of this stride needs."""
    phases = 1
    for layer in network.layers:
        if isinstance(layer, nn.MaxPool2d):
            if stride % 2 == 0:
                stride //= 2
            else:
                phases *= 2
    return phases


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
    rows = _reflected(height, margin, images.device)
    cols = _reflected(width, margin, images.device)
    return images[..., rows[:, None], cols[None, :]]


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    """Return the indices ..., 2, 1, 0, 1, ..., n-1, n-2, ... of a reflected axis with `margin` more on each side."""
    index = torch.arange(-margin, length + margin, device=device)
    period = max(1, 2 * (length - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)


def row_bands(height: int, width: int, *, max_positions: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) rows of bands that hold at most about `max_positions` pixels each.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
        max_positions: Pixels per band.
        multiple: Every band but the last has a multiple of this many rows, so that a grid goes on across bands.
    """
    rows = max(multiple, max_positions // max(1, width) // multiple * multiple)
    for start in range(0, height, rows):
        yield start, min(height, start + rows)
