"""What was made from a picture is made again when the picture is replaced in its place, and only that."""

import gc
import json
import os
import shutil
import weakref
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from us_anomaly.commands import report, split, train_students
from us_anomaly.commands.picture_contents import PictureContents, mask_files
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.run import run as run_all
from us_anomaly.data.sample import Sample, parse_labels
from us_anomaly.errors import StaleArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.staleness import state

ARTIFACTS = ("p33/teacher_statistics.pt", "p33/students.pt", "calibration.json", "predictions.jsonl", "evaluation.json")


@pytest.fixture
def moved(compose, tiny, trained_copy, parts, tmp_path):
    """A finished run and a copy of its data set, with the settings that name both."""
    root = shutil.copytree(parts, tmp_path / "parts", copy_function=shutil.copyfile)  # with other times
    return root, trained_copy, lambda *more: compose("run", *tiny(trained_copy), f"data.root={root}", *more)


def redraw(path):
    Image.fromarray(np.full((48, 48, 3), 7, dtype=np.uint8)).save(path)


def redraw_mask(path):
    Image.fromarray(np.full((48, 48), 255, dtype=np.uint8)).save(path)


def mask_of_split(run_dir, split):
    return next(
        sample.mask_path
        for sample in parse_labels((run_dir / "split.jsonl").read_text())
        if sample.split == split and sample.mask_path
    )


def of_split(run_dir, split):
    return next(
        sample.filename
        for sample in parse_labels((run_dir / "split.jsonl").read_text())
        if sample.split == split and not sample.is_anomalous
    )


def times(run_dir):
    return {name: (run_dir / name).stat().st_mtime_ns for name in ARTIFACTS}


def remade(run_dir, before):
    return [name for name, time in times(run_dir).items() if time != before[name]]


def test_a_data_set_that_was_moved_is_the_same(moved):
    _, run_dir, settings = moved
    before = times(run_dir)
    run_all(settings())
    assert remade(run_dir, before) == []


@pytest.mark.parametrize(
    ("division", "more", "again"),
    [("train", ["overwrite=true"], ARTIFACTS), ("val", [], ARTIFACTS[2:]), ("test", [], ARTIFACTS[3:])],
)
def test_what_rests_on_a_replaced_picture_is_made_again_and_nothing_else(moved, division, more, again):
    """Without `overwrite`, which makes most things again whatever they rest on; what is trained is replaced with it only."""
    root, run_dir, settings = moved
    name = of_split(run_dir, division)
    redraw(root / name)
    before = times(run_dir)
    with pytest.raises(
        StaleArtifactError, match=rf"split.jsonl .* made from another content of data.root \(1 replaced: {name}\)"
    ):
        run_all(settings())
    assert remade(run_dir, before) == []
    split.run(settings("overwrite=true"))
    run_all(settings(*more))
    assert remade(run_dir, before) == list(again)
    before = times(run_dir)
    run_all(settings())
    assert remade(run_dir, before) == []


def test_a_replaced_mask_of_a_test_picture_is_evaluated_again_and_nothing_else(moved):
    root, run_dir, settings = moved
    redraw_mask(root / mask_of_split(run_dir, "test"))
    split.run(settings("overwrite=true"))
    before = times(run_dir)
    run_all(settings())
    assert remade(run_dir, before) == ["evaluation.json"]


def test_defects_that_are_added_later_train_nothing_again(moved):
    root, run_dir, settings = moved
    (root / "images/notch").mkdir()
    for number in range(4):
        redraw(root / f"images/notch/{number}.png")
    split.run(settings("overwrite=true"))
    before = times(run_dir)
    run_all(settings())
    assert remade(run_dir, before) == ["calibration.json", "predictions.jsonl", "evaluation.json"]


def test_what_an_older_version_noted_is_still_up_to_date(moved):
    """Then notes told the split that students learned from, and nothing of contents."""
    _, run_dir, settings = moved
    for note in (run_dir / "provenance").rglob("*.json"):
        content = json.loads(note.read_text())
        inputs = content["inputs"]
        for name in ("data.root", "pictures of the calibration", "scored pictures", "masks of the test pictures"):
            inputs.pop(name, None)
        if inputs.pop("training pictures", None):
            inputs["split.jsonl"] = Recipes(settings()).data.split_hash
        if content["command"] == "split":
            content["settings"]["data.root"] = settings().data.root
        note.write_text(json.dumps(content))
    (run_dir / ".hydra/contents.json").unlink()
    before = times(run_dir)
    run_all(settings())
    assert remade(run_dir, before) == []
    note = json.loads((run_dir / "provenance/p33/students.pt.json").read_text())
    note["inputs"]["split.jsonl"] = "another"
    (run_dir / "provenance/p33/students.pt.json").write_text(json.dumps(note))
    recipe = Recipes(settings()).students(33)
    assert state(RunDir(run_dir), run_dir / "p33/students.pt", recipe)[1] == "it was made from another split.jsonl"


def test_without_its_data_a_detector_is_believed(moved):
    """Also after a command saw a replaced picture, and was refused."""
    root, run_dir, settings = moved
    redraw(root / of_split(run_dir, "train"))
    with pytest.raises(StaleArtifactError, match="1 replaced"):
        run_all(settings())
    assert Recipes(settings(), with_data=False).calibration
    shutil.rmtree(root)
    assert Recipes(settings(), with_data=False).calibration
    (run_dir / ".hydra/contents.json").unlink()
    assert Recipes(settings(), with_data=False).calibration


def test_another_data_set_of_the_same_names_sizes_and_times_is_another(tmp_path):
    for root, content in (("one", "a"), ("two", "b")):
        (tmp_path / root).mkdir()
        (tmp_path / root / "x.bmp").write_text(content)
        os.utime(tmp_path / root / "x.bmp", (1, 1))
    (tmp_path / "split.jsonl").touch()
    digests = [
        PictureContents(RunDir(tmp_path), tmp_path / root, is_there=True).digest(["x.bmp"]) for root in ("one", "two")
    ]
    assert digests[0] != digests[1]


def test_of_a_folder_of_masks_only_the_masks_count(tmp_path):
    sample = Sample(filename="a.png", is_anomalous=True, mask_path="masks/a")
    assert mask_files(sample, tmp_path) == ["masks/a"]
    folder = tmp_path / "masks/a"
    (folder / "sub").mkdir(parents=True)
    assert mask_files(sample, tmp_path) == ["masks/a"]
    for name in ("1.png", "0.PNG", ".DS_Store", "._0.png", "Thumbs.db"):
        (folder / name).touch()
    assert mask_files(sample, tmp_path) == ["masks/a/0.PNG", "masks/a/1.png"]


def test_a_file_whose_name_is_no_text_can_be_remembered(tmp_path):
    (tmp_path / "split.jsonl").touch()
    name = os.fsdecode(b"\xff.png")
    contents = PictureContents(RunDir(tmp_path), tmp_path, is_there=True)
    contents.note_split([name])
    again = PictureContents(RunDir(tmp_path), tmp_path, is_there=False)
    assert again.digest([name]) == contents.digest([name]) is not None
    assert again.changed([name]) == []


def test_a_replaced_mask_of_validation_draws_the_report_again(moved):
    root, run_dir, settings = moved
    redraw_mask(root / mask_of_split(run_dir, "val"))
    split.run(settings("overwrite=true"))
    before, drawn = times(run_dir), (run_dir / "report/index.html").stat().st_mtime_ns
    run_all(settings())
    assert remade(run_dir, before) == []
    assert (run_dir / "report/index.html").stat().st_mtime_ns != drawn


def test_a_file_is_read_again_only_when_its_size_or_time_changes(tmp_path, monkeypatch):
    module = import_module("us_anomaly.commands.picture_contents")
    read = []
    hash_of = module.content_hash
    monkeypatch.setattr(module, "content_hash", lambda path: read.append(path.name) or hash_of(path))
    (tmp_path / "split.jsonl").touch()
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    def digest():
        return PictureContents(RunDir(tmp_path), tmp_path, is_there=True).digest(["a", "b"])

    first = digest()
    assert digest() == first
    assert sorted(read) == ["a", "b"]
    os.utime(tmp_path / "a", (1, 1))
    assert digest() == first
    assert sorted(read) == ["a", "a", "b"]
    (tmp_path / "b").write_text("c")
    assert digest() != first
    assert PictureContents(RunDir(tmp_path), tmp_path, is_there=True).digest(["b", "a"]) != digest()


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', '{"a": ["1"]}', '{"a": ["1", "2", "3", "4"]}'])
def test_hashes_that_are_damaged_are_found_out_again(tmp_path, content):
    (tmp_path / "split.jsonl").touch()
    (tmp_path / "a").write_text("a")
    expected = PictureContents(RunDir(tmp_path), tmp_path, is_there=True).digest(["a"])
    RunDir(tmp_path).contents.write_text(content)
    assert PictureContents(RunDir(tmp_path), tmp_path, is_there=True).digest(["a"]) == expected
    RunDir(tmp_path).contents.write_text(content)
    assert PictureContents(RunDir(tmp_path), tmp_path, is_there=False).digest(["a"]) is None


def test_a_file_that_cannot_be_read_has_a_content_of_its_own(tmp_path):
    (tmp_path / "a").mkdir()
    contents = PictureContents(RunDir(tmp_path), tmp_path, is_there=True)
    assert len({contents.digest([name]) for name in ("a", "gone")}) == 2
    assert not RunDir(tmp_path).contents.exists()  # nothing was ever divided there


def test_students_rest_on_the_pictures_they_are_validated_with(moved):
    root, run_dir, settings = moved
    validated = settings("students.validate_every_steps=2", "overwrite=true")
    train_students.run(validated)
    redraw(root / of_split(run_dir, "val"))
    split.run(validated)
    condition = state(RunDir(run_dir), run_dir / "p33/students.pt", Recipes(validated).students(33))
    assert condition == ("stale", "it was made from other pictures of the calibration")


def test_a_table_of_saturated_defects_evaluates_again_and_only_that(moved):
    root, run_dir, settings = moved
    entry = {"defect_name": "cut", "pixel_value": 255, "saturation_threshold": 5, "relative_saturation": False}
    for content in ([entry], [{**entry, "saturation_threshold": 9}]):
        (root / "defects_config.json").write_text(json.dumps(content))
        before = times(run_dir)
        run_all(settings())
        assert remade(run_dir, before) == ["evaluation.json"]
        before = times(run_dir)
        run_all(settings())
        assert remade(run_dir, before) == []


def test_a_stage_gives_back_the_memory_of_what_it_knew_of_the_data_set(moved):
    recipes = Recipes(moved[2]())
    assert recipes.students(33) is recipes.students(33)
    known = weakref.ref(recipes)
    del recipes
    gc.collect()
    assert known() is None


def test_the_report_of_a_moved_data_set_links_to_where_it_is(moved):
    root, run_dir, settings = moved
    page = run_dir / "report/index.html"
    assert str(root) not in page.read_text()
    report.run(settings())
    assert str(root) in page.read_text()
    drawn = page.stat().st_mtime_ns
    report.run(settings())
    assert page.stat().st_mtime_ns == drawn


def test_masks_that_are_added_to_test_pictures_evaluate_again(moved):
    root, run_dir, settings = moved
    shutil.move(root / "masks", root / "aside")
    split.run(settings("overwrite=true"))
    run_all(settings())
    assert "pixel_auroc" not in json.loads((run_dir / "evaluation.json").read_text())["metrics"]
    shutil.move(root / "aside", root / "masks")
    split.run(settings("overwrite=true"))
    run_all(settings())
    assert "pixel_auroc" in json.loads((run_dir / "evaluation.json").read_text())["metrics"]
