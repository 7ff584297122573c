"""Transform lists: from a picture in bytes to the input of a network, with a head that runs once.

Shapes: H W pixels of the file, h w of the network's input. Pictures are `tv_tensors.Image` from the start, so
that every transform works on tensors, never on PIL pictures. Random numbers come from torch's global
generator, which callers seed.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from us_anomaly.data.bands import bands
from us_anomaly.data.transform_factory import (
    END_OF_BYTES,
    PATCH_SIZE,
    PATCH_SIZE_SQRT2,
    is_random,
    make_transform,
)
from us_anomaly.errors import DataError, SettingsError
from us_anomaly.settings.dataset import TransformSettings

PROBE_SIZE_PX = 512
MAX_PROBE_SIZE_PX = 4096
PROBE_DRAWS = 12
WHITE = 250  # interpolation may round 255 down

log = logging.getLogger(__name__)

LEAVES_GAPS = {
    "ElasticTransform", "RandomAffine", "RandomPerspective", "RandomRotation", "RandomZoomOut",
}  # fmt: skip
CHANGES_SIZE = {
    "CenterCrop", "Pad", "RandomCrop", "RandomResize", "RandomResizedCrop", "RandomShortestSize", "RandomZoomOut", "Resize",
    "ScaleJitter",
}  # fmt: skip
EACH_PIXEL_ALONE = {"Normalize", "ToDtype", "ToImage"}
MOVES_PIXELS = LEAVES_GAPS | {
    "CenterCrop", "Pad", "RandomCrop", "RandomHorizontalFlip", "RandomResizedCrop", "RandomVerticalFlip",
    "Resize",
}  # fmt: skip


class Pipeline:
    """A built transform list. Make one with `build_transforms`."""

    def __init__(self, head: Sequence[v2.Transform], tail: Sequence[v2.Transform], *, key: str) -> None:
        """Hold the two parts.

        Args:
            head: Deterministic, from bytes to bytes; its result may be cached.
            tail: The rest.
            key: Where the list stands in the configuration.
        """
        self._head = list(head)
        self._tail = list(tail)
        self._key = key

    def prefix(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Apply the deterministic head: uint8 (H, W, 3) -> uint8 tensor (3, H', W').

        Raises:
            DataError: The list cannot be applied to a picture of this size.
        """
        writable = np.require(image, np.uint8, ["C", "W"])  # torch warns about arrays that are not
        picture = torch.from_numpy(writable).permute(2, 0, 1)  # channels last in memory: resizes ten times faster
        return self._apply(self._head, picture).contiguous()

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of what `prefix` makes of a picture of some height and width."""
        height, width = self.prefix(np.zeros((*size, 3), dtype=np.uint8)).shape[-2:]
        return height, width

    def suffix(self, picture: torch.Tensor) -> torch.Tensor:
        """Apply the rest: uint8 (3, H', W') -> floating (3, h, w); `picture` is not changed.

        A large picture is taken by bands of rows where no pixel depends on another: every transform makes a copy of what it
        gets, and copies of all of a large picture in floating point are what fills the memory.

        Raises:
            DataError: The list cannot be applied to a picture of this size.
        """
        first, *others = bands(*picture.shape[-2:])
        if not others or not self._ends_pixel_by_pixel:
            return self._apply(self._tail, picture)
        top = self._apply(self._tail, picture[:, first])
        whole = top.new_empty(top.shape[0], *picture.shape[1:])
        whole[:, first] = top
        for rows in others:
            whole[:, rows] = self._apply(self._tail, picture[:, rows])
        return whole

    def by_parts(self, picture: torch.Tensor) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Return a picture (3, H', W') and what makes the network's input of any part of it.

        Where no pixel depends on another these are `picture` and the rest of the list; otherwise the whole network's input and
        the identity.

        Raises:
            DataError: The list cannot be applied to a picture of this size.
        """
        if self._ends_pixel_by_pixel:
            return picture, self.suffix
        return self.suffix(picture), lambda part: part

    @property
    def _ends_pixel_by_pixel(self) -> bool:
        return all(type(transform).__name__ in EACH_PIXEL_ALONE for transform in self._tail)

    def __call__(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Apply the whole list: uint8 (H, W, 3) -> floating (3, h, w)."""
        return self.suffix(self.prefix(image))

    def _apply(self, transforms: Sequence[v2.Transform], picture: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = tv_tensors.Image(picture)
        try:
            for transform in transforms:
                result = transform(result)
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            height, width = picture.shape[1:]
            raise DataError(f"`{self._key}` fails on a picture of {height}x{width} pixels: {reason}") from error
        return result.as_subclass(torch.Tensor)


def build_transforms(entries: Sequence[TransformSettings], *, key: str, patch_size: int | None) -> Pipeline:
    """Build a transform list and try it on a picture of 512 x 512 pixels, or larger where it begins with a larger random crop.

    Args:
        entries: Names and keyword arguments.
        key: Where the list stands, for example `augmentation.students`; quoted in messages.
        patch_size: Side of the patches that the list must end with; None for lists that give whole pictures.

    Raises:
        SettingsError: A name or argument is wrong, `augmentation.evaluation` draws random numbers, the list
            does not end with floating tensors of three channels (and of the patch size), or rotated patches
            would have corners from outside of the picture.
    """
    randomness = [is_random(entry) for entry in entries]
    if key.endswith("evaluation") and any(randomness):
        index = randomness.index(True)
        raise SettingsError(
            f"`{key}[{index}].name`: {entries[index].name} is random, and evaluation must give the same "
            "scores every time; leave it out here (it may stand in augmentation.students)"
        )
    transforms = [
        make_transform(entry, key=f"{key}[{index}]", patch_size=patch_size) for index, entry in enumerate(entries)
    ]
    head = 0
    while head < len(entries) and not randomness[head] and entries[head].name not in END_OF_BYTES:
        head += 1
    pipeline = Pipeline(transforms[:head], transforms[head:], key=key)
    side_px = _probe_side(entries)
    _try_out(pipeline, key=key, patch_size=patch_size, side_px=side_px)
    if any(entry.name in LEAVES_GAPS for entry in entries):
        _check_corners(entries, key=key, patch_size=patch_size, side_px=side_px)
    return pipeline


def _probe_side(entries: Sequence[TransformSettings]) -> int:
    """Return the side of a picture from which a crop at the beginning can be taken; what pictures there are is not known here."""
    first = next((entry for entry in entries if entry.name in CHANGES_SIZE), None)
    if first is None or first.name != "RandomCrop":
        return PROBE_SIZE_PX
    size = first.params.get("size")
    sides = [side for side in (size if isinstance(size, list) else [size]) if isinstance(side, int)]
    return min(max([PROBE_SIZE_PX, *sides]), MAX_PROBE_SIZE_PX)


def _try_out(pipeline: Pipeline, *, key: str, patch_size: int | None, side_px: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the graphics cards too
        probe = torch.randint(0, 256, (side_px, side_px, 3), dtype=torch.uint8).numpy()
        try:
            result = pipeline(probe)
        except DataError as error:
            raise SettingsError(str(error)) from error
    if not result.is_floating_point():
        raise SettingsError(
            f"`{key}` gives {str(result.dtype).removeprefix('torch.')} values: add "
            "{name: ToDtype, params: {dtype: float32, scale: true}}"
        )
    if result.ndim != 3 or result.shape[0] != 3:
        raise SettingsError(
            f"`{key}` gives pictures of shape {tuple(result.shape)}; the networks need three channels "
            "(Grayscale takes num_output_channels: 3)"
        )
    if patch_size is not None and result.shape[1:] != (patch_size, patch_size):
        raise SettingsError(
            f"`{key}` gives pictures of {result.shape[1]}x{result.shape[2]} pixels, but the patch size is "
            f"{patch_size}: end the geometric part with {{name: CenterCrop, params: {{size: {PATCH_SIZE}}}}}"
        )


def _check_corners(entries: Sequence[TransformSettings], *, key: str, patch_size: int | None, side_px: int) -> None:
    """Send a white picture through what moves pixels; black in the result came from outside of the picture.

    Where the user chose `fill` (or Pad, or a padding crop), gaps are meant and count as white.
    """
    movers = []
    for index, entry in enumerate(entries):
        if entry.name not in MOVES_PIXELS:
            continue
        chosen = "fill" in entry.params or entry.name == "Pad" or entry.params.get("padding") is not None
        parameters = entry.params | {"fill": 255} if chosen else entry.params
        entry = TransformSettings(name=entry.name, params=parameters)
        movers.append(make_transform(entry, key=f"{key}[{index}]", patch_size=patch_size))
    white = torch.full((3, side_px, side_px), 255, dtype=torch.uint8)
    geometry = Pipeline([], movers, key=key)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        complete = all(int(geometry.suffix(white).min()) >= WHITE for _ in range(PROBE_DRAWS))
    if complete:
        return
    culprit = next(entry.name for entry in entries if entry.name in LEAVES_GAPS)
    if patch_size is None:
        log.warning("`%s`: %s leaves black corners in the pictures; set its `fill` if that matters", key, culprit)
        return
    raise SettingsError(
        f"`{key}`: {culprit} leaves black corners in the patches, which would be learnt as normal: "
        f"crop with a margin before it, {{name: RandomCrop, params: {{size: {PATCH_SIZE_SQRT2}}}}}, and "
        f"{{name: CenterCrop, params: {{size: {PATCH_SIZE}}}}} after it (or set its `fill`)"
    )
