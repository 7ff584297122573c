"""Fine-tuning: the backbone learns to tell normal training pictures from copies with a pasted piece or a scar.

The task needs no labels and no defects: each crop of a normal picture is shown as it is, with a rectangle of it pasted
elsewhere, and with a thin turned strip of it pasted elsewhere. A classifier on the pooled descriptor, the one that the
teacher will learn, says which it is; its gradients shape the backbone. Part of the training pictures is held out and says when
to stop. The classifier is thrown away.

Shapes: B crops, 3B pictures (normal ones first, then cut-paste, then scars), H W pixels, P dimensions of the descriptor.

Source: Li et al., *CutPaste* (CVPR 2021), the three-way task, there with a ResNet-18 and its last descriptor.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from us_anomaly.data.augmentation import Pipeline
from us_anomaly.data.image_cache import ImageCache
from us_anomaly.data.synthetic_defects import add_synthetic_defect
from us_anomaly.errors import DataError
from us_anomaly.models.compute import Compute
from us_anomaly.models.frozen_backbone import Backbone
from us_anomaly.settings import FinetuningSettings
from us_anomaly.training.artifacts import weights_of
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import Batches, OnStep, epoch_indices, step_rng
from us_anomaly.training.pictures import TrainingPictures

STAGE = "finetune-backbone"
DEFECTS = ("cut_paste", "scar")
NUM_CLASSES = 1 + len(DEFECTS)
NUM_HELD_OUT_CROPS = 128


class DefectClassifier(nn.Module):
    """The backbone with a small head that says: normal, cut-paste or scar."""

    def __init__(self, backbone: Backbone, *, head_width: int) -> None:
        """Put a head with one hidden layer, or a linear one for width 0, on the pooled descriptor."""
        super().__init__()
        self.backbone = backbone
        dims = backbone.descriptor_dim
        hidden: list[nn.Module] = [nn.Linear(dims, head_width), nn.ReLU()] if head_width else []
        self.head = nn.Sequential(nn.LayerNorm(dims), *hidden, nn.Linear(head_width or dims, NUM_CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 3) of pictures (N, 3, H, W)."""
        logits: Tensor = self.head(self.backbone.describe_whole(images).float())
        return logits.float()


class BestWeights:
    """The weights with the lowest held-out loss so far, and how long there was no lower one."""

    def __init__(self, network: nn.Module) -> None:
        """Watch a network."""
        self._network = network
        self.loss = math.inf
        """The lowest."""
        self.accuracy = 0.0
        """At the lowest loss."""
        self.step = 0
        """When that was."""
        self.latest = (math.inf, 0.0)
        """Loss and accuracy of the last measurement."""
        self.num_without_gain = 0
        """Measurements since the lowest."""
        self.weights: dict[str, Tensor] = {}

    def offer(self, loss: float, *, accuracy: float, step: int) -> None:
        """Note a measurement, and copy the weights if the loss is the lowest so far."""
        self.latest = (loss, accuracy)
        self.num_without_gain += 1
        if loss < self.loss:
            self.loss, self.accuracy, self.step, self.num_without_gain = loss, accuracy, step, 0
            self.weights = weights_of(self._network)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training has to know."""
        return {name: value for name, value in vars(self).items() if name != "_network"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        for name in self.state_dict():
            setattr(self, name, state_dict[name])


def divide(groups: Sequence[str | None], *, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide the training pictures, by number, into those that are trained on and those that are held out.

    Args:
        groups: The group of each picture; pictures of one group stay together.
        fraction: Share to hold out; at least one picture, or group, is on either side.
        seed: Decides which.

    Raises:
        DataError: There are not two pictures, or groups, to divide.
    """
    units: dict[tuple[str, str | int], list[int]] = {}
    for number, group in enumerate(groups):
        units.setdefault(("alone", number) if group is None else ("group", group), []).append(number)
    if len(units) < 2:
        raise DataError(
            f"fine-tuning holds out part of the training pictures, and there is only {len(units)} (pictures of one group "
            "count as one): add normal pictures, or set finetuning.enabled=false"
        )
    parts = list(units.values())
    wanted = max(1, round(fraction * len(groups)))
    held_out: list[int] = []
    order = np.random.default_rng([seed, zlib.crc32(f"{STAGE}/divide".encode())]).permutation(len(parts))
    for index in order[:-1]:
        if len(held_out) < wanted:
            held_out += parts[index]
    return [number for number in range(len(groups)) if number not in set(held_out)], held_out


def three_ways(crops: Sequence[np.ndarray], rng: np.random.Generator, *, pipeline: Pipeline) -> Tensor:
    """Return crops (H, W, 3) as they are, with a pasted piece, and with a scar: (3B, 3, H, W), normalised."""
    shown = list(crops)
    shown += [add_synthetic_defect(crop, rng, kind=kind)[0] for kind in DEFECTS for crop in crops]
    return torch.stack([pipeline.suffix(torch.tensor(picture).permute(2, 0, 1)) for picture in shown])


def classes_of(images: Tensor) -> Tensor:
    """Return the true classes (3B,) of what `three_ways` gives."""
    return torch.arange(NUM_CLASSES, device=images.device).repeat_interleave(len(images) // NUM_CLASSES)


def training_batches(
    cache: ImageCache, numbers: Sequence[int], pipeline: Pipeline, *, settings: FinetuningSettings, seed: int
) -> Batches:
    """Return the pictures of each step: every epoch takes a random crop of each of the pictures `numbers`."""
    source = TrainingPictures(cache, size_px=(settings.crop_size_px, settings.crop_size_px))

    def draw(step: int) -> Tensor:
        rng = step_rng(seed, stage=STAGE, step=step)
        chosen = epoch_indices(len(numbers), seed=seed, stage=STAGE, step=step, batch_size=settings.batch_size)
        return three_ways([source.crop(numbers[index], rng) for index in chosen], rng, pipeline=pipeline)

    return draw


def held_out_batches(
    cache: ImageCache, numbers: Sequence[int], pipeline: Pipeline, *, settings: FinetuningSettings, seed: int
) -> list[Tensor]:
    """Return the same crops of the pictures `numbers` for every measurement."""
    source = TrainingPictures(cache, size_px=(settings.crop_size_px, settings.crop_size_px))
    rng = np.random.default_rng([seed, zlib.crc32(f"{STAGE}/held-out".encode())])
    crops = [source.crop(numbers[number % len(numbers)], rng) for number in range(NUM_HELD_OUT_CROPS)]
    size = settings.batch_size
    return [three_ways(crops[first : first + size], rng, pipeline=pipeline) for first in range(0, len(crops), size)]


def finetune(
    classifier: DefectClassifier,
    batches: Batches,
    held_out: Sequence[Tensor],
    *,
    steps: int,
    steps_per_epoch: int,
    patience: int,
    compute: Compute,
    optimizer: torch.optim.Optimizer,
    best: BestWeights,
    checkpoint: TrainingCheckpoint,
    on_step: OnStep,
) -> None:
    """Train the backbone in place; `best` has the weights to keep.

    Args:
        classifier: Backbone, some of whose weights are unfrozen, and head.
        batches: Pictures of each step, as `three_ways` gives them.
        held_out: Pictures that no step sees.
        steps: Largest number of optimiser steps.
        steps_per_epoch: The held-out loss is measured after as many steps, and at the end.
        patience: Stop after as many measurements without a lower loss.
        compute: Device and number format.
        optimizer: Of the unfrozen weights and the head.
        best: Watches the backbone's network.
        checkpoint: Saves and resumes; holds classifier, `optimizer` and `best`.
        on_step: Called after every step.

    Raises:
        TrainingError: A loss is not finite.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    classifier.to(compute.device).to(memory_format=torch.channels_last)
    start = checkpoint.resume()
    if start == 0:
        loss, accuracy = held_out_loss(classifier, held_out, compute=compute)
        best.offer(loss, accuracy=accuracy, step=0)
    with checkpoint.guard():
        for step in range(start, steps):
            if best.num_without_gain >= patience:
                break
            images = compute.to_device(batches(step))
            with compute.autocast():
                logits = classifier(images)
            training_loss = nn.functional.cross_entropy(logits, classes_of(images))
            if bool(torch.isfinite(training_loss)):
                optimizer.zero_grad(set_to_none=True)
                training_loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            done = step + 1
            if done % steps_per_epoch == 0 or done == steps:
                loss, accuracy = held_out_loss(classifier, held_out, compute=compute)
                best.offer(loss, accuracy=accuracy, step=done)
            values = {"loss": training_loss.item()}
            values["held_out_loss"], values["held_out_accuracy"] = best.latest
            checkpoint.after_step(done, values, total=steps)
            on_step(done, values)
            if best.num_without_gain >= patience:
                checkpoint.save(done)  # the last step, though no end that was known before


@torch.no_grad()
def held_out_loss(classifier: DefectClassifier, held_out: Sequence[Tensor], *, compute: Compute) -> tuple[float, float]:
    """Return the mean cross-entropy over held-out pictures, and the share of them that is told right."""
    loss, num_right, count = 0.0, 0, 0
    for batch in held_out:
        images = compute.to_device(batch)
        truth = classes_of(images)
        with compute.autocast():
            logits = classifier(images)
        loss += nn.functional.cross_entropy(logits, truth, reduction="sum").item()
        num_right += int((logits.argmax(dim=1) == truth).sum())
        count += len(images)
    return loss / count, num_right / count
