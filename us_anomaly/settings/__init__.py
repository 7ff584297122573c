"""Typed settings: the schema of everything that can be configured.

The dataclasses are the schema; `configs/*.yaml` hold the values and are the only home of a default. Each class checks
its values when it is built and quotes the key as the user types it. Nothing here knows Hydra or torch.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from us_anomaly.errors import SettingsError
from us_anomaly.settings.checks import at_least, expanded, not_empty
from us_anomaly.settings.dataset import (
    DEFAULT_WEIGHTS,
    AugmentationSettings,
    BackboneSettings,
    CsvData,
    DataSettings,
    DemoData,
    EfficientNetLite0Backbone,
    FolderData,
    KolektorSddData,
    MvtecData,
    OnBadImage,
    SplitMode,
    SplitSettings,
    TimmBackbone,
    TorchvisionBackbone,
    TransformSettings,
    VisaData,
    category_of,
)
from us_anomaly.settings.finetuning import FinetuningSettings
from us_anomaly.settings.plain import typed
from us_anomaly.settings.scoring import (
    SCORING_OFF,
    CalibrationSettings,
    ImageScore,
    Normalization,
    ScoringSettings,
)
from us_anomaly.settings.students import MAX_EXTRA_LAYERS, StudentSettings
from us_anomaly.settings.teacher import (
    BUILT_IN_PICTURES,
    BUILTIN,
    PATCH_SIZES,
    REDUCED,
    TRAIN,
    OptimizerName,
    Schedule,
    StudentPositions,
    TeacherPositions,
    TeacherSettings,
    grid_stride_px,
)
from us_anomaly.settings.workflow import (
    CheckpointSettings,
    CompareSettings,
    EvaluationSettings,
    InferenceSettings,
    MapResolution,
    MetricAlgorithm,
    Precision,
    RuntimeSettings,
    Tracker,
    TrackingSettings,
)

__all__ = [
    "grid_stride_px",
    "is_of_one_command",
    "sides_of",
    "BACKBONES",
    "BUILTIN",
    "BUILT_IN_PICTURES",
    "DATA_LAYOUTS",
    "DEFAULT_WEIGHTS",
    "GROUPS",
    "MAX_EXTRA_LAYERS",
    "MIN_DRAWN_SIDE_PX",
    "SCORING_OFF",
    "TRAIN",
    "AugmentationSettings",
    "BackboneSettings",
    "CalibrationSettings",
    "CheckpointSettings",
    "CompareSettings",
    "CsvData",
    "DataSettings",
    "DemoData",
    "EfficientNetLite0Backbone",
    "EvaluationSettings",
    "FinetuningSettings",
    "FolderData",
    "ImageScore",
    "InferenceSettings",
    "KolektorSddData",
    "MapResolution",
    "NAMED_FILES",
    "MetricAlgorithm",
    "MvtecData",
    "Normalization",
    "OnBadImage",
    "PATCH_SIZES",
    "REDUCED",
    "Precision",
    "RuntimeSettings",
    "OptimizerName",
    "Schedule",
    "ScoringSettings",
    "Settings",
    "SplitMode",
    "SplitSettings",
    "StudentPositions",
    "StudentSettings",
    "TeacherPositions",
    "TeacherSettings",
    "TimmBackbone",
    "TorchvisionBackbone",
    "Tracker",
    "TrackingSettings",
    "TransformSettings",
    "VisaData",
    "category_of",
]

MAX_SEED = 10**13
"""Of a larger one the seeds of students, which are a million times as large, are more than torch takes."""
DATA_LAYOUTS = (FolderData, CsvData, MvtecData, DemoData, VisaData, KolektorSddData)
"""Every layout of a data set."""
BACKBONES = (TorchvisionBackbone, EfficientNetLite0Backbone, TimmBackbone)
"""Every kind of backbone."""
_NOT_A_PATH = {"backbone.weights": DEFAULT_WEIGHTS, "teacher.checkpoint": BUILTIN, "teacher.start_from": BUILTIN}
NAMED_FILES = tuple(_NOT_A_PATH)
"""Settings that may name a file of the user's, whose content then decides and not its path."""
MIN_SIDE_PX = 16
"""Smaller pictures are refused."""
MIN_DRAWN_SIDE_PX = 32
"""Smaller pictures cannot be drawn."""
OF_ONE_COMMAND = (
    "run_dir",
    "cache_dir",
    "overwrite",
    "inference.input",
    "inference.output",
    "tracking",
    "data.allow_outside_root",
)
"""Settings, and groups of them, that belong to the command in which they are typed: no other command takes them over."""
GROUPS = {"data": DATA_LAYOUTS, "backbone": BACKBONES}
"""Settings that may be of one of several classes, by their key."""


def sides_of(image_size: Any) -> list[Any]:
    """Return height and width of an `image_size`, which is one side or both; other lists as they are, digits as numbers.

    A variable of the environment (`${oc.env:SIZE}`) gives digits as a text.
    """
    sides = image_size if isinstance(image_size, list) else [image_size, image_size]
    return [int(side) if isinstance(side, str) and side.isdecimal() else side for side in sides]


def is_of_one_command(key: str) -> bool:
    """Return whether a key, of a setting or of a group (`tracking`, `tracking/file`), is one of `OF_ONE_COMMAND` or below one."""
    return any(key == own or key.startswith((f"{own}.", f"{own}/")) for own in OF_ONE_COMMAND)


@dataclass(kw_only=True, slots=True)
class Settings:
    """Everything one run is made of."""

    run_dir: str
    """Run directory: every command reads and writes its artifacts here."""
    cache_dir: str
    """Folder shared by all runs: demo pictures and generic teachers, by content."""
    seed: int
    """Decides the split, the initial weights and the order of the data."""
    overwrite: bool
    """Replace split, teacher and students that were made with other settings instead of refusing; `usad infer` then scores
    everything again."""
    scales: list[int]
    """Patch sizes of the detector: 17, 33, 65 as published, 66 and 132 (the network for 33 at a half and a quarter of the
    resolution: more context for less time), or several of them together."""
    image_size: Any
    """Size of the network's input in pixels, to which the transform lists resize: the side of a square, or `[height,width]`, so
    that long parts keep their shape."""
    data: DataSettings
    split: SplitSettings
    augmentation: AugmentationSettings
    backbone: BackboneSettings
    finetuning: FinetuningSettings
    teacher: TeacherSettings
    students: StudentSettings
    scoring: ScoringSettings
    calibration: CalibrationSettings
    inference: InferenceSettings
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    runtime: RuntimeSettings
    tracking: TrackingSettings

    def __post_init__(self) -> None:
        """Check what no single group can check."""
        not_empty("run_dir", self.run_dir, "runs/NAME")
        self.run_dir = str(Path(expanded("run_dir", self.run_dir)))
        output = self.inference.output
        if output is not None and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(self.run_dir)):
            raise SettingsError(
                f"`inference.output` must not lie in the run directory, got {output}: leave it out, and the results go into "
                f"{Path(self.run_dir) / 'inference'}, or choose another folder"
            )
        self.cache_dir = expanded("cache_dir", self.cache_dir)
        self.tracking.directory = expanded("tracking.directory", self.tracking.directory)  # by default below run_dir
        at_least("seed", self.seed, 0)
        if self.seed > MAX_SEED:
            raise SettingsError(f"`seed` must be at most {MAX_SEED}, got {self.seed}")
        for side_px in self.input_size():
            at_least("image_size", side_px, MIN_SIDE_PX)
        not_empty("scales", self.scales, "[33]")
        for patch_size in self.scales:
            if patch_size not in PATCH_SIZES:
                raise SettingsError(f"`scales` may hold {', '.join(map(str, PATCH_SIZES))}, got {patch_size}")
        if sorted(set(self.scales)) != self.scales:
            raise SettingsError(f"`scales` must be ascending without repeats, got {self.scales}")
        if self.teacher.positions is TeacherPositions.dense and self.teacher.checkpoint is None:
            smallest = self.teacher.smallest_crop_px(self.scales[-1])
            if self.teacher.crop_size_px < smallest:
                raise SettingsError(
                    f"`teacher.crop_size_px` must be at least {smallest} for patches of {self.scales[-1]} pixels, "
                    f"got {self.teacher.crop_size_px}"
                )
        elif (
            self.teacher.checkpoint is None
            and BUILT_IN_PICTURES.keys() & self.teacher.image_sources().keys()
            and self._is_too_small_to_draw
        ):
            raise SettingsError(
                f"`image_size` must have a side of at least {MIN_DRAWN_SIDE_PX} pixels where teacher.images takes one of "
                f"{', '.join(BUILT_IN_PICTURES)}, got {typed(self.image_size)}"
            )
        if self.finetuning.enabled and self.teacher.checkpoint is not None:
            raise SettingsError(
                "`finetuning.enabled` is true, but a teacher that was made before (teacher.checkpoint) learns from no backbone: "
                "set teacher.checkpoint=null, or finetuning.enabled=false"
            )
        if self.teacher.start_from is not None and self.teacher.checkpoint is not None:
            raise SettingsError(
                "`teacher.start_from` begins a distillation, but the teacher of `teacher.checkpoint` is taken as it is: "
                "set one of them to null"
            )
        if self.students.num_students == 1 and self.scoring.error_weight == 0:
            raise SettingsError(
                "`scoring.error_weight` is 0, which leaves the uncertainty, and a single student has none: set "
                "scoring.error_weight=1, or students.num_students=3"
            )
        if len(self.scales) > 1 and self.scoring.normalization is Normalization.none:
            raise SettingsError(
                f"`scales` has {len(self.scales)} patch sizes, whose scores can only be averaged on a common scale: "
                "add scoring.normalization=zscore (or quantile)"
            )

    @property
    def _is_too_small_to_draw(self) -> bool:
        return max(self.input_size()) < MIN_DRAWN_SIDE_PX

    def input_size(self) -> tuple[int, int]:
        """Return height and width of the network's input in pixels.

        Raises:
            SettingsError: `image_size` is neither a whole number nor two of them.
        """
        sides = sides_of(self.image_size)
        if len(sides) == 2 and all(type(side_px) is int for side_px in sides):  # a bool is an int, too
            return sides[0], sides[1]
        got = repr(self.image_size) if isinstance(self.image_size, str) else typed(self.image_size)
        raise SettingsError(
            f"`image_size` must be the side of a square in pixels, such as 256, or [height,width], such as [256,512], got {got}"
        )

    def paths(self) -> dict[str, str]:
        """Return the folder of the data set and the `NAMED_FILES` that are given, by key, as they were given."""
        files = {
            "backbone.weights": self.backbone.weights,
            "teacher.checkpoint": self.teacher.checkpoint,
            "teacher.start_from": self.teacher.start_from,
        }
        named = {key: path for key, path in files.items() if path is not None and path != _NOT_A_PATH[key]}
        return {"data.root": self.data.root, **named}
