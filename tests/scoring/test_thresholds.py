import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from us_anomaly.errors import DataError
from us_anomaly.scoring.thresholds import choose_threshold, is_anomalous


def choose(scores, labels, rule, *, rate=0.1, recall=0.9, quantile=0.9):
    return choose_threshold(
        scores, labels, rule=rule, max_false_positive_rate=rate, min_recall=recall, quantile=quantile
    )


samples = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=25).filter(
    lambda rows: 0 < sum(anomalous for _, anomalous in rows) < len(rows)
)
shares = st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.29, 0.5, 0.99, 1.0])


def share_at_or_above(rows, threshold, *, anomalous):
    scores = [score for score, label in rows if label == anomalous]
    return sum(is_anomalous(score, threshold) for score in scores) / len(scores)


@settings(max_examples=200, deadline=None)
@given(samples, shares)
def test_the_false_positive_rate_holds_and_no_lower_threshold_would_hold_it(rows, share):
    threshold = choose(*zip(*rows, strict=True), "max_false_positive_rate", rate=share).value
    assert share_at_or_above(rows, threshold, anomalous=False) <= share + 1e-9
    normal = [score for score, label in rows if not label]
    lower = max((score for score in normal if score < threshold), default=None)
    if lower is not None:
        assert share_at_or_above(rows, lower, anomalous=False) > share - 1e-9


@settings(max_examples=200, deadline=None)
@given(samples, shares)
def test_the_recall_holds_and_no_higher_threshold_would_hold_it(rows, share):
    threshold = choose(*zip(*rows, strict=True), "min_recall", recall=share).value
    assert share_at_or_above(rows, threshold, anomalous=True) >= share - 1e-9
    higher = share_at_or_above(rows, np.nextafter(threshold, np.inf), anomalous=True)
    assert higher < share + 1e-9 or higher == 0


@settings(max_examples=200, deadline=None)
@given(samples, shares)
def test_at_least_the_quantile_of_normals_lies_below(rows, share):
    threshold = choose(*zip(*rows, strict=True), "quantile", quantile=share).value
    assert 1 - share_at_or_above(rows, threshold, anomalous=False) >= share - 1e-9


@settings(max_examples=200, deadline=None)
@given(samples)
def test_no_threshold_has_a_better_f1_than_the_one_chosen(rows):
    def f1(threshold):
        found = sum(label and score >= threshold for score, label in rows)
        false = sum((not label) and score >= threshold for score, label in rows)
        return 2 * found / (found + false + sum(label for _, label in rows))

    chosen = choose(*zip(*rows, strict=True), "f1").value
    assert f1(chosen) == pytest.approx(max(f1(score) for score, _ in rows))


def test_f1_sits_midway_between_separable_classes():
    threshold = choose([1.0, 2.0, 6.0, 9.0], [False, False, True, True], "f1")
    assert threshold.value == 4.0
    assert (threshold.rule, threshold.requested, threshold.reason) == ("f1", "f1", None)


def test_of_equally_good_thresholds_f1_takes_the_highest():
    assert choose([0.9, 0.5, 0.4, 0.2], [True, False, False, True], "f1").value == pytest.approx(0.7)


def test_f1_between_neighbouring_numbers_stays_on_the_upper_one():
    low = 1.0
    high = float(np.nextafter(low, 2))
    assert choose([low, high], [False, True], "f1").value == high


def test_the_extremes_of_float_do_not_overflow():
    assert choose([-1.7e308, 1.7e308], [False, True], "f1").value in (0.0, 1.7e308)


def test_equal_scores_of_normals_are_all_below_the_quantile():
    threshold = choose([0.5, 0.5, 0.5], [False] * 3, "quantile").value
    assert threshold > 0.5
    assert not is_anomalous(0.5, threshold)


@pytest.mark.parametrize("rule", ["f1", "min_recall"])
def test_normal_only_validation_falls_back_to_the_quantile_and_says_so(rule):
    normals = np.arange(100) / 100
    threshold = choose(normals, [False] * 100, rule, quantile=0.95)
    assert threshold.rule == "quantile"
    assert threshold.requested == rule
    assert threshold.reason == f"validation has no anomalous image for the rule {rule}"
    assert threshold.value == choose(normals, [False] * 100, "quantile", quantile=0.95).value
    assert (normals >= threshold.value).sum() == 5


def test_an_explicit_number_needs_no_image():
    threshold = choose([], [], 3)
    assert (threshold.value, threshold.rule, threshold.reason) == (3.0, "number", None)


def test_one_normal_image_gives_a_threshold_just_above_it():
    threshold = choose([0.25], [False], "f1")
    assert threshold.value == np.nextafter(np.float32(0.25), np.float32(1))
    assert threshold.rule == "quantile"
    assert choose([0.1], [False], "f1").value == np.nextafter(0.1, 1)  # no float32


def test_a_threshold_just_above_a_score_is_that_for_an_exported_detector_too():
    score = np.float32(1.7)
    assert np.float32(choose([float(score)], [False], "quantile").value) > score


def test_one_anomalous_image_is_enough_for_recall():
    assert choose([0.25], [True], "min_recall").value == 0.25


@pytest.mark.parametrize("rule", ["f1", "quantile", "max_false_positive_rate"])
def test_validation_without_normal_images_is_refused_with_the_way_out(rule):
    with pytest.raises(DataError, match=rf"no normal image, which calibration.threshold={rule} needs: give a number"):
        choose([0.5, 0.7], [True, True], rule)


def test_empty_validation_is_refused_with_the_way_out():
    with pytest.raises(DataError) as caught:
        choose([], [], "f1")
    assert str(caught.value) == (
        "there is no validation image to choose a threshold from: give a number (calibration.threshold=NUMBER) or a split with a "
        "validation share, as split.ratios=70-15-15"
    )


def test_scores_that_are_not_finite_are_refused_with_their_number():
    with pytest.raises(DataError) as caught:
        choose([float("nan"), float("inf"), 0.0], [False] * 3, "f1")
    assert str(caught.value) == (
        "2 of 3 validation scores are not finite numbers: the detector is damaged or did not train; run `usad train-students "
        "overwrite=true`, then `usad calibrate`"
    )


def test_the_decision_includes_the_threshold_itself():
    assert is_anomalous(0.5, 0.5)
    assert not is_anomalous(np.nextafter(0.5, 0), 0.5)
