import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from us_anomaly.scoring.bootstrap import (
    bootstrap_intervals,
    central_interval,
    paired_differences,
    stratified_weights,
)
from us_anomaly.scoring.image_metrics import image_metrics
from us_anomaly.scoring.ranking import Ranking, auroc, average_precision

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.random(120) < 0.4
SCORES = np.round(GENERATOR.normal(size=120) + LABELS, 1)  # rounded, so that there are ties


def test_a_weighted_resample_gives_the_figures_of_the_repeated_images():
    (weights,) = stratified_weights(LABELS, num_resamples=20, seed=1)
    alarms = Ranking.of(SCORES, LABELS).alarms(weights)
    for row, area, average in zip(weights, auroc(alarms), average_precision(alarms), strict=True):
        drawn = np.repeat(np.arange(120), row.astype(int))
        assert area == pytest.approx(roc_auc_score(LABELS[drawn], SCORES[drawn]), abs=1e-12)
        assert average == pytest.approx(average_precision_score(LABELS[drawn], SCORES[drawn]), abs=1e-12)


def test_every_resample_holds_as_many_images_of_each_class_as_the_sample():
    rare = np.arange(50) < 2
    for weights in stratified_weights(rare, num_resamples=200, seed=3):
        assert (weights[:, rare].sum(axis=1) == 2).all()
        assert (weights[:, ~rare].sum(axis=1) == 48).all()


def test_each_image_of_a_class_is_drawn_as_often_on_average():
    weights = np.concatenate(list(stratified_weights(LABELS, num_resamples=4000, seed=5)))
    assert np.abs(weights.mean(axis=0) - 1).max() < 0.08  # five standard errors of a mean of 4000 Poisson(1)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    def run(seed):
        return bootstrap_intervals(SCORES, LABELS, deployed_threshold=1.0, num_resamples=200, seed=seed)

    assert run(1) == run(1)
    assert run(1)["image_auroc"] != run(2)["image_auroc"]


def test_blocks_do_not_change_what_is_drawn_in_distribution(monkeypatch):
    monkeypatch.setattr("us_anomaly.scoring.bootstrap._CELLS_AT_ONCE", 700)
    blocks = list(stratified_weights(LABELS, num_resamples=33, seed=0))
    assert len(blocks) > 1
    assert sum(len(block) for block in blocks) == 33


def test_every_figure_but_the_thresholds_gets_an_interval_that_contains_plausible_values():
    intervals = bootstrap_intervals(SCORES, LABELS, deployed_threshold=1.0, num_resamples=1000, seed=0)
    values = image_metrics(SCORES, LABELS, deployed_threshold=1.0).values
    assert set(intervals) == {name for name in values if not name.endswith("threshold")}
    for name in ("image_auroc", "deployed_f1", "deployed_recall", "false_positives", "misses"):
        low, high = intervals[name]
        assert low < values[name] < high


def test_the_interval_of_recall_has_the_width_of_the_binomial_distribution():
    labels = np.arange(400) < 200
    scores = np.where(np.arange(400) % 4 == 0, 0.0, 1.0)  # three quarters of either class reach 0.5
    low, high = bootstrap_intervals(scores, labels, deployed_threshold=0.5, num_resamples=4000, seed=0)[
        "deployed_recall"
    ]
    expected = 2 * 1.96 * np.sqrt(0.75 * 0.25 / 200)
    assert high - low == pytest.approx(expected, rel=0.06)


def test_figures_of_a_missing_class_have_no_interval():
    intervals = bootstrap_intervals([0.1, 0.2], [False, False], deployed_threshold=0.15, num_resamples=50, seed=0)
    assert set(intervals) == {"deployed_accuracy", "false_positives", "deployed_false_positive_rate"}


def test_a_figure_that_no_resample_defines_has_no_interval():
    assert central_interval(np.array([np.nan, np.nan])) is None
    intervals = bootstrap_intervals(SCORES, LABELS, deployed_threshold=99.0, num_resamples=50, seed=0)
    assert "deployed_precision" not in intervals


def test_resamples_that_do_not_differ_are_no_interval_of_no_width():
    assert central_interval(np.array([np.nan, 2.0, 2.0])) is None
    assert central_interval(np.array([np.nan, 2.0, 3.0])) == pytest.approx((2.025, 2.975))
    intervals = bootstrap_intervals(LABELS + 0.0, LABELS, deployed_threshold=0.5, num_resamples=50, seed=0)
    assert intervals == {}


def test_no_resamples_give_no_intervals():
    assert bootstrap_intervals(SCORES, LABELS, deployed_threshold=1.0, num_resamples=0, seed=0) == {}


def test_a_detector_differs_from_itself_by_nothing():
    differences = paired_differences(SCORES, SCORES, LABELS, deployed_thresholds=(1.0, 1.0), num_resamples=100, seed=0)
    assert differences.keys() == image_metrics(SCORES, LABELS, deployed_threshold=1.0).values.keys() - {
        "optimal_threshold",
        "oracle_threshold",
        "deployed_threshold",
    }
    assert all(row.shape == (100,) and not row.any() for row in differences.values())


def test_each_detector_decides_at_its_own_threshold():
    differences = paired_differences(
        10 * SCORES, SCORES, LABELS, deployed_thresholds=(10.0, 1.0), num_resamples=50, seed=0
    )
    assert not differences["deployed_recall"].any()
    assert not differences["image_auroc"].any()


def test_pairing_sees_a_small_but_constant_gain_that_separate_intervals_hide():
    generator = np.random.default_rng(1)
    labels = np.arange(300) < 100
    baseline = generator.normal(size=300) + labels
    better = baseline + 0.15 * labels
    differences = paired_differences(
        better, baseline, labels, deployed_thresholds=(0.5, 0.5), num_resamples=500, seed=0
    )
    low, _ = central_interval(differences["image_auroc"])
    ours, theirs = (
        bootstrap_intervals(scores, labels, deployed_threshold=0, num_resamples=500, seed=0)["image_auroc"]
        for scores in (better, baseline)
    )
    assert low > 0
    assert ours[0] < theirs[1]


def test_a_thousand_resamples_of_a_thousand_images_take_less_than_a_second():
    generator = np.random.default_rng(0)
    labels = generator.random(1000) < 0.5
    scores = generator.normal(size=1000) + labels
    started = time.process_time()
    bootstrap_intervals(scores, labels, deployed_threshold=0.5, num_resamples=1000, seed=0)
    assert time.process_time() - started < 1.0
