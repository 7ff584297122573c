import json

import pytest
from drawn_run import result

from us_anomaly.data.sample import Sample
from us_anomaly.errors import ArtifactError
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.scored_images import parse_predictions, scored_images

NORMAL = Sample(filename="test/good/0.png", is_anomalous=False, split="test")
CUT = Sample(filename="test/cut/0.png", is_anomalous=True, defect_type="cut", mask_path="m.png", split="test")


def test_results_are_joined_in_the_order_of_the_samples_and_others_left_out():
    other = Sample(filename="val/good/0.png", is_anomalous=False)
    results = [result(other, score=0.0), result(NORMAL, score=0.1), result(CUT, score=0.7)]
    first, second = scored_images(results, [CUT, NORMAL], deployed_threshold=0.5)
    assert (first.filename, first.is_anomalous, first.defect_type, first.score) == (
        "test/cut/0.png",
        True,
        "cut",
        0.7,
    )
    assert (first.mask_path, first.map_path) == ("m.png", "maps/test/cut/0.tiff")
    assert first.heatmap_path == "heatmaps/test/cut/0.png"
    assert (second.filename, second.defect_type, second.mask_path) == ("test/good/0.png", "good", None)


def test_a_test_image_without_result_is_named_with_the_way_out():
    with pytest.raises(
        ArtifactError, match=r"no result for 1 of 2 test images, for example test/cut/0.png: run `usad infer`"
    ):
        scored_images([result(NORMAL, score=0.1)], [NORMAL, CUT], deployed_threshold=0.5)


def test_a_test_image_without_result_is_counted_where_bad_images_are_skipped():
    problems = DataProblems()
    images = scored_images([result(NORMAL, score=0.1)], [NORMAL, CUT], deployed_threshold=0.5, problems=problems)
    assert [image.filename for image in images] == ["test/good/0.png"]
    assert problems.counts()["images_without_prediction"] == 1


def test_a_decision_that_contradicts_the_threshold_is_refused():
    for threshold, score, called in [(0.8, 0.7, "anomalous"), (0.2, 0.3, "normal")]:
        with pytest.raises(ArtifactError) as caught:
            scored_images([result(CUT, score=score)], [CUT], deployed_threshold=threshold)
        assert str(caught.value) == (
            f"predictions.jsonl calls test/cut/0.png {called} at score {score}, which contradicts the threshold {threshold} in "
            "calibration.json; run `usad infer overwrite=true`"
        )


@pytest.mark.parametrize("line", ["{", "[]", '{"filename": "a.png"}', '{"prediction": {"anomaly_score": 1}}'])
def test_a_line_that_is_no_result_is_named_by_its_number(line):
    with pytest.raises(
        ArtifactError, match=r"predictions.jsonl, line 2 is not a result .*run `usad infer overwrite=true`"
    ):
        parse_predictions(json.dumps(result(CUT, score=0.7)) + "\n" + line)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_named_with_its_image(score):
    line = json.dumps(result(CUT, score=score))
    with pytest.raises(ArtifactError, match=r"line 1: the score of test/cut/0.png is (nan|inf), not a finite number"):
        parse_predictions(line)


def test_what_is_wrong_with_a_line_is_said():
    with pytest.raises(ArtifactError) as caught:
        parse_predictions('{"filename": "a.png"}')
    assert str(caught.value) == (
        "predictions.jsonl, line 1 is not a result (KeyError: 'prediction'); run `usad infer overwrite=true`"
    )


@pytest.mark.parametrize("path", ["../a.png", "/a.png", "maps/../../a.png", "", "C:\\a.png", 3, ["a.png"]])
@pytest.mark.parametrize("key", ["map_path", "heatmap_path", "uncertainty_path"])
def test_a_path_that_leaves_the_run_directory_is_refused_with_line_path_and_way_out(key, path):
    line = result(CUT, score=0.7)
    line["prediction"][key] = path
    with pytest.raises(ArtifactError) as caught:
        parse_predictions(json.dumps(result(NORMAL, score=0.1)) + "\n" + json.dumps(line))
    assert str(caught.value) == (
        f"predictions.jsonl, line 2: {path!r} is no path below the run directory; run `usad infer overwrite=true`"
    )


def test_of_several_paths_that_leave_the_run_directory_the_first_is_named():
    line = result(CUT, score=0.7)
    line["prediction"] |= {"map_path": "../map.tiff", "heatmap_path": "../heat.png", "uncertainty_path": "../doubt.png"}
    with pytest.raises(ArtifactError, match=r"^predictions\.jsonl, line 1: '\.\./map\.tiff' is no path"):
        parse_predictions(json.dumps(line))


def test_paths_below_the_run_directory_and_absent_ones_are_kept_as_they_are():
    line = result(CUT, score=0.7)
    line["prediction"] |= {"map_path": "maps/a..b/0.tiff", "heatmap_path": None}
    del line["prediction"]["uncertainty_path"]
    assert parse_predictions(json.dumps(line)) == [line]
