"""What decides an artifact, and what older notes leave out."""

from importlib import import_module

import pytest

from us_anomaly.commands import recipes
from us_anomaly.commands.recipes import Recipes
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_json
from us_anomaly.run_dir.provenance import record
from us_anomaly.run_dir.staleness import state

PATCHES = ("teacher.positions=patches", "teacher.images=procedural")
FIXED = (  # a list that does not refer to image_size
    "augmentation.evaluation=[{name: Resize, params: {size: [64,64]}}]",
    "augmentation.teacher=[{name: RandomCrop, params: {size: patch_size}}]",
)


@pytest.fixture
def teacher_of(compose, tiny, trained):
    """Return a function from overrides to the recipe of a teacher."""
    return lambda *more: Recipes(compose("run", *tiny(trained), *FIXED, *more)).teacher(33)


def test_the_size_of_drawn_pictures_decides_a_teacher_of_their_patches(teacher_of, tmp_path):
    here, other, wide = (teacher_of(*PATCHES, f"image_size={size}") for size in ("64", "96", "[64,96]"))
    assert [recipe.settings["image_size"] for recipe in (here, other, wide)] == [64, 96, [64, 96]]
    run_dir = RunDir(tmp_path)
    artifact = run_dir.teacher(33)
    artifact.parent.mkdir()
    artifact.touch()
    record(run_dir, artifact, here, seconds=0.0)
    assert state(run_dir, artifact, here)[0] == "current"
    assert state(run_dir, artifact, other) == ("stale", "it was made with image_size=64, now image_size=96")
    del here.settings["image_size"]  # a note of before
    record(run_dir, artifact, here, seconds=0.0)
    assert state(run_dir, artifact, other)[0] == "current"


@pytest.mark.parametrize(
    "more", [("teacher.positions=dense", "teacher.images=procedural"), (PATCHES[0], "teacher.images=train"), ()]
)
def test_it_decides_no_other_teacher(teacher_of, more):
    assert teacher_of(*more, "image_size=64").settings == teacher_of(*more, "image_size=96").settings
    assert "image_size" not in teacher_of(*more).settings


def test_the_name_of_the_data_set_heads_the_figures_so_another_one_has_them_made_again(compose, tiny, trained_copy):
    run_dir = RunDir(trained_copy)
    here, other = (
        Recipes(compose("run", *tiny(trained_copy), f"data.name={name}")).evaluation for name in ("folder", "new")
    )
    assert state(run_dir, run_dir.evaluation_json, here)[0] == "current"
    assert state(run_dir, run_dir.evaluation_json, other)[1] == "it was made with data.name=folder, now data.name=new"
    note = read_json(run_dir.provenance(run_dir.evaluation_json))
    del note["settings"]["data.name"]  # of before
    write_json(run_dir.provenance(run_dir.evaluation_json), note)
    assert state(run_dir, run_dir.evaluation_json, other)[0] == "current"


@pytest.mark.parametrize(
    ("module", "artifact", "raised"),
    [
        ("training.artifacts", lambda run_dir: run_dir.teacher(33), lambda made: made.teacher(33)),
        ("training.artifacts", lambda run_dir: run_dir.teacher_statistics(33), lambda made: made.statistics(33)),
        ("training.artifacts", lambda run_dir: run_dir.students(33), lambda made: made.students(33)),
        ("scoring.calibration", lambda run_dir: run_dir.calibration, lambda made: made.calibration),
        ("scoring.evaluation", lambda run_dir: run_dir.evaluation_json, lambda made: made.evaluation),
    ],
)
def test_what_an_older_version_wrote_is_stale_once_its_format_has_another_number(
    compose, tiny, trained_copy, monkeypatch, module, artifact, raised
):
    run_dir = RunDir(trained_copy)
    settings = compose("run", *tiny(trained_copy))
    assert state(run_dir, artifact(run_dir), raised(Recipes(settings)))[0] == "current"
    monkeypatch.setattr(import_module(f"us_anomaly.{module}"), "FORMAT_VERSION", 2)
    monkeypatch.setattr(recipes, "require", lambda *_: "")  # what it is made from is stale as well
    condition, reason = state(run_dir, artifact(run_dir), raised(Recipes(settings)))
    assert condition == "stale"
    assert reason.startswith("its format is version 1, and this us_anomaly")


def test_a_finished_teacher_and_a_backbone_have_the_version_of_tensors(compose, tiny, trained, monkeypatch):
    monkeypatch.setattr("us_anomaly.training.artifacts.FORMAT_VERSION", 2)
    settings = compose("run", *tiny(trained))
    assert Recipes(settings).backbone.format_version == 2
    monkeypatch.setattr(recipes, "require", lambda *_: "")
    assert Recipes(settings).position_statistics(33).format_version == 2
    taken = compose("run", *tiny(trained), "teacher.checkpoint=builtin")
    assert Recipes(taken).teacher(33).format_version == 2
