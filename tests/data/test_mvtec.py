import logging
from pathlib import Path

import pytest

from us_anomaly.data.mvtec import mvtec_categories, read_mvtec
from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError

CATEGORY = ("train/good/0.png", "test/good/0.png", "test/cut/0.png", "test/cut/1.png", "ground_truth/cut/0_mask.png")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_the_layout_gives_labels_splits_and_masks(tmp_path: Path) -> None:
    touch(tmp_path, *CATEGORY)
    assert read_mvtec(tmp_path) == [
        Sample(
            filename="test/cut/0.png",
            is_anomalous=True,
            defect_type="cut",
            mask_path="ground_truth/cut/0_mask.png",
            split="test",
        ),
        Sample(filename="test/cut/1.png", is_anomalous=True, defect_type="cut", split="test"),
        Sample(filename="test/good/0.png", is_anomalous=False, split="test"),
        Sample(filename="train/good/0.png", is_anomalous=False, split="train"),
    ]


def test_a_category_below_the_root_keeps_its_name_in_filenames(tmp_path: Path) -> None:
    touch(tmp_path / "bottle", *CATEGORY)
    samples = read_mvtec(tmp_path, category="bottle")
    assert samples[0].filename == "bottle/test/cut/0.png"
    assert samples[0].mask_path == "bottle/ground_truth/cut/0_mask.png"


@pytest.mark.parametrize("mask", ["cut/0.png", "cut/0.bmp", "cut/0_mask.jpg", "cut/0_mask.PNG"])
def test_masks_are_called_like_their_picture_or_with_mask_behind_it(tmp_path: Path, mask: str) -> None:
    touch(tmp_path, "train/good/0.png", "test/cut/0.bmp", f"ground_truth/{mask}")
    assert read_mvtec(tmp_path)[0].mask_path == f"ground_truth/{mask}"


def test_several_masks_of_one_picture_lie_in_a_folder_as_in_loco(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train/good/000.png",
        "validation/good/000.png",
        "test/logical_anomalies/000.png",
        "ground_truth/logical_anomalies/000/000.png",
        "ground_truth/logical_anomalies/000/001.png",
    )
    assert read_mvtec(tmp_path) == [
        Sample(
            filename="test/logical_anomalies/000.png",
            is_anomalous=True,
            defect_type="logical_anomalies",
            mask_path="ground_truth/logical_anomalies/000",
            split="test",
        ),
        Sample(filename="train/good/000.png", is_anomalous=False, split="train"),
        Sample(filename="validation/good/000.png", is_anomalous=False, split="val"),
    ]


def test_btad_calls_its_folders_ok_and_ko(tmp_path: Path) -> None:
    touch(tmp_path, "01/train/ok/0.bmp", "01/test/ok/1.bmp", "01/test/ko/2.bmp", "01/ground_truth/ko/2.png")
    samples = read_mvtec(tmp_path, category="01", normal="ok")
    assert [(sample.filename, sample.is_anomalous, sample.defect_type, sample.split) for sample in samples] == [
        ("01/test/ko/2.bmp", True, "ko", "test"),
        ("01/test/ok/1.bmp", False, "good", "test"),
        ("01/train/ok/0.bmp", False, "good", "train"),
    ]
    assert samples[0].mask_path == "01/ground_truth/ko/2.png"


def test_anything_but_good_in_train_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, *CATEGORY, "train/cut/9.png")
    with pytest.raises(DataError) as caught:
        read_mvtec(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/train holds cut besides good: anomalous pictures never train, move them to test/"
    )


def test_an_empty_stray_folder_in_train_does_not_matter(tmp_path: Path) -> None:
    touch(tmp_path, *CATEGORY)
    (tmp_path / "train/cut").mkdir()
    assert len(read_mvtec(tmp_path)) == 4


def test_a_root_of_categories_lists_them_with_the_way_out(tmp_path: Path) -> None:
    for category in ("screw", "bottle"):
        touch(tmp_path / category, *CATEGORY)
    touch(tmp_path, "license.txt", "papers/x.png")
    with pytest.raises(DataError) as caught:
        read_mvtec(tmp_path)
    assert str(caught.value) == (
        f"data.root={tmp_path} holds 2 categories: bottle, screw. Choose one, for example data.category=bottle, "
        "or all of them in turn with -m data.category=all"
    )
    assert mvtec_categories(tmp_path) == ["bottle", "screw"]


def test_an_unknown_category_shows_those_there_are_and_the_closest(tmp_path: Path) -> None:
    for category in ("screw", "bottle"):
        touch(tmp_path / category, *CATEGORY)
    with pytest.raises(DataError) as caught:
        read_mvtec(tmp_path, category="botle")
    assert str(caught.value) == (
        f"data.root={tmp_path} has no category 'botle', it has bottle, screw; did you mean data.category=bottle?"
    )


def test_a_category_of_a_root_that_is_one_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, *CATEGORY)
    with pytest.raises(DataError, match=r"leave it out if data\.root is the category itself"):
        read_mvtec(tmp_path, category="bottle")


@pytest.mark.parametrize("category", ["../other", "/etc", "a/../../other", ""])
def test_a_category_cannot_lead_out_of_the_root(tmp_path: Path, category: str) -> None:
    touch(tmp_path / "other", *CATEGORY)
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match="holds no categories"):
        read_mvtec(tmp_path / "root", category=category)


def test_nothing_usable_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png")
    with pytest.raises(DataError) as caught:
        read_mvtec(tmp_path)
    assert str(caught.value) == (
        f"data.root={tmp_path}: looked for train/good/ and test/ in {tmp_path}, but found 1 folder: images. "
        "Choose another layout: data=folder, data=csv"
    )


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train/good").mkdir(parents=True)
    with pytest.raises(DataError, match="no pictures in the folders train, validation and test"):
        read_mvtec(tmp_path)


def test_masks_that_belong_to_no_picture_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "train/good/0.png", "test/cut/0.png", "ground_truth/cut/other.png")
    with caplog.at_level(logging.WARNING):
        read_mvtec(tmp_path)
    assert "none of the 1 masks" in caplog.text


def test_links_out_of_the_root_are_refused_unless_allowed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/0_mask.png", "set/train/good/0.png", "set/test/cut/0.png")
    (tmp_path / "set/ground_truth").mkdir()
    (tmp_path / "set/ground_truth/cut").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"outside data.root"):
        read_mvtec(tmp_path / "set")
    assert read_mvtec(tmp_path / "set", allow_outside_root=True)[0].mask_path == "ground_truth/cut/0_mask.png"


def test_a_linked_category_within_the_root_is_accepted(tmp_path: Path) -> None:
    touch(tmp_path / "v1/bottle", *CATEGORY)
    (tmp_path / "bottle").symlink_to(tmp_path / "v1/bottle")
    assert len(read_mvtec(tmp_path, category="bottle")) == 4
