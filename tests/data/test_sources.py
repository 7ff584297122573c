import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from us_anomaly.data.sources import find_images, find_inputs, list_categories, read_samples
from us_anomaly.errors import DataError, SettingsError
from us_anomaly.settings import (
    CsvData,
    DataSettings,
    DemoData,
    FolderData,
    KolektorSddData,
    MvtecData,
    OnBadImage,
    VisaData,
)

COMMON: dict[str, Any] = {
    "name": "set",
    "on_bad_image": OnBadImage.error,
    "max_image_pixels": 10**6,
    "white_level": None,
    "allow_outside_root": False,
    "group_pattern": None,
}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def folder_data(root: Path | str) -> FolderData:
    return FolderData(root=str(root), images="images", masks="masks", normal="good", **COMMON)


def mvtec_data(root: Path, category: str | None = None) -> MvtecData:
    return MvtecData(root=str(root), category=category, normal="good", **COMMON)


def filenames(data: DataSettings) -> list[str]:
    samples = read_samples(data)
    assert all((Path(data.root) / sample.filename).is_file() for sample in samples)
    return [sample.filename for sample in samples]


def test_every_layout_is_read_by_its_adapter(tmp_path: Path) -> None:
    touch(tmp_path, "f/images/good/a.png", "m/x/train/good/a.png", "c/a.png", "v/candle/Data/Images/Normal/0.JPG")
    (tmp_path / "c/labels.csv").write_text("filename,is_anomalous\na.png,0\n")
    (tmp_path / "k/kos01").mkdir(parents=True)
    for name in ("Part0.jpg", "Part0_label.bmp"):
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "k/kos01" / name)
    assert filenames(folder_data(tmp_path / "f")) == ["images/good/a.png"]
    assert filenames(mvtec_data(tmp_path / "m", "x")) == ["x/train/good/a.png"]
    assert filenames(CsvData(root=str(tmp_path / "c"), file="labels.csv", **COMMON)) == ["a.png"]
    visa = VisaData(root=str(tmp_path / "v"), category="candle", table="split_csv/1cls.csv", **COMMON)
    assert filenames(visa) == ["candle/Data/Images/Normal/0.JPG"]
    assert filenames(KolektorSddData(root=str(tmp_path / "k"), **COMMON)) == ["kos01/Part0.jpg"]
    demo = DemoData(
        root=str(tmp_path / "d"), image_side_px=32, num_train=3, num_test_normal=1, num_test_anomalous=1, **COMMON
    )
    assert len(filenames(demo)) == 5


def test_a_layout_without_adapter_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no adapter reads DataSettings: `usad help data` lists the layouts"):
        read_samples(DataSettings(root=str(tmp_path), **COMMON))


def test_a_root_that_is_missing_or_a_file_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    with pytest.raises(DataError, match=f"data.root={tmp_path}/none: it does not exist"):
        read_samples(folder_data(tmp_path / "none"))
    with pytest.raises(DataError, match=f"data.root={tmp_path}/file: it is a file, not a folder"):
        read_samples(folder_data(tmp_path / "file"))


def test_a_tilde_means_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "set/images/good/a.png", "set/images/bad/b.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [sample.filename for sample in read_samples(folder_data("~/set"))] == [
        "images/bad/b.png",
        "images/good/a.png",
    ]


def test_file_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/good/a.png")
    try:
        (tmp_path / "images/good" / os.fsdecode(b"\xff.png")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for read, what in ((read_samples, folder_data(tmp_path)), (find_inputs, str(tmp_path))):
        with pytest.raises(
            DataError, match=r"file names that are not UTF-8 cannot be written down, rename them: .*udcff\.png"
        ):
            read(what)


def test_categories_are_listed_for_layouts_that_have_them(tmp_path: Path) -> None:
    touch(tmp_path, "b/train/good/0.png", "a/train/good/0.png", "c/Data/Images/Normal/0.JPG")
    assert list_categories(mvtec_data(tmp_path)) == ["a", "b"]
    assert list_categories(mvtec_data(tmp_path, "all")) == ["a", "b"]
    assert list_categories(mvtec_data(tmp_path, "b*")) == ["b"]
    assert list_categories(VisaData(root=str(tmp_path), category=None, table="t.csv", **COMMON)) == ["c"]
    with pytest.raises(SettingsError, match="the layout of data=set has no categories"):
        list_categories(folder_data(tmp_path))


def test_a_category_that_lacks_its_good_pictures_is_never_left_out_in_silence(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "a/train/good/0.png", "b/test/good/0.png", "notes/plan.png")
    assert list_categories(mvtec_data(tmp_path, "all")) == ["a"]
    assert caplog.messages == ["left out, because they hold no train/good: b"]
    with pytest.raises(DataError, match=r"looked for train/good/ and test/ in .*/b, but found 1 folder: test"):
        read_samples(mvtec_data(tmp_path, "b"))
    with pytest.raises(DataError, match=r"has no category 'notes', it has a"):
        read_samples(mvtec_data(tmp_path, "notes"))


def test_all_is_no_category_for_a_single_run(tmp_path: Path) -> None:
    touch(tmp_path, "a/train/good/0.png")
    with pytest.raises(DataError, match=r"data\.category=all means several categories: add -m for a job for each"):
        read_samples(mvtec_data(tmp_path, "all"))


def test_settings_of_a_layout_are_all_passed_on(tmp_path: Path) -> None:
    touch(tmp_path, "photos/ok/a.png", "photos/bad/b.png", "labels/bad/b.png")
    data = dataclasses.replace(folder_data(tmp_path), images="photos", masks="labels", normal="ok")
    assert [(sample.is_anomalous, sample.mask_path) for sample in read_samples(data)] == [
        (True, "labels/bad/b.png"),
        (False, None),
    ]
    touch(tmp_path, "btad/train/ok/a.png")
    assert len(read_samples(dataclasses.replace(mvtec_data(tmp_path / "btad"), normal="ok"))) == 1


@pytest.mark.parametrize("layout", [folder_data, mvtec_data])
def test_files_beside_the_pictures_that_are_not_read_are_told_once(tmp_path: Path, caplog, layout) -> None:
    touch(tmp_path, "images/good/a.png", "images/cut/b.heic", "images/cut/b.txt", "images/c.gif", "masks/d.gif")
    touch(tmp_path, "train/good/a.png", "test/cut/b.jfif", "ground_truth/cut/b.gif", "e.gif")
    for _ in range(2):  # as the stages of `usad run` do
        read_samples(layout(tmp_path))
    name = "images/cut/b.heic" if layout is folder_data else "test/cut/b.jfif"
    assert caplog.messages == [
        f"1 other file was not looked at, because it is no PNG, JPEG, BMP, TIFF or WebP by its name: {name}"
    ]


def test_links_out_of_the_root_need_permission(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/a.png", "set/images/good/b.png")
    (tmp_path / "set/images/good/a.png").symlink_to(tmp_path / "elsewhere/a.png")
    with pytest.raises(DataError, match=r"allow it with data.allow_outside_root=true"):
        read_samples(folder_data(tmp_path / "set"))
    allowed = dataclasses.replace(folder_data(tmp_path / "set"), allow_outside_root=True)
    assert len(read_samples(allowed)) == 2


class TestFindImages:
    def test_a_file_is_taken_whatever_its_suffix(self, tmp_path: Path) -> None:
        touch(tmp_path, "photo.dat")
        assert find_images(str(tmp_path / "photo.dat"), key="inference.input") == [tmp_path / "photo.dat"]

    def test_a_folder_gives_all_pictures_below_it(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.png", "a/c.JPG", "a/.hidden.png", "notes.txt")
        assert find_images(str(tmp_path), key="inference.input") == [tmp_path / "a/c.JPG", tmp_path / "b.png"]

    def test_a_pattern_gives_matching_pictures_and_those_in_matching_folders(self, tmp_path: Path) -> None:
        touch(tmp_path, "1a.png", "1b.txt", "2a.png", "1dir/x/y.bmp")
        assert find_images(str(tmp_path / "1*"), key="inference.input") == [
            tmp_path / "1a.png",
            tmp_path / "1dir/x/y.bmp",
        ]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("**/*.png", ["a.png", "x/b.png", "x/y/c.png"]),
            ("x/**/*.png", ["x/b.png", "x/y/c.png"]),
            ("**/y/*.png", ["x/y/c.png"]),
            ("**", ["a.png", "d.bmp", "x/b.png", "x/y/c.png"]),
            ("*/**/[bc].png", ["x/b.png", "x/y/c.png"]),
            ("**/x/**/c.*", ["x/y/c.png"]),
        ],
    )
    def test_two_stars_stand_for_any_number_of_folders(self, tmp_path: Path, pattern: str, expected: list[str]) -> None:
        touch(tmp_path, "a.png", "x/b.png", "x/y/c.png", "d.bmp")
        assert find_images(str(tmp_path / pattern), key="inference.input") == [tmp_path / name for name in expected]

    def test_a_name_with_brackets_is_a_name_first(self, tmp_path: Path) -> None:
        touch(tmp_path, "part[1].png", "part1.png")
        assert find_images(str(tmp_path / "part[1].png"), key="inference.input") == [tmp_path / "part[1].png"]

    def test_circles_of_links_end_also_with_two_stars(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/1.png")
        (tmp_path / "a/up").symlink_to(tmp_path)
        (tmp_path / "a/again").symlink_to(tmp_path)
        assert find_images(str(tmp_path), key="inference.input") == [tmp_path / "a/1.png"]
        assert find_images(str(tmp_path / "**/*.png"), key="inference.input") == [tmp_path / "a/1.png"]

    @pytest.mark.parametrize("pattern", ["none.png", "none/*.png", "*.tif", "**/*.tif", "\0", "x" * 5000])
    def test_what_matches_nothing_says_so(self, tmp_path: Path, pattern: str) -> None:
        touch(tmp_path, "a.png", "b.txt")
        with pytest.raises(DataError, match="no such file or folder, and no picture matches it"):
            find_images(f"{tmp_path}/{pattern}", key="inference.input")

    def test_an_empty_input_is_not_the_current_folder(self) -> None:
        with pytest.raises(DataError, match=r"inference.input=: no such file or folder"):
            find_images("", key="inference.input")

    def test_a_pattern_that_matches_files_of_other_formats_only_says_so(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.gif", "b.gif", "c.txt")
        with pytest.raises(
            DataError, match=r"no picture matches it; 2 other files were not looked at, .*: a\.gif, b\.gif$"
        ):
            find_images(f"{tmp_path}/*", key="inference.input")

    def test_a_folder_of_files_of_other_formats_only_says_which_are_read(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.heic")
        with pytest.raises(
            DataError, match=r"1 other file: a\.heic; pictures are PNG, JPEG, BMP, TIFF or WebP by their"
        ):
            find_images(str(tmp_path), key="inference.input")

    def test_a_folder_without_pictures_says_what_it_holds(self, tmp_path: Path) -> None:
        touch(tmp_path, "notes.txt")
        with pytest.raises(DataError, match=r"no pictures in this folder, found 1 other file: notes\.txt"):
            find_images(str(tmp_path), key="inference.input")


class TestFindInputs:
    @pytest.mark.parametrize("pattern", ["", "/*", "/**"])
    def test_files_of_formats_that_are_not_read_are_told_once(self, tmp_path: Path, caplog, pattern: str) -> None:
        touch(tmp_path, "a.png", "b.gif", "c.heic", "e.jfif", "f")
        touch(tmp_path, "d.txt", "d.CSV", "d.json", "d.yaml", "d.xml", "d.md", "Thumbs.db", ".DS_Store", "README")
        assert find_inputs(f"{tmp_path}{pattern}") == [tmp_path / "a.png"]
        assert caplog.messages == [
            "4 other files were not looked at, because they are no PNG, JPEG, BMP, TIFF or WebP by their names: b.gif, c.heic, "
            "e.jfif, f"
        ]

    def test_a_single_one_is_told_in_the_singular_and_of_many_the_first(self, tmp_path: Path, caplog) -> None:
        touch(tmp_path, "one/a.png", "one/x/b.gif", "many/a.png", *(f"many/{number}.gif" for number in range(8)))
        find_inputs(str(tmp_path / "one"))
        find_inputs(str(tmp_path / "many"))
        assert caplog.messages == [
            "1 other file was not looked at, because it is no PNG, JPEG, BMP, TIFF or WebP by its name: x/b.gif",
            "8 other files were not looked at, because they are no PNG, JPEG, BMP, TIFF or WebP by their names: 0.gif, 1.gif, "
            "2.gif, 3.gif, 4.gif and 3 more",
        ]

    @pytest.mark.parametrize("pattern", ["*.png", "**/*.png", "a.png"])
    def test_what_was_not_asked_for_is_not_told(self, tmp_path: Path, caplog, pattern: str) -> None:
        touch(tmp_path, "a.png", "b.gif")
        assert find_inputs(f"{tmp_path}/{pattern}") == [tmp_path / "a.png"]
        assert caplog.messages == []

    @pytest.mark.parametrize("pattern", [".", "*", "**", "**/*.png", "../*/*"])
    @pytest.mark.parametrize("sign", ["split.jsonl", "evaluation.json", ".hydra/infer/log.txt"])
    def test_run_directories_below_what_is_named_are_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, pattern: str, sign: str
    ) -> None:
        touch(tmp_path, "work/a.png", "work/line/b.png", f"work/run/{sign}", "work/run/inference/x/heatmaps/a.png")
        touch(tmp_path, *([] if "hydra" in sign else ["work/run/provenance/x.json"]))
        monkeypatch.chdir(tmp_path / "work")
        assert [path.name for path in find_inputs(pattern)] == ["a.png", "b.png"]
        (said,) = caplog.messages
        assert said.startswith("left out, because it holds results of usad: ")
        assert said.endswith("run")

    def test_several_are_told_in_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
        touch(tmp_path, "a.png", "runs/x/split.jsonl", "runs/y/evaluation.json", "runs/y/report/b.png")
        touch(tmp_path, "runs/x/provenance/x.json", "runs/y/provenance/x.json")
        monkeypatch.chdir(tmp_path)
        assert find_inputs(".") == [Path("a.png")]
        assert caplog.messages == ["left out, because they hold results of usad: runs/x, runs/y"]

    @pytest.mark.parametrize(
        "named", ["run/heatmaps", "run/inference", "run/heat*/*.png", "*/heatmaps", "run/heatmaps/**"]
    )
    def test_a_folder_in_a_run_directory_that_is_named_itself_is_taken(
        self, tmp_path: Path, caplog, named: str
    ) -> None:
        touch(tmp_path, "run/split.jsonl", "run/heatmaps/a.png", "run/inference/x/maps/a.tiff")
        assert len(find_inputs(f"{tmp_path}/{named}")) == 1
        assert caplog.messages == []

    def test_a_run_directory_that_is_named_itself_gives_what_is_no_result(self, tmp_path: Path, caplog) -> None:
        touch(tmp_path, "split.jsonl", "heatmaps/a.png", "inference/x/maps/a.tiff", "images/good/b.png")
        touch(tmp_path, "provenance/split.jsonl.json")
        assert find_inputs(str(tmp_path)) == [tmp_path / "images/good/b.png"]
        assert caplog.messages == [
            f"left out, because they hold results of usad: {tmp_path}/heatmaps, {tmp_path}/inference"
        ]


def test_a_pattern_groups_pictures_of_any_layout(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/p1_0.png", "train/good/p1_1.png", "test/cut/p2_0.png")
    data = dataclasses.replace(mvtec_data(tmp_path), group_pattern="^p[0-9]")
    assert {sample.filename: sample.group for sample in read_samples(data)} == {
        "test/cut/p2_0.png": "p2",
        "train/good/p1_0.png": "p1",
        "train/good/p1_1.png": "p1",
    }


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"`data.group_pattern` must be a regular expression, got 'p\[': "):
        dataclasses.replace(mvtec_data(tmp_path), group_pattern="p[")
