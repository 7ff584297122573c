"""Raw maps as logarithms: they are positive, and their distribution has a long tail."""

from torch import Tensor

SMALLEST = 1e-12
"""Smaller values of a map count as this, so that they have a logarithm."""


def logarithm(values: Tensor) -> Tensor:
    """Return the logarithms of a raw map, in a new tensor of its shape."""
    return values.clamp(min=SMALLEST).log_()
