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

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level as _maybe_current_level
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from us_anomaly.models.compute import bfloat16_speedup
from us_anomaly.models.toom_cook import LARGEST_TILE, ONE, Transforms, best_transforms
from us_anomaly.models.winograd_tiles import TILES_AT_ONCE, Workspace, parts, put, tiles_of

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
    workspace = Workspace()
    with torch.autocast("cpu", enabled=False):
        for spans in parts(len(images), rows, cols, known):
            inputs = tiles_of(images, spans, cols, known.inputs.float(), known.positions, workspace, name="inputs")
            products = _multiplied(inputs, by_weights, bias, known.outputs.float(), workspace)
            if slope is not None:
                nn.functional.leaky_relu(products, slope, inplace=True)
            put(products, out, spans)
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
    workspace = Workspace()
    with torch.autocast("cpu", enabled=False):
        for spans in parts(len(images), rows, cols, known):
            inputs = tiles_of(images, spans, cols, known.inputs.float(), known.positions, workspace, name="inputs")
            outputs = tiles_of(
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


def _multiplied(
    inputs: Tensor, weights: Tensor, bias: Tensor | None, to_outputs: Tensor, workspace: Workspace
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
