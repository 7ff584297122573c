import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from us_anomaly.scoring.image_metrics import image_metrics
from us_anomaly.scoring.ranking import Ranking


def by_counting(scores, labels, threshold):
    """F1, precision and recall, one image at a time."""
    found = sum(1 for s, a in zip(scores, labels, strict=True) if a and s >= threshold)
    false = sum(1 for s, a in zip(scores, labels, strict=True) if not a and s >= threshold)
    missed = sum(1 for s, a in zip(scores, labels, strict=True) if a and s < threshold)
    precision = found / (found + false) if found + false else None
    return 2 * found / (2 * found + false + missed), precision, found / (found + missed), false, missed


both_classes = st.integers(0, 10_000).map(
    lambda seed: (
        np.random.default_rng(seed).integers(0, 6, size=30) / 7.0,
        np.append(np.random.default_rng(seed + 1).random(28) < 0.4, [True, False]),
    )
)


@settings(max_examples=60, deadline=None)
@given(both_classes)
def test_ranking_figures_equal_scikit_learn_with_many_ties(sample):
    scores, labels = sample
    values = image_metrics(scores, labels, deployed_threshold=0.5).values
    assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert values["image_average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        best = np.nanmax(2 * precision * recall / (precision + recall))
    assert values["f1"] == pytest.approx(best, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(both_classes, st.floats(-0.1, 1.0))
def test_figures_at_both_thresholds_equal_counting_one_by_one(sample, deployed):
    scores, labels = sample
    metrics = image_metrics(scores, labels, deployed_threshold=deployed)
    values = metrics.values
    f1, precision, recall, _, _ = by_counting(scores, labels, values["optimal_threshold"])
    assert (values["f1"], values["precision"], values["recall"]) == pytest.approx((f1, precision, recall))
    f1, precision, recall, false, missed = by_counting(scores, labels, deployed)
    assert values["deployed_f1"] == pytest.approx(f1)
    assert values["deployed_recall"] == pytest.approx(recall)
    assert (values["false_positives"], values["misses"]) == (false, missed)
    assert values["deployed_false_positive_rate"] == pytest.approx(false / (~labels).sum())
    assert values["deployed_accuracy"] == pytest.approx(1 - (false + missed) / len(labels))
    if precision is None:
        assert metrics.absent == {"deployed_precision": "no image was called anomalous at the deployed threshold"}
    else:
        assert values["deployed_precision"] == pytest.approx(precision)


def test_peeking_figures_also_carry_the_name_oracle():
    values = image_metrics([0.1, 0.4, 0.3, 0.9], [False, False, True, True], deployed_threshold=0.5).values
    for plain, oracle in [
        ("f1", "oracle_f1"),
        ("precision", "oracle_precision"),
        ("recall", "oracle_recall"),
    ]:
        assert values[plain] == values[oracle]
    assert values["optimal_threshold"] == values["oracle_threshold"] == pytest.approx(0.2)


def test_of_equally_good_thresholds_the_highest_is_optimal():
    # F1 is 2/3 at 0.9 (one found, one missed) and 2/3 at 0.2 (both found, two false alarms)
    values = image_metrics([0.9, 0.5, 0.4, 0.2], [True, False, False, True], deployed_threshold=0.5).values
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["optimal_threshold"] == pytest.approx(0.7)
    assert values["recall"] == 0.5


def test_equal_scores_rank_like_chance_and_are_all_called_anomalous():
    values = image_metrics([0.5] * 4, [True, False, False, False], deployed_threshold=0.5).values
    assert values["image_auroc"] == 0.5
    assert values["image_average_precision"] == 0.25
    assert values["f1"] == pytest.approx(0.4)
    assert values["optimal_threshold"] == 0.5
    assert values["false_positives"] == 3


def test_without_anomalous_image_its_figures_are_absent_with_the_reason():
    metrics = image_metrics([0.1, 0.6], [False, False], deployed_threshold=0.5)
    assert metrics.values == {
        "deployed_accuracy": 0.5,
        "false_positives": 1.0,
        "deployed_false_positive_rate": 0.5,
        "deployed_threshold": 0.5,
    }
    assert set(metrics.absent.values()) == {"no anomalous image in test"}
    assert {
        "image_auroc",
        "f1",
        "oracle_f1",
        "deployed_f1",
        "misses",
        "optimal_threshold",
    } <= metrics.absent.keys()


def test_without_normal_image_recall_stays_and_the_rest_is_absent_with_the_reason():
    metrics = image_metrics([0.1, 0.6], [True, True], deployed_threshold=0.5)
    assert metrics.values == {
        "deployed_accuracy": 0.5,
        "misses": 1.0,
        "deployed_recall": 0.5,
        "deployed_threshold": 0.5,
    }
    assert set(metrics.absent.values()) == {"no normal image in test"}
    assert {"image_auroc", "f1", "false_positives", "deployed_precision"} <= metrics.absent.keys()


def test_every_figure_is_there_or_absent_whatever_classes_there_are():
    names = [
        set(metrics.values) | set(metrics.absent)
        for labels in ([True, False], [True, True], [False, False])
        for metrics in [image_metrics([0.2, 0.1], labels, deployed_threshold=1.0)]
    ]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.1, float("nan")], "every score must be finite"),
        ([0.1, float("inf")], "every score must be finite"),
        ([0.1], "scores and labels must be as long, got (1,) and (2,)"),
        ([], "scores and labels must be as long, got (0,) and (2,)"),
    ],
)
def test_scores_that_are_not_finite_or_do_not_match_are_refused(scores, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        image_metrics(scores, [True, False], deployed_threshold=0.5)


@pytest.mark.parametrize(("label", "precision"), [(True, 1.0), (False, 0.0)])
def test_a_single_image_that_is_called_anomalous_has_a_precision(label, precision):
    metrics = image_metrics([0.9, 0.2], [label, not label], deployed_threshold=0.5)
    assert metrics.values["deployed_precision"] == precision
    assert metrics.absent == {}


def test_scaling_scores_and_threshold_by_a_power_of_two_changes_no_figure_but_the_thresholds():
    generator = np.random.default_rng(3)
    scores, labels = generator.random(50), generator.random(50) < 0.3
    small = image_metrics(scores, labels, deployed_threshold=0.4).values
    large = image_metrics(scores * 1024, labels, deployed_threshold=0.4 * 1024).values
    assert {name for name in small if small[name] != large[name]} == {
        "optimal_threshold",
        "oracle_threshold",
        "deployed_threshold",
    }


def test_a_single_image_is_ranked_and_none_is_not():
    alarms = Ranking.of([0.5], [True]).alarms()
    assert (alarms.true.tolist(), alarms.false.tolist()) == ([[0.0, 1.0]], [[0.0, 0.0]])
    with pytest.raises(ValueError, match=r"^scores and labels must be as long, got \(0,\) and \(0,\)$"):
        Ranking.of([], [])
