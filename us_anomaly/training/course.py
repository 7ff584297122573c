"""The course of a training: its number of steps, its learning rate, and the randomness of each step.

Everything random about a step follows from the seed, the stage and the number of the step alone. So a resumed training
goes on exactly where it was, and the number of loading threads changes nothing.

Torch is imported where it is needed: progress bars take `OnStep` from here, and `usad split` shows one without torch.
"""

import math
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from us_anomaly.settings import Schedule

if TYPE_CHECKING:
    import torch

OnStep = Callable[[int, dict[str, float]], None]
"""Receives the number of steps done and the losses of the last one."""
Batches = Callable[[int], "torch.Tensor"]
"""From the number of a step to its normalised pictures (B, 3, H, W); negative numbers are batches no step sees."""


def num_steps(*, steps: int | None, epochs: int, items_per_epoch: int, batch_size: int) -> int:
    """Return the number of optimiser steps; an epoch ends with a smaller batch if it must."""
    return steps if steps is not None else epochs * math.ceil(items_per_epoch / batch_size)


def step_rng(seed: int, *, stage: str, step: int) -> np.random.Generator:
    """Return the random numbers of one step, and seed torch's global generator for the transforms of that step."""
    import torch

    rng = np.random.default_rng([seed, zlib.crc32(stage.encode()), step])
    torch.manual_seed(int(rng.integers(2**62)))
    return rng


def step_generator(seed: int, *, stage: str, step: int) -> "torch.Generator":
    """Return torch's random numbers of one step for the training loop itself, apart from those of the transforms.

    The pictures of the next step are drawn in another thread or process meanwhile; a shared generator would make a race of it.
    """
    import torch

    number = np.random.default_rng([seed, zlib.crc32(f"{stage}/loop".encode()), step]).integers(2**62)
    return torch.Generator().manual_seed(int(number))


def epoch_indices(num_items: int, *, seed: int, stage: str, step: int, batch_size: int) -> list[int]:
    """Return the items of one step when every epoch is a fresh permutation of all items.

    Args:
        num_items: Items per epoch.
        seed: Seed of the run.
        stage: Name that keeps the orders of two stages apart.
        step: Number of the step, from 0.
        batch_size: Items per step.
    """
    steps_per_epoch = math.ceil(num_items / batch_size)
    epoch, position = divmod(step, steps_per_epoch)
    order = np.random.default_rng([seed, zlib.crc32(f"{stage}/order".encode()), epoch]).permutation(num_items)
    return [int(index) for index in order[position * batch_size : (position + 1) * batch_size]]


def learning_rate(base: float, *, schedule: Schedule, step: int, steps: int) -> float:
    """Return the learning rate of one step: constant, or half a cosine from `base` to a hundredth of it."""
    match schedule:
        case Schedule.constant:
            return base
        case Schedule.cosine:
            return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def read_out(losses: "dict[str, torch.Tensor]") -> dict[str, float]:
    """Return the losses of a step as numbers: one wait for a graphics card, after the backward pass was handed out."""
    import torch

    return dict(zip(losses, torch.stack([loss.detach() for loss in losses.values()]).tolist(), strict=True))


def set_learning_rate(optimizer: "torch.optim.Optimizer", value: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value
