"""`usad finetune-backbone`: the backbone learns to tell normal training pictures from altered ones, before it is distilled."""

import logging
import math
from pathlib import Path
from typing import Any

import torch

from us_anomaly.commands.named_files import without_named_files
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make, read_split
from us_anomaly.commands.tracking import tracked
from us_anomaly.commands.training_images import training_images
from us_anomaly.data.augmentation import build_transforms
from us_anomaly.errors import SettingsError
from us_anomaly.models.backbones import load_backbone
from us_anomaly.models.compute import choose_compute
from us_anomaly.reporting.progress import progress
from us_anomaly.reporting.summary import Summary, show_summary
from us_anomaly.reporting.trackers import followed_by
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_tensors, write_tensors
from us_anomaly.run_dir.provenance import fingerprint
from us_anomaly.settings import Settings
from us_anomaly.settings.plain import plain
from us_anomaly.training.artifacts import backbone_state
from us_anomaly.training.backbone_finetuning import (
    BestWeights,
    DefectClassifier,
    divide,
    finetune,
    held_out_batches,
    training_batches,
)
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import num_steps
from us_anomaly.training.drawing_ahead import drawn_ahead

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Fine-tune the backbone.

    Raises:
        SettingsError: The settings say that the teacher will not use it.
    """
    if not settings.finetuning.enabled:
        raise SettingsError(
            "`finetuning.enabled` is false, so no teacher would learn from a fine-tuned backbone: give "
            "finetuning.enabled=true to this command and to those that follow"
        )
    run_dir = RunDir(settings.run_dir)
    recipe = Recipes(settings).backbone

    def build() -> None:
        train(settings, run_dir.backbone, key=fingerprint(recipe))

    make(run_dir.backbone, recipe, build, settings=settings, is_precious=True)
    held_out = read_tensors(run_dir.backbone)["held_out"]
    show_summary(
        Summary(
            command="finetune-backbone",
            facts=[
                ("told right of held-out pictures", f"{held_out['accuracy']:.1%}"),
                ("at step", str(held_out["step"])),
            ],
            written=[("backbone", run_dir.backbone), ("losses", run_dir.loss_curve(run_dir.backbone))],
            next_command="distill-teacher",
        )
    )


def train(settings: Settings, artifact: Path, *, key: str) -> None:
    """Fine-tune the backbone and write its weights to `artifact`."""
    run_dir, finetuning = RunDir(settings.run_dir), settings.finetuning
    compute = choose_compute(settings.runtime)
    backbone = load_backbone(settings.backbone)
    weights = backbone.unfreeze(frozen_stages=finetuning.frozen_stages)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        classifier = DefectClassifier(backbone, head_width=finetuning.head_width)
    parameters = [*weights, *classifier.head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=finetuning.learning_rate, weight_decay=finetuning.weight_decay)
    best = BestWeights(backbone.network)
    groups = [sample.group for sample in read_split(run_dir, "train")]
    trained_on, held_out = divide(groups, fraction=finetuning.held_out_fraction, seed=settings.seed)
    pipeline = build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    cache = training_images(settings, pipeline)
    steps = num_steps(
        steps=finetuning.steps,
        epochs=finetuning.epochs,
        items_per_epoch=len(trained_on),
        batch_size=finetuning.batch_size,
    )
    checkpoint = TrainingCheckpoint(
        run_dir.training_state(artifact),
        run_dir.loss_curve(artifact),
        key=key,
        parts={"classifier": classifier, "optimizer": optimizer, "best": best},
        settings=settings.checkpoint,
    )
    batches = training_batches(cache, trained_on, pipeline, settings=finetuning, seed=settings.seed)
    with (
        tracked(settings) as tracker,
        progress("fine-tuning the backbone", steps, enabled=settings.runtime.progress) as show,
        drawn_ahead(batches, runtime=settings.runtime, compute=compute) as ahead,
    ):
        finetune(
            classifier,
            ahead,
            held_out_batches(cache, held_out, pipeline, settings=finetuning, seed=settings.seed),
            steps=steps,
            steps_per_epoch=math.ceil(len(trained_on) / finetuning.batch_size),
            patience=finetuning.patience,
            compute=compute,
            optimizer=optimizer,
            best=best,
            checkpoint=checkpoint,
            on_step=followed_by(show, tracker, "backbone", total=steps),
        )
    _report(best)
    write_tensors(artifact, _state(best, settings))


def _report(best: BestWeights) -> None:
    if best.step == 0:
        log.warning(
            "THE BACKBONE LEARNED NOTHING: no epoch lowered the loss on the held-out pictures, and it is as it was. Lower "
            "finetuning.learning_rate, train longer (finetuning.epochs), or set finetuning.enabled=false"
        )
    else:
        log.info(
            "the backbone tells normal, cut-paste and scar apart in %.1f %% of the held-out pictures (33.3 %% is chance); "
            "it was best after step %d",
            100 * best.accuracy,
            best.step,
        )


def _state(best: BestWeights, settings: Settings) -> dict[str, Any]:
    """Return the content of a backbone checkpoint; of weights that a setting names, its note has the content."""
    return backbone_state(
        best.weights,
        held_out={"loss": round(best.loss, 6), "accuracy": round(best.accuracy, 6), "step": best.step},
        settings={
            "finetuning": plain(settings.finetuning),
            "backbone": without_named_files("backbone", plain(settings.backbone)),
            "seed": settings.seed,
        },
    )
