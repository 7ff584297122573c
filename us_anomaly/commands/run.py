"""`usad run`: every stage in order; what is up to date is skipped."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from us_anomaly.commands import (
    calibrate,
    distill_teacher,
    evaluate,
    finetune_backbone,
    infer,
    normalize,
    report,
    split,
    train_students,
)
from us_anomaly.commands.named_files import named_teacher
from us_anomaly.commands.stage import read_split
from us_anomaly.commands.train_students import validation_normals
from us_anomaly.data.augmentation import build_transforms
from us_anomaly.errors import DataError, SettingsError
from us_anomaly.models.compute import choose_compute
from us_anomaly.models.weights import require_weights
from us_anomaly.reporting.metric_names import LABELS, SUMMARY, shown
from us_anomaly.reporting.pages.files import ReportFiles
from us_anomaly.reporting.progress import clock_text
from us_anomaly.reporting.summary import Summary, as_stage, show_summary
from us_anomaly.reporting.trackers import require_package
from us_anomaly.run_dir import RunDir
from us_anomaly.scoring.evaluation import NO_TEST_IMAGE
from us_anomaly.scoring.evaluation_file import read_evaluation
from us_anomaly.settings import DEFAULT_WEIGHTS, Settings, TeacherPositions
from us_anomaly.training.pictures import require_sources

log = logging.getLogger(__name__)

STAGES = (
    ("split", split.run),
    ("distill-teacher", distill_teacher.run),
    ("normalize", normalize.run),
    ("train-students", train_students.run),
    ("calibrate", calibrate.run),
    ("infer", infer.run),
    ("evaluate", evaluate.run),
    ("report", report.run),
)


def stages_of(settings: Settings) -> list[tuple[str, Callable[[Settings], None]]]:
    """Return the stages in order, with the optional one if it is wanted."""
    stages: list[tuple[str, Callable[[Settings], None]]] = list(STAGES)
    if settings.finetuning.enabled:
        stages.insert(1, ("finetune-backbone", finetune_backbone.run))
    return stages


def run(settings: Settings) -> None:
    """Run all stages."""
    started = time.monotonic()
    _refuse_early(settings)
    stages = stages_of(settings)
    with as_stage():
        for number, (name, stage) in enumerate(stages, start=1):
            log.info("[%d/%d] %s", number, len(stages), name)
            stage(settings)
            if name == "split":
                _refuse_split(settings)
    log.info("done in %s: %s", clock_text(time.monotonic() - started), settings.run_dir)
    _summarize(RunDir(settings.run_dir))


def _refuse_early(settings: Settings) -> None:
    """Refuse what a later stage would refuse, before thousands of pictures are decoded and a teacher is distilled.

    Raises:
        SettingsError: A device or the package of a tracker is not there, a transform list that is used is wrong, or nothing
            would be there to evaluate.
        DataError: A teacher to take or to start from, or the pictures of a folder, are not there.
        WeightsError: The file of the backbone's weights is not there.
    """
    if "test" not in settings.inference.splits:
        raise SettingsError(
            f"`inference.splits` must hold test, which `usad run` evaluates, got {settings.inference.splits}: leave it as it "
            "is, or run the stages one by one"
        )
    choose_compute(settings.runtime)
    require_package(settings.tracking)
    build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    build_transforms(settings.augmentation.students, key="augmentation.students", patch_size=None)
    teacher, students, run_dir = settings.teacher, settings.students, RunDir(settings.run_dir)
    if teacher.checkpoint is None and _will_be_made(map(run_dir.teacher, settings.scales), settings):
        require_sources(teacher.image_sources(), key="teacher.images")
        if settings.backbone.weights != DEFAULT_WEIGHTS:
            require_weights(Path(settings.backbone.weights))
    penalty_images = students.penalty_images if students.penalty_weight > 0 else None
    if penalty_images is not None and _will_be_made(map(run_dir.students, settings.scales), settings):
        require_sources([penalty_images], key="students.penalty_images")
    for patch_size in settings.scales:
        if teacher.checkpoint is not None:
            named_teacher("checkpoint", teacher.checkpoint, patch_size)
        if teacher.start_from is not None:
            named_teacher("start_from", teacher.start_from, patch_size)
        if teacher.checkpoint is None and teacher.positions is TeacherPositions.patches:
            build_transforms(settings.augmentation.teacher, key="augmentation.teacher", patch_size=patch_size)


def _will_be_made(artifacts: Iterable[Path], settings: Settings) -> bool:
    """Return whether something is certain to be made, or made anew: what is finished needs nothing of what it was made from."""
    return settings.overwrite or not all(artifact.exists() for artifact in artifacts)


def _refuse_split(settings: Settings) -> None:
    """Refuse a split with which a later stage could do nothing.

    Raises:
        DataError: There is nothing to evaluate, or nothing to validate students with.
    """
    if not read_split(RunDir(settings.run_dir), "test"):
        raise DataError(NO_TEST_IMAGE)
    validation_normals(settings)


def _summarize(run_dir: RunDir) -> None:
    metrics = read_evaluation(run_dir.evaluation_json)["metrics"]
    shown_metrics = [name for name in SUMMARY if name in metrics]
    index = ReportFiles(run_dir.report).index
    show_summary(
        Summary(
            command="run",
            facts=[
                *((LABELS[name], shown(name, metrics[name])) for name in shown_metrics),
                ("open", index.resolve().as_uri()),
            ],
            written=[
                ("report", index),
                ("heatmaps", run_dir.heatmaps),
                ("figures", run_dir.evaluation_json),
                ("detector", run_dir.root),
            ],
            next_command="infer inference.input=PICTURE",
        )
    )
