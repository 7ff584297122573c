"""The data of the two galleries, as scripts: a page that was opened from disk may load nothing else."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from us_anomaly.reporting.color_scale import decision_gradient, map_gradient
from us_anomaly.reporting.pages.drawing import DrawnImage, DrawnPrediction
from us_anomaly.reporting.pages.source import ReportSource
from us_anomaly.reporting.readout import as_script

log = logging.getLogger(__name__)


def images_script(source: ReportSource, drawn: Sequence[DrawnImage]) -> str:
    """Return the script that hands over every image of the split."""
    images = [
        _without_none(
            {
                "name": sample.filename,
                "split": sample.split,
                "anomalous": sample.is_anomalous,
                "type": sample.defect_type,
                "group": sample.group,
                "gallery": image.image and image.image.gallery,
                "view": image.image and image.image.view,
                "width": image.width,
                "height": image.height,
                "mask": image.mask,
                "outline": image.outline,
                "original": image.original,
            }
        )
        for sample, image in zip(source.samples, drawn, strict=True)
    ]
    return as_script("usad.takeImages", images)


def predictions_script(source: ReportSource, drawn: Sequence[DrawnPrediction]) -> str:
    """Return the script that hands over every prediction and what decisions and colours mean."""
    positions = {sample.filename: position for position, sample in enumerate(source.samples)}
    predictions = []
    for record, pictures in zip(source.predictions, drawn, strict=True):
        if record["filename"] not in positions:
            log.warning("left out of the report: %s is not in split.jsonl", record["filename"])
            continue
        predictions.append(_prediction(record, pictures, position=positions[record["filename"]]))
    calibration = source.calibration
    meaning = {
        "threshold": calibration.image_threshold,
        "rule": calibration.threshold_rule,
        "scoreScale": calibration.score_scale,
        "pixelThreshold": calibration.pixel_threshold,
        "colorRange": list(calibration.color_range),
        "uncertaintyRange": list(calibration.uncertainty_color_range),
        "mapColors": map_gradient(),
        "decisionColors": decision_gradient(),
    }
    return as_script("usad.takePredictions", meaning, predictions)


def _prediction(record: Mapping[str, Any], pictures: DrawnPrediction, *, position: int) -> dict[str, Any]:
    heatmap, uncertainty = pictures.heatmap, pictures.uncertainty
    return _without_none(
        {
            "image": position,
            "score": float(record["prediction"]["anomaly_score"]),
            "heatmap": heatmap and heatmap.gallery,
            "heatmapView": heatmap and heatmap.view,
            "uncertainty": uncertainty and uncertainty.gallery,
            "uncertaintyView": uncertainty and uncertainty.view,
            "values": pictures.values,
        }
    )


def _without_none(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value is not None}
