import logging
import os
from pathlib import Path

import pytest

from us_anomaly.data.folder import read_folder
from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError, SettingsError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(root: Path, *, images: str = "images", masks: str = "masks", normal: str = "good") -> list[Sample]:
    return read_folder(root, images=images, masks=masks, normal=normal)


def masks_of(root: Path) -> dict[str, str | None]:
    return {sample.filename: sample.mask_path for sample in read(root)}


def test_subfolders_are_normal_or_name_their_defect(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/b.png", "images/good/a/c.jpg", "images/scratch/1.png", "images/dent/1.png")
    assert read(tmp_path) == [
        Sample(filename="images/dent/1.png", is_anomalous=True, defect_type="dent"),
        Sample(filename="images/good/a/c.jpg", is_anomalous=False),
        Sample(filename="images/good/b.png", is_anomalous=False),
        Sample(filename="images/scratch/1.png", is_anomalous=True, defect_type="scratch"),
    ]


def test_folders_can_be_called_otherwise(tmp_path: Path) -> None:
    touch(tmp_path, "photos/ok/1.png", "photos/bad/2.png", "labels/bad/2.png")
    samples = read(tmp_path, images="photos", masks="labels", normal="ok")
    assert samples == [
        Sample(filename="photos/bad/2.png", is_anomalous=True, defect_type="bad", mask_path="labels/bad/2.png"),
        Sample(filename="photos/ok/1.png", is_anomalous=False),
    ]


def test_images_may_lie_in_the_root_itself(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "bad/2.png")
    assert [sample.filename for sample in read(tmp_path, images=".")] == ["bad/2.png", "good/1.png"]


@pytest.mark.parametrize(
    "mask",
    [
        "masks/dent/x/1.png",
        "masks/dent/x/1.bmp",
        "masks/dent/x/1_mask.png",
        "masks/1.png",
        "masks/1_mask.tif",
        "masks/dent/1.png",
    ],
)
def test_masks_are_found_by_relative_path_or_by_name(tmp_path: Path, mask: str) -> None:
    touch(tmp_path, "images/good/2.png", "images/dent/x/1.jpg", mask)
    assert masks_of(tmp_path) == {"images/dent/x/1.jpg": mask, "images/good/2.png": None}


def test_a_folder_of_masks_belongs_to_its_picture(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/2.png", "images/dent/1.png", "masks/dent/1/000.png", "masks/dent/1/001.png")
    assert masks_of(tmp_path)["images/dent/1.png"] == "masks/dent/1"


def test_some_anomalous_pictures_may_lack_a_mask(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/0.png", "images/dent/1.png", "images/dent/2.png", "masks/dent/1.png")
    assert masks_of(tmp_path)["images/dent/2.png"] is None


def test_the_same_name_in_two_defects_is_no_trouble_with_relative_paths(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/1.png", "images/a/1.png", "images/b/1.png", "masks/a/1.png", "masks/b/1.png")
    assert masks_of(tmp_path) == {
        "images/a/1.png": "masks/a/1.png",
        "images/b/1.png": "masks/b/1.png",
        "images/good/1.png": None,
    }


@pytest.mark.parametrize("mask", ["masks/b/1.png", "masks/b/1_mask.png", "masks/b/1/1.png"])
def test_a_mask_with_the_path_of_its_picture_is_no_other_picture_s(tmp_path: Path, mask: str) -> None:
    touch(tmp_path, "images/good/0.png", "images/a/1.png", "images/b/1.png", "images/c/1.png", mask)
    found = masks_of(tmp_path)
    assert found.pop("images/b/1.png") in (mask, "masks/b/1")
    assert set(found.values()) == {None}


def test_a_mask_name_that_two_pictures_share_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/0.png", "images/a/1.png", "images/b/1.png", "masks/1.png")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        "masks are matched by name, but the masks masks/1.png and the pictures images/a/1.png, images/b/1.png share "
        f"the name '1': put masks at the same relative path as their pictures, as in {tmp_path}/masks/<defect>/1.png"
    )


def test_pictures_that_differ_in_their_suffix_alone_have_the_mask_of_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/2.png", "images/a/1.png", "images/a/1.jpg", "masks/a/1.png", "masks/a/1.jpg")
    found = masks_of(tmp_path)
    assert (found["images/a/1.png"], found["images/a/1.jpg"]) == ("masks/a/1.png", "masks/a/1.jpg")


def test_a_mask_that_says_so_is_preferred_to_another_of_the_name_of_the_picture(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/2.png", "images/a/1.png", "masks/a/1.png", "masks/a/1_mask.png")
    assert masks_of(tmp_path)["images/a/1.png"] == "masks/a/1_mask.png"


def test_a_mask_that_two_pictures_of_one_folder_share_is_that_of_both_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "images/good/2.png", "images/a/1.png", "images/a/1.JPG", "masks/a/1.png")
    for _ in range(2):
        found = masks_of(tmp_path)
        assert found["images/a/1.png"] == found["images/a/1.JPG"] == "masks/a/1.png"
    assert caplog.messages == [
        "1 masks have the names of several pictures, which all get them: masks/a/1.png (images/a/1.JPG and images/a/1.png). "
        "Where the pictures show different things, rename them and give each a mask of its own"
    ]


def test_masks_that_differ_in_their_suffix_alone_are_refused_for_a_picture_of_a_third(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/2.png", "images/a/1.bmp", "masks/a/1_mask.jpg", "masks/a/1_mask.png")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"the masks masks/a/1_mask.jpg, masks/a/1_mask.png have the name of the picture images/a/1.bmp: leave one of them "
        f"in {tmp_path}/masks"
    )


def test_run_directories_beside_the_kinds_of_pictures_are_no_kind_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "good/1.png", "bad/2.png", "out/split.jsonl", "out/heatmaps/bad/2.png")
    touch(tmp_path, "out/provenance/split.jsonl.json", "bad/more/evaluation.json", "bad/more/provenance/x.json")
    touch(tmp_path, "runs/folder/.hydra/infer/log.txt", "runs/folder/heatmaps/bad/2.png", "bad/more/3.png")
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert [sample.filename for sample in read(tmp_path, images=".")] == ["bad/2.png", "good/1.png"]
    assert caplog.messages == ["left out of the data set, because of results of usad in it: out, bad/more, runs/folder"]


def test_pictures_beside_what_other_programs_call_alike_are_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/1.png", "images/good/split.jsonl", "images/bad/2.png", "images/bad/evaluation.json")
    touch(tmp_path, "images/bad/.hydra/config.yaml")
    assert [sample.filename for sample in read(tmp_path)] == ["images/bad/2.png", "images/good/1.png"]


def test_two_masks_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/0.png", "images/a/1.png", "masks/x/1.png", "masks/y/1.png")
    with pytest.raises(DataError, match=r"the masks masks/x/1\.png, masks/y/1\.png and the pictures images/a/1\.png"):
        read(tmp_path)


def test_a_mask_of_the_same_name_does_not_stick_to_good_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/1.png", "images/a/1.png", "masks/1.png")
    assert masks_of(tmp_path) == {"images/a/1.png": "masks/1.png", "images/good/1.png": None}


def test_masks_that_belong_to_no_picture_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "images/good/1.png", "images/a/2.png", "masks/x.png", "masks/y.png")
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert caplog.messages == [f"none of the 2 masks in {tmp_path}/masks has the name of a picture: they are not used"]


def test_masks_beside_the_kinds_of_pictures_are_no_kind(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "bad/2.png", "masks/bad/2.png")
    assert [(sample.filename, sample.mask_path) for sample in read(tmp_path, images=".")] == [
        ("bad/2.png", "masks/bad/2.png"),
        ("good/1.png", None),
    ]


def test_nothing_usable_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png", "c/1.png", "readme.txt")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"data.root={tmp_path}: looked for images/good/ (good pictures) and images/<defect>/, but in {tmp_path} "
        "found 3 folders: a, b, c; 1 other file: readme.txt. Add data.images=. data.normal= with the name of the folder "
        "of good pictures: a, b, c; or choose another layout: data=mvtec, data=csv"
    )


OTHER_LAYOUT = "; or choose another layout: data=mvtec, data=csv"
MOVE = "Move the good pictures to ROOT/images/good and those with a defect to ROOT/images/<defect>" + OTHER_LAYOUT


@pytest.mark.parametrize(
    ("files", "way_out"),
    [
        (["1.png", "runs/folder/heatmaps/1.png"], MOVE),
        (["images/1.png", "masks/1.png"], MOVE),
        (["images/1.png", "images/dent/2.png"], MOVE),
        (["masks/dent/1.png"], MOVE),
        (["good/1.png", "dent/2.png"], "Give data.images=."),
        (["Good/1.png"], "Give data.images=. data.normal=Good"),
        (["photos/good/1.png", "masks/good/1.png"], "Give data.images=photos"),
        (["parts/images/good/1.png"], "Give data.root=ROOT/parts"),
        (["images/Good/1.png", "images/dent/2.png"], "Give data.normal=Good"),
        (["images/ko/1.png", "images/OK/2.png"], "Give data.normal=OK"),
        (["images/fine/1.png"], f"If fine/ holds the good pictures, add data.normal=fine{OTHER_LAYOUT}"),
        (["fine/1.png"], f"If fine/ holds the good pictures, add data.images=. data.normal=fine{OTHER_LAYOUT}"),
        (
            ["photos/fine/1.png", "photos/dent/2.png"],
            "Add data.images=photos data.normal= with the name of the folder of good pictures: "
            f"dent, fine{OTHER_LAYOUT}",
        ),
        (["train/good/1.png", "test/dent/2.png"], "Choose data=mvtec, which reads train/ and test/"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_way_out_fits_what_is_there(tmp_path: Path, files: list[str], way_out: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    found, said = str(caught.value).replace(str(tmp_path), "ROOT").split(". ", 1)
    assert found.startswith("data.root=ROOT: looked for images/good/ (good pictures) and images/<defect>/, but in ROOT")
    assert said == way_out


def test_settings_that_were_given_are_not_given_again(tmp_path: Path) -> None:
    touch(tmp_path, "photos/Fine/1.png")
    with pytest.raises(DataError) as caught:
        read(tmp_path, images=".", normal="fine")
    assert str(caught.value) == (
        f"data.root={tmp_path}: looked for fine/ (good pictures) and <defect>/, but in {tmp_path} found 1 folder: photos. "
        "Give data.images=photos data.normal=Fine"
    )


def test_the_way_out_does_not_look_into_folders_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "lost+found/good/1.png", "1.png")
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "lost+found")
    with pytest.raises(DataError, match="Move the good pictures to"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ({"images": ""}, "`data.images` must not be empty: where good/ lies in data.root, give data.images=."),
        ({"masks": ""}, "`data.masks` must not be empty: where there are no masks, leave it out"),
        *[
            (
                {"normal": name},
                f"`data.normal` must be the name of a folder in data.images, for example data.normal=good, got {name!r}",
            )
            for name in ("", ".", "..", "a/b", "/tmp")
        ],
    ],
)
def test_names_that_are_no_folder_are_refused(tmp_path: Path, names: dict[str, str], complaint: str) -> None:
    touch(tmp_path, "1.png", "good/1.png", "images/good/1.png")
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, **names)
    assert str(caught.value) == complaint


def test_a_missing_normal_folder_shows_what_lies_beside_it(tmp_path: Path) -> None:
    touch(tmp_path, "images/ok/1.png", "images/dent/1.png")
    with pytest.raises(DataError, match=f"but in {tmp_path}/images found 2 folders: dent, ok"):
        read(tmp_path)


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images/good").mkdir(parents=True)
    with pytest.raises(DataError, match=f"no pictures in {tmp_path}/images"):
        read(tmp_path)


def test_a_defect_cannot_be_called_good(tmp_path: Path) -> None:
    touch(tmp_path, "images/ok/1.png", "images/good/1.png")
    with pytest.raises(DataError, match=r"holds good/ besides data\.normal=ok: it cannot be the name of a defect"):
        read(tmp_path, normal="ok")


def test_folders_given_by_absolute_path_count_as_outside(tmp_path: Path) -> None:
    touch(tmp_path, "photos/good/0.png", "photos/dent/1.png", "labels/dent/1.png")
    (tmp_path / "set").mkdir()
    folders = {"images": str(tmp_path / "photos"), "masks": str(tmp_path / "labels"), "normal": "good"}
    with pytest.raises(DataError, match=r"outside data\.root"):
        read_folder(tmp_path / "set", **folders)
    samples = read_folder(tmp_path / "set", **folders, allow_outside_root=True)
    assert [(sample.filename, sample.mask_path) for sample in samples] == [
        (f"{tmp_path}/photos/dent/1.png", f"{tmp_path}/labels/dent/1.png"),
        (f"{tmp_path}/photos/good/0.png", None),
    ]


def test_links_out_of_the_root_are_refused_unless_allowed(tmp_path: Path) -> None:
    root = tmp_path / "set"
    touch(tmp_path, "elsewhere/1.png", "set/images/good/0.png")
    (root / "images/dent").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"images/dent/1\.png \(is .*elsewhere/1\.png\) outside data\.root"):
        read(root)
    allowed = read_folder(root, images="images", masks="masks", normal="good", allow_outside_root=True)
    assert [sample.filename for sample in allowed] == ["images/dent/1.png", "images/good/0.png"]
