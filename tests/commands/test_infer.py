"""`usad infer` on pictures that users point at, and what it writes for them."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SIDE_PX, files_below
from PIL import Image

from us_anomaly.commands.calibrate import run as calibrate
from us_anomaly.commands.infer import _explain
from us_anomaly.commands.infer import run as infer
from us_anomaly.commands.results import Scored, _unique_stems
from us_anomaly.data.augmentation import Pipeline
from us_anomaly.detector import Detector
from us_anomaly.errors import DataError, StaleArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.scoring.calibration_file import load_calibration

RESULTS = {"predictions.jsonl", "provenance/predictions.jsonl.json", "exports/predictions.csv", "exports/regions.json"}


def results_of(*stems):
    """The names of all results of some pictures."""
    folders = (("maps", ".tiff"), ("heatmaps", ".png"), ("uncertainty", ".png"), ("panels", ".png"))
    return RESULTS | {f"{folder}/{stem}{suffix}" for stem in stems for folder, suffix in folders}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures of other sizes and formats than those of the data set."""
    folder = tmp_path / "photos"
    (folder / "line 2").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 90)), ("b.jpg", (48, 48)), ("line 2/a.png", (33, 20))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def infer_input(compose, tiny, trained_copy):
    """Score `inference.input=...`; return the run directory."""

    def call(what, *overrides):
        infer(compose("infer", *tiny(trained_copy), f'inference.input="{what}"', *overrides))
        return trained_copy

    return call


def test_a_file_gives_one_result_without_ground_truth(infer_input, photos, capsys):
    target = infer_input(photos / "a.png") / "inference/a"
    assert files_below(target) == results_of("a")
    (line,) = lines_of(target)
    assert line.keys() == {"filename", "prediction"}
    assert line["filename"] == "a.png"
    for kind in ("map", "heatmap", "uncertainty"):
        with Image.open(target / line["prediction"][f"{kind}_path"]) as picture:
            assert picture.size == (90, 60)
    output = capsys.readouterr().out
    assert output.startswith("a.png: ")
    assert f"score {line['prediction']['anomaly_score']:.4g} (threshold " in output


@pytest.mark.parametrize(
    ("threshold", "verdict", "has_regions"), [("1e6", "normal", False), ("-1e6", "ANOMALOUS", True)]
)
def test_regions_are_told_of_anomalous_pictures_only(
    compose, tiny, trained_copy, photos, capsys, threshold, verdict, has_regions
):
    overrides = [*tiny(trained_copy), f"calibration.threshold={threshold}", "calibration.pixel_quantile=0.1"]
    calibrate(compose("calibrate", *overrides))
    capsys.readouterr()
    infer(compose("infer", *overrides, f'inference.input="{photos / "a.png"}"'))
    output = capsys.readouterr().out
    pixel_threshold = json.loads((trained_copy / "calibration.json").read_text())["calibration"]["pixel_threshold"]
    assert f"a.png: {verdict}, score " in output
    assert ("region 1: " in output) is has_regions
    assert (f" px above the pixel threshold ({pixel_threshold:.4g})" in output) is has_regions


def test_a_folder_gives_a_result_for_every_picture_below_it(infer_input, photos):
    target = infer_input(photos) / "inference/photos"
    assert files_below(target) == results_of("a", "b", "line 2/a")
    assert [line["filename"] for line in lines_of(target)] == ["a.png", "b.jpg", "line 2/a.png"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["a.png"]),
        ("**/*.png", ["a.png", "line 2/a.png"]),
        ("[ab].*", ["a.png", "b.jpg"]),
    ],
)
def test_a_glob_gives_a_result_for_every_match(infer_input, photos, pattern, found):
    target = infer_input(photos / pattern) / "inference/photos"
    assert [line["filename"] for line in lines_of(target)] == found


def test_the_results_of_the_data_set_are_left_alone(infer_input, photos, monkeypatch, trained):
    """Even for `..`, whose last part is no name for a folder."""
    before = files_below(trained)
    monkeypatch.chdir(photos / "line 2")
    run_dir = infer_input("..")
    assert {name for name in files_below(run_dir) if not name.startswith("inference/")} == before
    assert (run_dir / "predictions.jsonl").read_bytes() == (trained / "predictions.jsonl").read_bytes()
    assert len(lines_of(run_dir / "inference/photos")) == 3


def test_scoring_the_same_folder_again_replaces_its_results(infer_input, photos):
    infer_input(photos)
    (photos / "a.png").unlink()
    target = infer_input(photos) / "inference/photos"
    assert files_below(target) == results_of("b", "line 2/a")


def test_what_is_not_wanted_is_not_written(infer_input, photos):
    unwanted = ["inference.save_maps=false", "inference.save_heatmaps=false", "inference.save_uncertainty=false"]
    target = infer_input(photos / "b.jpg", *unwanted) / "inference/b"
    assert files_below(target) == RESULTS | {"panels/b.png"}
    (line,) = lines_of(target)
    paths = [line["prediction"][f"{kind}_path"] for kind in ("map", "heatmap", "uncertainty")]
    assert paths == [None, None, None]


@pytest.mark.parametrize("what", ["nowhere.png", "nowhere/*.png"])
def test_an_input_that_matches_nothing_is_named(infer_input, photos, what):
    with pytest.raises(
        DataError, match=r"inference.input=.*nowhere.*: no such file or folder, and no picture matches it"
    ):
        infer_input(photos / what)


def test_a_folder_without_pictures_says_what_it_holds(infer_input, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"inference.input=.*empty: no pictures in this folder"):
        infer_input(tmp_path / "empty")


def test_damaged_pictures_do_not_cost_the_results_of_the_others_and_are_all_named_at_the_end(
    infer_input, photos, trained_copy
):
    (photos / "b.jpg").write_bytes(b"not a picture")
    (photos / "c.png").write_bytes(b"")
    said = r"^2 of 4 pictures have no result, the others have one: .*b\.jpg.*c\.png.*data\.on_bad_image=skip$"
    with pytest.raises(DataError, match=said):
        infer_input(photos)
    assert [line["filename"] for line in lines_of(trained_copy / "inference/photos")] == ["a.png", "line 2/a.png"]


@pytest.mark.parametrize("refusing", ["predict_prepared", "prefix"])
def test_a_picture_of_a_size_that_the_detector_does_not_take_costs_no_results_of_others(
    infer_input, photos, trained_copy, monkeypatch, refusing
):
    """As with `scoring.per_position`, or a transform that needs larger pictures."""
    owner = Detector if refusing == "predict_prepared" else Pipeline
    genuine = getattr(owner, refusing)

    def refuse_wide_ones(self, picture, **size):
        if (size.get("width") or picture.shape[1]) == 90:
            raise DataError("the picture has 60x90 pixels")
        return genuine(self, picture, **size)

    monkeypatch.setattr(owner, refusing, refuse_wide_ones)
    with pytest.raises(
        DataError, match=r"^1 of 3 pictures have no result, .*: \S+photos/a\.png: the picture has 60x90 p"
    ):
        infer_input(photos)
    assert [line["filename"] for line in lines_of(trained_copy / "inference/photos")] == ["b.jpg", "line 2/a.png"]
    infer_input(photos, "data.on_bad_image=skip")


def test_a_picture_of_the_data_set_of_another_size_is_named_and_ends_the_work(compose, tiny, trained_copy, monkeypatch):
    genuine = Pipeline.prefix

    def refuse_the_data_set(self, picture):
        if picture.shape[0] == SIDE_PX:
            raise DataError(f"the picture has {SIDE_PX}x{SIDE_PX} pixels")
        return genuine(self, picture)

    monkeypatch.setattr(Pipeline, "prefix", refuse_the_data_set)
    with pytest.raises(DataError, match=r"^\S+/images/\S+\.png: the picture has 48x48 pixels$"):
        infer(compose("infer", *tiny(trained_copy), "overwrite=true"))


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_where_no_picture_can_be_read_earlier_results_stay(infer_input, photos, on_bad_image):
    run_dir = infer_input(photos / "b.jpg")
    before = files_below(run_dir)
    (photos / "b.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"^nothing was scored: .*b\.jpg"):
        infer_input(photos / "b.jpg", f"data.on_bad_image={on_bad_image}")
    assert files_below(run_dir) == before
    assert len(lines_of(run_dir / "inference/b")) == 1


def test_inputs_of_one_name_never_share_a_folder_and_each_finds_its_own_again(infer_input, photos, tmp_path):
    other = tmp_path / "other" / photos.name
    shutil.copytree(photos, other)
    (other / "a.png").unlink()
    for folder in (photos, other, photos, other):
        run_dir = infer_input(folder)
    assert sorted(path.name for path in (run_dir / "inference").iterdir()) == ["photos", "photos-2"]
    assert [len(lines_of(run_dir / "inference" / name)) for name in ("photos", "photos-2")] == [3, 2]


def test_a_glob_is_named_after_the_folder_in_which_it_looks(infer_input, photos):
    run_dir = infer_input(photos / "line 2" / "*.png")
    assert [path.name for path in (run_dir / "inference").iterdir()] == ["line2"]


def test_a_damaged_picture_is_left_out_where_the_settings_say_so(infer_input, photos, caplog):
    (photos / "b.jpg").write_bytes(b"not a picture")
    target = infer_input(photos, "data.on_bad_image=skip", "overwrite=true")
    assert [line["filename"] for line in lines_of(target / "inference/photos")] == ["a.png", "line 2/a.png"]
    assert "left out: " in caplog.text


def test_a_detector_of_other_settings_is_refused(infer_input, photos):
    with pytest.raises(
        StaleArtifactError, match=r"calibration.json was made from something else .*scoring.stride_px=4, now"
    ):
        infer_input(photos, "scoring.stride_px=2")


def test_the_data_set_need_not_be_there_to_score_other_pictures(infer_input, photos):
    target = infer_input(photos / "a.png", "data.root=nowhere") / "inference/a"
    assert len(lines_of(target)) == 1


@pytest.fixture
def told_of(trained_copy, capsys):
    """What is printed of pictures with these scores and a threshold of 5: lines on pictures, and what follows them."""

    def call(scores):
        records = [
            {
                "filename": f"{number:02}.png",
                "prediction": {"is_anomalous": score >= 5, "anomaly_score": score, "normalized_score": score / 10},
            }
            for number, score in enumerate(scores)
        ]
        calibration = load_calibration(trained_copy / "calibration.json")
        calibration = dataclasses.replace(calibration, image_threshold=5.0)
        _explain(Scored(records=records, strongest=[[] for _ in records]), calibration, RunDir("target"))
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if ".png: " in line], [line for line in lines if ".png: " not in line]

    return call


def test_anomalous_pictures_are_told_first_and_never_cut_in_favour_of_normal_ones(told_of):
    scores = [1.0, 2.0] * 16
    scores[25], scores[31], scores[7] = 6.0, 9.0, 5.0
    told, after = told_of(scores)
    assert [line.partition(",")[0] for line in told[:4]] == [
        "31.png: ANOMALOUS",
        "25.png: ANOMALOUS",
        "07.png: ANOMALOUS",
        "01.png: normal",
    ]
    assert len(told) == 20
    assert (after[0], after[-1]) == ("and 12 more", "3 of 32 pictures are anomalous")


def test_of_more_anomalous_pictures_than_are_told_the_highest_are_and_the_others_counted(told_of):
    told, after = told_of([float(number) for number in range(30)])
    assert [line[:2] for line in told] == [str(number) for number in range(29, 9, -1)]
    assert (after[0], after[-1]) == ("and 10 more, 5 of them anomalous", "25 of 30 pictures are anomalous")


@pytest.mark.parametrize(
    ("scores", "total"),
    [
        ([7.0], "the picture is anomalous"),
        ([1.0], "the picture is normal"),
        ([1.0, 7.0], "1 of 2 pictures is anomalous"),
        ([1.0, 2.0, 3.0], "0 of 3 pictures are anomalous"),
    ],
)
def test_the_last_line_says_how_many_pictures_are_anomalous_also_where_all_were_told(told_of, scores, total):
    told, after = told_of(scores)
    assert len(told) == len(scores)
    assert after == [f"Predictions: {Path('target/predictions.jsonl')}", f"Panels: {Path('target/panels')}", total]


def test_files_of_formats_that_are_not_read_are_told_in_one_warning(infer_input, photos, caplog):
    for name in ("b.gif", "c.heic", "line 2/e.jfif", "notes.txt", ".hidden"):
        (photos / name).write_bytes(b"something")
    target = infer_input(photos) / "inference/photos"
    assert len(lines_of(target)) == 3
    assert caplog.messages == [
        "3 other files were not looked at, because they are no PNG, JPEG, BMP, TIFF or WebP by their names: b.gif, c.heic, "
        "line 2/e.jfif"
    ]


def test_results_of_earlier_calls_are_not_scored_unless_their_folder_is_named_itself(
    infer_input, photos, trained_copy, monkeypatch, caplog
):
    run_dir = shutil.move(trained_copy, photos / "run")
    trained_copy.symlink_to(run_dir)
    monkeypatch.chdir(photos)
    for _ in range(2):
        caplog.clear()
        target = infer_input(".") / "inference/photos"
        assert [line["filename"] for line in lines_of(target)] == ["a.png", "b.jpg", "line 2/a.png"]
        assert caplog.messages == ["left out, because it holds results of usad: run"]
    assert len(lines_of(infer_input("run/inference/photos/panels") / "inference/panels")) == 3


def test_results_of_equal_names_keep_apart():
    names = ["a.png", "a.jpg", "x/a.png", "../a.png", "/a.png", "a.jpg.png"]
    stems = _unique_stems(names)
    assert stems["a.png"] == "a"
    assert stems["x/a.png"] == "x/a"
    assert len(set(stems.values())) == len(names)
    assert not any(stem.startswith(("/", "..")) for stem in stems.values())


def test_the_splits_that_are_scored_can_be_chosen(compose, tiny, trained_copy, caplog):
    caplog.set_level(logging.INFO)
    infer(compose("infer", *tiny(trained_copy), "inference.splits=[test]"))
    assert "made again: it was made with inference.splits=" in caplog.text
    assert len(lines_of(trained_copy)) == 5
    assert len(list((trained_copy / "maps").rglob("*.tiff"))) == 5


def test_a_damaged_note_of_other_results_is_no_reason_to_replace_them(infer_input, photos):
    target = infer_input(photos)
    note = target / "inference/photos/provenance/predictions.jsonl.json"
    note.write_text("{}")
    before = (target / "inference/photos/predictions.jsonl").read_bytes()
    infer_input(photos / "a.png")
    infer_input(photos)
    assert (target / "inference/photos/predictions.jsonl").read_bytes() == before
    assert len(lines_of(target / "inference/photos-2")) == 3


def test_a_damaged_mask_costs_the_panel_its_mask_and_nothing_else(infer_input, parts, tmp_path, caplog):
    root = tmp_path / "parts"
    shutil.copytree(parts, root)
    (root / "masks/cut/000.png").write_bytes(b"no picture")
    target = infer_input(root / "images/cut", f"data.root={root}") / "inference/cut"
    assert len(lines_of(target)) == len(list((root / "images/cut").iterdir()))
    assert (target / "panels/000.png").exists()
    assert "the panel of 000 is drawn without its mask: " in caplog.text


def test_links_that_lead_back_to_themselves_are_pictures_that_cannot_be_read(infer_input, photos):
    (photos / "one.png").symlink_to("two.png")
    (photos / "two.png").symlink_to("one.png")
    with pytest.raises(DataError, match=r"one.png: it is a link that leads back to itself"):
        infer_input(photos)


def test_results_behind_a_link_are_left_out_too(infer_input, photos, caplog):
    target = infer_input(photos / "a.png")
    (photos / "linked").symlink_to(target / "heatmaps")
    infer_input(photos)
    assert len(lines_of(target / "inference/photos")) == 3
    assert "because it holds results of usad" in caplog.text
