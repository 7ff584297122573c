"""The detector of a run directory: its files read, checked against each other, and put together."""

from collections.abc import Sequence
from pathlib import Path

import torch

from us_anomaly.data.augmentation import build_transforms
from us_anomaly.data.images import DEFAULT_MAX_PIXELS
from us_anomaly.detector import Detector, ScaleModel
from us_anomaly.errors import ArtifactError, MissingArtifactError, SettingsError, StaleArtifactError
from us_anomaly.models.compute import Compute, find_device, number_format
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.environment import say_if_calibrated_otherwise
from us_anomaly.run_dir.said import forget_what_was_said
from us_anomaly.run_dir.staleness import require_consistent
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.calibration_file import calibrated_precision, read_calibration, read_white_level
from us_anomaly.scoring.position_statistics import load_position_statistics
from us_anomaly.settings import Precision, ScoringSettings, TransformSettings
from us_anomaly.settings.checks import at_least, expanded
from us_anomaly.training.artifacts import load_statistics, load_students, load_teacher


def load_scale(run_dir: RunDir, patch_size: int, *, per_position: bool) -> ScaleModel:
    """Read teacher, statistics and students of one patch size, and what is normal at each position if that is wanted.

    Raises:
        MissingArtifactError: One of them was not made yet.
        ArtifactError: One of them is damaged, or they do not belong together.
    """
    model = ScaleModel(
        teacher=load_teacher(_existing(run_dir.teacher(patch_size), "distill-teacher")),
        statistics=load_statistics(_existing(run_dir.teacher_statistics(patch_size), "normalize")),
        ensemble=load_students(_existing(run_dir.students(patch_size), "train-students")),
        positions=(
            load_position_statistics(_existing(run_dir.position_statistics(patch_size), "calibrate"))
            if per_position
            else None
        ),
    )
    dims = {model.teacher.descriptor_dim, len(model.statistics.mean), model.ensemble.networks[0].descriptor_dim}
    if len(dims) > 1 or {model.teacher.patch_size, model.ensemble.patch_size} != {patch_size}:
        raise ArtifactError(f"{run_dir.scale(patch_size)}: teacher, statistics and students do not belong together")
    return model


def _existing(path: Path, command: str) -> Path:
    if not path.exists():
        raise MissingArtifactError(f"{path} does not exist: run `usad {command}` first (or `usad run` for all stages)")
    return path


def load(
    run_dir: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    compile: bool = False,
    num_threads: int | None = None,
    max_image_pixels: int = DEFAULT_MAX_PIXELS,
) -> Detector:
    """Load the detector of a run directory.

    What the program has told torch stays as it is, but for `num_threads`.

    Args:
        run_dir: Where `usad run` (or `usad calibrate`) put it; a leading `~` is the home folder.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, or a device of torch.
        precision: `float32`, `bfloat16`, or `auto` for the one that the threshold was chosen in; float32 where the device does
            not multiply bfloat16 in hardware.
        compile: Score with networks compiled by torch.compile: `usad help runtime.compile` says where that pays.
        num_threads: Threads of the arithmetic of this process; None leaves as many as it has, with torch one per physical core.
            Set it where the machine is not for this program alone, and in a container.
        max_image_pixels: Larger files are refused.

    Raises:
        SettingsError: An argument is wrong, the device is not there, or this version of torchvision has not the transforms.
        MissingArtifactError: A stage was not run yet; the message names it.
        StaleArtifactError: A stage was run again after the detector was calibrated.
        ArtifactError: A file is damaged.
        ResourceError: A file cannot be read.
    """
    place, wanted = find_device(str(device), key="device"), _precision(precision)
    at_least("num_threads", num_threads, 1)
    at_least("max_image_pixels", max_image_pixels, 1)
    directory = RunDir(expanded("run_dir", str(run_dir)))
    forget_what_was_said()  # a calibration that was made anew may have more to say
    content = read_json(_existing(directory.calibration, "calibrate"))
    calibration, scoring, transforms = read_calibration(content, path=directory.calibration)
    parts = _parts(directory, list(calibration.statistics), per_position=scoring.per_position)
    require_consistent(directory, directory.calibration, parts=parts)
    calibrated = calibrated_precision(content, path=directory.calibration)
    if wanted is Precision.auto and calibrated == Precision.float32.value:
        wanted = Precision.float32
    compute = Compute(place, number_format(wanted, place), compile=compile)
    say_if_calibrated_otherwise(directory.root, calibrated=calibrated, now=compute.precision)
    with compute.alone():
        detector = detector_of(
            directory,
            list(calibration.statistics),
            transforms=transforms,
            scoring=scoring,
            calibration=calibration,
            compute=compute,
            max_image_pixels=max_image_pixels,
            white_level=read_white_level(content, path=directory.calibration),
        )
    require_consistent(directory, directory.calibration, parts=parts)  # it may be made anew meanwhile
    if read_json(directory.calibration) != content:
        raise StaleArtifactError(f"{directory.root} was calibrated anew just now: load it again")
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    return detector


def _precision(name: str) -> Precision:
    try:
        return Precision(name)
    except ValueError as error:
        raise SettingsError(f"`precision` must be auto, float32 or bfloat16, got {name!r}") from error


def _parts(run_dir: RunDir, scales: Sequence[int], *, per_position: bool) -> list[Path]:
    """Return the files that a calibration must have been made from."""
    parts = []
    for size in scales:
        parts += [run_dir.teacher(size), run_dir.teacher_statistics(size), run_dir.students(size)]
        parts += [run_dir.position_statistics(size)] if per_position else []
    return parts


def detector_of(
    run_dir: RunDir,
    scales: Sequence[int],
    *,
    transforms: Sequence[TransformSettings],
    scoring: ScoringSettings,
    calibration: Calibration | None,
    compute: Compute,
    max_image_pixels: int = DEFAULT_MAX_PIXELS,
    white_level: float | None = None,
) -> Detector:
    """Build the detector of some of the patch sizes of a run directory.

    Args:
        run_dir: Where the networks lie.
        scales: Patch sizes.
        transforms: From an image to the network's input.
        scoring: How maps become scores.
        calibration: Statistics and thresholds; None before calibration.
        compute: Device and number format.
        max_image_pixels: Larger images are refused.
        white_level: Which value is white in pictures of more than 8 bits; None guesses it for each.

    Raises:
        MissingArtifactError, ArtifactError: As `load_scale`.
        SettingsError: As `build_transforms`.
    """
    return Detector(
        {size: load_scale(run_dir, size, per_position=scoring.per_position) for size in scales},
        pipeline=build_transforms(transforms, key="augmentation.evaluation", patch_size=None),
        scoring=scoring,
        calibration=calibration,
        compute=compute,
        max_image_pixels=max_image_pixels,
        white_level=white_level,
    )
