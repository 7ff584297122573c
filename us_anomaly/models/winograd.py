"""Convolutions by minimal filtering: their values from a fraction of the multiplications, for processors.

Shapes: B images, C channels in, D channels out, H W pixels in, R S positions out, T tiles, r taps (side of the kernel),
m positions (side of a tile of outputs), n = m + r - 1 (side of a tile of inputs).

A tile of m x m outputs is A^T [(G g G^T) * (B^T d B)] A, summed over channels, of the kernel g and n x n inputs d: n^2 products
for each pair of channels instead of m^2 r^2. For kernels of 4 and 5 pixels and n = 8 that is a sixth. All tiles together are n^2
matrix products, which is what a processor is fastest at. What the transforms cost does not depend on the number of pairs of
channels, so narrow layers stay with the ordinary convolution: `pays`.

Everything is computed in float32, whatever format goes in and comes out. Results differ from those of the ordinary convolution by
rounding: see `LARGEST_TILE`.

Source: Winograd, *Arithmetic Complexity of Computations* (1980); Lavin and Gray, *Fast Algorithms for Convolutional Neural
Networks* (CVPR 2016).
"""

import math
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level as _maybe_current_level
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from us_anomaly.models.compute import bfloat16_speedup
from us_anomaly.models.toom_cook import LARGEST_TILE, ONE, Transforms, best_transforms

TILES_AT_ONCE = 256
"""Tiles that are multiplied at once: enough to be worth loading the weights, few enough for the processor's cache."""
TRANSFORM_COST = 64
"""What transforms cost for each number that is multiplied, in multiplications of a float32 matrix product; as measured."""
CALL_COST = 6_000_000
"""What the calls for one part of the tiles cost, in multiplications of a float32 matrix product."""
BFLOAT16_LEARNING = 1.5
"""By how much the products must be fewer for learning in bfloat16, as measured."""


def pays(features: Tensor, weight: Tensor, *, learns: bool) -> bool:
    """Return whether minimal filtering is expected to be faster than the ordinary convolution.

    Never without the Intel Math Kernel Library, which PyTorch has for x86: others take long for a batch of small products.

    Args:
        features: (B, C, H, W).
        weight: (D, C, r, r).
        learns: Whether gradients will be wanted, which the ordinary convolution finds with less overhead in bfloat16.
    """
    if not _is_plain(features, weight):
        return False
    taps, dtype = weight.shape[-1], result_dtype(features)
    rows, cols = (length - taps + 1 for length in features.shape[-2:])
    if not 1 < taps < LARGEST_TILE.get(dtype, 0) or min(rows, cols) < 1:
        return False
    outputs, inputs = weight.shape[:2]
    known = best_transforms(rows, cols, taps, dtype)
    num_inputs = len(features) * known.num_inputs(rows, cols)
    num_parts = max(1.0, num_inputs / (known.side**2 * TILES_AT_ONCE))
    cost = num_inputs * (inputs * outputs + TRANSFORM_COST * (inputs + outputs)) + num_parts * CALL_COST
    if learns:  # weights are transformed anew in each step, forward and mirrored, and so is their gradient
        cost += (known.side * taps) ** 2 * inputs * outputs
    ordinary = len(features) * rows * cols * taps**2 * inputs * outputs
    if dtype is torch.bfloat16:
        cost *= bfloat16_speedup() * (BFLOAT16_LEARNING if learns else 1.0)
    return cost < ordinary


def _is_plain(features: Tensor, weight: Tensor) -> bool:
    """Return whether these are numbers on a processor, which nobody traces, compiles or transforms."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or features.device.type != "cpu":
        return False
    if not _has_kernel_library() or _maybe_current_level() is not None:
        return False
    if type(features) is not Tensor or type(weight) not in (Tensor, nn.Parameter):
        return False
    are_alike = features.dtype is weight.dtype or torch.is_autocast_enabled("cpu")
    return are_alike and {features.dtype, weight.dtype} <= set(LARGEST_TILE)


def _has_kernel_library() -> bool:
    return bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]


def result_dtype(features: Tensor) -> torch.dtype:
    """Return the number format that an ordinary convolution of `features` gives."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else features.dtype


def convolve(
    features: Tensor, weight: Tensor, bias: Tensor | None, *, dtype: torch.dtype, slope: float | None = None
) -> Tensor:
    """Return the convolution without padding, with stride 1, and leaky ReLU after it.

    Args:
        features: (B, C, H, W), on the processor.
        weight: (D, C, r, r). What is computed of it alone is kept, and made anew when it is not the same any more.
        bias: (D,).
        dtype: Number format of the result, a key of `LARGEST_TILE`, whose tiles must be larger than the kernel.
        slope: Of the leaky ReLU; None for none.

    Returns:
        (B, D, R, S) with R = H - r + 1, channels last in memory. Gradients are not kept: `Convolution` has them.
    """
    known = _best_for(features, weight, dtype)
    return _convolved(features, _kept_transformed(weight, known), known, bias, dtype=dtype, slope=slope)


def _best_for(features: Tensor, weight: Tensor, dtype: torch.dtype) -> Transforms:
    taps = weight.shape[-1]
    rows, cols = (length - taps + 1 for length in features.shape[-2:])
    return best_transforms(rows, cols, taps, dtype)


def _convolved(
    features: Tensor,
    by_weights: Tensor,
    known: Transforms,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    slope: float | None = None,
) -> Tensor:
    """Return the convolution with transformed weights (n, n, C, D)."""
    images = _channels_last(features)
    rows, cols = (length - known.side + known.positions for length in features.shape[-2:])
    out = torch.empty(len(images), rows, cols, by_weights.shape[-1], dtype=dtype, device="cpu")
    workspace = _Workspace()
    with torch.autocast("cpu", enabled=False):
        for spans in _parts(len(images), rows, cols, known):
            inputs = _tiles_of(images, spans, cols, known.inputs.float(), known.positions, workspace, name="inputs")
            products = _multiplied(inputs, by_weights, bias, known.outputs.float(), workspace)
            if slope is not None:
                nn.functional.leaky_relu(products, slope, inplace=True)
            _put(products, out, spans)
    return out.permute(0, 3, 1, 2)


def weight_gradient(features: Tensor, gradient: Tensor, *, taps: int) -> Tensor:
    """Return the gradient (D, C, r, r) of the weights of a convolution, float32.

    Args:
        features: (B, C, H, W), what went in.
        gradient: (B, D, R, S), of what came out.
        taps: r.
    """
    rows, cols = gradient.shape[-2:]
    known = best_transforms(rows, cols, taps, torch.float32)
    images, answers = _channels_last(features), _channels_last(gradient)
    shape = (known.side, known.side, images.shape[-1], answers.shape[-1])
    total = torch.zeros(shape, dtype=torch.float32, device="cpu")
    workspace = _Workspace()
    with torch.autocast("cpu", enabled=False):
        for spans in _parts(len(images), rows, cols, known):
            inputs = _tiles_of(images, spans, cols, known.inputs.float(), known.positions, workspace, name="inputs")
            outputs = _tiles_of(
                answers, spans, cols, known.outputs.T.float(), known.positions, workspace, name="answers"
            )
            for row, (seen, wanted) in enumerate(zip(inputs, outputs, strict=True)):
                total[row].baddbmm_(seen.transpose(1, 2), wanted)
        by_tap = known.kernels.T @ total.flatten(0, 1).flatten(1)  # (r r, C D)
    return by_tap.view(taps, taps, *total.shape[2:]).permute(3, 2, 0, 1)


class Convolution(torch.autograd.Function):
    """`convolve` with gradients, which are found by minimal filtering as well; there are no second derivatives."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the convolution: see `convolve`."""
        ctx.save_for_backward(features, weight)
        dtype = result_dtype(features)
        known = _best_for(features, weight, dtype)
        return _convolved(features, transformed(weight, known), known, bias, dtype=dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of features, weights and bias, where they are wanted."""
        features, weight = ctx.saved_tensors
        taps = weight.shape[-1]
        wanted = ctx.needs_input_grad
        by_features = by_weight = by_bias = None
        if wanted[0]:
            around = nn.functional.pad(gradient, [taps - 1] * 4)
            mirrored = weight.flip(2, 3).transpose(0, 1)
            known = _best_for(around, mirrored, gradient.dtype)
            by_features = _convolved(around, transformed(mirrored, known), known, dtype=features.dtype)
        if wanted[1]:
            by_weight = weight_gradient(features, gradient, taps=taps).to(weight.dtype)
        if wanted[2]:
            by_bias = gradient.sum(dim=(0, 2, 3), dtype=torch.float32).to(weight.dtype)
        return by_features, by_weight, by_bias


def _channels_last(features: Tensor) -> Tensor:
    """Return (B, H, W, C), contiguous."""
    return features.permute(0, 2, 3, 1).contiguous()


class _Workspace:
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
class _Span:
    """Some rows of tiles of one image."""

    image: int
    tile_rows: range
    places: slice
    """Where they lie among all rows of tiles of the part."""


def _parts(num_images: int, rows: int, cols: int, known: Transforms) -> Iterator[list[_Span]]:
    """Yield all tiles in parts of about `TILES_AT_ONCE`: some rows of them in one image, or several whole images."""
    num_rows, num_cols = known.tiles_along(rows), known.tiles_along(cols)
    images_at_once = max(1, TILES_AT_ONCE // (num_rows * num_cols))
    rows_at_once = min(num_rows, max(1, TILES_AT_ONCE // num_cols))
    for first in range(0, num_images, images_at_once):
        images = range(first, min(num_images, first + images_at_once))
        for top in range(0, num_rows, rows_at_once):
            tile_rows = range(top, min(num_rows, top + rows_at_once))
            count = len(tile_rows)
            yield [_Span(image, tile_rows, slice(k * count, (k + 1) * count)) for k, image in enumerate(images)]


def _tiles_of(
    images: Tensor, spans: Sequence[_Span], cols: int, matrix: Tensor, step: int, workspace: _Workspace, *, name: str
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


def _multiplied(
    inputs: Tensor, weights: Tensor, bias: Tensor | None, to_outputs: Tensor, workspace: _Workspace
) -> Tensor:
    """Return tiles of outputs (m, m, T, D).

    Args:
        inputs: (n, n, T, C), transformed.
        weights: (n, n, C, D), transformed.
        bias: (D,).
        to_outputs: A^T (m, n).
        workspace: Holds the result.
    """
    positions, side = to_outputs.shape
    num_tiles, dims = inputs.shape[2], weights.shape[-1]
    products = workspace.empty("products", side, num_tiles, dims)
    half = workspace.empty("half", side, positions, num_tiles * dims)
    for row in range(side):  # one row of products at a time stays in the cache
        torch.bmm(inputs[row], weights[row], out=products)
        if row == ONE and bias is not None:
            products[ONE] += bias
        torch.mm(to_outputs, products.view(side, -1), out=half[row])
    whole = workspace.empty("whole", positions, positions, num_tiles, dims)
    torch.mm(to_outputs, half.view(side, -1), out=whole.view(positions, -1))
    return whole


def _put(tiles: Tensor, out: Tensor, spans: Sequence[_Span]) -> None:
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


def transformed(weight: Tensor, known: Transforms) -> Tensor:
    """Return the transformed weights (n, n, C, D), float32: G g G^T.

    Args:
        weight: (D, C, r, r).
        known: The transforms.
    """
    outputs, inputs = weight.shape[:2]
    by_tap = weight.detach().float().permute(2, 3, 1, 0).reshape(-1, inputs * outputs)
    with torch.autocast("cpu", enabled=False):
        return (known.kernels @ by_tap).view(known.side, known.side, inputs, outputs)


_KEPT: MutableMapping[Tensor, tuple[Tensor, Tensor]] = WeakTensorKeyDictionary()
"""By weights that are in use: a copy of what they were, and what was made of it, which takes four to six times their memory."""


def _kept_transformed(weight: Tensor, known: Transforms) -> Tensor:
    """Return the transformed weights; the last ones are kept.

    Whether they still belong to the weights is seen by comparing numbers: torch does not count every change.
    """
    was, values = _KEPT.get(weight, (None, None))
    if was is None or values is None or len(values) != known.side or not _are_equal(was, weight):
        values = transformed(weight, known)
        _KEPT[weight] = weight.detach().clone(), values
    return values


def _are_equal(was: Tensor, weight: Tensor) -> bool:
    return was.dtype is weight.dtype and was.shape == weight.shape and torch.equal(was, weight.detach())
