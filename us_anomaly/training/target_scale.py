"""The scale on which a teacher learns its targets: standardised, and whitened where it is wanted.

Shapes: N positions, P target dimensions.
"""

import torch
from torch import Tensor, nn

WHITENING_FLOOR = 0.01
"""Smallest eigenvalue that whitening believes, as a share of the mean one: a tenth of the deviation, as for one dimension."""


class TargetScale(nn.Module):
    """Mean and deviation by which target dimensions are standardised, both (P,), and what whitens them after that, (P, P)."""

    def __init__(self, num_dims: int, *, is_whitened: bool = False) -> None:
        """Start with the identity."""
        super().__init__()
        self.is_whitened = is_whitened
        self.register_buffer("mean", torch.zeros(num_dims))
        self.register_buffer("std", torch.ones(num_dims))
        self.mean: Tensor
        self.std: Tensor
        if is_whitened:
            self.register_buffer("whitening", torch.eye(num_dims))
            self.register_buffer("unwhitening", torch.eye(num_dims))
            self.whitening: Tensor
            self.unwhitening: Tensor

    def forward(self, raw: Tensor) -> Tensor:
        """Bring targets (N, P) as the backbone gives them to the scale on which they are learned."""
        scaled: Tensor = (raw - self.mean) / self.std
        return _times(scaled, self.whitening) if self.is_whitened else scaled

    def standardised(self, scaled: Tensor) -> Tensor:
        """Take the whitening back: from the scale of learning to dimensions that are standardised and no more."""
        return _times(scaled, self.unwhitening) if self.is_whitened else scaled


def whitening_matrices(standardised: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix (P, P) that whitens standardised targets when it stands to their right, and its inverse.

    ZCA: W = E max(L, f)^(-1/2) E' with the eigenvectors E and eigenvalues L of the correlations. Of all matrices that whiten it
    changes the targets least, so each dimension stays near the feature it was and keeps the weight of its layer; unlike
    PCA it does not depend on the signs of the eigenvectors. The floor f is `WHITENING_FLOOR` of the mean eigenvalue:
    directions in which targets hardly vary would otherwise become noise of full size.

    Args:
        standardised: Targets (N, P) with mean 0, times `weights`.
        weights: Factor (P,) of each dimension; whitened targets have it as well.
    """
    plain = (standardised / weights).double()
    eigenvalues, vectors = torch.linalg.eigh(plain.T @ plain / (len(plain) - 1))
    floored = eigenvalues.clamp(min=WHITENING_FLOOR * float(eigenvalues.mean()))
    weights = weights.double()
    whitening = ((vectors * floored.rsqrt()) @ vectors.T) * weights / weights[:, None]
    unwhitening = ((vectors * floored.sqrt()) @ vectors.T) * weights / weights[:, None]
    return whitening, unwhitening


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply in full precision, also where networks compute in bfloat16."""
    with torch.autocast(rows.device.type, enabled=False):
        product: Tensor = rows.float() @ matrix
    return product
