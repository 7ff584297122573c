"""Settings of the teacher: what it learns from and how, and what all patch networks share."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from us_anomaly.errors import SettingsError
from us_anomaly.settings.checks import above, at_least, between, expanded

BUILTIN = "builtin"
"""Stands in the place of a path for the generic teachers that ship with the package."""
REDUCED = {66: 33, 132: 33}
"""Patch sizes whose network is a smaller one on the picture at a half or a quarter of its resolution, by that smaller one."""
PATCH_SIZES = (17, 33, 65, *REDUCED)
"""Sides of the patches in pixels."""
TRAIN = "train"
"""The source of `teacher.images` that is the training split."""
BUILT_IN_PICTURES = {"generic": 0.6, "photographs": 1.0, "procedural": 0.0}
"""The sources of pictures that come with the package, with the share of crops of photographs among them; the rest is drawn."""
GRID_STRIDE = 4
"""Distance of the positions that training looks at in one picture, in pixels as the first convolution sees them."""


def grid_stride_px(patch_size: int) -> int:
    """Return `GRID_STRIDE` in pixels of the picture, which networks of large patches see at a reduced resolution."""
    return GRID_STRIDE * (patch_size // REDUCED.get(patch_size, patch_size))


class TeacherPositions(Enum):
    """Which positions of a training picture the teacher learns from."""

    patches = "patches"
    dense = "dense"


class StudentPositions(Enum):
    """Which positions of a training picture the students see in one step."""

    grid = "grid"
    dense = "dense"


class OptimizerName(Enum):
    """How gradients become steps."""

    adam = "adam"
    muon = "muon"


class Schedule(Enum):
    """Course of the learning rate over the training steps."""

    constant = "constant"
    cosine = "cosine"


@dataclass(kw_only=True, slots=True)
class TeacherSettings:
    """Distillation of the backbone into the patch network."""

    images: Any
    """What the teacher learns from: `train` (the training split), `generic` (photographs that installed packages carry
    and procedural pictures, three to two; no download), one part of it alone (`photographs`, `procedural`), a folder of
    any pictures (`./photographs` for one of such a name), or a mix with weights such as {train: 0.3, generic: 0.7}."""
    checkpoint: str | None
    """Reuse a teacher and skip distillation: a path, in which `{patch_size}` stands for that of each scale, or `builtin` for the
    generic teachers that ship with the package."""
    start_from: str | None
    """Begin the distillation with the weights of a teacher, named as in `teacher.checkpoint`, instead of fresh ones: what it has
    learned from many pictures is not learned again for another backbone or data set, nor one of 33 pixels for patches of 66
    or 132. Its width must be `teacher.width`; a last layer of another `teacher.descriptor_dim` stays fresh."""
    cache: bool
    """Keep teachers that depend on no data set (those that learn from the built-in pictures alone, with a backbone as it
    comes) in `cache_dir`, and take them from there instead of distilling them again."""
    descriptor_dim: int
    """Length of the descriptor."""
    width: float
    """Multiplies the channels of every hidden layer; 1 is the paper's network, 0.5 costs about a third."""
    positions: TeacherPositions
    """`patches` distils one patch at a time against the backbone applied to that patch; `dense` distils every grid
    position of a crop against the backbone's feature maps, fifty times cheaper per position."""
    epochs: int
    """One epoch draws `teacher.patches_per_image` random patches from every training picture (`patches`), or as many random
    crops as there are training pictures, each from any of them (`dense`); of a stream without end, such as `generic`, 1000
    pictures are an epoch."""
    steps: int | None
    """Number of optimiser steps; overrides `teacher.epochs`."""
    patches_per_image: int
    """Random patches that one epoch draws from each picture."""
    batch_size: int
    """Patches (`patches`) or crops (`dense`) per step."""
    crop_size_px: int
    """Side of the crops of `teacher.positions=dense`."""
    optimizer: OptimizerName
    """`adam`, as published, or `muon`, with which teachers of `generic` pictures learned as much in a quarter of the steps; the
    same learning rates suit both."""
    learning_rate: float
    """Learning rate of the first step."""
    weight_decay: float
    """Weight decay of the optimiser."""
    schedule: Schedule
    """Course of the learning rate."""
    max_gradient_norm: float | None
    """Gradients of a larger norm are scaled down to it, so that one odd batch cannot undo the training; null for no limit."""
    compactness_weight: float
    """Weight of the compactness loss, the mean absolute correlation between different descriptor dimensions. The paper sums it
    over the pairs of D dimensions, and the distillation loss over P target dimensions: its weight of 1 is D (D - 1) / P here."""
    whiten_targets: bool
    """Make the target dimensions uncorrelated and of one variance before they are learned, so that rare features count as much
    as common ones; directions in which targets hardly vary are not blown up."""
    metric_weight: float
    """Weight of the triplet loss of the paper; 0 leaves it out."""
    metric_margin: float
    """Margin delta of the triplet loss."""
    statistics_positions: StudentPositions
    """Positions over which `usad normalize` measures mean and deviation of the descriptors: `dense` takes all of them,
    `grid` those of a stride-4 grid (8 and 16 for patches of 66 and 132), whose phase goes round from picture to picture
    (a tenth of the cost)."""
    whitening_floor: float | None
    """Students learn the whitened teacher: descriptors without correlation, so that a squared error counts what hardly varies on
    good pictures as much as what varies a lot. The number is added to the variance of every principal axis (their mean is
    1); null standardises each dimension by itself, as published."""
    min_explained_variance: float
    """A teacher that explains less of the backbone's variance than this is reported as not having learned."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self.image_sources()
        self.checkpoint = None if self.checkpoint is None else expanded("teacher.checkpoint", self.checkpoint)
        self.start_from = None if self.start_from is None else expanded("teacher.start_from", self.start_from)
        between("teacher.descriptor_dim", self.descriptor_dim, 2, 4096)
        between("teacher.width", self.width, 0.05, 8)
        at_least("teacher.epochs", self.epochs, 1)
        at_least("teacher.steps", self.steps, 1)
        at_least("teacher.patches_per_image", self.patches_per_image, 1)
        at_least("teacher.batch_size", self.batch_size, 2 if self.positions is TeacherPositions.patches else 1)
        at_least("teacher.crop_size_px", self.crop_size_px, 32)
        above("teacher.learning_rate", self.learning_rate, 0)
        at_least("teacher.weight_decay", self.weight_decay, 0)
        above("teacher.max_gradient_norm", self.max_gradient_norm, 0)
        at_least("teacher.compactness_weight", self.compactness_weight, 0)
        at_least("teacher.metric_weight", self.metric_weight, 0)
        at_least("teacher.metric_margin", self.metric_margin, 0)
        if self.metric_weight and self.batch_size < 2:
            raise SettingsError(
                "`teacher.batch_size` must be at least 2 with teacher.metric_weight above 0: the triplet loss compares pictures"
            )
        at_least("teacher.whitening_floor", self.whitening_floor, 1e-6)
        between("teacher.min_explained_variance", self.min_explained_variance, -1, 1)

    def smallest_crop_px(self, patch_size: int) -> int:
        """Return the smallest crop of dense distillation in which a grid position has its whole patch, shifted ones too."""
        largest_shift = (patch_size - 1) // 4 if self.metric_weight else 0
        return patch_size + grid_stride_px(patch_size) + 2 * largest_shift

    def image_sources(self) -> dict[str, float]:
        """Return the picture sources with their weights, which add up to 1.

        Raises:
            SettingsError: `teacher.images` is neither a name, a list of names nor a mapping of names to weights.
        """
        match self.images:
            case str() if self.images:
                weights = {self.images: 1.0}
            case list() if self.images and all(isinstance(name, str) for name in self.images):
                weights = dict.fromkeys(self.images, 1.0)
            case dict() if self.images and all(
                isinstance(name, str) and isinstance(weight, int | float) and weight > 0
                for name, weight in self.images.items()
            ):
                weights = {name: float(weight) for name, weight in self.images.items()}
            case _:
                raise SettingsError(
                    f"`teacher.images` must be {', '.join([TRAIN, *BUILT_IN_PICTURES])}, a folder, or a mix with weights such as "
                    f"{{train: 0.3, generic: 0.7}}, got {self.images!r}"
                )
        total = sum(weights.values())
        return {expanded("teacher.images", name): weight / total for name, weight in weights.items()}
