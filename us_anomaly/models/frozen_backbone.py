"""The frozen backbone: a pretrained network that describes patches, or every position of an image.

`usad finetune-backbone` alone lets some of its weights go (`Backbone.unfreeze`); whatever takes a backbone finds it frozen.

Shapes: B patches or images, C channels, H W pixels, R S rows and columns of positions, P dimensions of the target.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from us_anomaly.errors import SettingsError
from us_anomaly.settings import BackboneSettings

DEEPEST_STAGE = 5
PROBE_SIDE_PX = 64
CENTRE_PROBE_SIDE_PX = 256

Stages = Callable[[Tensor, int], dict[int, Tensor]]
"""From pictures and the deepest stage that is wanted to the last feature map at stride 2**n, by depth n."""


class Backbone(nn.Module):
    """A frozen pretrained network that describes patches, or every position of an image."""

    def __init__(
        self,
        *,
        stages: Stages,
        final: Callable[[Tensor], Tensor],
        pooled: Callable[[Tensor], Tensor],
        network: nn.Module,
        settings: BackboneSettings,
    ) -> None:
        """Wrap a network.

        Args:
            stages: From pictures to the last feature map at stride 2**n, by depth n.
            final: From pictures to the last feature map of all.
            pooled: From pictures to the pooled last descriptor.
            network: Holds the weights that these functions use.
            settings: What the descriptor is made of.

        Raises:
            SettingsError: The network has not the layers that the settings name.
        """
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.layers = list(settings.layers)
        self.input_size_px = settings.input_size_px
        self._name = settings.name
        self._stages, self._final, self._pooled = stages, final, pooled
        probe = torch.zeros(1, 3, PROBE_SIDE_PX, PROBE_SIDE_PX)
        with torch.inference_mode():
            existing = stages(probe, DEEPEST_STAGE)
            missing = [layer for layer in self.layers if layer not in existing]
            if missing:
                raise SettingsError(
                    f"`backbone.layers`: {settings.name} has the stages {sorted(existing)}, got {missing}"
                )
            self.layer_dims = [int(existing[layer].shape[1]) for layer in self.layers]
            self.descriptor_dim = sum(self.layer_dims) if self.layers else int(pooled(probe).shape[1])
        self._centres: dict[int, float] = {}

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode whatever is asked: the backbone is frozen."""
        return super().train(mode and False)

    def unfreeze(self, *, frozen_stages: int) -> list[nn.Parameter]:
        """Let the weights that the descriptor depends on be trained, from some depth on, and return them.

        The network stays in evaluation mode: batch norms keep the means and variances of their pretraining, of which
        batches of a few pictures of one product would be poor estimates, and train scale and shift alone.

        Args:
            frozen_stages: The feature map at stride 2**n of this depth, and all that it is made of, stays as it is; 0 for none.

        Raises:
            SettingsError: Nothing is left to train.
        """
        probe = torch.zeros(2, 3, PROBE_SIDE_PX, PROBE_SIDE_PX, device=next(self.network.parameters()).device)
        self.network.requires_grad_(True)
        needed = self._behind(self.describe_whole(probe))
        maps = self._stages(probe, frozen_stages) if frozen_stages else {}
        early = self._behind(maps[max(maps)]) if maps else set()
        self.network.requires_grad_(False)
        trained = [weight for weight in self.network.parameters() if id(weight) in needed - early]
        if not trained:
            raise SettingsError(
                f"`finetuning.frozen_stages`={frozen_stages} leaves nothing of {self._name} to train: lower it, or let "
                "backbone.layers reach deeper"
            )
        for weight in trained:
            weight.requires_grad_(True)
        return trained

    def _behind(self, output: Tensor) -> set[int]:
        """Return the identities of the weights that an output depends on."""
        weights = list(self.network.parameters())
        gradients = torch.autograd.grad(output.sum(), weights, allow_unused=True)
        return {id(weight) for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None}

    def describe(self, patches: Tensor) -> Tensor:
        """Return the target descriptor of each patch.

        Args:
            patches: (B, 3, p, p), normalised; they are resized to `input_size_px`.

        Returns:
            (B, P): the pooled last descriptor, or the pooled maps of `backbone.layers` side by side.
        """
        size = (self.input_size_px, self.input_size_px)
        resized = nn.functional.interpolate(patches, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.describe_whole(resized)

    def describe_whole(self, images: Tensor) -> Tensor:
        """Return the target descriptor (B, P) of whole pictures (B, 3, H, W) as they are, without resizing them."""
        if not self.layers:
            return self._pooled(images)
        maps = self._stages(images, max(self.layers))
        return torch.cat([maps[layer].mean(dim=(2, 3)) for layer in self.layers], dim=1)

    def describe_positions(self, images: Tensor, *, rows: Tensor, cols: Tensor) -> Tensor:
        """Return the target descriptor at positions of whole images, interpolated from the feature maps.

        Args:
            images: (B, 3, H, W), normalised.
            rows: (R,) pixel rows.
            cols: (S,) pixel columns.

        Returns:
            (B, P, R, S).

        Raises:
            SettingsError: `backbone.layers` is empty and the pooled descriptor is no mean of the last feature map.
        """
        maps = self._maps(_padded_to_multiple(images, 2**DEEPEST_STAGE))
        return torch.cat(
            [_interpolate(maps[n].float(), 2**n, self.cell_centre(n), rows, cols) for n in sorted(maps)], dim=1
        )

    def _maps(self, images: Tensor) -> dict[int, Tensor]:
        """Return the feature maps that the descriptor is made of, by depth."""
        if self.layers:
            maps = self._stages(images, max(self.layers))
            return {layer: maps[layer] for layer in self.layers}
        final = self._final(images)
        if final.ndim != 4 or final.shape[1] != self.descriptor_dim:
            raise SettingsError(
                f"`backbone.layers` must name feature maps, for example [2,3,4], for teacher.positions=dense: the last "
                f"feature map of {self._name} is not what its pooled descriptor is made of"
            )
        return {round(math.log2(images.shape[-1] / final.shape[-1])): final}

    def cell_centre(self, layer: int) -> float:
        """Return the pixel that the first cell of a feature map looks at, measured by the gradient of a cell.

        Frameworks pad strided convolutions differently, which shifts their maps by up to a stride; a heatmap would be
        shifted with them.
        """
        if layer not in self._centres:
            self._centres[layer] = self._measure_centre(layer)
        return self._centres[layer]

    @torch.inference_mode(mode=False)
    @torch.enable_grad()
    def _measure_centre(self, layer: int) -> float:
        weight = next(self.network.parameters())
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(4, 3, CENTRE_PROBE_SIDE_PX, CENTRE_PROBE_SIDE_PX, generator=generator)
        noise = noise.to(weight.device, torch.float32).requires_grad_()
        features = self._maps(noise)[layer]
        cell = features.shape[-1] // 2
        features[..., cell, cell].float().square().sum().backward()  # type: ignore[no-untyped-call]
        assert noise.grad is not None
        sensitivity = noise.grad.abs().sum(dim=(0, 1, 3)) + noise.grad.abs().sum(dim=(0, 1, 2))  # rows, columns alike
        position = torch.arange(CENTRE_PROBE_SIDE_PX, device=sensitivity.device)
        centroid = float((sensitivity * position).sum() / sensitivity.sum())
        return float(round(centroid - cell * 2**layer))


def _padded_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Continue pictures (B, C, H, W) to the right and below until their sides are multiples.

    Networks with TensorFlow's padding shift their maps at other sizes, differently at each; `cell_centre` would be wrong.
    """
    height, width = images.shape[-2:]
    return nn.functional.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")


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
