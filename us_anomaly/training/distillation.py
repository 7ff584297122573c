"""Distillation: the patch network learns to give the backbone's descriptor of a patch.

Shapes: B patches or crops, C = 3 channels, P target dimensions, D descriptor dimensions, N = B or B * R * S positions.

Source: Bergmann et al., *Uninformed Students* (CVPR 2020), section 3.1.
"""

import torch
from torch import Tensor, nn

from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import dense_descriptors_of_padded
from us_anomaly.models.frozen_backbone import Backbone
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import TeacherPositions, TeacherSettings
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import Batches, OnStep, learning_rate, read_out, set_learning_rate, step_generator
from us_anomaly.training.distillation_losses import compactness_loss, distillation_loss, metric_loss
from us_anomaly.training.normalization import RunningMoments
from us_anomaly.training.target_scale import TargetScale, whitening_matrices

NUM_STATISTICS_BATCHES = 16
NUM_HELD_OUT_BATCHES = 8
RIDGE = 1e-3
"""What is added at least to the covariance of descriptors to which a decoder is fitted, as a share of their mean variance."""


class Distillation(nn.Module):
    """Teacher, decoder and backbone together: what one step of the distillation computes."""

    def __init__(self, teacher: PatchNetwork, backbone: Backbone, settings: TeacherSettings) -> None:
        """Add the decoder that exists during distillation only; it is the identity where dimensions agree.

        Targets are standardised before they are learned, and whitened with `teacher.whiten_targets`: mean and deviation of
        each dimension, and how dimensions go together, are measured first.
        """
        super().__init__()
        self.teacher = teacher
        self.backbone = backbone
        self.settings = settings
        same = teacher.descriptor_dim == backbone.descriptor_dim
        self.decoder: nn.Module = nn.Identity() if same else nn.Linear(teacher.descriptor_dim, backbone.descriptor_dim)
        self.scale = TargetScale(backbone.descriptor_dim, is_whitened=settings.whiten_targets)

    @property
    def trained(self) -> nn.ModuleDict:
        """What a checkpoint has to hold: teacher, decoder and the scale of the target; not the backbone."""
        return nn.ModuleDict({"teacher": self.teacher, "decoder": self.decoder, "scale": self.scale})

    def targets(self, images: Tensor) -> Tensor:
        """Return the targets (N, P) of all positions of a batch, on the scale on which they are learned."""
        with torch.no_grad():
            if self.settings.positions is TeacherPositions.patches:
                raw = self.backbone.describe(images).float()
            else:
                rows, cols = self.grid(images)
                raw = self.backbone.describe_positions(images, rows=rows, cols=cols)
                raw = raw.permute(0, 2, 3, 1).flatten(0, 2)
            scaled: Tensor = self.scale(raw)
        return scaled

    def descriptors(self, images: Tensor, *, shift: tuple[int, int] = (0, 0)) -> Tensor:
        """Return the teacher's descriptors (N, D) of all positions of a batch, optionally shifted by some pixels."""
        if self.settings.positions is TeacherPositions.patches:
            described: Tensor = self.teacher(_shifted(images, shift))
            return described.float()
        rows, cols = (
            (positions.start + by, positions.stop + by)
            for positions, by in zip(self._grid_positions(images), shift, strict=True)
        )
        maps = dense_descriptors_of_padded(
            self.teacher, images, rows=rows, cols=cols, stride=self.teacher.grid_stride_px
        )
        return maps.permute(0, 2, 3, 1).flatten(0, 2).float()

    def grid(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixel rows and columns whose patches lie inside the crop, as `descriptors` takes them."""
        rows, cols = (
            torch.tensor(positions, device=images.device) + self.teacher.patch_size // 2
            for positions in self._grid_positions(images)
        )
        return rows, cols

    def _grid_positions(self, images: Tensor) -> tuple[range, range]:
        """Return the first rows and columns of the patches; shifted ones of the metric loss stay inside the crop."""
        step = self.teacher.grid_stride_px
        first = step // 2 + (self.largest_shift if self.settings.metric_weight else 0)
        height, width = (side - self.teacher.patch_size + 1 for side in images.shape[-2:])
        return range(first, height - first, step), range(first, width - first, step)

    @property
    def largest_shift(self) -> int:
        """Shift of positive patches in the metric loss, in pixels: a quarter of the patch."""
        return (self.teacher.patch_size - 1) // 4

    def layer_weights(self, like: Tensor) -> Tensor:
        """Return the factor (P,) that gives every layer of the backbone the same total variance, whatever its width."""
        dims = self.backbone.layer_dims
        if not dims:
            return torch.ones_like(like)
        total = sum(dims)
        return torch.cat([like.new_full((width,), (total / (len(dims) * width)) ** 0.5) for width in dims])

    def losses(self, images: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the weighted terms of the loss by name; `generator` draws shift and noise of the positive patches."""
        descriptors = self.descriptors(images)
        terms = {"distillation": distillation_loss(self.decoder(descriptors), self.targets(images))}
        if self.settings.compactness_weight:
            terms["compactness"] = self.settings.compactness_weight * compactness_loss(descriptors)
        if self.settings.metric_weight:
            shifts = torch.randint(-self.largest_shift, self.largest_shift + 1, (2,), generator=generator)
            row, col = int(shifts[0]), int(shifts[1])
            noise = torch.randn(images.shape, generator=generator).to(images.device)
            positive = self.descriptors(images + 0.1 * noise, shift=(row, col))
            # Negatives: the same position of another picture; of patches, the one before, nearly always of another one.
            negative = descriptors.roll(len(descriptors) // len(images), dims=0)
            triplet = metric_loss(descriptors, positive, negative, margin=self.settings.metric_margin)
            terms["metric"] = self.settings.metric_weight * triplet
        return terms


def distil(
    distillation: Distillation,
    batches: Batches,
    *,
    steps: int,
    seed: int,
    compute: Compute,
    optimizer: torch.optim.Optimizer,
    checkpoint: TrainingCheckpoint,
    on_step: OnStep,
) -> float:
    """Train the teacher; return its explained variance on batches that no step saw.

    Args:
        distillation: Teacher, decoder and backbone; the teacher is trained in place.
        batches: Pictures of each step.
        steps: Number of optimiser steps.
        seed: Decides the positives of the metric loss.
        compute: Device and number format.
        optimizer: Of teacher and decoder.
        checkpoint: Saves and resumes; holds the parts `distillation` and `optimizer`.
        on_step: Called after every step.

    Raises:
        TrainingError: A loss is not finite.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    settings = distillation.settings
    distillation.to(compute.device).to(memory_format=torch.channels_last)
    start = checkpoint.resume()
    if start == 0:
        _set_target_statistics(distillation, batches, compute)
        if settings.start_from is not None:
            _fit_decoder(distillation, batches, compute)
    with checkpoint.guard():
        for step in range(start, steps):
            images = compute.to_device(batches(step))
            generator = step_generator(seed, stage="distill-teacher", step=step)
            with compute.autocast():
                terms = distillation.losses(images, generator=generator)
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            values = read_out({"loss": loss, **terms})
            set_learning_rate(
                optimizer,
                learning_rate(settings.learning_rate, schedule=settings.schedule, step=step, steps=steps),
            )
            if all(map(_is_finite, values.values())):
                if settings.max_gradient_norm is not None:
                    nn.utils.clip_grad_norm_(distillation.trained.parameters(), settings.max_gradient_norm)
                optimizer.step()
            checkpoint.after_step(step + 1, values, total=steps)
            on_step(step + 1, values)
    return explained_variance(distillation, batches, compute=compute)


@torch.no_grad()
def explained_variance(distillation: Distillation, batches: Batches, *, compute: Compute) -> float:
    """Return 1 - (squared error) / (variance of the target) over batches that no step saw.

    1 is a perfect teacher; 0 is one that answers the mean of these targets everywhere. Both are measured on standardised targets
    in which each layer of the backbone has the same weight, with whitening too, which is taken back for it: so the figures of
    teachers with and without whitening can be compared. (On whitened targets the many directions that matter little would
    count as much as the few that make up most of the backbone's variance.)
    """
    error = 0.0
    moments = RunningMoments()
    for number in range(NUM_HELD_OUT_BATCHES):
        images = compute.to_device(batches(-1 - NUM_STATISTICS_BATCHES - number))
        with compute.autocast():
            decoded = distillation.scale.standardised(distillation.decoder(distillation.descriptors(images)).float())
            target = distillation.scale.standardised(distillation.targets(images))
        error += float((decoded - target).double().square().sum())
        moments.update(target)
    total = moments.count * float(moments.std.square().sum())
    return 1 - error / max(total, 1e-12)


def _set_target_statistics(distillation: Distillation, batches: Batches, compute: Compute) -> None:
    """Measure mean and standard deviation of the targets, and what whitens them, on batches that no step sees."""
    raw = []
    for number in range(NUM_STATISTICS_BATCHES):
        with compute.autocast():
            raw.append(distillation.targets(compute.to_device(batches(-1 - number))).double())
    targets = torch.cat(raw)
    scale, mean = distillation.scale, targets.mean(dim=0)
    std = _floored(targets.std(dim=0), distillation.backbone.layer_dims)
    weights = distillation.layer_weights(std)
    if scale.is_whitened:  # measured while it is still the identity
        whitening, unwhitening = whitening_matrices((targets - mean) / std * weights, weights)
        scale.whitening.copy_(whitening)
        scale.unwhitening.copy_(unwhitening)
    scale.mean.copy_(mean)
    scale.std.copy_(std / weights)


@torch.no_grad()
def _fit_decoder(distillation: Distillation, batches: Batches, compute: Compute) -> None:
    """Give a teacher that knows something the decoder that fits it, by ridge regression on batches that no step sees.

    A decoder drawn at random would first of all pull the teacher away from what it knows. The fewer positions there are for each
    dimension (patches instead of whole crops), the stronger the ridge, or the decoder would fit these alone.
    """
    decoder = distillation.decoder
    if not isinstance(decoder, nn.Linear):
        return
    moments = RunningMoments(with_covariance=True)
    for number in range(NUM_STATISTICS_BATCHES):
        images = compute.to_device(batches(-1 - number))
        with compute.autocast():
            moments.update(torch.cat([distillation.descriptors(images), distillation.targets(images)], dim=1))
    dims = decoder.in_features
    covariance, mixed = moments.covariance[:dims].tensor_split([dims], dim=1)
    share = max(RIDGE, dims / moments.count)
    ridge = share * covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(dims).to(covariance)
    weight = torch.linalg.solve(covariance + ridge, mixed).T
    decoder.weight.copy_(weight)
    decoder.bias.copy_(moments.mean[dims:] - weight @ moments.mean[:dims])


def _floored(std: Tensor, layer_dims: list[int]) -> Tensor:
    """Raise the deviation of nearly constant dimensions to a tenth of the mean deviation of their layer.

    A feature that fires once in a thousand patches would otherwise be a target of a thousand deviations when it does, and
    drown all others.
    """
    layers = torch.split(std, layer_dims) if layer_dims else (std,)
    return torch.cat([layer.clamp(min=max(1e-3, 0.1 * float(layer.mean()))) for layer in layers])


def _is_finite(value: float) -> bool:
    return value - value == 0


def _shifted(patches: Tensor, shift: tuple[int, int]) -> Tensor:
    """Move the content of patches by some pixels; what enters at the border is the reflected rest of the patch."""
    if shift == (0, 0):
        return patches
    row, col = shift
    padded = nn.functional.pad(patches, (abs(col), abs(col), abs(row), abs(row)), mode="reflect")
    height, width = patches.shape[-2:]
    return padded[..., abs(row) + row : abs(row) + row + height, abs(col) + col : abs(col) + col + width]
