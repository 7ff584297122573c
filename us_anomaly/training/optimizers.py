"""The optimisers of teacher and students: Adam, and Muon, which needs a quarter of its steps.

Shapes: K weights of one shape, N M rows and columns of a weight as a matrix (output channels, and all that one of them sees).

Sources: Jordan et al., *Muon: an optimizer for hidden layers in neural networks* (2024), for momentum and Newton-Schulz
iteration; Liu et al., *Muon is Scalable for LLM Training* (2025), for steps as long as Adam's. `torch.optim.Muon` has the same,
but for matrices alone, and all weights here are convolutions.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from us_anomaly.settings import OptimizerName

MOMENTUM = 0.95
ROOT_MEAN_SQUARE = 0.2
"""Size of Adam's steps in learning rates, as Liu et al. found it: the same learning rates then suit both."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients by which five iterations bring singular values from (0.01, 1) to about 1 (0.7 to 1.2)."""
NUM_ITERATIONS = 5
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


def build_optimizer(
    name: OptimizerName, parameters: Iterable[torch.nn.Parameter], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name.

    Args:
        name: `teacher.optimizer` or `students.optimizer`.
        parameters: What it trains.
        learning_rate: Of the first step.
        weight_decay: Added to the gradient (Adam), or taken off weights in each step (Muon).
    """
    match name:
        case OptimizerName.adam:
            return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
        case OptimizerName.muon:
            return Muon(parameters, learning_rate=learning_rate, weight_decay=weight_decay)


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of each weight matrix, so that no direction of it dominates; Adam for biases."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], *, learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        """Take what is trained: weights of convolutions and linear layers, and biases."""
        super().__init__(parameters, {"lr": learning_rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Raises:
            ValueError: A closure is given; one gradient per step is all this takes.
        """
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            matrices: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.ndim < 2:
                    self._adam(parameter, learning_rate=group["lr"])
                else:
                    matrices.setdefault(parameter.shape, []).append(parameter)
            for shape, alike in matrices.items():  # those of all students at once
                directions = orthogonalised(torch.stack([self._with_momentum(each).flatten(1) for each in alike]))
                length = group["lr"] * ROOT_MEAN_SQUARE * math.sqrt(max(directions.shape[1:]))
                for weight, direction in zip(alike, directions, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(direction.view(shape), alpha=-length)

    def _with_momentum(self, weight: Tensor) -> Tensor:
        """Update the momentum of a weight and return it as it will be after the same gradient once more (Nesterov)."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(momentum, MOMENTUM)

    def _adam(self, bias: Tensor, *, learning_rate: float) -> None:
        assert bias.grad is not None
        state = self.state[bias]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(bias), "square": torch.zeros_like(bias)}
        state["step"] += 1
        kept, kept_square = ADAM_BETAS
        mean = state["mean"].lerp_(bias.grad, 1 - kept) / (1 - kept ** state["step"])
        square = state["square"].lerp_(bias.grad.square(), 1 - kept_square) / (1 - kept_square ** state["step"])
        bias.sub_(learning_rate * mean / (square.sqrt() + ADAM_EPSILON))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return the orthogonal matrices nearest to some matrices, nearly: singular values from 0.7 to 1.2 instead of 1.

    Each iteration multiplies a matrix X by a polynomial of X X^T, with which all these polynomials commute. So X X^T is iterated
    instead, and X is multiplied once: a third of the arithmetic for matrices that are much wider than tall. It needs all
    digits of float32: the iteration enlarges small errors of X X^T by up to 3.4^10.

    Args:
        matrices: (K, N, M); their scale does not matter.

    Returns:
        (K, N, M).
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide: Tensor = (matrices.mT if is_tall else matrices).float()
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    first, third, fifth = NEWTON_SCHULZ
    identity = torch.eye(wide.shape[1], device=wide.device)
    with torch.autocast(wide.device.type, enabled=False):
        gram = wide @ wide.mT  # (K, N, N)
        product = identity
        for _ in range(NUM_ITERATIONS):
            polynomial = first * identity + third * gram + fifth * (gram @ gram)
            product = polynomial @ product
            gram = polynomial @ gram @ polynomial
        wide = product @ wide
    return wide.mT if is_tall else wide
