"""Settings as the command line composes them, and a pretrained network without its weights, so that nothing is downloaded."""

import functools
from pathlib import Path

import torch

from us_anomaly.cli import config_dir, register_schemas, to_settings
from us_anomaly.settings import Settings


@functools.cache
def composed(*overrides: str) -> Settings:
    """Return the default settings with some overrides."""
    import hydra

    register_schemas()
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        settings: Settings = to_settings(hydra.compose(config_name="run", overrides=["run_dir=unused", *overrides]))
        return settings


def drawn_resnet18(folder: Path) -> Path:
    """Write a ResNet-18 with drawn weights; what it computes takes as long as that of the trained one."""
    import torchvision

    torch.manual_seed(0)
    path = folder / "resnet18.pt"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path
