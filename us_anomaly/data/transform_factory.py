"""From one entry of a transform list to one torchvision transform; nothing is evaluated.

Only transforms that take one picture and plain values are offered. Left out on purpose: what takes callables
or other transforms (Lambda, Compose, RandomApply), what needs boxes or labels, what returns several pictures
or no tensor, and what is deprecated (ToTensor, JPEG).
"""

import difflib
import inspect
import math
from typing import Any

import torch
from torchvision.transforms import v2

from us_anomaly.errors import SettingsError
from us_anomaly.settings.dataset import TransformSettings

PATCH_SIZE = "patch_size"
PATCH_SIZE_SQRT2 = "patch_size_sqrt2"

DETERMINISTIC = {
    "CenterCrop", "ConvertImageDtype", "Grayscale", "Identity", "Normalize", "PILToTensor", "Pad", "RGB",
    "Resize", "ToDtype", "ToImage", "ToPureTensor",
}  # fmt: skip
RANDOM = {
    "AugMix", "AutoAugment", "ColorJitter", "ElasticTransform", "GaussianBlur", "GaussianNoise",
    "RandAugment", "RandomAdjustSharpness", "RandomAffine", "RandomAutocontrast", "RandomChannelPermutation",
    "RandomCrop", "RandomEqualize", "RandomErasing", "RandomGrayscale", "RandomHorizontalFlip",
    "RandomInvert", "RandomPerspective", "RandomPhotometricDistort", "RandomPosterize", "RandomResize",
    "RandomResizedCrop", "RandomRotation", "RandomShortestSize", "RandomSolarize", "RandomVerticalFlip",
    "RandomZoomOut", "ScaleJitter", "TrivialAugmentWide",
}  # fmt: skip
END_OF_BYTES = {"ConvertImageDtype", "Normalize", "ToDtype"}
"""The first of these ends the part of a list that works on bytes."""

DTYPES = {
    "float32": torch.float32,
    "uint8": torch.uint8,
}


def make_transform(entry: TransformSettings, *, key: str, patch_size: int | None) -> v2.Transform:
    """Build the transform that an entry names.

    Args:
        entry: Name and keyword arguments.
        key: Where the entry stands, for example `augmentation.students[2]`.
        patch_size: What `patch_size` stands for; None where there are no patches.

    Raises:
        SettingsError: The name is unknown or not offered, or the class refuses the arguments.
    """
    kind = _look_up(entry.name, key=key)
    parameters = {name: _resolve(name, value, key=key, patch_size=patch_size) for name, value in entry.params.items()}
    known = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise SettingsError(f"`{key}.params.{unknown[0]}` is unknown: {entry.name} takes {', '.join(known) or 'none'}")
    if parameters.get("inplace"):
        raise SettingsError(f"`{key}.params.inplace` must be false: pictures are cached and must not be changed")
    if "antialias" in known:
        parameters.setdefault("antialias", True)  # without it small pictures alias and defects flicker
    try:
        transform: v2.Transform = kind(**parameters)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"`{key}.params` {entry.params}: {entry.name} refuses them ({error})") from error
    return transform


def is_random(entry: TransformSettings) -> bool:
    """Return whether the transform of an entry draws random numbers; a blur of one fixed sigma does not."""
    if entry.name == "GaussianBlur":
        sigma = entry.params.get("sigma")
        fixed = isinstance(sigma, int | float) or (isinstance(sigma, list) and len(set(sigma)) == 1)
        return not fixed
    return entry.name in RANDOM


def covering_size(patch_size: int) -> int:
    """Return the smallest side, of the parity of `patch_size`, that covers the patch at any rotation."""
    side = math.ceil(patch_size * math.sqrt(2))
    return side if side % 2 == patch_size % 2 else side + 1


def _look_up(name: str, *, key: str) -> type[v2.Transform]:
    offered = DETERMINISTIC | RANDOM
    if name in offered:
        kind: type[v2.Transform] | None = getattr(v2, name, None)
        if kind is None:
            raise SettingsError(f"`{key}.name`: this version of torchvision has no {name}; pip install -U torchvision")
        return kind
    known = getattr(v2, name, None) if name.isidentifier() else None
    if name == "ToTensor":
        raise SettingsError(
            f"`{key}.name`: ToTensor is deprecated: use ToImage, ToDtype {{dtype: float32, scale: true}}"
        )
    if inspect.isclass(known) and issubclass(known, v2.Transform):
        raise SettingsError(
            f"`{key}.name`: {name} cannot stand in a list of plain values: it takes callables, other "
            "transforms, labels or boxes, does not return one picture, or is deprecated"
        )
    close = difflib.get_close_matches(name, offered, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(close)}?" if close else "see torchvision.transforms.v2 for the names"
    raise SettingsError(f"`{key}.name` is {name!r}, which torchvision.transforms.v2 does not have; {advice}")


def _resolve(name: str, value: Any, *, key: str, patch_size: int | None) -> Any:
    """Return the value that torchvision expects for a value as it stands in the configuration."""
    if isinstance(value, list):
        return [_resolve(name, item, key=key, patch_size=patch_size) for item in value]
    if not isinstance(value, str):
        return value
    if value in (PATCH_SIZE, PATCH_SIZE_SQRT2):
        if patch_size is None:
            raise SettingsError(
                f"`{key}.params.{name}` is {value}, but there are no patches here: give a number of pixels "
                "(patch sizes belong into `augmentation.teacher`)"
            )
        return patch_size if value == PATCH_SIZE else covering_size(patch_size)
    match name:
        case "dtype":
            return _choose(value, DTYPES, key=f"{key}.params.dtype")
        case "interpolation":
            modes = {mode.value: mode for mode in v2.InterpolationMode}
            return _choose(value, modes, key=f"{key}.params.interpolation")
        case "policy":
            policies = {policy.value: policy for policy in v2.AutoAugmentPolicy}
            return _choose(value, policies, key=f"{key}.params.policy")
        case "size":
            raise SettingsError(
                f"`{key}.params.size` must be pixels, {PATCH_SIZE} or {PATCH_SIZE_SQRT2}, got {value!r}"
            )
        case _:
            return value


def _choose(value: str, choices: dict[str, Any], *, key: str) -> Any:
    if value not in choices:
        raise SettingsError(f"`{key}` must be one of {', '.join(choices)}, got {value!r}")
    return choices[value]
