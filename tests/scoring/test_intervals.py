import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from us_anomaly.scoring.bootstrap import bootstrap_intervals
from us_anomaly.scoring.image_metrics import image_metrics
from us_anomaly.scoring.intervals import auroc_interval, f1_interval, image_intervals, share_interval

Z = norm.ppf(0.975)


def intervals_of(normal, anomalous, *, threshold=0.5, resamples=200):
    return image_intervals(
        [*normal, *anomalous],
        [False] * len(normal) + [True] * len(anomalous),
        deployed_threshold=threshold,
        num_resamples=resamples,
        seed=0,
    )


def linear(low, high, count):
    return np.linspace(low, high, count).tolist()


# --- formulas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 5), (3, 9), (8, 8), (1, 20), (999, 1000), (0, 10**6)])
def test_the_interval_of_a_share_is_the_one_of_wilson(count, total):
    expected = binomtest(count, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert share_interval(count, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_interval_of_none_or_all_has_the_closed_form():
    assert share_interval(0, 5) == (0, pytest.approx(Z**2 / (5 + Z**2)))
    assert share_interval(5, 5) == (pytest.approx(5 / (5 + Z**2)), 1)


@pytest.mark.parametrize(("found", "wrong"), [(0, 3), (3, 0), (34, 7), (1, 1)])
def test_f1_has_the_interval_of_the_share_that_it_is_a_function_of(found, wrong):
    shares = binomtest(found, found + wrong).proportion_ci(method="wilson")
    low, high = f1_interval(found=found, wrong=wrong)
    assert (low, high) == pytest.approx(tuple(2 * share / (1 + share) for share in shares), abs=1e-9)
    assert low <= 2 * found / (2 * found + wrong) <= high
    assert low < high


def hanley_mcneil(area, num):
    """Variance of the area from `num` pictures of either class, as its paper writes it."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return (area * (1 - area) + (num - 1) * (q1 - area**2) + (num - 1) * (q2 - area**2)) / num**2


@pytest.mark.parametrize("area", [0.0, 0.3, 0.5, 0.97, 1.0])
def test_the_ends_for_the_auroc_are_two_deviations_of_hanley_and_mcneil_away(area):
    for end in auroc_interval(area, num_anomalous=12, num_normal=12):
        if 0 < end < 1:
            assert abs(end - area) == pytest.approx(Z * math.sqrt(hanley_mcneil(end, 12)), rel=1e-6)
        else:
            assert end == area


def test_the_interval_of_the_auroc_is_the_mirror_image_for_the_mirrored_area_and_knows_no_order_of_classes():
    low, high = auroc_interval(0.9, num_anomalous=8, num_normal=20)
    assert auroc_interval(1 - 0.9, num_anomalous=20, num_normal=8) == pytest.approx((1 - high, 1 - low))


def test_one_pair_of_pictures_is_one_draw():
    assert auroc_interval(1.0, num_anomalous=1, num_normal=1) == pytest.approx(share_interval(1, 1))


@pytest.mark.parametrize("area", [0.8, 0.95])
def test_nineteen_of_twenty_intervals_hold_the_true_auroc_of_few_pictures(area):
    generator = np.random.default_rng(0)
    anomalous = generator.normal(size=(1000, 8)) + math.sqrt(2) * norm.ppf(area)
    seen = (anomalous[:, :, None] > generator.normal(size=(1000, 1, 20))).mean(axis=(1, 2))
    ends = {value: auroc_interval(value, num_anomalous=8, num_normal=20) for value in set(seen.tolist())}
    held = np.mean([ends[value][0] <= area <= ends[value][1] for value in seen.tolist()])
    assert 0.93 < held < 0.985  # the deviation of the share of a thousand is 0.007


# --- of all figures ----------------------------------------------------------------------------------------------


def test_no_false_alarm_among_five_good_pictures_does_not_rule_out_the_eighth_that_came():
    intervals = intervals_of(linear(0, 0.4, 5), linear(0.6, 1, 8))
    assert intervals["deployed_false_positive_rate"] == (0, pytest.approx(0.4345, abs=1e-4))
    assert intervals["deployed_false_positive_rate"][1] > 4 / 32
    assert intervals["false_positives"] == (0, pytest.approx(5 * 0.4345, abs=1e-3))
    assert intervals["misses"] == (0, pytest.approx(8 * 0.3244, abs=1e-3))


def test_rates_at_the_deployed_threshold_are_shares_of_pictures():
    """One of five good pictures is a false alarm; six of eight defects are found."""
    intervals = intervals_of([0.1, 0.2, 0.3, 0.4, 0.7], [0.3, 0.4, *linear(0.6, 0.9, 6)])
    counts = {
        "deployed_false_positive_rate": (1, 5),
        "deployed_recall": (6, 8),
        "deployed_precision": (6, 7),
        "deployed_accuracy": (10, 13),
    }
    for name, (count, total) in counts.items():
        assert intervals[name] == share_interval(count, total)
    assert intervals["deployed_f1"] == f1_interval(found=6, wrong=3)
    assert intervals["misses"] == tuple(pytest.approx(8 * end) for end in share_interval(2, 8))
    assert intervals["false_positives"] == tuple(pytest.approx(5 * end) for end in share_interval(1, 5))


def test_a_perfect_ranking_of_few_pictures_is_no_proof_of_perfection():
    intervals = intervals_of(linear(0, 0.4, 20), linear(0.6, 1, 8))
    assert intervals["image_auroc"] == auroc_interval(1.0, num_anomalous=8, num_normal=20)
    assert intervals["image_auroc"] == (pytest.approx(0.8254, abs=1e-4), 1)


def test_what_every_resample_repeats_has_no_interval_of_no_width():
    intervals = intervals_of(linear(0, 0.4, 20), linear(0.6, 1, 8))
    assert not {"image_average_precision", "f1", "precision", "recall", "oracle_f1"} & intervals.keys()
    assert all(low < high for low, high in intervals.values())
    assert {"image_auroc", "deployed_f1", "deployed_precision", "deployed_recall"} < intervals.keys()


def test_scores_that_are_all_equal_have_the_interval_of_chance():
    assert intervals_of([0.5] * 6, [0.5] * 6)["image_auroc"] == auroc_interval(0.5, num_anomalous=6, num_normal=6)


def test_where_resamples_differ_figures_without_a_deployed_threshold_keep_their_bootstrap():
    generator = np.random.default_rng(0)
    labels = np.arange(120) < 40
    scores = generator.normal(size=120) + labels
    settings = {"deployed_threshold": 0.5, "num_resamples": 300, "seed": 4}
    resampled, intervals = bootstrap_intervals(scores, labels, **settings), image_intervals(scores, labels, **settings)
    assert intervals.keys() == resampled.keys()
    deployed = {name for name in intervals if name.startswith("deployed") or name in ("misses", "false_positives")}
    assert {name for name in intervals if intervals[name] != resampled[name]} == deployed


@pytest.mark.parametrize(("num_normal", "num_anomalous"), [(1, 6), (6, 1), (1, 1)])
def test_a_class_of_one_picture_is_not_resampled(num_normal, num_anomalous):
    """Its one score would stand still in every resample, and half of what is unknown would be left out."""
    intervals = intervals_of(linear(0.3, 0.7, num_normal), linear(0.4, 0.9, num_anomalous))
    names = {name for name in intervals if not name.startswith("deployed")}
    assert names == {"image_auroc", "misses", "false_positives"}
    values = image_metrics(
        [*linear(0.3, 0.7, num_normal), *linear(0.4, 0.9, num_anomalous)],
        [False] * num_normal + [True] * num_anomalous,
        deployed_threshold=0.5,
    ).values
    assert intervals["image_auroc"] == auroc_interval(
        values["image_auroc"], num_anomalous=num_anomalous, num_normal=num_normal
    )


def test_every_interval_holds_the_figure():
    generator = np.random.default_rng(1)
    for number in range(40):
        labels = np.append(generator.random(number // 4) < 0.5, [True, False])
        scores = generator.integers(0, 5, size=labels.size) / 4
        intervals = image_intervals(scores, labels, deployed_threshold=0.5, num_resamples=200, seed=0)
        values = image_metrics(scores, labels, deployed_threshold=0.5).values
        for name, (low, high) in intervals.items():
            if name.startswith("deployed") or name in ("misses", "false_positives"):
                assert low - 1e-9 <= values[name] <= high + 1e-9
            assert name in values


@pytest.mark.parametrize(
    ("normal", "anomalous", "names"),
    [
        ([0.1, 0.6], [], {"deployed_accuracy", "deployed_false_positive_rate", "false_positives"}),
        ([], [0.1, 0.6], {"deployed_accuracy", "deployed_recall", "misses"}),
    ],
)
def test_figures_of_a_missing_class_have_no_interval_of_counts(normal, anomalous, names):
    assert intervals_of(normal, anomalous).keys() == names


def test_a_precision_of_nothing_has_no_interval():
    intervals = intervals_of([0.1, 0.2, 0.3], [0.2, 0.4, 0.6], threshold=9)
    assert "deployed_precision" not in intervals
    assert intervals["deployed_f1"] == f1_interval(found=0, wrong=3)


def test_without_resamples_there_is_no_interval_at_all():
    assert intervals_of([0.1, 0.2], [0.6, 0.7], resamples=0) == {}
