"""What is written of a scored picture: with the threshold, the map and the colours that each file is about."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import plain_scores
import pytest
import torch
from PIL import Image

from us_anomaly.commands.results import Picture, score
from us_anomaly.detector import Prediction
from us_anomaly.reporting.heatmaps import color_steps, read_color_steps
from us_anomaly.run_dir import RunDir

CALIBRATION = plain_scores.calibration(
    image_threshold=5.0, pixel_threshold=2.0, color_range=(0.0, 10.0), uncertainty_color_range=(0.0, 4.0)
)


def prediction() -> Prediction:
    """Two regions on a map of 60 x 90 pixels, of which one is below the image threshold; doubt rises from left to right."""
    anomaly_map = np.full((60, 90), 0.5, dtype=np.float32)
    anomaly_map[10:16, 70:74] = 9.0
    anomaly_map[40:43, 20:30] = 3.0
    return Prediction(
        anomaly_score=9.0,
        normalized_score=0.9,
        is_anomalous=True,
        anomaly_map=anomaly_map,
        uncertainty_map=np.tile(np.linspace(0, 4, 90, dtype=np.float32), (60, 1)),
    )


@pytest.fixture
def scored(compose, tmp_path) -> RunDir:
    """Return what is left of one picture by a detector that is known to predict just this of it."""
    Image.new("RGB", (90, 60)).save(tmp_path / "a.png")
    detector = SimpleNamespace(
        pipeline=SimpleNamespace(prefix=lambda pixels: torch.zeros(3, 8, 8, dtype=torch.uint8)),
        predict_prepared=lambda prepared, *, height, width: prediction(),
        require_calibration=lambda: CALIBRATION,
    )
    settings = compose("infer", "data.root=x", "runtime.num_workers=0", "runtime.progress=false")
    target = RunDir(tmp_path / "run")
    score(settings, detector, [Picture(path=tmp_path / "a.png", name="a.png", is_anomalous=None)], target)
    return target


def test_regions_are_those_above_the_pixel_threshold_in_a_picture_of_its_height_and_width(scored):
    content = json.loads(scored.regions.read_text())
    assert content["images"] == [{"id": 1, "file_name": "a.png", "height": 60, "width": 90}]
    assert [(entry["bbox"], entry["area"], entry["score"]) for entry in content["annotations"]] == [
        ([70, 10, 4, 6], 24, 9.0),
        ([20, 40, 10, 3], 30, 3.0),
    ]


def test_score_and_uncertainty_are_each_drawn_in_their_own_colours(scored):
    for path, values, color_range in (
        (scored.heatmaps / "a.png", prediction().anomaly_map, CALIBRATION.color_range),
        (scored.uncertainty / "a.png", prediction().uncertainty_map, CALIBRATION.uncertainty_color_range),
    ):
        assert np.array_equal(read_color_steps(path), color_steps(values, color_range=color_range))


def test_the_table_of_predictions_ends_with_the_threshold_of_pictures(scored):
    with scored.predictions_csv.open(newline="") as file:
        header, row = csv.reader(file)
    assert (header[-1], float(row[-1])) == ("threshold", CALIBRATION.image_threshold)
