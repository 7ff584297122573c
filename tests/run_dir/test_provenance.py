import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from us_anomaly.errors import ArtifactError, MissingArtifactError, ResourceError, StaleArtifactError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import (
    Recipe,
    content_hash,
    fingerprint,
    record,
    withdraw,
)
from us_anomaly.run_dir.staleness import require, require_consistent, state
from us_anomaly.version import __version__

RECIPE = Recipe(command="calibrate", settings={"scales": [33], "seed": 0}, inputs={"p33/students.pt": "abc"})


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.calibration.write_text("{}")
    return run_dir


def noted(run_dir: RunDir, recipe: Recipe = RECIPE, **changes: object) -> None:
    record(run_dir, run_dir.calibration, recipe, seconds=1.0)
    if changes:
        path = run_dir.provenance(run_dir.calibration)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_file_that_this_user_may_not_read_is_not_said_to_be_unwritable(tmp_path, monkeypatch):
    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ResourceError, match=r"^cannot read .*x: this user may not; change its permissions$"):
        content_hash(tmp_path / "x")


def test_the_content_hash_is_the_sha256_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 8192  # more than one block
    (tmp_path / "x").write_bytes(content)
    assert content_hash(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_recipes_that_differ_anywhere_have_other_fingerprints():
    variants = [
        RECIPE,
        dataclasses.replace(RECIPE, command="infer"),
        dataclasses.replace(RECIPE, settings={"scales": [33], "seed": 1}),
        dataclasses.replace(RECIPE, inputs={"p33/students.pt": "abd"}),
        dataclasses.replace(RECIPE, format_version=2),
    ]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)
    assert fingerprint(RECIPE) == fingerprint(dataclasses.replace(RECIPE, settings={"seed": 0, "scales": [33]}))


def test_an_artifact_is_current_once_it_is_recorded(run_dir):
    assert state(run_dir, run_dir.calibration, RECIPE) == ("missing", f"{run_dir.calibration} was not completed")
    noted(run_dir)
    assert state(run_dir, run_dir.calibration, RECIPE) == ("current", "")
    assert require(run_dir, run_dir.calibration, RECIPE) == hashlib.sha256(b"{}").hexdigest()


def test_the_note_says_what_made_the_artifact_when_where_and_how_long_it_took(run_dir):
    record(run_dir, run_dir.calibration, RECIPE, seconds=1.23456, runtime={"runtime.num_threads": 1})
    note = json.loads(run_dir.provenance(run_dir.calibration).read_text())
    assert note["command"] == "calibrate"
    assert note["settings"] == RECIPE.settings
    assert note["inputs"] == RECIPE.inputs
    assert note["format_version"] == 1
    assert note["seconds"] == 1.235
    assert note["us_anomaly"] == __version__
    assert note["runtime"] == {"runtime.num_threads": 1}
    assert note["environment"].keys() >= {"python", "machine", "processor", "torch", "numpy"}


def test_a_missing_artifact_names_the_command_that_makes_it(tmp_path):
    run_dir = RunDir(tmp_path)
    with pytest.raises(MissingArtifactError) as caught:
        require(run_dir, run_dir.calibration, RECIPE)
    assert str(caught.value) == (
        f"{run_dir.calibration} does not exist: run `usad calibrate` first, with the same settings "
        "(or `usad run` for all stages)"
    )


def test_an_artifact_without_its_note_was_interrupted(run_dir):
    with pytest.raises(MissingArtifactError, match="was not completed: run `usad calibrate` first"):
        require(run_dir, run_dir.calibration, RECIPE)


def test_a_note_without_its_artifact_vouches_for_nothing(run_dir):
    noted(run_dir)
    run_dir.calibration.unlink()
    assert state(run_dir, run_dir.calibration, RECIPE)[0] == "missing"


def test_another_setting_makes_it_stale_and_is_named_with_both_values(run_dir):
    noted(run_dir)
    now = dataclasses.replace(RECIPE, settings={"scales": [17, 33], "seed": 0, "x": True, "y": None})
    with pytest.raises(StaleArtifactError) as caught:
        require(run_dir, run_dir.calibration, now)
    assert str(caught.value) == (
        f"{run_dir.calibration} was made from something else than what is in force: it was made with scales=[33], now "
        "scales=[17,33]; it was made with x=not set, now x=true; it was made with y=not set, now y=null. To keep it, give "
        "the settings it was made with or another run_dir=; to make it anew, run `usad calibrate` with the settings in force and "
        "overwrite=true"
    )


def test_of_many_differences_those_of_known_settings_are_told_and_the_others_counted(run_dir):
    noted(run_dir)
    now = dataclasses.replace(
        RECIPE, settings={f"a{number}": number for number in range(9)} | {"scales": [17], "seed": 0}
    )
    _, reason = state(run_dir, run_dir.calibration, now)
    told = reason.split("; ")
    assert told[0] == "it was made with scales=[33], now scales=[17]"
    assert told[1:] == [f"it was made with a{number}=not set, now a{number}={number}" for number in range(5)] + [
        "and 4 more"
    ]


def test_an_input_that_came_or_went_is_not_called_another_one(run_dir):
    noted(run_dir)
    now = dataclasses.replace(RECIPE, inputs={"p66/students.pt": "0"})
    _, reason = state(run_dir, run_dir.calibration, now)
    assert "it was made without p66/students.pt" in reason
    assert all(f"it was made with {name}" in reason for name in RECIPE.inputs)


def test_another_input_makes_it_stale(run_dir):
    noted(run_dir)
    now = dataclasses.replace(RECIPE, inputs={"p33/students.pt": "other", "p33/teacher.pt": "new"})
    assert state(run_dir, run_dir.calibration, now) == (
        "stale",
        "it was made from another p33/students.pt; it was made without p33/teacher.pt",
    )


def test_a_file_changed_after_it_was_made_is_stale_under_any_recipe(run_dir):
    noted(run_dir)
    run_dir.calibration.write_text("{ }")
    assert state(run_dir, run_dir.calibration, RECIPE) == ("stale", "the file was changed after it was made")


@pytest.mark.parametrize(
    ("change", "reason"), [("remove", "is missing"), ("cut", "was changed"), ("folder", "is missing")]
)
def test_a_file_that_belongs_to_an_artifact_is_missed_when_it_is_gone_or_cut(run_dir, change, reason):
    run_dir.maps.mkdir()
    belonging = run_dir.maps / "a.tiff"
    belonging.write_bytes(b"1234")
    record(run_dir, run_dir.calibration, RECIPE, seconds=1, files=[belonging])
    assert state(run_dir, run_dir.calibration, RECIPE) == ("current", "")
    belonging.unlink()
    if change == "cut":
        belonging.write_bytes(b"123")
    if change == "folder":
        belonging.mkdir()
    assert state(run_dir, run_dir.calibration, RECIPE) == ("stale", f"maps/a.tiff, which belongs to it, {reason}")


def test_a_note_that_claims_files_outside_of_the_run_directory_vouches_for_nothing(run_dir):
    noted(run_dir, files={"../../etc/passwd": 1})
    assert state(run_dir, run_dir.calibration, RECIPE)[0] == "stale"


def test_an_older_format_is_refused_with_the_command_that_makes_it_again(run_dir):
    noted(run_dir)
    now = dataclasses.replace(RECIPE, format_version=2)
    with pytest.raises(
        StaleArtifactError,
        match=r"its format is version 1, and this us_anomaly \(.*\) reads version 2: make it again with `usad calibrate",
    ):
        require(run_dir, run_dir.calibration, now)


def test_a_newer_format_is_refused_with_the_advice_to_update(run_dir):
    noted(run_dir, dataclasses.replace(RECIPE, format_version=7))
    condition, reason = state(run_dir, run_dir.calibration, RECIPE)
    assert condition == "stale"
    assert reason == (
        f"its format is version 7, which a newer us_anomaly writes (this is {__version__}, which reads version 1): "
        "update us_anomaly"
    )


@pytest.mark.parametrize("text", ["[]", "{}", '{"format_version": 1}', "3", "null"])
def test_a_note_that_is_no_note_is_told_with_the_way_out(run_dir, text):
    path = run_dir.provenance(run_dir.calibration)
    path.parent.mkdir()
    path.write_text(text)
    for ask in (
        lambda: state(run_dir, run_dir.calibration, RECIPE),
        lambda: require_consistent(run_dir, run_dir.calibration, parts=[]),
    ):
        with pytest.raises(
            ArtifactError, match=r"calibration\.json\.json is not a provenance note .*; delete it, what"
        ):
            ask()


def test_a_withdrawn_note_is_gone_and_withdrawing_twice_does_no_harm(run_dir):
    noted(run_dir)
    withdraw(run_dir, run_dir.calibration)
    withdraw(run_dir, run_dir.calibration)
    assert state(run_dir, run_dir.calibration, RECIPE)[0] == "missing"


def made_of_students(run_dir: RunDir) -> None:
    run_dir.scale(33).mkdir()
    run_dir.students(33).write_bytes(b"students")
    inputs = {"p33/students.pt": content_hash(run_dir.students(33)), "split.jsonl": "any"}
    record(run_dir, run_dir.calibration, dataclasses.replace(RECIPE, inputs=inputs), seconds=1)


def test_parts_that_an_artifact_was_made_from_are_consistent_with_it(run_dir):
    made_of_students(run_dir)
    require_consistent(run_dir, run_dir.calibration, parts=[run_dir.students(33)])


def test_a_part_that_was_made_again_does_not_belong_to_the_artifact(run_dir):
    made_of_students(run_dir)
    run_dir.students(33).write_bytes(b"others")
    with pytest.raises(StaleArtifactError) as caught:
        require_consistent(run_dir, run_dir.calibration, parts=[run_dir.students(33)])
    assert str(caught.value) == (
        f"{run_dir.calibration} cannot be used: {run_dir.students(33)} is not the file it was made from. Run `usad run` with "
        "the settings of this run directory"
    )


def test_an_artifact_that_was_changed_is_not_consistent(run_dir):
    made_of_students(run_dir)
    run_dir.calibration.write_text("{ }")
    with pytest.raises(StaleArtifactError, match="the file was changed after it was made"):
        require_consistent(run_dir, run_dir.calibration, parts=[])


def test_an_artifact_that_was_not_completed_is_not_consistent(run_dir):
    with pytest.raises(MissingArtifactError, match=r"calibration\.json was not completed: run `usad run`"):
        require_consistent(run_dir, run_dir.calibration, parts=[])
    run_dir.calibration.unlink()
    with pytest.raises(MissingArtifactError, match=r"calibration\.json does not exist: run `usad run`"):
        require_consistent(run_dir, run_dir.calibration, parts=[])


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ([{"n": "A", "s": [1]}], [{"n": "A", "s": [2]}], "t.0.s=[1], now t.0.s=[2]"),
        ([{"n": "A"}, {"n": "B"}], [{"n": "A"}, {"n": "C"}], "t.1.n=B, now t.1.n=C"),
        ([{"n": "A"}], [{"n": "A"}, {"n": "B"}], "t=[{n:A}], now t=[{n:A},{n:B}]"),
        ([{"n": "A"}], [{"m": "A"}], "t.0={n:A}, now t.0={m:A}"),
        ({"a": 1, "b": 2}, {"a": 1, "b": None}, "t.b=2, now t.b=null"),
        ([1, 2], [1, 3], "t=[1,2], now t=[1,3]"),
        ([], [{"n": "A"}], "t=[], now t=[{n:A}]"),
    ],
)
def test_of_long_settings_what_differs_is_told(run_dir, then, now, said):
    record(run_dir, run_dir.calibration, dataclasses.replace(RECIPE, settings={"t": then}), seconds=0.0)
    condition, reason = state(run_dir, run_dir.calibration, dataclasses.replace(RECIPE, settings={"t": now}))
    assert (condition, reason) == ("stale", f"it was made with {said}")
