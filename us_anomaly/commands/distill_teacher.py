"""`usad distill-teacher` (also `train-teacher`): the backbone's knowledge of patches goes into the small patch network."""

import logging
from pathlib import Path
from typing import Any

import torch

from us_anomaly.commands.named_files import named_teacher, without_named_files
from us_anomaly.commands.recipes import NOT_DECISIVE, Recipes
from us_anomaly.commands.stage import make
from us_anomaly.commands.teacher_cache import take_or_distil
from us_anomaly.commands.tracking import tracked
from us_anomaly.commands.training_images import training_images
from us_anomaly.data.augmentation import build_transforms
from us_anomaly.errors import ArtifactError, SettingsError
from us_anomaly.models.backbones import load_backbone
from us_anomaly.models.compute import Compute, choose_compute
from us_anomaly.models.patch_network import PatchNetwork, at_reduced_resolution
from us_anomaly.models.weights import read_state_dict
from us_anomaly.reporting.progress import progress, progress_over
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.reporting.trackers import followed_by
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_tensors, write_tensors
from us_anomaly.run_dir.faults import in_one_line
from us_anomaly.run_dir.provenance import fingerprint
from us_anomaly.settings import REDUCED, TRAIN, Settings, TeacherPositions
from us_anomaly.settings.plain import plain, typed
from us_anomaly.training.artifacts import build_teacher, load_finetuned, load_teacher, teacher_state
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import num_steps
from us_anomaly.training.distillation import Distillation, distil
from us_anomaly.training.drawing_ahead import drawn_ahead
from us_anomaly.training.optimizers import build_optimizer
from us_anomaly.training.pictures import teacher_batches

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Make the teacher of every patch size, or take over the one that `teacher.checkpoint` names."""
    run_dir = RunDir(settings.run_dir)
    if too_large := [size for size in settings.scales if size > min(settings.input_size())]:
        log.warning(
            "patches of %s pixels are larger than the whole picture (image_size=%s), so all of them see mirrored borders: "
            "leave them out of scales, or give a larger image_size",
            " and ".join(map(str, too_large)),
            typed(settings.image_size),
        )
    with progress_over("patch sizes", settings.scales, enabled=settings.runtime.progress) as patch_sizes:
        for patch_size in patch_sizes:
            _make_teacher(settings, patch_size, run_dir.teacher(patch_size))
    show_summary(
        Summary(
            command="distill-teacher",
            facts=[fact for size in settings.scales for fact in _facts(run_dir, size)],
            written=[("teacher", run_dir.teacher(size)) for size in settings.scales],
            next_command="normalize",
        )
    )


def _make_teacher(settings: Settings, patch_size: int, artifact: Path) -> None:
    recipe = Recipes(settings).teacher(patch_size)

    def build() -> None:
        if settings.teacher.checkpoint is not None:
            reuse(settings.teacher.checkpoint, patch_size, artifact)
            return
        compute = choose_compute(settings.runtime)

        def train() -> None:
            distill(settings, patch_size, artifact, key=fingerprint(recipe), compute=compute)

        take_or_distil(settings, patch_size, recipe, compute=compute, distil=train)
        _report(read_tensors(artifact)["explained_variance"], floor=settings.teacher.min_explained_variance)

    make(artifact, recipe, build, settings=settings, is_precious=True)


def _facts(run_dir: RunDir, patch_size: int) -> list[tuple[str, str]]:
    """Return how much of the backbone the teacher explains; nothing is known of one that was made elsewhere."""
    explained = read_tensors(run_dir.teacher(patch_size)).get("explained_variance")
    return [] if explained is None else [(f"explained variance, p={patch_size}", f"{explained:.1%}")]


def distill(settings: Settings, patch_size: int, artifact: Path, *, key: str, compute: Compute) -> None:
    """Train a teacher and write it to `artifact`."""
    run_dir = RunDir(settings.run_dir)
    backbone = load_backbone(settings.backbone)
    if settings.finetuning.enabled:
        load_finetuned(run_dir.backbone, backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        teacher = PatchNetwork(patch_size, descriptor_dim=settings.teacher.descriptor_dim, width=settings.teacher.width)
        distillation = Distillation(teacher, backbone, settings.teacher)
    if settings.teacher.start_from is not None:
        _start_from(read_teacher("start_from", settings.teacher.start_from, patch_size), teacher)
    optimizer = build_optimizer(
        settings.teacher.optimizer,
        [*teacher.parameters(), *distillation.decoder.parameters()],
        learning_rate=settings.teacher.learning_rate,
        weight_decay=settings.teacher.weight_decay,
    )
    batches, steps = _pictures(settings, patch_size)
    checkpoint = TrainingCheckpoint(
        run_dir.training_state(artifact),
        run_dir.loss_curve(artifact),
        key=key,
        parts={"distillation": distillation.trained, "optimizer": optimizer},
        settings=settings.checkpoint,
    )
    with (
        tracked(settings) as tracker,
        progress(f"distilling the teacher (p={patch_size})", steps, enabled=settings.runtime.progress) as show,
        drawn_ahead(batches, runtime=settings.runtime, compute=compute) as ahead,
    ):
        explained = distil(
            distillation,
            ahead,
            steps=steps,
            seed=settings.seed,
            compute=compute,
            optimizer=optimizer,
            checkpoint=checkpoint,
            on_step=followed_by(show, tracker, f"teacher p{patch_size}", total=steps),
        )
    write_tensors(artifact, _state(teacher, explained_variance=explained, settings=settings))


def _pictures(settings: Settings, patch_size: int) -> tuple[Any, int]:
    """Return the batches of the distillation and its number of steps."""
    teacher = settings.teacher
    cache = None
    if TRAIN in teacher.image_sources():
        dense = teacher.positions is TeacherPositions.dense
        name = "evaluation" if dense else "teacher"
        entries = settings.augmentation.evaluation if dense else settings.augmentation.teacher
        pipeline = build_transforms(entries, key=f"augmentation.{name}", patch_size=None if dense else patch_size)
        cache = training_images(settings, pipeline)
    per_image = teacher.patches_per_image if teacher.positions is TeacherPositions.patches else 1
    num_pictures = len(cache) if cache is not None else 1000  # a stream has no end: an epoch is a thousand pictures
    steps = num_steps(
        steps=teacher.steps,
        epochs=teacher.epochs,
        items_per_epoch=num_pictures * per_image,
        batch_size=teacher.batch_size,
    )
    return teacher_batches(settings, patch_size=patch_size, cache=cache, seed=settings.seed), steps


def _report(explained_variance: float, *, floor: float) -> None:
    if explained_variance < floor:
        log.warning(
            "THE TEACHER DID NOT LEARN: it explains %.1f %% of the variance of the backbone's descriptors, less than "
            "teacher.min_explained_variance=%g. Train longer (teacher.epochs), raise teacher.learning_rate, let it learn from "
            "more varied pictures (teacher.images=generic), or distil earlier layers (backbone.layers=[2,3,4])",
            100 * explained_variance,
            floor,
        )
    else:
        log.info(
            "the teacher explains %.1f %% of the variance of the backbone's descriptors",
            100 * explained_variance,
        )


def _state(teacher: PatchNetwork, *, explained_variance: float, settings: Settings) -> dict[str, Any]:
    """Return the content of a teacher checkpoint; of files that settings name, its note has the content."""
    teacher_settings = without_named_files("teacher", plain(settings.teacher))
    return {
        **teacher_state(teacher),
        "explained_variance": round(explained_variance, 6),
        "settings": {
            "teacher": {name: value for name, value in teacher_settings.items() if name not in NOT_DECISIVE},
            "backbone": without_named_files("backbone", plain(settings.backbone)),
            "seed": settings.seed,
        },
    }


def reuse(checkpoint: str, patch_size: int, artifact: Path) -> None:
    """Check a teacher that was made elsewhere and write it to `artifact`.

    Raises:
        ArtifactError: It is no teacher of this patch size.
    """
    teacher = read_teacher("checkpoint", checkpoint, patch_size)
    write_tensors(artifact, teacher_state(teacher))
    log.info("took over the teacher %s", named_teacher("checkpoint", checkpoint, patch_size))


def read_teacher(key: str, name: str, patch_size: int) -> PatchNetwork:
    """Read the teacher that `teacher.checkpoint` or `teacher.start_from` names.

    Raises:
        ArtifactError: It is no teacher of this patch size.
    """
    path = named_teacher(key, name, patch_size)
    teacher = _teacher_from_safetensors(key, path) if path.suffix == ".safetensors" else load_teacher(path)
    if REDUCED.get(patch_size) == teacher.patch_size:
        teacher = at_reduced_resolution(teacher, patch_size)
    if teacher.patch_size != patch_size:
        raise ArtifactError(
            f"`teacher.{key}`: {path} is a teacher for patches of {teacher.patch_size} pixels, scales asks for {patch_size}"
        )
    return teacher


def _start_from(known: PatchNetwork, teacher: PatchNetwork) -> None:
    """Give a fresh teacher the weights of a known one, layer by layer as far as their shapes agree.

    Raises:
        SettingsError: Not even the first layer agrees.
    """
    fresh, given = teacher.state_dict(), known.state_dict()
    fitting = {name: given[name] for name in fresh if given[name].shape == fresh[name].shape}
    if next(iter(fresh)) not in fitting:
        raise SettingsError(
            f"`teacher.start_from` is a teacher of width {known.width:g}: give teacher.width={known.width:g}, "
            f"got {teacher.width:g}"
        )
    teacher.load_state_dict({**fresh, **fitting})
    left = [name for name in fresh if name not in fitting]
    log.info(
        "starting from the weights of a teacher%s", f"; of another shape and fresh: {', '.join(left)}" if left else ""
    )


def _teacher_from_safetensors(key: str, path: Path) -> PatchNetwork:
    """Build the teacher that a safetensors file holds; its header names patch size, descriptor dimension and width."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        return build_teacher(header, read_state_dict(path))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, SettingsError) as error:
        reason = f"its header lacks {error}" if isinstance(error, KeyError) else in_one_line(error)
        raise ArtifactError(f"`teacher.{key}`: {path} does not hold a teacher ({reason})") from error
