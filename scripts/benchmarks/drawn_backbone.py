"""A pretrained network without its weights, so that nothing is downloaded."""

from pathlib import Path

import torch


def drawn_resnet18(folder: Path) -> Path:
    """Write a ResNet-18 with drawn weights; what it computes takes as long as that of the trained one."""
    import torchvision

    torch.manual_seed(0)
    path = folder / "resnet18.pt"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path
