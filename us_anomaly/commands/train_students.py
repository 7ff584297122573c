"""`usad train-students`: the ensemble learns to give the normalised teacher's descriptors on normal pictures."""

import logging
from pathlib import Path
from typing import Any

import torch

from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make
from us_anomaly.commands.tracking import tracked
from us_anomaly.commands.training_images import training_images
from us_anomaly.data.augmentation import build_transforms
from us_anomaly.models.compute import choose_compute
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.reporting.progress import progress, progress_over
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.reporting.trackers import followed_by
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import write_tensors
from us_anomaly.run_dir.provenance import fingerprint
from us_anomaly.settings import Settings
from us_anomaly.training.artifacts import FORMAT_VERSION, load_statistics, load_teacher
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import num_steps
from us_anomaly.training.pictures import drawn_ahead, penalty_batches, student_batches
from us_anomaly.training.regression import regress

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Train the students of every patch size."""
    run_dir = RunDir(settings.run_dir)
    with progress_over("patch sizes", settings.scales, enabled=settings.runtime.progress) as patch_sizes:
        for patch_size in patch_sizes:
            artifact = run_dir.students(patch_size)
            recipe = Recipes(settings).students(patch_size)

            def build(patch_size: int = patch_size, artifact: Path = artifact, key: str = fingerprint(recipe)) -> None:
                train(settings, patch_size, artifact, key=key)

            make(artifact, recipe, build, settings=settings, is_precious=True)
    written = [("students", run_dir.students(size)) for size in settings.scales]
    written += [("losses", run_dir.loss_curve(path)) for _, path in written]
    show_summary(Summary(command="train-students", written=written, next_command="calibrate"))


def train(settings: Settings, patch_size: int, artifact: Path, *, key: str) -> None:
    """Train the students of one patch size and write them to `artifact`."""
    run_dir = RunDir(settings.run_dir)
    compute = choose_compute(settings.runtime)
    pipeline = build_transforms(settings.augmentation.students, key="augmentation.students", patch_size=None)
    cache = training_images(settings, pipeline)
    teacher = load_teacher(run_dir.teacher(patch_size)).requires_grad_(False)
    students = settings.students
    ensemble = StudentEnsemble(
        students.num_students,
        patch_size=patch_size,
        descriptor_dim=teacher.descriptor_dim,
        width=students.width if students.width is not None else teacher.width,
        seed=settings.seed,
    )
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=students.learning_rate, weight_decay=students.weight_decay)
    steps = num_steps(
        steps=students.steps,
        epochs=students.epochs,
        items_per_epoch=len(cache),
        batch_size=students.batch_size,
    )
    checkpoint = TrainingCheckpoint(
        run_dir.training_state(artifact),
        run_dir.loss_curve(artifact),
        key=key,
        parts={"ensemble": ensemble, "optimizer": optimizer},
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
        drawn_ahead(batches) as ahead,
    ):
        regress(
            ensemble,
            teacher,
            load_statistics(run_dir.teacher_statistics(patch_size)),
            ahead,
            penalty_batches=penalty_batches(settings),
            settings=students,
            steps=steps,
            seed=settings.seed,
            compute=compute,
            optimizer=optimizer,
            checkpoint=checkpoint,
            on_step=followed_by(show, tracker, f"students p{patch_size}", total=steps),
        )
    write_tensors(artifact, _state(ensemble))


def _state(ensemble: StudentEnsemble) -> dict[str, Any]:
    """Return the content of a students checkpoint."""
    first = ensemble.networks[0]
    return {
        "format_version": FORMAT_VERSION,
        "num_students": len(ensemble.networks),
        "patch_size": first.patch_size,
        "descriptor_dim": first.descriptor_dim,
        "width": first.width,
        "networks": {name: tensor.contiguous() for name, tensor in ensemble.cpu().state_dict().items()},
    }
