"""Teachers that depend on no data set are distilled once; whatever is wrong with the cache, the teacher is the same."""

import json
import logging
import os
import re
import tempfile
import time
from pathlib import Path

import pytest
import torch
from conftest import files_below

from us_anomaly.commands import distill_teacher, split, teacher_cache
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.teacher_cache import cache_entry
from us_anomaly.models.compute import Compute
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_json, write_tensors, write_text
from us_anomaly.run_dir.provenance import Recipe
from us_anomaly.settings import Settings

FILES = ("p33/teacher.pt", "p33/teacher.losses.jsonl")


@pytest.fixture
def generic(compose, tiny, tmp_path):
    """Return a function from a name to the settings of a run directory whose teacher learns from drawn pictures."""

    def settings(name: str, *more: str) -> Settings:
        overrides = ["teacher.images=procedural", "teacher.steps=2", f"cache_dir={tmp_path / 'cache'}"]
        return compose("run", *tiny(tmp_path / name), *overrides, *more)

    return settings


@pytest.fixture
def distilled(monkeypatch) -> list[str]:
    """Put something quicker in the place of distillation; return the run directories that distilled."""
    made: list[str] = []

    def distill(settings: Settings, patch_size: int, artifact: Path, *, key: str, compute: Compute) -> None:
        made.append(Path(settings.run_dir).name)
        write_tensors(artifact, {"explained_variance": 0.5, "key": key, "network": torch.arange(5000.0)})
        write_text(RunDir(settings.run_dir).loss_curve(artifact), json.dumps({"step": 1, "loss": 0.25}) + "\n")

    monkeypatch.setattr(distill_teacher, "distill", distill)
    return made


def teacher_of(settings: Settings) -> dict[str, bytes]:
    """Run the stage and return what it left."""
    split.run(settings)
    distill_teacher.run(settings)
    return {name: (Path(settings.run_dir) / name).read_bytes() for name in FILES}


def entry_of(settings: Settings) -> Path:
    (entry,) = (Path(settings.cache_dir) / "teachers").iterdir()
    return entry


def lines_about(caplog, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_the_second_run_directory_takes_no_step_and_gets_the_same_bytes(generic, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    steps = []
    genuine = distill_teacher.distil
    monkeypatch.setattr(
        distill_teacher, "distil", lambda *a, **others: steps.append(others["steps"]) or genuine(*a, **others)
    )
    first = teacher_of(generic("a"))
    second = teacher_of(generic("b", "data.name=other", "students.steps=3", "split.ratios=60-20-20"))
    fresh = teacher_of(generic("c", "teacher.cache=false", "teacher.min_explained_variance=-0.5"))
    assert first == second == fresh
    assert steps == [2, 2]  # of the first, and of the one without cache
    entry = entry_of(generic("a"))
    assert lines_about(caplog, "took the teacher from the cache") == [f"took the teacher from the cache {entry}"]
    assert len(lines_about(caplog, "% of the variance")) == 3


def test_a_run_directory_looks_the_same_with_a_teacher_from_the_cache(generic, distilled, tmp_path):
    for name in ("a", "b"):
        teacher_of(generic(name))
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")
    notes = [read_json(tmp_path / name / "provenance/p33/teacher.pt.json") for name in ("a", "b")]
    for note in notes:
        del note["seconds"], note["made_at"]
    assert notes[0] == notes[1]


def test_an_entry_is_a_small_run_directory_that_anybody_may_read(generic, distilled):
    settings = generic("a")
    teacher_of(settings)
    entry = entry_of(settings)
    assert files_below(entry) == {*FILES, "provenance/p33/teacher.pt.json"}
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]
    note = read_json(entry / "provenance/p33/teacher.pt.json")
    assert note["settings"]["teacher.steps"] == 2
    assert note["files"].keys() == {"p33/teacher.losses.jsonl"}


def test_the_place_of_an_entry_is_on_the_disk_before_it_is_said_to_be_kept(generic, distilled, monkeypatch):
    flushed = []
    monkeypatch.setattr(
        teacher_cache, "flush_folder", lambda folder: flushed.append({path.name for path in folder.iterdir()})
    )
    settings = generic("a")
    teacher_of(settings)
    (names,) = flushed
    assert entry_of(settings).name in names


def test_what_a_killed_process_left_half_written_is_removed_after_a_day(generic, distilled, tmp_path):
    folder = tmp_path / "cache/teachers"
    for name, age_hours in (("at work", 1), ("killed", 25)):
        (folder / f".partial-{name}/p33-key/p33").mkdir(parents=True)
        os.utime(folder / f".partial-{name}", times=(time.time() - age_hours * 3600,) * 2)
    (folder / ".partial-link").symlink_to(tmp_path)
    os.utime(folder / ".partial-link", times=(0, 0), follow_symlinks=False)
    teacher_of(generic("a"))
    assert {path.name for path in folder.glob(".*")} == {".partial-at work", ".partial-link"}
    assert (tmp_path / "a/p33/teacher.pt").is_file()


def test_sweeps_over_what_comes_later_distil_once_and_over_the_teacher_each_time(generic, distilled):
    for name, change in (
        ("a", "students.num_students=1"),
        ("b", "students.num_students=3"),
        ("c", "seed=1"),
        ("d", "teacher.learning_rate=0.1"),
        ("e", "teacher.min_explained_variance=-0.5"),
        ("f", "teacher.statistics_positions=dense"),
    ):
        teacher_of(generic(name, change))
    assert len(distilled) == 3


def test_a_teacher_that_did_not_learn_is_reported_again_when_it_comes_from_the_cache(generic, distilled, caplog):
    for name in ("a", "b"):
        teacher_of(generic(name, "teacher.min_explained_variance=1"))
    assert len(lines_about(caplog, "THE TEACHER DID NOT LEARN")) == 2


def test_every_patch_size_number_format_and_device_has_a_teacher_of_its_own(generic, distilled):
    settings = generic("a")
    split.run(settings)
    recipe = Recipes(settings).teacher(33)
    computes = [
        Compute(torch.device(device), dtype)
        for device in ("cpu", "cuda:1")
        for dtype in (torch.float32, torch.bfloat16)
    ]
    places = {cache_entry(settings, size, recipe, compute=compute).root for compute in computes for size in (17, 33)}
    assert len(places) == 8
    one_card, other_card = (Compute(torch.device(device), torch.float32) for device in ("cuda:0", "cuda:1"))
    assert (
        cache_entry(settings, 33, recipe, compute=one_card).root
        == cache_entry(settings, 33, recipe, compute=other_card).root
    )


def test_another_version_of_the_package_which_may_draw_other_pictures_takes_no_old_teacher(
    generic, distilled, monkeypatch
):
    teacher_of(generic("a"))
    monkeypatch.setattr(teacher_cache, "__version__", "next")
    teacher_of(generic("b"))
    assert len(distilled) == 2


# --- what is not kept --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["train", "{train:1,generic:1}", "folder", "[folder,generic]"])
def test_a_teacher_that_saw_the_data_set_or_a_folder_is_not_kept(generic, distilled, parts, tmp_path, images):
    images = images.replace("folder", f'"{parts}/images/good"')
    settings = generic("a", f"teacher.images={images}")
    teacher_of(settings)
    assert not (tmp_path / "cache").exists()


def test_a_teacher_of_a_fine_tuned_backbone_is_not_kept(generic):
    settings = generic("a")
    compute = Compute(torch.device("cpu"), torch.float32)
    for inputs, is_kept in (({}, True), ({"backbone.weights": "0"}, True), ({"backbone.pt": "0"}, False)):
        recipe = Recipe(command="distill-teacher", settings={}, inputs=inputs)
        assert (cache_entry(settings, 33, recipe, compute=compute) is not None) == is_kept


def test_a_recipe_names_whitening_only_where_there_is_some(generic):
    plain, whitened = (
        Recipes(generic("a", change)).teacher(33) for change in ("seed=0", "teacher.whiten_targets=true")
    )
    assert whitened.settings == {**plain.settings, "teacher.whiten_targets": True}
    assert "teacher.whiten_targets" not in plain.settings


def test_without_the_cache_nothing_is_kept_and_nothing_is_taken(generic, distilled, tmp_path):
    teacher_of(generic("a", "teacher.cache=false"))
    assert not (tmp_path / "cache").exists()
    teacher_of(generic("b"))
    teacher_of(generic("c", "teacher.cache=false"))
    assert len(distilled) == 3


# --- what is wrong with the cache --------------------------------------------------------------------------------


def cut(entry: Path) -> None:
    teacher = entry / "p33/teacher.pt"
    teacher.write_bytes(teacher.read_bytes()[:-1])


def flip(entry: Path) -> None:
    teacher = entry / "p33/teacher.pt"
    content = bytearray(teacher.read_bytes())
    content[len(content) // 2] ^= 1
    teacher.write_bytes(content)


def note_of(entry: Path) -> Path:
    return entry / "provenance/p33/teacher.pt.json"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, r"is not whole \(the file was changed after it was made\)"),
        (flip, r"is not whole \(the file was changed after it was made\)"),
        (lambda entry: (entry / "p33/teacher.losses.jsonl").unlink(), "which belongs to it, is missing"),
        (lambda entry: note_of(entry).unlink(), "was not completed"),
        (lambda entry: note_of(entry).write_text("{"), "is not valid JSON"),
        (lambda entry: note_of(entry).write_text(json.dumps({})), "is not a provenance note"),
    ],
    ids=["cut", "flipped bit", "no curve", "no note", "broken note", "empty note"],
)
def test_a_damaged_entry_is_ignored_with_one_line_and_made_anew(generic, distilled, caplog, damage, reason):
    first = teacher_of(generic("a"))
    entry = entry_of(generic("a"))
    damage(entry)
    assert teacher_of(generic("b")) == first
    assert len(distilled) == 2
    (line,) = lines_about(caplog, "the teacher is distilled anew")
    assert line.startswith(f"{entry} in the cache")
    assert re.search(reason, line)
    assert "\n" not in line
    assert teacher_of(generic("c")) == first
    assert len(distilled) == 2
    assert entry_of(generic("c")) == entry  # and nothing is left beside it


def test_a_file_in_the_place_of_an_entry_gives_way(generic, distilled):
    first = teacher_of(generic("a"))
    entry = entry_of(generic("a"))
    entry.rename(entry.parent.parent / "aside")
    entry.write_text("in the way")
    assert teacher_of(generic("b")) == teacher_of(generic("c")) == first
    assert len(distilled) == 2


def test_a_file_in_the_place_of_the_cache_is_one_line_and_no_error(generic, distilled, caplog, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    teacher_of(generic("a"))
    (line,) = lines_about(caplog, "cache")
    place = tmp_path / "cache/teachers"
    assert line == (
        f"the teacher is not kept in the cache {place} (Not a directory); cache_dir= names another place, teacher.cache=false "
        "does without"
    )


def test_a_cache_that_may_not_be_written_is_one_line_and_no_error(generic, distilled, caplog, monkeypatch):
    genuine = tempfile.mkdtemp

    def mkdtemp(*arguments, dir=None, **others):
        if dir is not None and Path(dir).name == "teachers":
            raise OSError(30, os.strerror(30))
        return genuine(*arguments, dir=dir, **others)

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", mkdtemp)
        teacher_of(generic("a"))
    (line,) = lines_about(caplog, "cache")
    assert "(Read-only file system); cache_dir= names another place" in line
    assert len(distilled) == 1


def test_a_cache_that_may_not_be_read_is_one_line_and_no_error(generic, distilled, caplog, monkeypatch):
    first = teacher_of(generic("a"))

    def forbidden(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache, "state", forbidden)
        assert teacher_of(generic("b")) == first
    (line,) = lines_about(caplog, "cannot be used")
    assert line.endswith("in the cache cannot be used (Permission denied): the teacher is distilled anew")
    assert len(distilled) == 2


def test_of_two_processes_at_once_one_keeps_its_teacher_and_both_have_it(generic, distilled, monkeypatch, caplog):
    """The second one looks before the first has finished, and keeps its teacher after it."""
    slower = generic("slower")
    quick = distill_teacher.distill
    faster: list[dict[str, bytes]] = []

    def distill(*arguments, **others):
        monkeypatch.setattr(distill_teacher, "distill", quick)
        faster.append(teacher_of(generic("faster")))
        quick(*arguments, **others)

    monkeypatch.setattr(distill_teacher, "distill", distill)
    assert teacher_of(slower) == faster[0]
    assert distilled == ["faster", "slower"]
    assert lines_about(caplog, "not whole") == []
    entry = entry_of(slower)
    assert files_below(entry) == {*FILES, "provenance/p33/teacher.pt.json"}


def test_an_entry_that_appears_at_the_last_moment_is_left_alone(generic, distilled, monkeypatch):
    teacher_of(generic("a"))
    entry = RunDir(entry_of(generic("a")))
    before = entry.teacher(33).stat().st_ino
    monkeypatch.setattr(teacher_cache, "_take", lambda *_: False)
    teacher_of(generic("b"))
    assert entry.teacher(33).stat().st_ino == before


def test_a_full_run_directory_is_still_an_error_when_the_teacher_is_in_the_cache(generic, distilled, monkeypatch):
    from us_anomaly.errors import ResourceError

    teacher_of(generic("a"))
    settings = generic("b")
    split.run(settings)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        distill_teacher.run(settings)


def test_a_teacher_to_start_from_is_in_the_key_with_its_content(generic, distilled, tmp_path):
    start = tmp_path / "start.pt"
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"another")):
        start.write_bytes(content)
        teacher_of(generic(name, f"teacher.start_from={start}"))
    teacher_of(generic("d"))
    assert distilled == ["a", "c", "d"]
