"""Students' regression: the ensemble learns to give the normalised teacher's descriptors on normal pictures.

Shapes: M students, B images, D descriptor dimensions, N positions.

Source: Bergmann et al., *Uninformed Students* (CVPR 2020), section 3.2; the penalty on generic pictures follows Batzner et al.,
*EfficientAD* (WACV 2024), section 3.2.
"""

import torch
from torch import Tensor

from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import listed_descriptors
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import StudentSettings
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import Batches, OnStep, learning_rate, read_out, set_learning_rate, step_generator
from us_anomaly.training.normalization import TeacherStatistics
from us_anomaly.training.regression_loss import regression_loss
from us_anomaly.training.step_positions import draw_positions
from us_anomaly.training.validation import Validation


def regress(
    ensemble: StudentEnsemble,
    teacher: PatchNetwork,
    statistics: TeacherStatistics,
    batches: Batches,
    *,
    penalty_batches: Batches | None,
    validation: Validation | None = None,
    settings: StudentSettings,
    steps: int,
    seed: int,
    compute: Compute,
    optimizer: torch.optim.Optimizer,
    checkpoint: TrainingCheckpoint,
    on_step: OnStep,
) -> None:
    """Train all students in place, one picture batch per step for all of them.

    Args:
        ensemble: The students.
        teacher: The distilled patch network.
        statistics: Its mean and deviation over the training pictures.
        batches: Pictures of each step.
        penalty_batches: Pictures on which students must answer the mean descriptor; None for no penalty.
        validation: Measures the students now and then and may end the training early; None for never.
        settings: How the students learn.
        steps: Number of optimiser steps.
        seed: Decides the positions and the noise of each step.
        compute: Device and number format.
        optimizer: Of all students.
        checkpoint: Saves and resumes; holds the parts `ensemble`, `optimizer` and, where there is one, `validation`.
        on_step: Called after every step.

    Raises:
        TrainingError: A loss is not finite.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    for network in (ensemble, teacher):
        network.to(compute.device).to(memory_format=torch.channels_last)
    statistics = statistics.to(compute.device)
    start = checkpoint.resume()
    with checkpoint.guard():
        for step in range(start, steps):
            if validation is not None and validation.is_over:  # resumed where it had ended
                break
            images = compute.to_device(batches(step))
            generator = step_generator(seed, stage="train-students", step=step)
            optimizer.zero_grad(set_to_none=True)
            losses = {"loss": _learn(ensemble, teacher, statistics, images, settings, generator, compute)}
            if penalty_batches is not None:
                losses["penalty"] = _penalize(ensemble, compute.to_device(penalty_batches(step)), settings, compute)
            values = read_out(losses)
            set_learning_rate(
                optimizer,
                learning_rate(settings.learning_rate, schedule=settings.schedule, step=step, steps=steps),
            )
            is_finite = all(value - value == 0 for value in values.values())
            if is_finite:
                optimizer.step()
            if is_finite and validation is not None and validation.is_due(step + 1, steps=steps):
                values["validation"] = validation.measure(ensemble, teacher, statistics, compute=compute)
            ends = validation is not None and validation.is_over
            checkpoint.after_step(step + 1, values, total=step + 1 if ends else steps, is_noted="validation" in values)
            on_step(step + 1, values)
    if validation is not None:
        validation.restore(ensemble)


def _learn(
    ensemble: StudentEnsemble,
    teacher: PatchNetwork,
    statistics: TeacherStatistics,
    images: Tensor,
    settings: StudentSettings,
    generator: torch.Generator,
    compute: Compute,
) -> Tensor:
    """Add the gradient of the loss of each student; return the mean loss, which may still be on its way."""
    height, width = images.shape[-2:]
    at = draw_positions(teacher, (height, width), settings, generator)
    part = images[..., at.rows, at.cols]

    def described(network: PatchNetwork, pictures: Tensor) -> Tensor:
        with compute.autocast():
            return listed_descriptors(network, pictures, stride=at.stride, offset=at.offset, ends=at.ends)

    with torch.no_grad():
        target = statistics.normalize(described(teacher, part))
    losses = []
    for student in ensemble.networks:  # one after the other: the memory of one backward pass is enough
        answer = described(student, _noisy(part, settings.noise, generator))
        loss = regression_loss(answer, target, hard_fraction=settings.hard_fraction)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    return torch.stack(losses).mean()


def _noisy(images: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Return pictures with Gaussian noise on every value; the pictures themselves for `std` 0."""
    if std == 0:
        return images
    noise = torch.randn(images.shape, generator=generator)  # drawn on the CPU: the same on every device
    return torch.add(images, noise.to(images), alpha=std).contiguous(memory_format=torch.channels_last)


def _penalize(ensemble: StudentEnsemble, images: Tensor, settings: StudentSettings, compute: Compute) -> Tensor:
    """Add the gradient of the mean squared answer on pictures outside the domain; return its mean over students."""
    penalties = []
    for student in ensemble.networks:
        with compute.autocast():
            answer = listed_descriptors(student, images, stride=student.grid_stride_px).float()
        penalty = settings.penalty_weight * answer.square().mean()
        penalty.backward()  # type: ignore[no-untyped-call]
        penalties.append(penalty.detach())
    return torch.stack(penalties).mean()
