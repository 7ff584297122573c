import json

import pytest
from compared_runs import rewrite_note, write_run

from us_anomaly.reporting.comparison_origin import read_origin
from us_anomaly.run_dir import RunDir


def origin_of(run):
    return read_origin(RunDir(run))


def test_the_notes_of_all_that_was_used_tell_the_settings(tmp_path):
    origin = origin_of(write_run(tmp_path / "a", settings={"seed": 7, "students.num_students": 2}))
    assert origin.settings["seed"] == 7
    assert origin.settings["students.num_students"] == 2
    assert origin.settings["scales"] == [33]
    assert origin.settings["teacher.checkpoint"] == "builtin"
    assert origin.settings["data.category"] == "tile"
    assert origin.settings["evaluation.resolution"] == "original"
    assert origin.pictures == "pictures of tile"
    assert origin.files == {"teacher.checkpoint (p33/teacher.pt)": "teacher"}


def test_settings_that_change_no_figure_are_left_out(tmp_path):
    run = write_run(tmp_path / "a")
    rewrite_note(run, "evaluation.json", settings={"evaluation.bootstrap_samples": 10, "data.name": "x", "seed": 3})
    keys = origin_of(run).settings.keys()
    assert "seed" in keys
    assert not {"evaluation.bootstrap_samples", "data.name"} & keys
    assert not [key for key in keys if key.startswith("inference.")]


def test_what_a_note_leaves_out_is_off(tmp_path):
    settings = origin_of(write_run(tmp_path / "a")).settings
    assert settings["students.noise"] == 0
    assert settings["scoring.border_px"] == 0
    assert settings["data.group_pattern"] is settings["data.white_level"] is None


def test_what_a_note_mentions_is_as_it_says(tmp_path):
    settings = origin_of(write_run(tmp_path / "a", settings={"students.noise": 0.5, "scoring.border_px": 8})).settings
    assert (settings["students.noise"], settings["scoring.border_px"]) == (0.5, 8)


def test_a_finished_teacher_has_no_optimizer_but_one_that_was_distilled_has(tmp_path):
    distilled = {"teacher.checkpoint": None, "teacher.steps": 5}
    assert "teacher.optimizer" not in origin_of(write_run(tmp_path / "finished")).settings
    settings = origin_of(write_run(tmp_path / "distilled", settings=distilled)).settings
    assert settings["teacher.optimizer"] == "adam"
    assert settings["finetuning.enabled"] is False


def test_components_of_positions_have_no_say_where_positions_have_none(tmp_path):
    without = origin_of(write_run(tmp_path / "without"))
    with_positions = origin_of(write_run(tmp_path / "with", settings={"scoring.per_position": True}))
    assert "scoring.position_components" not in without.settings
    assert with_positions.settings["scoring.position_components"] == 0


def test_the_side_of_the_networks_input_is_told_once_and_not_again_in_the_transform_lists(tmp_path):
    small, large = (origin_of(write_run(tmp_path / str(side), image_size=side)).settings for side in (64, 128))
    assert (small.pop("image_size"), large.pop("image_size")) == (64, 128)
    assert small == large
    assert small["augmentation.evaluation"] == [{"name": "Resize", "params": {"size": "image_size"}}]


def test_an_input_that_is_not_square_is_told_by_height_and_width(tmp_path):
    settings = origin_of(write_run(tmp_path / "a", image_size=[48, 64])).settings
    assert settings["image_size"] == [48, 64]
    assert settings["augmentation.evaluation"] == [{"name": "Resize", "params": {"size": "image_size"}}]


def test_where_a_crop_follows_a_resize_the_crop_is_what_the_networks_see(tmp_path):
    run = write_run(tmp_path / "a")
    note = json.loads((run / "provenance/calibration.json.json").read_text())
    entries = [{"name": name, "params": {"size": [side, side]}} for name, side in (("Resize", 80), ("CenterCrop", 64))]
    rewrite_note(run, "calibration.json", settings=note["settings"] | {"augmentation.evaluation": entries})
    assert origin_of(run).settings["image_size"] == 64


def test_transform_lists_without_height_and_width_are_told_as_they_are(tmp_path):
    run = write_run(tmp_path / "a")
    note = json.loads((run / "provenance/calibration.json.json").read_text())
    entries = [{"name": "Resize", "params": {"size": [48]}}, {"name": "ToImage", "params": {}}]
    rewrite_note(run, "calibration.json", settings=note["settings"] | {"augmentation.evaluation": entries})
    settings = origin_of(run).settings
    assert settings["augmentation.evaluation"] == entries
    assert "image_size" not in settings


def test_notes_of_an_earlier_attempt_take_no_part(tmp_path):
    run = write_run(tmp_path / "a")
    (run / "provenance/p17").mkdir()
    (run / "provenance/p17/students.pt.json").write_text((run / "provenance/p33/students.pt.json").read_text())
    rewrite_note(run, "p17/students.pt", settings={"students.steps": 99, "students.width": 0.1})
    settings = origin_of(run).settings
    assert settings["students.steps"] == 10
    assert "students.width" not in settings


@pytest.mark.parametrize(
    ("artifact", "changes"),
    [
        ("calibration.json", {"sha256": "of another file"}),
        ("evaluation.json", {"sha256": "of another file"}),
        ("calibration.json", {"settings": None}),
        ("calibration.json", {"settings": {"augmentation.evaluation": ["Resize"]}}),
        ("calibration.json", {"inputs": []}),
        ("calibration.json", {"inputs": {"../elsewhere": "hash"}}),
        ("calibration.json", {"inputs": {"p33/no_such.pt": "hash"}}),
    ],
)
def test_a_note_that_tells_nothing_about_the_file_that_was_used_leaves_the_origin_unknown(tmp_path, artifact, changes):
    run = write_run(tmp_path / "a")
    rewrite_note(run, artifact, **changes)
    assert origin_of(run) is None


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_missing_or_damaged_note_leaves_the_origin_unknown(tmp_path, text):
    run = write_run(tmp_path / "a")
    note = run / "provenance/split.jsonl.json"
    note.unlink() if text is None else note.write_text(text)
    assert origin_of(run) is None
