"""`usad evaluate`: compare predictions with the truth and write every figure down."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from us_anomaly.data.sample import Sample, of_split, parse_labels
from us_anomaly.errors import MissingArtifactError
from us_anomaly.reporting.tables import evaluation_csv, evaluation_notes, evaluation_tables
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_json, write_text
from us_anomaly.run_dir.provenance import Recipe, content_hash, record
from us_anomaly.scoring.calibration import Calibration
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.duplicates import duplicates_across_splits
from us_anomaly.scoring.evaluation import best_found, evaluate
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.saturation import find_saturation_table
from us_anomaly.scoring.scored_images import ScoredImage, parse_predictions, scored_images
from us_anomaly.scoring.thresholds import Threshold
from us_anomaly.settings import MapResolution, Settings


def run(settings: Settings) -> None:
    """Evaluate the test predictions of the run directory; print the table and where to look first.

    Raises:
        UsadError: An input is missing, stale or damaged, or the truth contradicts the images.
    """
    started = time.monotonic()
    run_dir = RunDir(settings.run_dir)
    for artifact, command in _inputs(run_dir).items():
        _require_made(run_dir, artifact, command=command)
    samples = parse_labels(run_dir.split.read_text(encoding="utf-8"))
    threshold = _threshold(run_dir, settings)
    images = scored_images(
        parse_predictions(run_dir.predictions.read_text(encoding="utf-8")),
        of_split(samples, "test"),
        deployed_threshold=threshold.value,
    )
    evaluation = evaluate(
        images,
        source=_pixel_source(images, run_dir, settings, _problems(samples, settings)),
        threshold=threshold,
        settings=settings.evaluation,
        seed=settings.seed,
        data_set=_data_set(settings),
    )
    write_text(run_dir.evaluation_csv, evaluation_csv(evaluation))
    write_json(run_dir.evaluation_json, evaluation)
    record(run_dir, run_dir.evaluation_json, recipe(run_dir, settings), seconds=time.monotonic() - started)
    show(evaluation, run_dir, best_found(images, threshold=threshold.value))


def recipe(run_dir: RunDir, settings: Settings) -> Recipe:
    """Return what decides `evaluation.json`."""
    return Recipe(
        command="evaluate",
        settings={
            "evaluation.algorithm": settings.evaluation.algorithm.value,
            "evaluation.resolution": settings.evaluation.resolution.value,
            "evaluation.bootstrap_samples": settings.evaluation.bootstrap_samples,
            "seed": settings.seed,
        },
        inputs={path.name: content_hash(path) for path in _inputs(run_dir)},
    )


def show(evaluation: dict[str, Any], run_dir: RunDir, best: ScoredImage | None) -> None:
    """Print the tables, what must be known with them, and the heatmap to look at first."""
    console = Console()
    for table in evaluation_tables(evaluation):
        console.print(table)
    for note in evaluation_notes(evaluation):
        console.print(note, highlight=False)
    console.print(f"{run_dir.evaluation_json}", highlight=False, soft_wrap=True)
    if best is not None and best.heatmap_path is not None:
        heatmap = run_dir.root / best.heatmap_path
        console.print(f"most anomalous image that was found: {heatmap}", highlight=False, soft_wrap=True)


def _inputs(run_dir: RunDir) -> dict[Path, str]:
    """Return what the evaluation is made from, with the command that makes it."""
    return {run_dir.split: "split", run_dir.calibration: "calibrate", run_dir.predictions: "infer"}


def _require_made(run_dir: RunDir, artifact: Path, *, command: str) -> None:
    if not artifact.exists() or not run_dir.provenance(artifact).exists():
        raise MissingArtifactError(
            f"{artifact} does not exist: run `usad {command}` first, with the same settings "
            "(or `usad run` for all stages)"
        )


def _threshold(run_dir: RunDir, settings: Settings) -> Threshold:
    calibration = Calibration.from_json(read_json(run_dir.calibration))
    requested = settings.calibration.threshold
    return Threshold(
        value=calibration.image_threshold,
        rule=calibration.threshold_rule,
        requested=requested if isinstance(requested, str) else "number",
        reason=calibration.threshold_reason,
    )


def _problems(samples: list[Sample], settings: Settings) -> DataProblems:
    problems = DataProblems()
    for group in duplicates_across_splits(samples, data_root=Path(settings.data.root)):
        for sample in group:
            if sample.split == "test":
                problems.add("duplicates_across_splits", sample.filename)
    return problems


def _pixel_source(
    images: list[ScoredImage], run_dir: RunDir, settings: Settings, problems: DataProblems
) -> PixelSource:
    root = Path(settings.data.root)
    category = getattr(settings.data, "category", None)
    folders = [root / category, root] if category else [root]
    at_network_size = settings.evaluation.resolution is MapResolution.network
    return PixelSource(
        images=[image for image in images if image.map_path is not None],
        run_dir=run_dir.root,
        data_root=root,
        max_image_pixels=settings.data.max_image_pixels,
        network_size_px=settings.image_size if at_network_size else None,
        saturation=find_saturation_table(folders),
        problems=problems,
    )


def _data_set(settings: Settings) -> dict[str, Any]:
    """Return what names the data set in a table of many runs."""
    return {"name": settings.data.name, "category": getattr(settings.data, "category", None)}
