"""The plain way, to compare with: what one writes down first, and what public implementations of the method do.

float32, contiguous layout, every pooling as four shifted poolings whose descriptors are unwrapped level by level at full size,
the teacher computed anew for every student, one student after the other, every position of the picture. Nothing of the package
uses this.

Shapes: B images, C channels, H W pixels, D descriptor dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from us_anomaly.models.patch_network import LEAKY_SLOPE, PatchNetwork
from us_anomaly.training.normalization import TeacherStatistics


def plain_dense(network: PatchNetwork, images: Tensor) -> Tensor:
    """Return the descriptors (B, D, H, W) of every position."""
    height, width = images.shape[-2:]
    margin = network.patch_size // 2
    unit = 2 ** sum(isinstance(layer, nn.MaxPool2d) for layer in network.layers)
    features = nn.functional.pad(images, (margin,) * 4, mode="reflect")
    features = nn.functional.pad(features, (0, -width % unit, 0, -height % unit))
    levels = 0
    for index, layer in enumerate(network.layers):
        if isinstance(layer, nn.MaxPool2d):
            rows, cols = features.shape[-2] - 1, features.shape[-1] - 1
            shifted = [features[..., i : i + rows, j : j + cols].contiguous() for i in (0, 1) for j in (0, 1)]
            features = torch.cat([nn.functional.max_pool2d(part, 2, stride=2) for part in shifted])
            levels += 1
        else:
            features = layer(features)
            if index < len(network.layers) - 1:
                features = nn.functional.leaky_relu(features, LEAKY_SLOPE)
    for _ in range(levels):
        batch, dims, rows, cols = features.shape
        split = features.reshape(2, 2, batch // 4, dims, rows, cols).permute(2, 3, 4, 0, 5, 1)
        features = split.reshape(batch // 4, dims, 2 * rows, 2 * cols)
    return features[..., :height, :width]


def plain_maps(
    image: Tensor, *, teacher: PatchNetwork, students: Sequence[PatchNetwork], statistics: TeacherStatistics
) -> tuple[Tensor, Tensor]:
    """Return error and uncertainty (H, W) of a picture (3, H, W)."""
    with torch.no_grad():
        answers = []
        for student in students:
            target = statistics.normalize(plain_dense(teacher, image[None]))
            answers.append(plain_dense(student, image[None]))
        stacked = torch.stack(answers)  # (M, 1, D, H, W)
        mean = stacked.mean(dim=0)
        error = (mean - target).square().sum(dim=1)[0]
        return error, (stacked - mean).square().sum(dim=2).mean(dim=0)[0]


def plain_student_step(
    images: Tensor,
    *,
    teacher: PatchNetwork,
    students: Sequence[PatchNetwork],
    statistics: TeacherStatistics,
    optimizers: Sequence[torch.optim.Optimizer],
) -> list[float]:
    """Train every student by one step at every position of some pictures; return the losses."""
    losses = []
    for student, optimizer in zip(students, optimizers, strict=True):
        with torch.no_grad():
            target = statistics.normalize(plain_dense(teacher, images))
        loss = (plain_dense(student, images) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses
