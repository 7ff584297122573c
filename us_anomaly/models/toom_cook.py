"""The matrices of minimal filtering: what takes tiles of inputs, kernels and products to tiles of a convolution's outputs.

Shapes: r taps (side of the kernel), m positions (side of a tile of outputs), n = m + r - 1 (side of a tile of inputs).

Source: Winograd, *Arithmetic Complexity of Computations* (1980); the method is Toom's and Cook's.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 4 / 3, -0.75)
"""Where the polynomials of the transforms are evaluated, besides at infinity; n is one more than the number of those used."""
LARGEST_TILE = {torch.float32: 8, torch.bfloat16: 10}
"""The most inputs n along a tile, by the number format of the result.

Rounding grows with n: 4 millionths of the size of the result (root mean square) up to 8, 40 up to 10, which is nothing beside the
thousandths of bfloat16.
"""
SMALLEST_TILE = 6
"""The fewest inputs n along a tile that are considered."""
ONE = 1
"""Number of the point 1.0, where all positions of a tile get the same share: the bias is added there."""


@dataclass(frozen=True)
class Transforms:
    """The matrices for one size of kernels and one size of tiles, float64."""

    outputs: Tensor
    """A^T (m, n)."""
    weights: Tensor
    """G (n, r)."""
    inputs: Tensor
    """B^T (n, n)."""

    @functools.cached_property
    def kernels(self) -> Tensor:
        """Return what G g G^T makes of the taps of a kernel, (n n, r r), float32."""
        return torch.kron(self.weights, self.weights).float()

    @property
    def side(self) -> int:
        """Inputs n along a tile."""
        return len(self.inputs)

    @property
    def positions(self) -> int:
        """Outputs m along a tile."""
        return len(self.outputs)

    def tiles_along(self, length: int) -> int:
        """Return the tiles for `length` positions; the last one may stand over."""
        return -(-length // self.positions)

    def num_inputs(self, rows: int, cols: int) -> int:
        """Return the inputs of all tiles of an image, per channel."""
        return self.tiles_along(rows) * self.tiles_along(cols) * self.side**2


@functools.cache
def transforms(taps: int, side: int) -> Transforms:
    """Return the transforms of kernels of `taps` x `taps` pixels on tiles of `side` inputs, by the method of Toom and Cook.

    The product of two polynomials is known by its values at n points. Column i of the inverse of that evaluation holds the
    coefficients of the polynomial that is 1 at point i and 0 at the others; for infinity, of the one that is 0 at all of
    them. Transposed, multiplication of polynomials becomes correlation, which is what networks call a convolution.
    """
    points = POINTS[: side - 1]

    def evaluated(count: int) -> np.ndarray:
        finite = np.power.outer(np.array(points), np.arange(count))
        return np.vstack([finite, np.eye(count)[-1:]])

    inputs = np.zeros((side, side))
    for index, point in enumerate(points):
        others = [other for other in points if other != point]
        inputs[index, :-1] = np.polynomial.polynomial.polyfromroots(others) / np.prod([point - o for o in others])
    inputs[-1] = np.polynomial.polynomial.polyfromroots(points)
    scale = np.abs(inputs).max(axis=1, keepdims=True)  # numbers of one size round alike
    return Transforms(
        outputs=torch.from_numpy(evaluated(side + 1 - taps).T.copy()),
        weights=torch.from_numpy(evaluated(taps) * scale),
        inputs=torch.from_numpy(inputs / scale),
    )


def best_transforms(rows: int, cols: int, taps: int, dtype: torch.dtype) -> Transforms:
    """Return the transforms that multiply least for so many positions; the last tiles of an axis may stand over its end."""
    sides = range(max(SMALLEST_TILE, taps + 1), LARGEST_TILE[dtype] + 1)
    return min((transforms(taps, side) for side in sides), key=lambda known: known.num_inputs(rows, cols))
