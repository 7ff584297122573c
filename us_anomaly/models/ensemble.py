"""The ensemble of students: M patch networks that differ in their initial weights only."""

import torch
from torch import nn

from us_anomaly.models.patch_network import PatchNetwork


class StudentEnsemble(nn.Module):
    """Hold M students of one architecture."""

    def __init__(
        self,
        num_students: int,
        *,
        patch_size: int,
        descriptor_dim: int,
        width: float,
        seed: int,
        extra_layers: int = 0,
    ) -> None:
        """Build students with independent initial weights.

        Args:
            num_students: Number M of students.
            patch_size: One of `ARCHITECTURES`.
            descriptor_dim: Length D of the descriptor.
            width: Multiplies the channels of every hidden layer.
            seed: Decides all initial weights; student k gets its own draw.
            extra_layers: 1x1 convolutions before the descriptor.
        """
        super().__init__()
        self.students = nn.ModuleList()
        for student in range(num_students):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed * 1_000_003 + student)  # torch.manual_seed: of all devices
                network = PatchNetwork(
                    patch_size, descriptor_dim=descriptor_dim, width=width, extra_layers=extra_layers
                )
                self.students.append(network)

    @property
    def patch_size(self) -> int:
        """Side of the patch in pixels."""
        return self.networks[0].patch_size

    @property
    def networks(self) -> list[PatchNetwork]:
        """The students."""
        return list(self.students)  # type: ignore[arg-type]
