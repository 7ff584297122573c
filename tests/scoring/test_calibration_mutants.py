"""What a run of mutation testing over calibration and thresholds found untested."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_scores import calibration, scoring

from us_anomaly.errors import ArtifactError
from us_anomaly.scoring.calibration import _color_range, _score_scale, calibrate
from us_anomaly.scoring.calibration_file import calibrated_precision, read_numbers
from us_anomaly.scoring.raw_maps import Grid, RawMaps
from us_anomaly.scoring.thresholds import choose_threshold
from us_anomaly.settings import CalibrationSettings, Normalization

CALIBRATION = CalibrationSettings(
    threshold="f1", max_false_positive_rate=0.1, min_recall=0.9, quantile=0.9, pixel_quantile=0.995
)
FILE = Path("run/calibration.json")


def picture(peak: float):
    error = torch.linspace(0, 1, 80).reshape(8, 10)
    error[3, 3] = peak
    return lambda: {33: RawMaps(error, torch.linspace(0, 0.1, 80).reshape(8, 10), Grid(8, 10, 1))}


@pytest.mark.parametrize("normalization", [Normalization.zscore, Normalization.quantile])
def test_anomalies_are_scored_on_the_scale_of_the_normal_pictures(normalization):
    """The best F1 lies between the highest normal and the lowest anomalous score, both on the common scale."""
    normals, anomalies = [picture(peak) for peak in (2.0, 3.0)], [picture(peak) for peak in (5.0, 6.0)]
    result = calibrate(
        normals, anomalies, reference="val", scoring=scoring(normalization=normalization), settings=CALIBRATION
    )
    known = result.statistics[33]

    def score(maps):
        raw = maps()[33]
        parts = [
            known[kind].normalize(getattr(raw, kind), normalization=normalization) for kind in ("error", "uncertainty")
        ]
        return float((parts[0] + parts[1]).max())

    assert result.image_threshold == pytest.approx((score(normals[1]) + score(anomalies[0])) / 2, rel=1e-6)
    assert result.num_anomalous == 2


@pytest.mark.parametrize(
    ("scores", "threshold", "expected"),
    [
        ([1.0, 2.0, 3.0], 2.5, 0.5 / math.log(9)),
        ([1.0, 2.0, 3.0], 2.0, float(np.std([1, 2, 3])) / math.log(9)),  # the threshold is the median
        ([1.0, 2.0, 3.0], 1.0, float(np.std([1, 2, 3])) / math.log(9)),
        ([1.0, 2.0, 3.0], np.nextafter(2.0, 3.0), float(np.std([1, 2, 3])) / math.log(9)),
        ([2.0, 2.0], 2.0, 2 / math.log(9)),
        ([2.0], np.nextafter(2.0, 3.0), 2 / math.log(9)),
        ([-2.0], np.nextafter(-2.0, 3.0), 2 / math.log(9)),
        ([0.0, 0.0], 0.0, 1e-12),
    ],
)
def test_the_unit_of_normalised_scores_is_the_distance_of_the_median_or_else_the_deviation_or_the_threshold(
    scores, threshold, expected
):
    assert _score_scale(np.array(scores), threshold) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(("value", "width"), [(0.0, 1e-12), (5.0, 5e-6), (-5.0, 5e-6), (1e5, 0.1), (1e-9, 1e-12)])
def test_equal_pixels_of_any_size_have_a_colour_range_of_a_millionth(value, width):
    low, high = _color_range(np.full(100, value, dtype=np.float32))
    assert low == pytest.approx(value, rel=1e-6)
    assert high > low
    assert high - low == pytest.approx(width, rel=1e-3, abs=0)


def test_a_number_is_taken_as_it_is_and_says_so():
    chosen = choose_threshold([], [], rule=3, max_false_positive_rate=0.1, min_recall=0.9, quantile=0.9)
    assert (chosen.value, chosen.rule, chosen.requested, chosen.reason) == (3.0, "number", "number", None)


def test_an_unknown_rule_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match=r"^unknown threshold rule 'best'$"):
        choose_threshold([1.0], [False], rule="best", max_false_positive_rate=0.1, min_recall=0.9, quantile=0.9)


def test_scores_of_any_type_are_compared_in_double_precision():
    chosen = choose_threshold(
        np.array([1, 2, 4], dtype=np.int64),
        np.array([0, 0, 1]),
        rule="f1",
        max_false_positive_rate=0.1,
        min_recall=0.9,
        quantile=0.9,
    )
    assert chosen.value == 3.0
    assert isinstance(chosen.value, float)


def content() -> dict:
    return calibration().to_json()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("score_scale", 0.0, "score_scale must be above 0"),
        ("score_scale", -1.0, "score_scale must be above 0"),
        ("score_scale", math.inf, "score_scale must be a finite number, got inf"),
        ("image_threshold", True, "image_threshold must be a finite number, got True"),
        ("pixel_threshold", "1", "pixel_threshold must be a finite number, got '1'"),
        ("color_range", [1.0, 1.0], "color_range must rise"),
        ("uncertainty_color_range", [1.0, None], "uncertainty_color_range must be a finite number, got None"),
    ],
)
def test_what_a_calibration_cannot_hold_is_named(key, value, reason):
    with pytest.raises(ArtifactError) as caught:
        read_numbers(content() | {key: value}, path=FILE)
    assert str(caught.value) == (
        f"run/calibration.json does not follow its schema ({ValueError(reason)!r}); delete it and run `usad calibrate`"
    )


def test_statistics_that_are_no_numbers_are_named():
    damaged = content()
    damaged["statistics"][33]["error"]["mean"] = "0"
    with pytest.raises(ArtifactError, match="mean must be a finite number, got '0'"):
        read_numbers(damaged, path=FILE)


def test_another_format_names_the_file_and_the_command():
    with pytest.raises(
        ArtifactError, match=r"^run/calibration\.json has format version 0, .* `usad calibrate overwrite=true`$"
    ):
        read_numbers(content() | {"format_version": 0}, path=FILE)


def test_a_number_format_that_is_none_is_named_with_the_file():
    with pytest.raises(ArtifactError) as caught:
        calibrated_precision({"precision": "int8"}, path=FILE)
    assert str(caught.value) == (
        "run/calibration.json does not follow its schema (precision 'int8'); delete it and run `usad calibrate`"
    )
