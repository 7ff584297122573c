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
    with pytest.raises(
        ArtifactError,
        match=r"calls test/cut/0.png anomalous at score 0.7, which contradicts the threshold 0.8",
    ):
        scored_images([result(CUT, score=0.7)], [CUT], deployed_threshold=0.8)


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
