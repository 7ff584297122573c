"""Validation of students while they learn: the best weights are kept, and a training that no longer gets better ends.

Shapes: D descriptor dimensions, N positions of the training grid.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import descriptors_by_tile
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.training.normalization import TeacherStatistics


class Validation:
    """Regression error on normal pictures that train nothing; its state is saved and resumed with the training's."""

    def __init__(self, pictures: Callable[[], Iterable[Tensor]], *, every_steps: int, patience: int | None) -> None:
        """Start with nothing measured.

        Args:
            pictures: Returns the normalised normal pictures of validation (3, H, W); called at every validation.
            every_steps: Steps between two validations.
            patience: Number of validations in a row without a smaller error after which training ends; None for never.
        """
        self._pictures = pictures
        self._every_steps = every_steps
        self._patience = patience
        self._best: float | None = None
        self._num_worse = 0
        self._weights: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether training ends here."""
        return self._patience is not None and self._num_worse >= self._patience

    def is_due(self, step: int, *, steps: int) -> bool:
        """Return whether to measure after `step` of `steps` steps."""
        return step % self._every_steps == 0 or step == steps

    def measure(
        self, ensemble: StudentEnsemble, teacher: PatchNetwork, statistics: TeacherStatistics, *, compute: Compute
    ) -> float:
        """Return the mean regression error and remember the weights if it is the smallest so far."""
        error = mean_regression_error(ensemble, teacher, statistics, self._pictures(), compute=compute)
        if self._best is None or error < self._best:
            self._best, self._num_worse = error, 0
            self._weights = {name: tensor.detach().clone() for name, tensor in ensemble.state_dict().items()}
        else:
            self._num_worse += 1
        return error

    def restore(self, ensemble: StudentEnsemble) -> None:
        """Give the ensemble the weights of the smallest error."""
        ensemble.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the smallest error, its weights, and how many validations were not better since."""
        return {"best": self._best, "num_worse": self._num_worse, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._best, self._num_worse = state_dict["best"], int(state_dict["num_worse"])
        self._weights = dict(state_dict["weights"])


@torch.no_grad()
def mean_regression_error(
    ensemble: StudentEnsemble,
    teacher: PatchNetwork,
    statistics: TeacherStatistics,
    images: Iterable[Tensor],
    *,
    compute: Compute,
) -> float:
    """Return the mean of (mean_k S_k - target)^2 over all images, grid positions and dimensions.

    Args:
        ensemble: The students.
        teacher: The distilled patch network.
        statistics: Of the teacher.
        images: Normalised pictures (3, H, W), one at a time.
        compute: Device and number format.
    """
    total, count = 0.0, 0
    networks = [teacher, *ensemble.networks]
    for image in images:
        for described, *answers in _by_tile(networks, image, compute=compute):
            target = statistics.normalize(described)
            mean = torch.stack([answer.float() for answer in answers]).mean(dim=0)  # (N, D)
            total += float((mean - target).double().square().sum())
            count += target.numel()
    return total / count


@torch.no_grad()
def mean_uncertainty(ensemble: StudentEnsemble, images: Iterable[Tensor], *, compute: Compute) -> float:
    """Return how much the students disagree: mean_k (S_k - mean S)^2, over all images, grid positions and dimensions.

    Args:
        ensemble: The students.
        images: Normalised pictures (3, H, W), one at a time.
        compute: Device and number format.
    """
    total, count = 0.0, 0
    for image in images:
        for answers in _by_tile(ensemble.networks, image, compute=compute):
            variance = torch.stack(answers).double().var(dim=0, correction=0)  # (N, D)
            total += float(variance.sum())
            count += variance.numel()
    return total / count


def _by_tile(networks: Sequence[PatchNetwork], image: Tensor, *, compute: Compute) -> Iterator[list[Tensor]]:
    """Yield the descriptors (N, D) of all networks at the positions of the training grid."""
    batch = compute.to_device(image[None])
    return descriptors_by_tile(networks, batch, stride=networks[0].grid_stride_px, compute=compute)
