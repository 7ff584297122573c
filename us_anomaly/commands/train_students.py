"""`usad train-students`: the ensemble learns to give the normalised teacher's descriptors on normal pictures."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make, read_split
from us_anomaly.commands.tracking import tracked
from us_anomaly.commands.training_images import TrainingImages, cached_images, shared_training_images
from us_anomaly.data.augmentation import build_transforms
from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError, UsadError
from us_anomaly.models.compute import Compute, choose_compute
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.reporting.progress import progress, progress_over
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.reporting.trackers import followed_by
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_tensors, write_tensors
from us_anomaly.run_dir.provenance import fingerprint
from us_anomaly.settings import Settings
from us_anomaly.training.artifacts import load_statistics, load_teacher, students_state
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import num_steps
from us_anomaly.training.drawing_ahead import drawn_ahead
from us_anomaly.training.optimizers import build_optimizer
from us_anomaly.training.pictures import (
    evaluation_inputs,
    generic_inputs,
    penalty_batches,
    student_batches,
)
from us_anomaly.training.regression import regress
from us_anomaly.training.validation import Validation, mean_uncertainty

log = logging.getLogger(__name__)

NUM_COMPARED = 8
"""Pictures of each kind on which the disagreement of the students is measured."""
MIN_DISAGREEMENT = 1e-4
"""Students that disagree by less, in variances of a descriptor dimension, are called identical."""
SUGGESTED_WINDOW_PX = 256
"""Side of the pictures with which the recipes that ship were chosen."""
LARGE = 3
"""Pictures whose steps are so many times as fast in such windows are better learned window by window."""


def run(settings: Settings) -> None:
    """Train the students of every patch size."""
    run_dir = RunDir(settings.run_dir)
    pictures = shared_training_images(settings, settings.augmentation.students, key="augmentation.students")
    with progress_over("patch sizes", settings.scales, enabled=settings.runtime.progress) as patch_sizes:
        for patch_size in patch_sizes:
            artifact = run_dir.students(patch_size)
            recipe = Recipes(settings).students(patch_size)

            def build(patch_size: int = patch_size, artifact: Path = artifact, key: str = fingerprint(recipe)) -> None:
                train(settings, patch_size, artifact, key=key, pictures=pictures)

            make(artifact, recipe, build, settings=settings, is_precious=True)
    written = [("students", run_dir.students(size)) for size in settings.scales]
    written += [("losses", run_dir.loss_curve(path)) for _, path in written]
    facts = [fact for size in settings.scales for fact in _facts(run_dir, size)]
    show_summary(Summary(command="train-students", facts=facts, written=written, next_command="calibrate"))


def _facts(run_dir: RunDir, patch_size: int) -> list[tuple[str, str]]:
    """Return how much the students disagree; nothing is known of those that were trained before that was measured."""
    measured = read_tensors(run_dir.students(patch_size)).get("uncertainty_per_dimension") or {}
    normal, generic = measured.get("normal"), measured.get("generic")
    if not normal or not generic:
        return []
    text = f"{normal:.3g} per dimension on normal pictures, {generic:.3g} on generic ones: {generic / normal:.3g} times"
    return [(f"disagreement, p={patch_size}", text)]


def train(settings: Settings, patch_size: int, artifact: Path, *, key: str, pictures: TrainingImages) -> None:
    """Train the students of one patch size and write them to `artifact`."""
    run_dir = RunDir(settings.run_dir)
    compute = choose_compute(settings.runtime)
    cache, pipeline = pictures()
    teacher = load_teacher(run_dir.teacher(patch_size)).requires_grad_(False)
    students = settings.students
    ensemble = _untrained(settings, teacher)
    optimizer = build_optimizer(
        students.optimizer,
        ensemble.parameters(),
        learning_rate=students.learning_rate,
        weight_decay=students.weight_decay,
    )
    _suggest_a_window(settings, patch_size, cache[0].shape[-2:])
    steps = num_steps(
        steps=students.steps,
        epochs=students.epochs,
        items_per_epoch=len(cache),
        batch_size=students.batch_size,
    )
    validation = _validation(settings)
    checkpoint = TrainingCheckpoint(
        run_dir.training_state(artifact),
        run_dir.loss_curve(artifact),
        key=key,
        parts={"ensemble": ensemble, "optimizer": optimizer, **({"validation": validation} if validation else {})},
        settings=settings.checkpoint,
    )
    batches = student_batches(cache, pipeline, batch_size=students.batch_size, seed=settings.seed)
    with (
        tracked(settings) as tracker,
        progress(
            f"training {students.num_students} students (p={patch_size})",
            steps,
            enabled=settings.runtime.progress,
        ) as show,
        drawn_ahead(batches, runtime=settings.runtime, compute=compute) as ahead,
    ):
        regress(
            ensemble,
            teacher,
            load_statistics(run_dir.teacher_statistics(patch_size)),
            ahead,
            penalty_batches=penalty_batches(settings),
            validation=validation,
            settings=students,
            steps=steps,
            seed=settings.seed,
            compute=compute,
            optimizer=optimizer,
            checkpoint=checkpoint,
            on_step=followed_by(show, tracker, f"students p{patch_size}", total=steps),
        )
    disagreement = _disagreement(ensemble, settings, compute=compute)
    _report(disagreement, num_students=students.num_students)
    write_tensors(artifact, students_state(ensemble, disagreement=disagreement))


def _suggest_a_window(settings: Settings, patch_size: int, size: Sequence[int]) -> None:
    """Say, before the first patch size, what makes the steps cheaper where pictures are large."""
    if settings.students.window_px is not None or patch_size != settings.scales[0]:
        return
    margin = patch_size - 1
    pixels, in_a_window = (
        math.prod(side + margin for side in sides)
        for sides in (size, [min(side, SUGGESTED_WINDOW_PX) for side in size])
    )
    if pixels >= LARGE * in_a_window:
        log.info(
            "every step looks at %d x %d pixels: with students.window_px=%d, which looks at one window of them at a time, steps "
            "are about %.0f times as fast",
            *size,
            SUGGESTED_WINDOW_PX,
            pixels / in_a_window,
        )


def _untrained(settings: Settings, teacher: PatchNetwork) -> StudentEnsemble:
    """Return students of drawn weights for one teacher."""
    students = settings.students
    return StudentEnsemble(
        students.num_students,
        patch_size=teacher.patch_size,
        descriptor_dim=teacher.descriptor_dim,
        width=students.width if students.width is not None else teacher.width,
        extra_layers=students.extra_layers,
        seed=settings.seed,
    )


def validation_normals(settings: Settings) -> list[Sample]:
    """Return the normal pictures of validation.

    Raises:
        DataError: There are none, and students are to be validated with them.
    """
    samples = [sample for sample in read_split(RunDir(settings.run_dir), "val") if not sample.is_anomalous]
    if not samples and settings.students.validate_every_steps is not None:
        raise DataError(
            "`students.validate_every_steps` needs normal pictures in validation, and there are none: give split.ratios (or "
            "split.validation_fraction) a share for validation and run `usad split overwrite=true`, or set it to null"
        )
    return samples


def _validation(settings: Settings) -> Validation | None:
    """Return what validates the students while they learn, if the settings ask for it.

    Raises:
        DataError: Validation has no normal picture.
    """
    every_steps = settings.students.validate_every_steps
    if every_steps is None:
        return None
    samples = validation_normals(settings)
    pipeline = build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    cache = cached_images(settings, samples, pipeline, description="decoding validation")
    return Validation(
        lambda: evaluation_inputs(cache, pipeline), every_steps=every_steps, patience=settings.students.patience
    )


def _disagreement(ensemble: StudentEnsemble, settings: Settings, *, compute: Compute) -> dict[str, float | None]:
    """Return the mean uncertainty per dimension on some normal pictures, of validation if it has any, and on generic ones."""
    run_dir = RunDir(settings.run_dir)
    samples = (validation_normals(settings) or read_split(run_dir, "train"))[:NUM_COMPARED]
    pipeline = build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    cache = cached_images(settings, samples, pipeline, description="decoding")
    measured: dict[str, float | None] = {"generic": None}
    measured["normal"] = mean_uncertainty(ensemble, evaluation_inputs(cache, pipeline), compute=compute)
    try:
        generic = generic_inputs(settings, count=NUM_COMPARED)
    except UsadError as error:
        log.info("the disagreement on generic pictures is not known: %s", error)
    else:
        measured["generic"] = mean_uncertainty(ensemble, generic, compute=compute)
    return {name: None if value is None else float(f"{value:.6g}") for name, value in measured.items()}


def _report(disagreement: dict[str, float | None], *, num_students: int) -> None:
    largest = max(value for value in disagreement.values() if value is not None)
    if num_students > 1 and largest < MIN_DISAGREEMENT:
        log.warning(
            "THE STUDENTS ARE NEARLY IDENTICAL: they disagree by %.2g per dimension, also on pictures outside of the domain, so "
            "the uncertainty says nothing. Train longer or faster, with another seed, or set scoring.uncertainty_weight=0",
            largest,
        )
    elif num_students > 1:
        known = ", ".join(f"{value:.3g} on {name} pictures" for name, value in sorted(disagreement.items()) if value)
        log.info("the students disagree by %s (mean uncertainty per dimension)", known)
