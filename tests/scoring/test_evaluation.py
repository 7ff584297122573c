import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from drawn_run import THRESHOLD, draw_run
from sklearn.metrics import roc_auc_score

from us_anomaly.data.sample import Sample, of_split
from us_anomaly.errors import DataError
from us_anomaly.scoring import evaluation
from us_anomaly.scoring.data_problems import RULES, DataProblems
from us_anomaly.scoring.duplicates import duplicates_across_splits
from us_anomaly.scoring.evaluation import evaluate
from us_anomaly.scoring.map_files import read_map, write_map
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.scored_images import parse_predictions, scored_images
from us_anomaly.scoring.thresholds import Threshold
from us_anomaly.settings import EvaluationSettings, MapResolution, MetricAlgorithm

CHOSEN = Threshold(value=THRESHOLD, rule="f1", requested="f1")
NO_MASKS = "no masks in the data set"
PIXEL_FIGURES = ("pixel_auroc", "pixel_average_precision", "pixel_f1_max", "aupro_0.3", "aupro_0.05")
COUNTS = {
    "images": 10,
    "normal": 4,
    "anomalous": 6,
    "images_in_pixel_metrics": 10,
    "images_left_out_of_pixel_metrics": 0,
    "regions": 6,
}
"""Of the ten pictures with a mask each that two tests draw."""


def images_of(run_dir, samples):
    results = parse_predictions((run_dir / "predictions.jsonl").read_text())
    return scored_images(results, of_split(samples, "test"), deployed_threshold=THRESHOLD)


def evaluated(root, run_dir, images, *, algorithm="exact", resolution="original", resamples=50, threshold=CHOSEN):
    source = PixelSource(
        images=[image for image in images if image.map_path],
        run_dir=run_dir,
        data_root=root,
        max_image_pixels=10_000,
        network_size=(lambda size: (12, 12)) if resolution == "network" else None,
        saturation=None,
        problems=DataProblems(),
    )
    settings = EvaluationSettings(
        algorithm=MetricAlgorithm(algorithm),
        resolution=MapResolution(resolution),
        bootstrap_samples=resamples,
    )
    return evaluate(images, source=source, threshold=threshold, settings=settings, seed=0, data_set={"name": "drawn"})


@pytest.fixture
def drawn(tmp_path):
    root, run_dir, samples = draw_run(tmp_path)
    return root, run_dir, images_of(run_dir, samples)


def replaced(images, **changes):
    """Replace fields of the images that a key of `changes` names by its filename."""
    return [type(i)(**{f: getattr(i, f) for f in i.__slots__} | changes.get(i.filename, {})) for i in images]


def test_image_figures_equal_what_was_drawn(drawn):
    evaluation = evaluated(*drawn)
    metrics = evaluation["metrics"]
    assert (metrics["false_positives"], metrics["misses"]) == (1, 2)
    assert type(metrics["misses"]) is type(metrics["false_positives"]) is int
    assert metrics["deployed_recall"] == pytest.approx(4 / 6)
    assert metrics["deployed_precision"] == pytest.approx(4 / 5)
    assert metrics["deployed_threshold"] == THRESHOLD
    assert evaluation["threshold"] == {"value": 0.5, "rule": "f1", "requested": "f1", "reason": None}


def test_pixel_figures_equal_scikit_learn_on_the_files(drawn):
    _, run_dir, images = drawn
    scores = [read_map(run_dir / image.map_path) for image in images]
    masks = []
    for number, image in enumerate(images, start=2):
        mask = np.zeros((24, 24), dtype=bool)
        mask[4 : 8 + number, 5:12] = image.is_anomalous
        masks.append(mask)
    evaluation = evaluated(*drawn)
    assert evaluation["metrics"]["pixel_auroc"] == pytest.approx(roc_auc_score(np.ravel(masks), np.ravel(scores)))
    assert evaluation["counts"] == COUNTS
    cut = [n for n, image in enumerate(images) if image.defect_type in ("good", "cut")]
    assert evaluation["per_defect_type"]["cut"]["metrics"]["pixel_auroc"] == pytest.approx(
        roc_auc_score(np.ravel([masks[n] for n in cut]), np.ravel([scores[n] for n in cut]))
    )


def test_each_defect_type_is_measured_against_all_normal_images(drawn):
    evaluation = evaluated(*drawn)
    assert list(evaluation["per_defect_type"]) == ["cut", "hole"]
    hole = evaluation["per_defect_type"]["hole"]
    images = [image for image in drawn[2] if image.defect_type != "cut"]
    expected = roc_auc_score([image.is_anomalous for image in images], [image.score for image in images])
    assert hole["count"] == 3
    assert hole["metrics"]["image_auroc"] == pytest.approx(expected)
    assert hole["metrics"]["deployed_recall"] == pytest.approx(2 / 3)
    assert hole["metrics"]["misses"] == 1
    assert "aupro_0.3" in hole["metrics"]
    assert "f1" not in hole["metrics"]


def test_figures_of_one_defect_type_are_these_and_no_image_of_another_type_moves_them(drawn):
    """`hole` has scores 0.19 and 0.71, `cut` 0.16, 0.67 and 0.68, normal images 0.62, 0.13, 0.14 and 0.15."""
    root, run_dir, images = drawn
    bare = replaced(images, **{image.filename: {"mask_path": None} for image in images})
    bare = [image for image in bare if image.filename != "test/hole/1.png"]
    types = evaluated(root, run_dir, bare)["per_defect_type"]
    expected = {
        "hole": (2, {"image_auroc": 7 / 8, "image_average_precision": 5 / 6, "deployed_recall": 1 / 2, "misses": 1}),
        "cut": (3, {"image_auroc": 11 / 12, "image_average_precision": 11 / 12, "deployed_recall": 2 / 3, "misses": 1}),
    }
    for kind, (count, metrics) in expected.items():
        assert types[kind] == {
            "count": count,
            "metrics": pytest.approx(metrics),
            "intervals": types[kind]["intervals"],
            "absent": dict.fromkeys(PIXEL_FIGURES, NO_MASKS),
        }
        assert types[kind]["intervals"].keys() == metrics.keys()


def test_without_normal_images_a_defect_type_has_its_recall_and_reasons_for_the_rest(drawn):
    root, run_dir, images = drawn
    bare = replaced(images, **{image.filename: {"mask_path": None} for image in images})
    evaluation = evaluated(root, run_dir, [image for image in bare if image.is_anomalous], resamples=0)
    assert evaluation["per_defect_type"]["cut"] == {
        "count": 3,
        "metrics": {"deployed_recall": pytest.approx(2 / 3), "misses": 1},
        "intervals": {},
        "absent": dict.fromkeys(("image_auroc", "image_average_precision"), "no normal image in test")
        | dict.fromkeys(PIXEL_FIGURES, NO_MASKS),
    }


def test_what_was_evaluated_and_how_is_stated(drawn):
    evaluation = evaluated(*drawn, resamples=0)
    figures = {"metrics", "intervals", "absent", "per_defect_type"}
    assert {name: value for name, value in evaluation.items() if name not in figures} == {
        "format_version": 1,
        "split": "test",
        "data_set": {"name": "drawn"},
        "resolution": "original",
        "resolution_px": {"smallest": [24, 24], "largest": [24, 24]},
        "algorithm": "exact",
        "bootstrap": {"num_resamples": 0, "seed": 0, "confidence": 0.95},
        "counts": COUNTS,
        "threshold": {"value": 0.5, "rule": "f1", "requested": "f1", "reason": None},
        "most_anomalous_found": {"filename": "test/hole/2.png", "heatmap_path": "heatmaps/test/hole/2.png"},
        "warnings": dict.fromkeys(RULES, 0),
        "warning_examples": {},
    }


def test_the_smallest_and_the_largest_size_are_those_of_fewest_and_most_pixels(drawn):
    _, run_dir, images = drawn
    for number, (width, height) in enumerate([(9, 9), (10, 20), (8, 10), (12, 8)]):
        write_map(run_dir / f"maps/test/good/{number}.tiff", np.zeros((height, width), dtype=np.float32))
    of_normals = [image for image in images if not image.is_anomalous]
    one_defect = [image for image in images if image.is_anomalous][:1]
    write_map(run_dir / one_defect[0].map_path, np.zeros((12, 12), dtype=np.float32))
    evaluation = evaluated(drawn[0], run_dir, of_normals + one_defect)
    assert evaluation["resolution_px"] == {"smallest": [8, 10], "largest": [10, 20]}


def test_resolution_and_algorithm_are_stated(drawn):
    evaluation = evaluated(*drawn, algorithm="auto")
    assert (evaluation["resolution"], evaluation["algorithm"]) == ("original", "exact")
    assert evaluation["resolution_px"] == {"smallest": [24, 24], "largest": [24, 24]}
    at_network = evaluated(*drawn, resolution="network")
    assert (at_network["resolution"], at_network["resolution_px"]["largest"]) == ("network", [12, 12])
    assert at_network["metrics"]["aupro_0.3"] != evaluation["metrics"]["aupro_0.3"]


def test_both_algorithms_agree(drawn):
    exact, streaming = evaluated(*drawn), evaluated(*drawn, algorithm="streaming")
    assert streaming["algorithm"] == "streaming"
    assert streaming["metrics"] == pytest.approx(exact["metrics"], abs=1e-4)
    assert streaming["counts"] == exact["counts"]


def test_auto_streams_what_is_too_large_to_sort(drawn, monkeypatch):
    monkeypatch.setattr("us_anomaly.scoring.pixel_metrics.MAX_EXACT_PIXELS", 24 * 24 * 10 - 1)
    assert evaluated(*drawn, algorithm="auto")["algorithm"] == "streaming"


def test_the_result_is_json_without_not_a_number(drawn):
    evaluation = evaluated(*drawn)
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation


def test_every_image_level_figure_has_an_interval_around_it(drawn):
    evaluation = evaluated(*drawn, resamples=200)
    for name, (low, high) in evaluation["intervals"].items():
        assert low <= high
        assert name in evaluation["metrics"]
    assert {"image_auroc", "deployed_recall", "oracle_f1", "misses"} <= evaluation["intervals"].keys()
    assert evaluation["bootstrap"] == {"num_resamples": 200, "seed": 0, "confidence": 0.95}
    assert evaluated(*drawn, resamples=0)["intervals"] == {}


def test_few_images_that_are_all_decided_rightly_leave_no_interval_without_width(drawn):
    """Four normal and six anomalous images say little, of a defect type three say less."""
    root, run_dir, images = drawn
    right = {image.filename: {"score": image.is_anomalous + number / 100} for number, image in enumerate(images)}
    evaluation = evaluated(root, run_dir, replaced(images, **right))
    assert evaluation["metrics"]["image_auroc"] == evaluation["metrics"]["deployed_recall"] == 1
    intervals, of_type = evaluation["intervals"], evaluation["per_defect_type"]["cut"]["intervals"]
    assert intervals["deployed_false_positive_rate"] == pytest.approx([0, 0.490], abs=1e-3)
    assert intervals["deployed_recall"] == pytest.approx([0.610, 1], abs=1e-3)
    assert of_type["deployed_recall"] == pytest.approx([0.438, 1], abs=1e-3)
    assert of_type["image_auroc"][0] < intervals["image_auroc"][0] < 1
    assert all(low < high for low, high in [*intervals.values(), *of_type.values()])


def test_without_masks_pixel_figures_are_absent_with_the_reason(drawn):
    root, run_dir, images = drawn
    bare = replaced(images, **{image.filename: {"mask_path": None} for image in images})
    evaluation = evaluated(root, run_dir, bare)
    assert evaluation["absent"] == dict.fromkeys(PIXEL_FIGURES, NO_MASKS)
    assert evaluation["algorithm"] is evaluation["resolution_px"] is None
    assert "image_auroc" in evaluation["metrics"]
    assert evaluation["warnings"]["anomalous_without_mask"] == 0
    assert evaluation["counts"] == {
        "images": 10,
        "normal": 4,
        "anomalous": 6,
        "images_in_pixel_metrics": 0,
        "images_left_out_of_pixel_metrics": 10,
        "regions": 0,
    }


def test_without_saved_maps_pixel_figures_are_absent_with_the_way_out(drawn):
    root, run_dir, images = drawn
    bare = replaced(images, **{image.filename: {"map_path": None} for image in images})
    assert evaluated(root, run_dir, bare)["absent"] == dict.fromkeys(
        PIXEL_FIGURES, "no maps were saved: run `usad infer overwrite=true inference.save_maps=true`"
    )


def test_one_anomalous_image_without_mask_is_left_out_of_the_pixel_figures_and_counted(drawn):
    root, run_dir, images = drawn
    evaluation = evaluated(root, run_dir, replaced(images, **{"test/cut/0.png": {"mask_path": None}}))
    assert evaluation["warnings"]["anomalous_without_mask"] == 1
    assert evaluation["warning_examples"] == {"anomalous_without_mask": ["test/cut/0.png"]}
    assert evaluation["counts"]["images_in_pixel_metrics"] == 9
    assert evaluation["counts"]["images_left_out_of_pixel_metrics"] == 1
    assert evaluation["counts"]["regions"] == 5
    assert set(evaluation["warnings"]) == set(RULES)


def test_a_type_without_any_mask_has_its_pixel_figures_absent(drawn):
    root, run_dir, images = drawn
    cuts = {image.filename: {"mask_path": None} for image in images if image.defect_type == "cut"}
    cut = evaluated(root, run_dir, replaced(images, **cuts))["per_defect_type"]["cut"]
    assert cut["absent"]["aupro_0.3"] == "no image of this type has a mask of its defect"
    assert "image_auroc" in cut["metrics"]


def test_without_anomalous_images_their_figures_are_absent(drawn):
    root, run_dir, images = drawn
    evaluation = evaluated(root, run_dir, [image for image in images if not image.is_anomalous])
    assert evaluation["absent"]["image_auroc"] == "no anomalous image in test"
    assert evaluation["metrics"]["false_positives"] == 1
    assert evaluation["per_defect_type"] == {}
    assert evaluation["most_anomalous_found"] is None


def test_the_image_to_look_at_first_was_found_and_scores_highest(drawn):
    best = evaluated(*drawn)["most_anomalous_found"]
    assert best == {"filename": "test/hole/2.png", "heatmap_path": "heatmaps/test/hole/2.png"}


def test_an_empty_test_split_is_refused(drawn):
    with pytest.raises(DataError) as caught:
        evaluated(drawn[0], drawn[1], [])
    assert str(caught.value) == ("the test split holds no image: choose split.ratios with a test share, as 70-15-15")


def test_replacing_one_test_image_changes_no_decision_about_another(drawn):
    """Thresholds come from outside: what else is in the test split cannot move a decision."""
    root, run_dir, images = drawn
    before = evaluated(root, run_dir, images)
    changed = replaced(images, **{"test/good/1.png": {"score": 99.0}})
    after = evaluated(root, run_dir, changed)
    assert after["threshold"] == before["threshold"]
    assert after["metrics"]["misses"] == before["metrics"]["misses"]
    assert after["metrics"]["false_positives"] == before["metrics"]["false_positives"] + 1


def test_the_order_of_test_images_changes_no_figure(drawn):
    root, run_dir, images = drawn
    forward, backward = evaluated(root, run_dir, images), evaluated(root, run_dir, images[::-1])
    assert backward["metrics"] == pytest.approx(forward["metrics"], abs=1e-12)
    assert backward["per_defect_type"].keys() == forward["per_defect_type"].keys()


def test_an_image_that_lies_in_two_splits_is_found_by_its_content(tmp_path):
    root, _, samples = draw_run(tmp_path)
    assert duplicates_across_splits(samples, data_root=root) == []
    (root / "test/good/2.png").write_bytes((root / "train/good/1.png").read_bytes())
    (group,) = duplicates_across_splits(samples, data_root=root)
    assert [sample.filename for sample in group] == ["train/good/1.png", "test/good/2.png"]


def test_every_pair_is_found_and_no_file_is_read_but_those_of_one_size_in_several_splits(tmp_path, monkeypatch):
    contents = {"train/a": b"1", "test/a": b"1", "test/b": b"2", "val/c": b"333", "test/c": b"333"}
    alone = {"test/d": b"55555", "test/e": b"55555", "train/f": b"7777777"}
    for name, content in (contents | alone).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    samples = [Sample(filename=name, is_anomalous=False, split=name.split("/")[0]) for name in contents | alone]
    read = []

    def digest(file, algorithm):
        read.append(Path(file.name).relative_to(tmp_path).as_posix())
        return file_digest(file, algorithm)

    file_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", digest)
    groups = duplicates_across_splits(samples, data_root=tmp_path)
    assert [[sample.filename for sample in group] for group in groups] == [["train/a", "test/a"], ["val/c", "test/c"]]
    assert read == list(contents)


def test_duplicates_within_one_split_and_missing_files_are_no_leak(tmp_path):
    root, _, samples = draw_run(tmp_path)
    (root / "test/good/2.png").write_bytes((root / "test/good/1.png").read_bytes())
    (root / "train/good/0.png").unlink()
    assert duplicates_across_splits(samples, data_root=root) == []


@pytest.mark.parametrize("saturation", [None, "table"])
def test_the_overlap_saturates_where_the_data_set_says_so(monkeypatch, saturation):
    asked = {}
    monkeypatch.setattr(evaluation, "evaluate_pixels", lambda items, **keywords: asked.update(keywords))
    source = SimpleNamespace(images=[0], sizes=lambda: [(2, 3)], saturation=saturation)
    evaluation._pixels([SimpleNamespace(mask_path="m.png")], source=source, algorithm=MetricAlgorithm.exact)
    assert asked == {"algorithm": MetricAlgorithm.exact, "num_pixels": 6, "saturated": saturation is not None}
