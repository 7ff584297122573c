"""What `usad split` left out, and how the list of pictures has changed since: named in one line."""

import json
from pathlib import Path

import pytest

from us_anomaly.commands.picture_list import read_left_out, what_changed, write_left_out
from us_anomaly.data.sample import Sample, dump_labels
from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.version import __version__


def good(*names: str, split: str | None = None) -> list[Sample]:
    return [Sample(filename=name, is_anomalous=False, split=split) for name in names]


@pytest.fixture
def divided(tmp_path: Path) -> RunDir:
    """A run directory that divided b.png, a.png and c.png, and left out x.png."""
    run_dir = RunDir(tmp_path)
    run_dir.split.write_text(dump_labels(good("b.png", "a.png", "c.png", split="train")))
    write_left_out(run_dir.bad_images, {"x.png": "it is empty"})
    return run_dir


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (good("a.png", "b.png", "c.png", "x.png"), ""),
        (good("a.png", "b.png", "c.png", "x.png", split="test"), ""),
        (good("a.png", "c.png", "x.png"), "1 missing: b.png"),
        (good("b.png", "x.png"), "2 missing, the first a.png"),
        (good("a.png", "b.png", "c.png"), "1 missing: x.png"),
        (good("a.png", "b.png", "c.png", "x.png", "d.png"), "1 new: d.png"),
        (good("e.png", "d.png", "b.png", "c.png", "x.png"), "1 missing: a.png; 2 new, the first e.png"),
        (
            [*good("a.png", "b.png", "x.png"), Sample(filename="c.png", is_anomalous=True, defect_type="cut")],
            "1 with another label, mask or group: c.png",
        ),
    ],
)
def test_pictures_that_came_went_or_changed_their_label_are_counted_and_the_first_is_named(divided, now, words):
    assert what_changed(divided, now) == words


@pytest.mark.parametrize("content", [b"{", b"[1]\n", b"\xff\n", b'{"filename": ["a"]}\n'])
def test_a_damaged_split_tells_nothing_and_hides_nothing(divided, content):
    divided.split.write_bytes(content)
    assert what_changed(divided, good("a.png")) == ""


def test_without_a_split_nothing_is_told(tmp_path):
    assert what_changed(RunDir(tmp_path), good("a.png")) == ""


def test_what_was_left_out_names_its_format_version_and_is_read_back(tmp_path):
    path = tmp_path / "bad_images.json"
    assert read_left_out(path) == []
    write_left_out(path, {"x.png": "it is empty", "y.png": "it is no picture"})
    assert json.loads(path.read_text())["format_version"] == 1
    assert read_left_out(path) == ["x.png", "y.png"]


def test_what_was_left_out_before_there_were_versions_is_still_read(tmp_path):
    path = tmp_path / "bad_images.json"
    path.write_text(json.dumps([{"filename": "x.png", "reason": "it is empty"}]))
    assert read_left_out(path) == ["x.png"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"format_version": 2, "bad_images": []}, "has format version 2, which a newer us_anomaly writes"),
        (
            {"format_version": 0, "bad_images": []},
            rf"has format version 0, and this us_anomaly \({__version__}\) reads version 1: make it again with "
            "`usad split overwrite=true`",
        ),
        ({"bad_images": []}, "names no format version"),
        (
            {"format_version": 1},
            r"is no list of pictures \(TypeError.*\); make it again with `usad split overwrite=true`",
        ),
        ([5], "is no list of pictures"),
        ([{"reason": "it is empty"}], r"is no list of pictures \(KeyError"),
        ([{"filename": ["x.png"]}], "is no list of pictures"),
    ],
)
def test_another_version_or_something_else_is_refused_with_what_to_do(divided, content, told):
    divided.bad_images.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=told):
        read_left_out(divided.bad_images)
    assert what_changed(divided, good("a.png")) == ""
