"""The loss of one student: the mean squared error over the elements that train, with its gradient.

Shapes: N positions, D descriptor dimensions.

Both are found at once: descriptors of every position are hundreds of megabytes, and each operation on all of them is a way to the
memory and back.

Source: Bergmann et al., *Uninformed Students* (CVPR 2020), section 3.2; the hard-element loss follows Batzner et al.,
*EfficientAD* (WACV 2024), section 3.2.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from us_anomaly.models.compute import COMPARED_AT_ONCE

KEY_BITS = 15
"""First bits of a number that is not negative, after its sign: its exponent, and seven of its digits."""


def regression_loss(student: Tensor, target: Tensor, *, hard_fraction: float) -> Tensor:
    """Return the mean squared error of one student over the hardest elements, float32.

    It has a gradient for the student alone, and no second derivatives.

    Args:
        student: (N, D) or any other shape, float32 or bfloat16. Best contiguous: all that follows is slow otherwise.
        target: The normalised teacher, float32, of the same shape.
        hard_fraction: Share of the elements, those with the largest error, that enters the mean; 1 takes all.

    Raises:
        ValueError: The shapes differ.
    """
    if student.shape != target.shape:
        raise ValueError(f"an answer {tuple(student.shape)} cannot be compared with a target {tuple(target.shape)}")
    loss: Tensor = _RegressionLoss.apply(student, target, hard_fraction)
    return loss


class _RegressionLoss(torch.autograd.Function):
    """`regression_loss` with its gradient for the student."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, target: Tensor, hard_fraction: float) -> Tensor:
        """Return the loss, float32."""
        gradient = torch.empty_like(student, memory_format=torch.contiguous_format)
        ctx.save_for_backward(gradient)
        flat = student.flatten(), target.flatten(), gradient.view(-1)
        if hard_fraction == 1:
            return _all(*flat)
        return _hardest(*flat, count=max(1, round(hard_fraction * student.numel())))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the student's answer."""
        (by_answer,) = ctx.saved_tensors
        is_loss = gradient.device.type == "cpu" and gradient.item() == 1  # a graphics card would have to be waited for
        return by_answer if is_loss else by_answer * gradient, None, None


def _all(student: Tensor, target: Tensor, gradient: Tensor) -> Tensor:
    """Return the loss over all elements (n,); put its gradient into `gradient`."""
    total = torch.zeros((), dtype=torch.float64, device=student.device)
    at_once = COMPARED_AT_ONCE if student.device.type == "cpu" else student.numel()
    pieces = (torch.split(values, at_once) for values in (student, target, gradient))
    for answer, wanted, by_answer in zip(*pieces, strict=True):
        difference = answer.float() - wanted
        total += difference.square().sum()
        by_answer.copy_(difference.mul_(2 / student.numel()))
    return (total / student.numel()).float()


def _hardest(student: Tensor, target: Tensor, gradient: Tensor, *, count: int) -> Tensor:
    """Return the loss over the `count` elements (n,) with the largest error; put its gradient into `gradient`."""
    difference = student.float() - target
    errors = difference.square()
    others = largest(errors, count).logical_not_()
    gradient.copy_(difference.masked_fill_(others, 0).mul_(2 / count))
    return errors.masked_fill_(others, 0).sum() / count


def largest(values: Tensor, count: int) -> Tensor:
    """Return which are the `count` largest of values (n,), float32 and not negative, as a mask; NaN is larger than all.

    On a processor by counting: the bits of such numbers, read as whole numbers, have the order of the numbers. The first bits
    of each say which are larger for certain, and of those that share them with the last one to be taken, a few are sorted.
    """
    if values.device.type != "cpu":
        return _marked(values.topk(count, sorted=False).indices, torch.zeros_like(values, dtype=torch.bool))
    keys = values.view(torch.int32).bitwise_and(0x7FFFFFFF).bitwise_right_shift_(31 - KEY_BITS)  # a NaN may have a sign
    counts = torch.bincount(keys, minlength=2**KEY_BITS + 1)
    at_least = counts.flip(0).cumsum(0).flip(0)  # values with this key or a larger one
    last = int((at_least >= count).sum()) - 1
    larger = keys > last
    num_larger = int(at_least[last + 1])
    alike = (keys == last).nonzero()[:, 0]
    return _marked(alike[values[alike].topk(count - num_larger, sorted=False).indices], larger)


def _marked(indices: Tensor, mask: Tensor) -> Tensor:
    mask[indices] = True
    return mask
