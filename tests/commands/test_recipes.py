"""What decides an artifact, and what older notes leave out."""

import pytest

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
