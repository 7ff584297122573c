import numpy as np
import pytest
from plain_scores import calibration

from us_anomaly.scoring.threshold_support import Doubt, _num_needed, threshold_doubt
from us_anomaly.scoring.thresholds import choose_threshold
from us_anomaly.settings import CalibrationSettings

WAYS_OUT = (
    "give validation more (split.ratios, or split.validation_fraction where the data set has its own split), or set a number: "
    "calibration.threshold=NUMBER"
)


def doubt(num_normal, rule, *, rate=0.01, quantile=0.99, reference="val") -> Doubt | None:
    settings = CalibrationSettings(
        threshold=3.5 if rule == "number" else rule,
        max_false_positive_rate=rate,
        min_recall=0.99,
        quantile=quantile,
        pixel_quantile=0.995,
    )
    return threshold_doubt(
        calibration(num_normal=num_normal, threshold_rule=rule, reference=reference, num_anomalous=3), settings
    )


def test_a_false_positive_rate_that_few_pictures_cannot_support_is_warned_of():
    assert doubt(6, "max_false_positive_rate", rate=0.001) == Doubt(
        text="6 normal validation pictures cannot support calibration.max_false_positive_rate=0.001: they resolve 1 in 6 at "
        "best, so the threshold lies just above the highest of them, and on average 1 in 7 new good pictures will reach it; it "
        f"takes 1000: {WAYS_OUT}",
        is_grave=True,
    )


def test_a_quantile_that_few_pictures_cannot_support_is_warned_of():
    assert doubt(6, "quantile", quantile=0.9999) == Doubt(
        text="6 normal validation pictures cannot support calibration.quantile=0.9999: they resolve 1 in 6 at best, so the "
        "threshold lies just above the highest of them, and on average 1 in 7 new good pictures will reach it; it takes 10000: "
        f"{WAYS_OUT}",
        is_grave=True,
    )


@pytest.mark.parametrize("num_normal", [5, 14, 60, 99])
def test_the_default_quantile_on_an_ordinary_validation_split_is_mentioned_without_alarm(num_normal):
    assert doubt(num_normal, "quantile") == Doubt(
        text=f"the threshold lies just above the highest of {num_normal} normal validation pictures: on average 1 in "
        f"{num_normal + 1} new good pictures will reach it (for calibration.quantile=0.99 it takes 100)",
        is_grave=False,
    )


@pytest.mark.parametrize(
    ("rule", "changed", "setting"),
    [
        ("quantile", {"quantile": 1.0}, "quantile=1"),
        ("max_false_positive_rate", {"rate": 0.0}, "max_false_positive_rate=0"),
        ("max_false_positive_rate", {"rate": 1e-310}, "max_false_positive_rate=1e-310"),  # its inverse is infinite
    ],
)
def test_whoever_asks_for_no_false_alarm_at_all_hears_that_none_can_promise_it(rule, changed, setting):
    assert doubt(50, rule, **changed) == Doubt(
        text="the threshold lies just above the highest of 50 normal validation pictures: on average 1 in 51 new good pictures "
        f"will reach it (for calibration.{setting} no number of them is enough)",
        is_grave=False,
    )


@pytest.mark.parametrize(
    ("num_normal", "rule", "changed"),
    [
        (100, "quantile", {}),
        (100, "max_false_positive_rate", {}),
        (20, "max_false_positive_rate", {"rate": 0.05}),
        (1000, "max_false_positive_rate", {"rate": 0.001}),
        (10_000, "quantile", {"quantile": 0.9999}),
        (5, "f1", {"rate": 0.001, "quantile": 0.9999}),
        (1, "min_recall", {}),
        (1, "number", {}),
    ],
)
def test_what_the_pictures_support_or_no_rule_asked_of_them_is_not_doubted(num_normal, rule, changed):
    assert doubt(num_normal, rule, **changed) is None


@pytest.mark.parametrize("rule", ["f1", "quantile", "max_false_positive_rate"])
@pytest.mark.parametrize(
    ("num_normal", "reference", "few"),
    [
        (1, "val", "1 normal validation picture is"),
        (4, "val", "4 normal validation pictures are"),
        (1, "train", "1 normal training picture is"),
        (3, "train", "3 normal training pictures are"),
    ],
)
def test_fewer_than_five_normal_pictures_give_no_threshold_that_can_be_trusted(num_normal, reference, few, rule):
    assert doubt(num_normal, rule, rate=0.5, quantile=0.5, reference=reference) == Doubt(
        text=f"{few} too few for a threshold that can be trusted: take at least 5, better many more; {WAYS_OUT}",
        is_grave=True,
    )


def test_of_training_pictures_whose_scores_are_lower_no_average_is_promised():
    assert doubt(30, "quantile", reference="train").text.startswith(
        "the threshold lies just above the highest of 30 normal training pictures: more than 1 in 31 new good pictures"
    )


@pytest.mark.parametrize(("quantile", "needed"), [(0.7, 4), (0.95, 20), (0.99, 100), (0.999, 1000), (0.9999, 10_000)])
def test_the_number_it_takes_is_the_smallest_that_moves_the_threshold(quantile, needed):
    assert _num_needed(1 - quantile) == needed
    for number, is_moved in ((needed - 1, False), (needed, True)):
        chosen = choose_threshold(
            np.arange(number),
            np.zeros(number),
            rule="quantile",
            max_false_positive_rate=0.0,
            min_recall=0.99,
            quantile=quantile,
        )
        assert (chosen.value <= number - 1) == is_moved
