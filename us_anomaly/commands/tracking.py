"""What the commands tell a tracker."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from us_anomaly.commands.shown_settings import by_key
from us_anomaly.commands.stage import read_split
from us_anomaly.data.images import read_image, read_mask, read_own
from us_anomaly.data.sample import Sample
from us_anomaly.reporting.panel import panel
from us_anomaly.reporting.trackers import Tracker, open_tracker
from us_anomaly.run_dir import RunDir
from us_anomaly.scoring.scored_images import parse_predictions
from us_anomaly.settings import Settings
from us_anomaly.settings import Tracker as Kind

NUM_PANELS_EACH = 3


def tracked(settings: Settings) -> AbstractContextManager[Tracker]:
    """Open the tracker of the settings.

    Raises:
        SettingsError: Its package is not installed.
    """
    return open_tracker(settings.tracking, run_dir=Path(settings.run_dir), parameters=by_key(settings))


def track_evaluation(settings: Settings, evaluation: Mapping[str, Any]) -> None:
    """Tell figures, files and a few panels: highest scores, misses and false alarms."""
    if settings.tracking.tracker is Kind.none:
        return
    run_dir = RunDir(settings.run_dir)
    with tracked(settings) as tracker:
        tracker.figures(evaluation["metrics"])
        tracker.files([run_dir.evaluation_json, run_dir.evaluation_csv, run_dir.calibration])
        for name, picture in _panels(settings, run_dir):
            tracker.picture(name, picture)


def telling(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the results that tell most about a detector, each with the reason: most certain hits, worst misses, worst alarms."""
    falling = sorted(records, key=lambda record: -record["prediction"]["anomaly_score"])
    anomalous = [record for record in falling if record["ground_truth"]["is_anomalous"]]
    normal = [record for record in falling if not record["ground_truth"]["is_anomalous"]]
    kinds = (
        ("found", [record for record in anomalous if record["correct"]]),
        ("missed", [record for record in reversed(anomalous) if not record["correct"]]),
        ("false alarm", [record for record in normal if not record["correct"]]),
    )
    for kind, chosen in kinds:
        for number, record in enumerate(chosen[:NUM_PANELS_EACH], start=1):
            yield f"{kind} {number}", record


def _panels(settings: Settings, run_dir: RunDir) -> Iterator[tuple[str, Image.Image]]:
    tested = {sample.filename: sample for sample in read_split(run_dir, "test")}
    results = parse_predictions(run_dir.predictions.read_text(encoding="utf-8"))
    for name, record in telling([result for result in results if result["filename"] in tested]):
        yield f"panels/{name}", _panel(settings, run_dir, tested[record["filename"]], record["prediction"])


def _panel(settings: Settings, run_dir: RunDir, sample: Sample, prediction: Mapping[str, Any]) -> Image.Image:
    root = Path(settings.data.root)
    max_pixels = settings.data.max_image_pixels
    pictures = {}
    for kind in ("heatmap", "uncertainty"):
        path = prediction[f"{kind}_path"]
        if path is not None:
            pictures[kind] = read_own(
                run_dir.root / path, lambda opened: np.asarray(opened.convert("RGBA")), max_pixels=max_pixels
            )
    image = read_image(root / sample.filename, max_pixels=max_pixels, white_level=settings.data.white_level)
    mask = None if sample.mask_path is None else read_mask(root / sample.mask_path, max_pixels=max_pixels)
    return panel(
        image,
        heatmap=pictures.get("heatmap"),
        uncertainty=pictures.get("uncertainty"),
        mask=mask if mask is not None and mask.shape == image.shape[:2] else None,
    )
