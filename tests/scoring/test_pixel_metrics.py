"""Which of the two algorithms counts pixels; what they count is tested beside each of them."""

import numpy as np
import pytest

from us_anomaly.scoring import pixel_metrics
from us_anomaly.scoring.pixel_metrics import evaluate_pixels
from us_anomaly.scoring.region_overlap import PixelItem, PixelTruth
from us_anomaly.settings import MetricAlgorithm

MASK = np.eye(4, dtype=bool)
ITEMS = [
    PixelItem(anomaly_map=np.arange(16, dtype=np.float32).reshape(4, 4), truth=PixelTruth(MASK), group="scratch"),
    PixelItem(anomaly_map=np.zeros((4, 4), dtype=np.float32), truth=PixelTruth(np.zeros_like(MASK)), group="good"),
]
OTHER = {MetricAlgorithm.exact: "count_streaming", MetricAlgorithm.streaming: "count_exactly"}


def evaluate(algorithm, *, num_pixels=32):
    return evaluate_pixels(ITEMS, algorithm=algorithm, num_pixels=num_pixels, saturated=False)


@pytest.mark.parametrize("algorithm", OTHER)
def test_the_algorithm_that_was_asked_for_counts_and_not_the_other(monkeypatch, algorithm):
    monkeypatch.delattr(pixel_metrics, OTHER[algorithm])
    evaluation = evaluate(algorithm)
    assert evaluation.algorithm is algorithm
    assert evaluation.num_regions == 1


@pytest.mark.parametrize(("num_pixels", "expected"), [(32, MetricAlgorithm.exact), (33, MetricAlgorithm.streaming)])
def test_auto_counts_exactly_up_to_the_limit_and_in_bins_above(monkeypatch, num_pixels, expected):
    monkeypatch.setattr(pixel_metrics, "MAX_EXACT_PIXELS", 32)
    monkeypatch.delattr(pixel_metrics, OTHER[expected])
    assert evaluate(MetricAlgorithm.auto, num_pixels=num_pixels).algorithm is expected
