"""The detector of a run directory: its files read, checked against each other, and put together."""

from collections.abc import Sequence
from pathlib import Path

from us_anomaly.data.augmentation import build_transforms
from us_anomaly.data.images import DEFAULT_MAX_PIXELS
from us_anomaly.detector import Detector, ScaleModel
from us_anomaly.errors import ArtifactError, MissingArtifactError, StaleArtifactError
from us_anomaly.models.compute import Compute, choose_compute
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json
from us_anomaly.run_dir.environment import say_if_calibrated_otherwise
from us_anomaly.run_dir.staleness import require_consistent
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.calibration_file import calibrated_precision, read_calibration, read_white_level
from us_anomaly.scoring.position_statistics import load_position_statistics
from us_anomaly.settings import Precision, RuntimeSettings, ScoringSettings, TransformSettings
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
    run_dir: str | Path, *, device: str = "auto", precision: str = "auto", num_threads: int | None = None
) -> Detector:
    """Load the detector of a run directory.

    Args:
        run_dir: Where `usad run` (or `usad calibrate`) put it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `float32` or `bfloat16`.
        num_threads: Threads of the arithmetic; None takes the physical cores that this process may use.

    Raises:
        MissingArtifactError: A stage was not run yet; the message names it.
        StaleArtifactError: A stage was run again after the detector was calibrated.
        ArtifactError: A file is damaged.
    """
    directory = RunDir(run_dir)
    content = read_json(_existing(directory.calibration, "calibrate"))
    calibration, scoring, transforms = read_calibration(content, path=directory.calibration)
    parts = [
        path
        for size in calibration.statistics
        for path in (
            directory.teacher(size),
            directory.teacher_statistics(size),
            directory.students(size),
            *([directory.position_statistics(size)] if scoring.per_position else []),
        )
    ]
    require_consistent(directory, directory.calibration, parts=parts)
    runtime = RuntimeSettings(
        device=device,
        precision=Precision(precision),
        compile=False,
        num_threads=num_threads,
        num_workers=0,
        num_drawing_processes=None,
        progress=False,
        log_level="warning",
    )
    compute = choose_compute(runtime)
    calibrated = calibrated_precision(content, path=directory.calibration)
    say_if_calibrated_otherwise(directory.root, calibrated=calibrated, now=compute.precision)
    detector = detector_of(
        directory,
        list(calibration.statistics),
        transforms=transforms,
        scoring=scoring,
        calibration=calibration,
        compute=compute,
        white_level=read_white_level(content, path=directory.calibration),
    )
    require_consistent(directory, directory.calibration, parts=parts)  # it may be made anew meanwhile
    if read_json(directory.calibration) != content:
        raise StaleArtifactError(f"{directory.root} was calibrated anew just now: load it again")
    return detector


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
