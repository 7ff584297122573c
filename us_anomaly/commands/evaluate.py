"""`usad evaluate`: compare predictions with the truth and write every figure down."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make, read_split
from us_anomaly.commands.tracking import track_evaluation
from us_anomaly.data.sample import Sample, of_split
from us_anomaly.reporting.progress import Watched, progress
from us_anomaly.reporting.summary import Summary, print_table, show_summary
from us_anomaly.reporting.tables import evaluation_csv, evaluation_notes, evaluation_tables
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import json_text
from us_anomaly.run_dir.staging import replace_together
from us_anomaly.scoring.calibration_file import load_calibration
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.duplicates import duplicates_across_splits
from us_anomaly.scoring.evaluation import evaluate
from us_anomaly.scoring.evaluation_file import read_evaluation
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.saturation import read_saturation_table, saturation_file
from us_anomaly.scoring.scored_images import ScoredImage, parse_predictions, scored_images
from us_anomaly.scoring.thresholds import Threshold
from us_anomaly.settings import MapResolution, OnBadImage, Settings, Tracker, category_of

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Evaluate the test predictions of the run directory; print the tables and where to look first.

    Raises:
        UsadError: An input is missing, stale or damaged, or the truth contradicts the images.
    """
    run_dir = RunDir(settings.run_dir)
    recipe = Recipes(settings).evaluation

    def build() -> None:
        evaluation = measure(settings)
        texts = {run_dir.evaluation_csv: evaluation_csv(evaluation), run_dir.evaluation_json: json_text(evaluation)}
        replace_together(run_dir, run_dir.evaluation_json, texts)

    was_made = make(
        run_dir.evaluation_json,
        recipe,
        build,
        settings=settings,
        is_precious=False,
        companions=lambda: [run_dir.evaluation_csv],
        anew=settings.overwrite,  # as the message about a damaged one advises
    )
    evaluation = read_evaluation(run_dir.evaluation_json)
    if was_made:
        track_evaluation(settings, evaluation)
    elif settings.tracking.tracker is not Tracker.none:
        log.info("the figures were made before, and are tracked when they are made: overwrite=true makes them again")
    show(evaluation, run_dir)


def measure(settings: Settings) -> dict[str, Any]:
    """Compute the content of `evaluation.json` from predictions, maps and masks."""
    run_dir = RunDir(settings.run_dir)
    samples = read_split(run_dir)
    threshold = _threshold(settings)
    problems = DataProblems()
    _note_duplicates(samples, settings, problems)
    images = scored_images(
        parse_predictions(run_dir.predictions.read_text(encoding="utf-8")),
        of_split(samples, "test"),
        deployed_threshold=threshold.value,
        problems=problems if settings.data.on_bad_image is OnBadImage.skip else None,
    )
    source = pixel_source(images, settings, problems)
    with progress("reading maps and masks", len(source.images), enabled=settings.runtime.progress) as on_step:
        return evaluate(
            images,
            source=dataclasses.replace(source, images=Watched(source.images, lambda done: on_step(done, {}))),
            threshold=threshold,
            settings=settings.evaluation,
            seed=settings.seed,
            data_set={"name": settings.data.name, "category": category_of(settings.data)},
        )


def show(evaluation: dict[str, Any], run_dir: RunDir) -> None:
    """Print the tables, what must be known with them, and the heatmap to look at first."""
    console = Console(highlight=False, soft_wrap=True)
    for table in evaluation_tables(evaluation):
        print_table(table)
    for note in evaluation_notes(evaluation):
        console.print(note, markup=False)
    best = evaluation["most_anomalous_found"]
    if best is not None and best["heatmap_path"] is not None:
        heatmap = run_dir.root / best["heatmap_path"]
        console.print(f"Most anomalous image that was found: {heatmap}", markup=False)
    written = [("figures", run_dir.evaluation_json), ("as a table", run_dir.evaluation_csv)]
    show_summary(Summary(command="evaluate", written=written, next_command="report"))


def _threshold(settings: Settings) -> Threshold:
    calibration = load_calibration(RunDir(settings.run_dir).calibration)
    requested = settings.calibration.threshold
    return Threshold(
        value=calibration.image_threshold,
        rule=calibration.threshold_rule,
        requested=requested if isinstance(requested, str) else "number",
        reason=calibration.threshold_reason,
    )


def _note_duplicates(samples: list[Sample], settings: Settings, problems: DataProblems) -> None:
    """Count the test images that are also in another split."""
    for group in duplicates_across_splits(samples, data_root=_data_root(settings)):
        for sample in of_split(group, "test"):
            problems.add("duplicates_across_splits", sample.filename)


def pixel_source(images: list[ScoredImage], settings: Settings, problems: DataProblems) -> PixelSource:
    """Return maps and masks of the images whose maps were saved, at the resolution of the settings."""
    root = _data_root(settings)
    table = saturation_file(root, category_of(settings.data))
    return PixelSource(
        images=[image for image in images if image.map_path is not None],
        run_dir=Path(settings.run_dir),
        data_root=root,
        max_image_pixels=settings.data.max_image_pixels,
        network_size=_network_size(settings) if settings.evaluation.resolution is MapResolution.network else None,
        saturation=None if table is None else read_saturation_table(table),
        problems=problems,
    )


def _network_size(settings: Settings) -> Callable[[tuple[int, int]], tuple[int, int]]:
    """Return what tells the size that the network sees of a picture of some height and width."""
    from us_anomaly.data.augmentation import build_transforms  # torchvision takes seconds, and is rarely needed here

    pipeline = build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    return functools.cache(pipeline.size_of)


def _data_root(settings: Settings) -> Path:
    return Path(settings.data.root)
