"""The patch networks that teacher and students share: a p x p patch in, one descriptor out.

Shapes: B images or patches, C channels, H W pixels, D descriptor dimensions.

Source of the architectures: Bergmann et al., *Uninformed Students* (CVPR 2020), appendix; two misprints of the table for
p = 65 are resolved as a 3x3-free network of 128, 128, 256, 256 channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from us_anomaly.errors import SettingsError
from us_anomaly.models import winograd
from us_anomaly.settings import MAX_EXTRA_LAYERS, REDUCED, grid_stride_px
from us_anomaly.settings.checks import between

LEAKY_SLOPE = 5e-3


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution without padding; `channels` None stands for the descriptor dimension."""

    kernel: int
    channels: int | None


@dataclass(frozen=True, slots=True)
class Pool:
    """A 2x2 max-pooling with stride 2 that drops the last odd row and column."""


@dataclass(frozen=True, slots=True)
class Halve:
    """The mean of 2x2 pixels: what follows sees the picture at half its resolution."""


_PUBLISHED: dict[int, tuple[Conv | Pool, ...]] = {
    17: (Conv(6, 128), Conv(5, 256), Conv(5, 256), Conv(4, None)),
    33: (Conv(5, 128), Pool(), Conv(5, 256), Pool(), Conv(2, 256), Conv(4, None)),
    65: (Conv(5, 128), Pool(), Conv(5, 128), Pool(), Conv(5, 256), Pool(), Conv(4, 256), Conv(1, None)),
}
ARCHITECTURES: dict[int, tuple[Conv | Pool | Halve, ...]] = {
    **_PUBLISHED,
    **{large: (*[Halve()] * round(math.log2(large / small)), *_PUBLISHED[small]) for large, small in REDUCED.items()},
}
"""Layers by patch size: the published networks, and smaller ones at reduced resolution: more context for less arithmetic."""
SAME = Conv(1, 0)
"""An extra layer, which has as many channels as the one before."""


class PatchNetwork(nn.Module):
    """Describe patches of `patch_size` x `patch_size` pixels.

    Called on patches it gives one descriptor each; `us_anomaly.models.dense.dense_descriptors` applies it to every
    position of a whole image.
    """

    def __init__(self, patch_size: int, *, descriptor_dim: int, width: float = 1.0, extra_layers: int = 0) -> None:
        """Build a network with freshly drawn weights.

        Args:
            patch_size: One of `ARCHITECTURES`.
            descriptor_dim: Length D of the descriptor.
            width: Multiplies the channels of every hidden layer (rounded to a multiple of 8, at least 8).
            extra_layers: 1x1 convolutions before the one that gives the descriptor, as wide as what they get.

        Raises:
            SettingsError: There is no architecture for `patch_size`, or one cannot have so many extra layers.
        """
        super().__init__()
        if patch_size not in ARCHITECTURES:
            raise SettingsError(
                f"there is no patch network for {patch_size} pixels: choose from {sorted(ARCHITECTURES)}"
            )
        self.patch_size = patch_size
        self.descriptor_dim = descriptor_dim
        between("extra_layers", extra_layers, 0, MAX_EXTRA_LAYERS)
        self.width = width
        self.extra_layers = extra_layers
        self.layers = nn.ModuleList()
        channels = 3  # of the picture
        *hidden, last = ARCHITECTURES[patch_size]
        for layer in (*hidden, *[SAME] * extra_layers, last):
            if not isinstance(layer, Conv):
                self.layers.append(nn.MaxPool2d(2) if isinstance(layer, Pool) else nn.AvgPool2d(2))
                continue
            out_channels = descriptor_dim if layer.channels is None else max(8, round(layer.channels * width / 8) * 8)
            out_channels = channels if layer is SAME else out_channels
            self.layers.append(nn.Conv2d(channels, out_channels, layer.kernel))
            channels = out_channels
        self._initialise()

    def _initialise(self) -> None:
        """Draw He-normal weights, which keep the variance through leaky ReLU layers."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, patches: Tensor) -> Tensor:
        """Return the descriptors of whole patches.

        Args:
            patches: (B, C, p, p), normalised pictures.

        Returns:
            (B, D).
        """
        features = patches
        for index in range(len(self.layers)):
            features = self.apply_layer(index, features)
        return features.flatten(1)  # (B, D)

    def apply_layer(self, index: int, features: Tensor, *, stride: int = 1) -> Tensor:
        """Apply layer `index` and its activation; a wide convolution by minimal filtering where that is faster.

        Args:
            index: Position in `layers`.
            features: (B, C, H, W).
            stride: Stride of a convolution, for maps on a grid; ignored by pooling.
        """
        layer = self.layers[index]
        if not isinstance(layer, nn.Conv2d):
            return self.activate(index, layer(features))
        learns = torch.is_grad_enabled() and any(
            part.requires_grad for part in (features, *layer.parameters(recurse=False))
        )
        if stride == 1 and winograd.pays(features, layer.weight, learns=learns):
            if not learns:
                dtype, slope = winograd.result_dtype(features), LEAKY_SLOPE if self._is_active(index) else None
                return winograd.convolve(features, layer.weight, layer.bias, dtype=dtype, slope=slope)
            features = winograd.Convolution.apply(features, layer.weight, layer.bias)
        else:
            features = nn.functional.conv2d(features, layer.weight, layer.bias, stride=stride)
        return self.activate(index, features)

    def activate(self, index: int, features: Tensor) -> Tensor:
        """Return what layer `index` gave after its leaky ReLU, if it has one; in place where nothing learns.

        A convolution before a max-pooling leaves it to the pooling: the activation rises with its argument, so the largest of
        activated values is the activation of the largest, and on a grid there are a quarter as many.
        """
        if not self._is_active(index):
            return features
        learns = torch.is_grad_enabled() and features.requires_grad
        return nn.functional.leaky_relu(features, LEAKY_SLOPE, inplace=not learns)

    def _is_active(self, index: int) -> bool:
        """Return whether a leaky ReLU comes right after layer `index`."""
        layer, *following = self.layers[index : index + 2]
        if isinstance(layer, nn.Conv2d):
            return bool(following) and not isinstance(following[0], nn.MaxPool2d)
        return isinstance(layer, nn.MaxPool2d)

    @property
    def grid_stride_px(self) -> int:
        """Distance of the positions that training looks at in one picture: four pixels as the first convolution sees them.

        So much the two poolings of the smaller networks come to, and less costs a multiple: see `us_anomaly.models.dense`.
        """
        return grid_stride_px(self.patch_size)

    @property
    def strided_layer(self) -> int:
        """Index of the last convolution that looks at more than one position: a grid's stride is taken there."""
        return max(
            index
            for index, layer in enumerate(self.layers)
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
        )


def at_reduced_resolution(network: PatchNetwork, patch_size: int) -> PatchNetwork:
    """Return a network of the same weights that looks at larger patches of the picture at a half or a quarter of its resolution.

    Args:
        network: Of the patch size that `REDUCED` names.
        patch_size: One of `REDUCED`.
    """
    reduced = PatchNetwork(
        patch_size, descriptor_dim=network.descriptor_dim, width=network.width, extra_layers=network.extra_layers
    )
    reduced.load_state_dict(dict(zip(reduced.state_dict(), network.state_dict().values(), strict=True)))
    return reduced
