"""The whole pipeline on data sets that lack something: masks, anomalies, a common size, a validation split."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import draw_parts
from PIL import Image

from us_anomaly.commands.run import run as run_all
from us_anomaly.errors import DataError


@pytest.fixture
def quick(tiny, trained):
    """Overrides that reuse the teacher and train students for one step."""

    def overrides(run_dir, *more):
        return tiny(run_dir, f"teacher.checkpoint={trained}/p33/teacher.pt", "students.steps=1", *more)

    return overrides


def evaluation_of(run_dir):
    return json.loads((run_dir / "evaluation.json").read_text())


def labels_of(run_dir):
    return [json.loads(line) for line in (run_dir / "split.jsonl").read_text().splitlines()]


def resize(path, size):
    with Image.open(path) as picture:
        resized = picture.resize(size)
    resized.save(path)


def test_a_folder_without_masks_is_evaluated_without_pixel_figures(compose, quick, tmp_path):
    root = draw_parts(tmp_path / "parts", masks=False)
    run_all(compose("run", *quick(tmp_path / "run"), f"data.root={root}"))
    text = (tmp_path / "run/evaluation.json").read_text()
    assert "mask" in text
    assert "NaN" not in text
    assert not any(label["mask_path"] for label in labels_of(tmp_path / "run"))


def test_a_table_without_masks_runs(compose, quick, parts, tmp_path):
    rows = [
        {"filename": path.relative_to(parts).as_posix(), "is_anomalous": int(path.parent.name != "good")}
        for path in sorted(parts.glob("images/*/*.png"))
    ]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["filename", "is_anomalous"])
        writer.writeheader()
        writer.writerows(rows)
    settings = compose(
        "run", *quick(tmp_path / "run"), "data=csv", f"data.root={parts}", f"data.file={tmp_path}/labels.csv"
    )
    run_all(settings)
    assert len(labels_of(tmp_path / "run")) == 18
    assert evaluation_of(tmp_path / "run")


def test_good_parts_alone_give_a_detector_with_a_threshold_and_say_what_cannot_be_measured(
    compose, quick, tmp_path, caplog
):
    root = draw_parts(tmp_path / "parts")
    for kind in ("cut", "hole"):
        shutil.rmtree(root / "images" / kind)
    shutil.rmtree(root / "masks")
    run_all(compose("run", *quick(tmp_path / "run"), f"data.root={root}"))
    assert "threshold by quantile: validation has no anomalous image for the rule f1" in caplog.text
    assert "NaN" not in (tmp_path / "run/evaluation.json").read_text()


def test_without_validation_the_training_pictures_calibrate_with_a_warning(compose, quick, tmp_path, parts, caplog):
    run_all(compose("run", *quick(tmp_path / "run"), "split.ratios=70-0-30"))
    assert "validation has no normal picture: calibrating on the training pictures" in caplog.text
    calibration = json.loads((tmp_path / "run/calibration.json").read_text())["calibration"]
    assert (calibration["reference"], calibration["num_normal"]) == ("train", 8)


def test_pictures_of_any_size_keep_it_without_resizing(compose, quick, tmp_path):
    root = draw_parts(tmp_path / "parts")
    sizes = {}
    for number, path in enumerate(sorted(root.glob("images/*/*.png"))):
        size = (30 + 3 * number, 70 - 2 * number)
        sizes[path.relative_to(root).as_posix()] = size
        resize(path, size)
    shutil.rmtree(root / "masks")
    floats = "{name: ToImage, params: {}}, {name: ToDtype, params: {dtype: float32, scale: true}}"
    lists = [f"augmentation.{key}=[{floats}]" for key in ("students", "evaluation")]
    run_all(compose("run", *quick(tmp_path / "run"), f"data.root={root}", *lists))
    for label in labels_of(tmp_path / "run"):
        if label["split"] != "train":
            with Image.open(tmp_path / "run/maps" / label["filename"].replace(".png", ".tiff")) as picture:
                assert picture.size == sizes[label["filename"]]


def test_pictures_of_different_sizes_need_batches_of_one(compose, quick, tmp_path):
    root = draw_parts(tmp_path / "parts")
    for number, path in enumerate(sorted(root.glob("images/good/*.png"))):
        resize(path, (48, 40 + number))
    floats = "{name: ToImage, params: {}}, {name: ToDtype, params: {dtype: float32, scale: true}}"
    overrides = [f"data.root={root}", f"augmentation.students=[{floats}]", "students.batch_size=2"]
    with pytest.raises(
        DataError, match=r"do not fit into one batch: set students.batch_size=1, or let the transform list"
    ):
        run_all(compose("run", *quick(tmp_path / "run"), *overrides))


def test_three_scales_are_trained_apart_and_averaged_on_a_common_scale(compose, tiny, tmp_path):
    overrides = ["scales=[17,33,65]", "scoring.normalization=zscore", "teacher.crop_size_px=72", "teacher.steps=1"]
    run_all(compose("run", *tiny(tmp_path / "run"), *overrides, "students.steps=1", "scoring.stride_px=4"))
    calibration = json.loads((tmp_path / "run/calibration.json").read_text())["calibration"]
    assert list(calibration["statistics"]) == ["17", "33", "65"]
    for patch_size in (17, 33, 65):
        names = {path.name for path in (tmp_path / f"run/p{patch_size}").iterdir()}
        assert names == {
            "teacher.pt",
            "teacher.losses.jsonl",
            "teacher_statistics.pt",
            "students.pt",
            "students.losses.jsonl",
        }


def test_sixteen_bit_and_grayscale_pictures_run_like_others(compose, quick, tmp_path):
    root = draw_parts(tmp_path / "parts")
    for path in root.glob("images/*/*.png"):
        with Image.open(path) as picture:
            gray = np.asarray(picture.convert("L"))
        if path.stem in ("001", "004"):
            Image.fromarray(gray).save(path)
        else:
            Image.fromarray(gray.astype(np.uint16) * 256).save(path)
    run_all(compose("run", *quick(tmp_path / "run"), f"data.root={root}"))
    assert evaluation_of(tmp_path / "run")


def test_the_demo_runs_with_its_own_pictures(compose, quick, tmp_path):
    pytest.importorskip("skimage")
    small = ["data.num_train=8", "data.num_test_normal=2", "data.num_test_anomalous=4", "data.image_side_px=48"]
    run_all(compose("run", "data=demo", *(o for o in quick(tmp_path / "run") if not o.startswith("data")), *small))
    assert {label["defect_type"] for label in labels_of(tmp_path / "run")} > {"good"}


def test_a_network_may_see_pictures_that_are_not_square(compose, quick, tmp_path):
    shape = ["image_size=[40,72]", "scoring.per_position=true", "scoring.per_picture=true"]
    run_all(compose("run", *quick(tmp_path / "run"), *shape))
    statistics = torch.load(tmp_path / "run/p33/position_statistics.pt", weights_only=True)
    assert statistics["error"]["mean"].shape == (40 // 4, 72 // 4)
    assert "pixel_auroc" in evaluation_of(tmp_path / "run")["metrics"]
