"""The three terms of the teacher's loss.

Shapes: N patches or positions, P target dimensions, D descriptor dimensions.

Source: Bergmann et al., *Uninformed Students* (CVPR 2020), section 3.1.
"""

import torch
from torch import Tensor


def distillation_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """Return L_k: the squared distance between decoded descriptor and target, as a mean over dimensions.

    The paper takes the sum over dimensions: what weighs 1 beside it there weighs 1 / P beside the mean.

    Args:
        decoded: (N, P).
        target: (N, P).
    """
    return (decoded - target).square().mean()


def compactness_loss(descriptors: Tensor) -> Tensor:
    """Return L_c: the mean absolute correlation between different descriptor dimensions over a batch.

    Paper: the sum of c_ij over i != j, with c the D x D correlation matrix of descriptor dimensions; without absolute values it
    would reward correlations below 0. Here it is divided by the number of its terms. A dimension that is constant over the
    batch correlates with nothing.

    Args:
        descriptors: (N, D) with N >= 2.
    """
    centred = descriptors - descriptors.mean(dim=0)
    scaled = centred / (centred.norm(dim=0) + 1e-6)
    with torch.autocast(descriptors.device.type, enabled=False):  # three digits are too few for a sum of small terms
        correlation = scaled.T @ scaled  # (D, D)
    dims = correlation.shape[0]
    loss: Tensor = (correlation.abs().sum() - correlation.diagonal().abs().sum()) / (dims * (dims - 1))
    return loss


def metric_loss(anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float) -> Tensor:
    """Return L_m: the triplet loss max(0, margin + d+ - d-) with d- the smaller of both distances to the negative.

    Args:
        anchor: (N, D) descriptors.
        positive: (N, D) descriptors of slightly shifted, noisy patches.
        negative: (N, D) descriptors of patches of other pictures.
        margin: The paper's delta.
    """
    near = (anchor - positive).square().sum(dim=1)
    far = torch.minimum((anchor - negative).square().sum(dim=1), (positive - negative).square().sum(dim=1))
    return (margin + near - far).clamp(min=0).mean()
