import json
import re
from html import unescape

import numpy as np
import pytest
from sklearn import metrics

from us_anomaly.errors import ArtifactError
from us_anomaly.reporting.axes import Axis, loss_axis, score_axis, tick_text
from us_anomaly.reporting.curves import (
    MAX_POINTS,
    evenly_chosen,
    precision_recall_curve,
    region_overlap_curve,
    roc_curve,
    smoothed,
)
from us_anomaly.reporting.pages.figures import Scores, histogram, image_figures, training_figure
from us_anomaly.reporting.plots import Plot, Point
from us_anomaly.scoring.pixel_metrics import evaluate_pixels
from us_anomaly.scoring.ranking import Ranking
from us_anomaly.scoring.region_overlap import PixelItem, PixelTruth
from us_anomaly.settings import MetricAlgorithm

RNG = np.random.default_rng(1)


def ranked(num: int) -> tuple[np.ndarray, np.ndarray]:
    labels = RNG.random(num) < 0.4
    return np.round(RNG.normal(labels, 1), 2), labels


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 4.7), (138.4, 139.1), (0, 12000), (1e-6, 3e-6)])
def test_ticks_are_few_round_and_on_the_axis(low, high):
    ticks = Axis(label="", low=low, high=high).ticks()
    assert 3 <= len(ticks) <= 9
    assert all(low - 1e-9 * abs(high) <= tick <= high * (1 + 1e-9) for tick in ticks)
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert all(len(tick_text(tick).strip("-")) <= 6 for tick in ticks)


@pytest.mark.parametrize("high", [1.2, 3, 17, 1234])
def test_counts_have_whole_ticks(high):
    ticks = Axis(label="", low=-0.9 * high, high=high, counts=True).ticks()
    assert all(tick == round(tick) for tick in ticks)
    assert 0 in ticks


def test_scores_with_a_long_tail_get_a_logarithmic_axis_and_say_so():
    axis = score_axis("score", [0.5, 1.0, 700.0])
    assert axis.is_logarithmic
    assert "logarithmic" in axis.label
    assert axis.position((axis.low * axis.high) ** 0.5) == pytest.approx(0.5)
    assert {1, 10, 100} <= set(axis.ticks())
    assert not score_axis("score", [-0.5, 1.0, 700.0]).is_logarithmic


def test_scores_close_to_zero_are_no_reason_for_a_logarithmic_axis():
    assert not score_axis("score", [0.001, 5.0, 6.0, 40.0]).is_logarithmic
    assert loss_axis("loss", [0.001, 5.0, 6.0, 40.0]).is_logarithmic
    assert not loss_axis("loss", [2.0, 5.0, 40.0]).is_logarithmic


@pytest.mark.parametrize("axis", [loss_axis("", [0.5, 700.0]), score_axis("", [-3.0, 4.0]), score_axis("", [2.0, 2.0])])
def test_position_and_value_of_an_axis_undo_each_other(axis):
    for position in (0.0, 0.25, 1.0):
        assert axis.position(axis.value(position)) == pytest.approx(position, abs=1e-12)


def test_values_beyond_an_axis_stay_at_its_ends():
    axis = Axis(label="", low=1.0, high=2.0)
    assert (axis.position(-9), axis.position(99)) == (0, 1)


def test_text_of_a_plot_is_escaped():
    plot = Plot('<b>"x"</b>', Axis(label="<i>", low=0, high=1), Axis(label="&", low=0, high=1))
    plot.vertical(0.5, label="<script>", kind="threshold")
    plot.tooltips([Point(0.5, 0.5, "\"'><script>")])
    svg = str(plot.svg())
    assert "<script" not in svg
    assert "<i>" not in svg
    assert json.loads(unescape(re.search(r'data-points="([^"]*)"', svg).group(1)))[0][2] == "\"'><script>"


def test_the_histogram_counts_every_image_once_in_its_direction():
    values, labels = ranked(200)
    figure = histogram(Scores(values=values, labels=labels, threshold=0.5))
    points = json.loads(unescape(re.search(r'data-points="([^"]*)"', str(figure.svg)).group(1)))
    normal, anomalous = (
        sum(int(re.search(rf"(\d+) {kind}", text).group(1)) for *_, text in points) for kind in ("normal", "anomalous")
    )
    assert (normal, anomalous) == (int((~labels).sum()), int(labels.sum()))
    assert "threshold 0.5" in figure.svg


def test_no_bar_of_the_histogram_is_called_both_ways():
    values, labels = ranked(200)
    threshold = float(values[7])  # an image on the threshold is anomalous
    figure = histogram(Scores(values=values, labels=labels, threshold=threshold))
    points = json.loads(unescape(re.search(r'data-points="([^"]*)"', str(figure.svg)).group(1)))
    right = 0
    for *_, text in points:
        start, end = map(float, re.match(r"score (\S+) to (\S+)", text).groups())
        assert end <= threshold + 1e-9 or start >= threshold - 1e-9
        if start >= threshold - 1e-9:
            right += sum(int(count) for count in re.findall(r"(\d+) (?:normal|anomalous)", text))
    assert right == int((values >= threshold).sum())


def test_the_histogram_holds_scores_that_are_all_alike():
    figure = histogram(Scores(values=np.full(3, 2.0), labels=np.array([False, False, True]), threshold=2.0))
    assert 'class="bar normal"' in figure.svg


def test_a_single_kind_of_image_has_a_histogram_and_no_curves():
    only_normal = Scores(values=np.array([1.0, 2.0]), labels=np.array([False, False]), threshold=3.0)
    assert [figure.title for figure in image_figures(only_normal)] == ["Image scores"]
    both = Scores(values=np.array([1.0, 2.0]), labels=np.array([False, True]), threshold=1.5)
    assert [figure.title for figure in image_figures(both)] == ["Image scores", "ROC", "Precision and recall"]
    assert image_figures(Scores(values=np.zeros(0), labels=np.zeros(0, dtype=bool), threshold=1.0)) == []


def test_the_roc_curve_is_that_of_scikit_learn():
    values, labels = ranked(60)
    curve = roc_curve(Ranking.of(values, labels))
    x, y, _ = metrics.roc_curve(labels, values, drop_intermediate=False)
    np.testing.assert_allclose(curve.x, x)
    np.testing.assert_allclose(curve.y, y)


def test_the_precision_recall_curve_is_that_of_scikit_learn():
    values, labels = ranked(60)
    curve = precision_recall_curve(Ranking.of(values, labels))
    precision, recall, thresholds = metrics.precision_recall_curve(labels, values)
    np.testing.assert_allclose(curve.x, recall[:-1][::-1])
    np.testing.assert_allclose(curve.y, precision[:-1][::-1])
    np.testing.assert_allclose(curve.threshold, thresholds[::-1])


def test_a_long_curve_is_thinned_without_a_visible_change():
    values, labels = RNG.normal(size=20_000), RNG.random(20_000) < 0.5
    curve = roc_curve(Ranking.of(values + labels, labels))
    assert len(curve.x) <= MAX_POINTS + 2
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(metrics.roc_auc_score(labels, values + labels), abs=1e-3)


def test_the_area_under_the_pro_curve_is_the_figure_of_the_evaluation():
    items = []
    for number in range(12):
        mask = np.zeros((40, 50), dtype=bool)
        if number % 2:
            mask[5 + number : 15 + number, 10:20] = mask[30:34, 30:45] = True
        scores = RNG.lognormal(size=mask.shape) * np.where(mask, 4, 1)
        items.append(PixelItem(scores.astype(np.float32), PixelTruth(mask), "cut" if number % 2 else "good"))
    curve = region_overlap_curve(items, up_to=0.3)
    exact = evaluate_pixels(items, algorithm=MetricAlgorithm.exact, num_pixels=1, saturated=False)
    assert np.trapezoid(curve.y, curve.x) / 0.3 == pytest.approx(exact.overall.values["aupro_0.3"], abs=2e-3)
    assert curve.x[-1] == pytest.approx(0.3)


def test_without_a_region_there_is_no_pro_curve():
    item = PixelItem(np.ones((3, 3), dtype=np.float32), PixelTruth(np.zeros((3, 3), dtype=bool)), "good")
    assert region_overlap_curve([item], up_to=0.3) is None
    assert region_overlap_curve([], up_to=0.3) is None


def test_the_running_mean_is_the_mean_of_what_is_there():
    values = RNG.random(20)
    expected = [values[max(0, i - 2) : i + 3].mean() for i in range(20)]
    np.testing.assert_allclose(smoothed(values, window=5), expected)


def test_chosen_positions_hold_both_ends():
    assert evenly_chosen(5, at_most=100).tolist() == [0, 1, 2, 3, 4]
    chosen = evenly_chosen(1000, at_most=10)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 999, 10)


def test_training_curves_name_every_loss(tmp_path):
    path = tmp_path / "teacher.losses.jsonl"
    path.write_text("".join(json.dumps({"step": n, "loss": 1 / n, "compactness": 0.1}) + "\n" for n in range(1, 900)))
    figure = training_figure("Teacher", path)
    assert figure.legend == (("first", "loss"), ("second", "compactness"))
    assert "step 899" in figure.svg


def test_what_is_measured_now_and_then_is_a_line_through_these_points(tmp_path):
    path = tmp_path / "students.losses.jsonl"
    points = [{"step": n, "loss": 1.0, **({"validation": n / 100} if n % 100 == 0 else {})} for n in range(1, 401)]
    path.write_text("".join(json.dumps(point) + "\n" for point in points))
    figure = training_figure("Students", path)
    assert figure.legend == (("first", "loss"), ("second", "validation"))
    assert "nan" not in figure.svg
    line = re.search(r'class="line second" points="([^"]*)"', figure.svg)[1]
    assert len(line.split()) == 4
    assert r"step 400\nloss 1\nvalidation 4" in figure.svg
    assert r"step 399\nloss 1&#34;" in figure.svg


def test_a_training_without_curve_has_no_figure(tmp_path):
    assert training_figure("Teacher", tmp_path / "none") is None
    (tmp_path / "empty").write_text("")
    assert training_figure("Teacher", tmp_path / "empty") is None


@pytest.mark.parametrize(
    "text", ["nonsense\n", "[1]\n[2]\n", '{"loss": 1}\n{"loss": 2}\n', '{"step": 1, "loss": "x"}\n' * 2]
)
def test_damaged_losses_are_told_in_one_line_with_the_way_out(tmp_path, text):
    path = tmp_path / "students.losses.jsonl"
    path.write_text(text)
    with pytest.raises(
        ArtifactError, match=r"students.losses.jsonl is no list of losses \(.*\); delete it, it is only"
    ):
        training_figure("Students", path)
