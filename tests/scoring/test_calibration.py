import itertools
import json
import math
from pathlib import Path

import numpy as np
import plain_scores
import pytest
import torch

from us_anomaly.errors import ArtifactError, DataError
from us_anomaly.scoring import calibration as module
from us_anomaly.scoring.anomaly_map import MapStatistics
from us_anomaly.scoring.calibration import MapGatherer, calibrate
from us_anomaly.scoring.calibration_file import read_numbers
from us_anomaly.scoring.raw_maps import Grid, RawMaps
from us_anomaly.settings import CalibrationSettings, Normalization

SCORING = plain_scores.scoring()
FILE = Path("run/calibration.json")


def settings(**changed):
    values = {
        "threshold": "f1",
        "max_false_positive_rate": 0.1,
        "min_recall": 0.9,
        "quantile": 0.9,
        "pixel_quantile": 0.995,
    }
    return CalibrationSettings(**(values | changed))


def pictures(peaks, *, seed=0, sizes=(33,), calls=None):
    """Functions that return maps whose image score is the given peak."""
    rng = np.random.default_rng(seed)
    functions = []
    for peak in peaks:
        maps = {}
        for size in sizes:
            error = rng.uniform(0, 0.5, size=(8, 10))
            error.flat[rng.integers(80)] = peak
            maps[size] = RawMaps(torch.from_numpy(error).float(), torch.zeros(8, 10), Grid(8, 10, 1))

        def get(maps=maps):
            if calls is not None:
                calls.append(1)
            return maps

        functions.append(get)
    return functions


def calibrated(normal_peaks, anomalous_peaks, *, scoring=SCORING, **changed):
    return calibrate(
        pictures(normal_peaks),
        pictures(anomalous_peaks, seed=1),
        reference="val",
        scoring=scoring,
        settings=settings(**changed),
    )


NORMAL_PEAKS = [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8]


# --- statistics --------------------------------------------------------------------------------------------------


def test_statistics_of_maps_are_those_of_all_their_pixels():
    maps = [torch.rand(5, 7) * 3 + number for number in range(4)]
    gatherer = MapGatherer(len(maps))
    for values in maps:
        gatherer.add(values, Grid(*values.shape, 1))
    statistics, pixels = gatherer.statistics(), torch.cat([values.flatten() for values in maps]).double().numpy()
    assert statistics.mean == pytest.approx(pixels.mean())
    assert statistics.std == pytest.approx(pixels.std())
    assert statistics.quantile_90 == pytest.approx(np.quantile(pixels, 0.9))
    assert statistics.quantile_995 == pytest.approx(np.quantile(pixels, 0.995))


def test_of_many_pixels_quantiles_look_at_a_bounded_number_drawn_from_every_picture(monkeypatch):
    monkeypatch.setattr(module, "MAX_SAMPLED_PIXELS", 1000)
    maps = [torch.rand(50, 41) + number for number in range(4)]
    gatherer = MapGatherer(len(maps))
    for values in maps:
        gatherer.add(values, Grid(*values.shape, 1))
    assert 500 < sum(sample.size for sample in gatherer._sampled) <= 1000
    assert all(sample.base is None or sample.base.nbytes < 2 * sample.nbytes for sample in gatherer._sampled)
    statistics, pixels = gatherer.statistics(), torch.stack(maps).numpy()
    assert statistics.mean == pytest.approx(pixels.mean(), rel=1e-5)
    assert statistics.quantile_90 == pytest.approx(np.quantile(pixels, 0.9), abs=0.1)


def test_statistics_are_kept_per_scale_and_kind():
    rng = np.random.default_rng(0)
    maps = [
        {
            size: RawMaps(torch.from_numpy(rng.normal(size, 1, (9, 9))), torch.full((9, 9), 0.1 * size), Grid(9, 9, 1))
            for size in (17, 65)
        }
        for _ in range(3)
    ]
    scoring = plain_scores.scoring(normalization=Normalization.zscore)
    result = calibrate(
        [lambda maps=maps: maps for maps in maps], [], reference="val", scoring=scoring, settings=settings()
    )
    for size in (17, 65):
        errors = np.stack([picture[size].error.numpy() for picture in maps])
        assert result.statistics[size]["error"].mean == pytest.approx(errors.mean())
        assert result.statistics[size]["error"].std == pytest.approx(errors.std())
        assert result.statistics[size]["uncertainty"].mean == pytest.approx(0.1 * size)
    assert all(math.isfinite(value) for value in (result.image_threshold, result.score_scale, *result.color_range))


def test_normal_pictures_are_looked_at_twice_and_anomalous_ones_once():
    normal_calls, anomalous_calls = [], []
    calibrate(
        pictures(NORMAL_PEAKS, sizes=(17, 33), calls=normal_calls),
        pictures([5.0] * 3, sizes=(17, 33), calls=anomalous_calls),
        reference="val",
        scoring=SCORING,
        settings=settings(),
    )
    assert (len(normal_calls), len(anomalous_calls)) == (2 * len(NORMAL_PEAKS), 3)


# --- thresholds --------------------------------------------------------------------------------------------------


def test_f1_separates_what_can_be_separated():
    result = calibrated(NORMAL_PEAKS, [4.0, 5.0])
    assert (result.threshold_rule, result.threshold_reason) == ("f1", None)
    assert 2.8 < result.image_threshold < 4.0
    assert (result.num_normal, result.num_anomalous, result.reference) == (10, 2, "val")


def test_without_anomalies_f1_falls_back_to_the_quantile_and_says_so():
    result = calibrated(NORMAL_PEAKS, [])
    assert result.threshold_rule == "quantile"
    assert result.threshold_reason == "validation has no anomalous image for the rule f1"
    assert [result.decide(peak) for peak in np.float32(NORMAL_PEAKS).astype(float)] == [False] * 9 + [True]


@pytest.mark.parametrize(
    ("rule", "alarms_of_normals"),
    [("quantile", 1), ("max_false_positive_rate", 1), ("min_recall", 0), (2.5, 2)],
)
def test_each_rule_and_a_number_decide_the_threshold(rule, alarms_of_normals):
    result = calibrated(NORMAL_PEAKS, [4.0, 5.0], threshold=rule)
    assert result.threshold_rule == ("number" if rule == 2.5 else rule)
    scores = np.float32(NORMAL_PEAKS).astype(float)
    assert sum(result.decide(score) for score in scores) == alarms_of_normals
    assert all(result.decide(float(np.float32(score))) for score in (4.0, 5.0))


def test_a_score_at_the_threshold_is_anomalous():
    result = calibrated(NORMAL_PEAKS, [], threshold=3.0)
    assert result.decide(3.0)
    assert not result.decide(np.nextafter(3.0, 0))


def test_pictures_at_the_threshold_are_counted_as_they_are_decided():
    result = calibrated(NORMAL_PEAKS, [2.0, 4.0, 5.0], threshold="min_recall", min_recall=1.0)
    assert result.image_threshold == 2.0  # the score of a normal picture, too
    assert (result.num_false_positives, result.num_found) == (5, 3)
    assert result.num_false_positives == sum(map(result.decide, np.float32(NORMAL_PEAKS).astype(float)))


def test_scores_that_are_not_finite_are_refused():
    broken = pictures([float("nan")])
    with pytest.raises(DataError, match=r"1 of 1 validation scores are not finite numbers"):
        calibrate(broken, [], reference="val", scoring=SCORING, settings=settings())


def test_the_pixel_threshold_is_the_quantile_of_the_normal_pixels():
    pixels = np.concatenate([maps()[33].error.numpy().ravel() for maps in pictures(NORMAL_PEAKS)])
    for quantile in (0.5, 0.995):
        result = calibrated(NORMAL_PEAKS, [9.0], pixel_quantile=quantile)
        assert result.pixel_threshold == pytest.approx(np.quantile(pixels, quantile))


# --- what is shown -----------------------------------------------------------------------------------------------


def test_the_normalised_score_is_a_half_at_the_threshold_and_a_tenth_at_the_median_normal():
    result = calibrated(NORMAL_PEAKS, [4.0, 5.0])
    assert result.normalized_score(result.image_threshold) == 0.5
    assert result.normalized_score(float(np.median(np.float32(NORMAL_PEAKS)))) == pytest.approx(0.1)


def test_the_normalised_score_rises_with_the_score_and_agrees_with_the_decision():
    result = calibrated(NORMAL_PEAKS, [4.0, 5.0])
    scores = np.linspace(-5, 12, 200)
    normalized = [result.normalized_score(score) for score in scores]
    assert all(low < high for low, high in itertools.pairwise(normalized))
    assert all(0 <= value <= 1 for value in normalized)
    assert all((value >= 0.5) == result.decide(score) for score, value in zip(scores, normalized, strict=True))


@pytest.mark.parametrize("score", [-1e30, 1e30, 0.0])
def test_the_normalised_score_of_extreme_scores_is_a_number(score):
    for result in (calibrated(NORMAL_PEAKS, []), calibrated([1.0], []), calibrated([1.0, 1.0], [], threshold=-5.0)):
        assert 0 <= result.normalized_score(score) <= 1


def test_the_hottest_normal_pixel_is_at_the_middle_of_the_colours():
    result = calibrated(NORMAL_PEAKS, [4.0])
    pixels = np.concatenate([maps()[33].error.numpy().ravel() for maps in pictures(NORMAL_PEAKS)])
    low, high = result.color_range
    assert low == pytest.approx(np.median(pixels))
    assert (low + high) / 2 == pytest.approx(np.quantile(pixels, 0.9999))


def test_maps_without_spread_have_a_colour_range_that_is_not_empty():
    low, high = calibrated(NORMAL_PEAKS, []).uncertainty_color_range  # zero everywhere
    assert low == 0
    assert high > low


# --- file --------------------------------------------------------------------------------------------------------


def test_a_calibration_survives_json():
    result = calibrated(NORMAL_PEAKS, [4.0])
    text = json.dumps(result.to_json(), allow_nan=False)
    again = read_numbers(json.loads(text), path=FILE)
    assert again == result
    assert isinstance(again.statistics[33]["error"], MapStatistics)


@pytest.mark.parametrize("damage", ["image_threshold", "statistics", "color_range"])
def test_a_calibration_without_one_of_its_parts_is_refused(damage):
    content = calibrated(NORMAL_PEAKS, []).to_json()
    del content[damage]
    with pytest.raises(
        ArtifactError, match=r"^run/calibration\.json does not follow its schema .*run `usad calibrate`"
    ):
        read_numbers(content, path=FILE)


def test_an_unknown_part_is_refused():
    content = calibrated(NORMAL_PEAKS, []).to_json() | {"unknown": 1}
    with pytest.raises(ArtifactError, match=r"^run/calibration\.json does not follow its schema"):
        read_numbers(content, path=FILE)
