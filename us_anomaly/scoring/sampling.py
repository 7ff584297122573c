"""Some of the values of a map that stand for all of them."""

import math

from torch import Tensor


def evenly_drawn(values: Tensor, *, limit: int) -> Tensor:
    """Return at most `limit` values of a map (R, S), in a vector: all, or every k-th.

    k has no factor in common with the number of columns, so all columns take part.
    """
    step = max(1, math.ceil(values.numel() / max(1, limit)))
    while step > 1 and math.gcd(step, values.shape[-1]) > 1:
        step += 1
    return values.flatten()[::step]
