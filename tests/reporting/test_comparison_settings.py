import shutil
from pathlib import Path

import pytest
from compared_runs import write_run

from us_anomaly.reporting.comparison import compare
from us_anomaly.reporting.run_collection import collect_runs
from us_anomaly.settings.plain import typed


def compared(folders):
    return compare(*collect_runs(folders))


def several(tmp_path, *settings, **more):
    return [write_run(tmp_path / f"{n}-tile", settings=one, **more) for n, one in enumerate(settings)]


def names(folders):
    return [row.name for row in compared(folders).rows]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        (1e-05, "1e-05"),
        ([33, 65], "[33,65]"),
        ("builtin", "builtin"),
        ({"train": 1, "a": [True]}, "{train:1,a:[true]}"),
    ],
)
def test_settings_are_shown_as_they_are_typed(value, text):
    assert typed(value) == text


def test_rows_are_called_after_the_settings_in_which_they_differ(tmp_path):
    runs = several(tmp_path, {"seed": 1, "students.num_students": 2}, {"seed": 0, "students.num_students": 2})
    runs += [write_run(tmp_path / "other", category="leather", settings={"seed": 0, "students.num_students": 1})]
    assert names(runs) == [
        "tile: seed=1, num_students=2",
        "tile: seed=0, num_students=2",
        "leather: seed=0, num_students=1",
    ]


def test_all_differing_settings_are_known_by_their_whole_key(tmp_path):
    comparison = compared(several(tmp_path, {"seed": 1, "students.steps": 5}, {"scales": [33, 65]}))
    assert comparison.settings == ["scales", "seed", "students.steps"]
    assert comparison.rows[0].settings == {"scales": [33], "seed": 1, "students.steps": 5}
    assert comparison.rows[1].settings == {"scales": [33, 65], "seed": 0, "students.steps": 10}


def test_runs_that_differ_in_nothing_but_their_data_are_called_after_it(tmp_path):
    runs = [write_run(tmp_path / name, category=name) for name in ("tile", "leather")]
    runs.append(write_run(tmp_path / "own", category=None, name="own", settings={"data.images": "pictures"}))
    assert names(runs) == ["tile", "leather", "own"]
    assert compared(runs).settings == []


def test_settings_of_the_data_count_among_runs_of_one_data_set(tmp_path):
    runs = several(tmp_path, {"data.group_pattern": "^a"}, {}, pictures="same")
    assert names(runs) == ["tile: group_pattern=^a", "tile: group_pattern=null"]


def test_a_setting_that_only_some_notes_mention_differs_from_what_it_is_when_off(tmp_path):
    assert names(several(tmp_path, {"students.noise": 0.5}, {})) == ["tile: noise=0.5", "tile: noise=0"]


def test_settings_that_had_no_say_in_a_run_are_not_told_for_it(tmp_path):
    distilled = {"teacher.checkpoint": None, "teacher.width": 0.5}
    runs = several(tmp_path, {}, {**distilled, "teacher.steps": 5}, {**distilled, "teacher.steps": 9})
    assert names(runs) == [
        "tile: checkpoint=builtin",
        "tile: checkpoint=null, teacher.steps=5",
        "tile: checkpoint=null, teacher.steps=9",
    ]
    assert compared(runs).settings == ["teacher.checkpoint", "teacher.steps"]


def test_a_key_is_shortened_only_where_its_last_part_is_clear(tmp_path):
    distilled = {"teacher.checkpoint": None, "teacher.steps": 5}
    runs = several(tmp_path, {**distilled, "students.steps": 1}, {**distilled, "students.steps": 2})
    assert names(runs) == ["tile: students.steps=1", "tile: students.steps=2"]
    runs = several(tmp_path / "other", {"backbone.name": "a"}, {"backbone.name": "b"})
    assert names(runs) == ["tile: backbone.name=a", "tile: backbone.name=b"]


def test_of_many_settings_labels_show_those_that_tell_the_runs_apart_and_count_the_rest(tmp_path):
    first = {f"scoring.{letter}": 1 for letter in "abcd"}
    second = {f"scoring.{letter}": 2 for letter in "abcd"}
    runs = several(tmp_path, first, second, {**second, "seed": 5})
    assert names(runs) == [
        "tile: seed=0, a=1 and 3 more",
        "tile: seed=0, a=2 and 3 more",
        "tile: seed=5, a=2 and 3 more",
    ]
    assert compared(runs).not_in_labels == ["scoring.b", "scoring.c", "scoring.d"]


def test_three_settings_are_few_enough_for_a_label(tmp_path):
    runs = several(
        tmp_path, {"scoring.a": 1, "scoring.b": 1, "scoring.c": 1}, {"scoring.a": 2, "scoring.b": 2, "scoring.c": 2}
    )
    assert names(runs) == ["tile: a=1, b=1, c=1", "tile: a=2, b=2, c=2"]


def test_where_labels_are_not_enough_the_folder_tells_runs_apart(tmp_path):
    letters = [dict(zip("abcd", f"{n:04b}", strict=True)) for n in range(16)]
    runs = several(tmp_path, *({f"scoring.{letter}": int(bit) for letter, bit in one.items()} for one in letters))
    assert names(runs)[:2] == ["tile: a=0, b=0, c=0 and 1 more (0-tile)", "tile: a=0, b=0, c=0 and 1 more (1-tile)"]
    assert len(set(names(runs))) == 16


def test_values_too_long_for_a_label_are_left_to_the_files(tmp_path):
    long = [{"name": "Resize", "params": {"size": [64, 64]}}, {"name": "RandomRotation", "params": {"degrees": 180}}]
    runs = several(tmp_path, {"augmentation.students": long}, {})
    comparison = compared(runs)
    assert [row.name for row in comparison.rows] == ["tile (0-tile)", "tile (1-tile)"]
    assert comparison.not_in_labels == ["augmentation.students"]
    assert comparison.rows[0].settings["augmentation.students"][1] == long[1]


def test_of_long_paths_labels_show_the_end(tmp_path):
    paths = {name: f"/a/very/long/path/to/teachers/{name}.pt" for name in "xy"}
    runs = [
        write_run(tmp_path / name, teacher=name, settings={"teacher.checkpoint": path}) for name, path in paths.items()
    ]
    assert names(runs) == ["tile: checkpoint=…g/path/to/teachers/x.pt", "tile: checkpoint=…g/path/to/teachers/y.pt"]


def test_a_teacher_of_the_same_name_and_another_content_is_a_difference(tmp_path):
    runs = [write_run(tmp_path / name, teacher=name) for name in ("0123456789", "abcdefghij")]
    assert names(runs) == [
        "tile: teacher.checkpoint (p33/teacher.pt)=01234567",
        "tile: teacher.checkpoint (p33/teacher.pt)=abcdefgh",
    ]


def test_a_teacher_of_another_name_is_one_difference_and_not_two(tmp_path):
    runs = [
        write_run(tmp_path / name, teacher=name, settings={"teacher.checkpoint": f"{name}.pt"}) for name in ("a", "b")
    ]
    assert compared(runs).settings == ["teacher.checkpoint"]


def test_the_same_teacher_by_another_path_is_no_difference(tmp_path):
    paths = ("builtin", "here.pt", "there.pt")
    runs = several(tmp_path, *({"teacher.checkpoint": path} for path in paths))
    comparison = compared(runs)
    assert comparison.settings == []
    assert [row.name for row in comparison.rows] == ["tile (0-tile)", "tile (1-tile)", "tile (2-tile)"]
    assert [row.repeats for row in comparison.rows] == [None, *[str(tmp_path / "0-tile")] * 2]


def test_runs_of_unknown_settings_are_told_apart_by_their_folder_and_noted(tmp_path):
    runs = several(tmp_path, {"seed": 1}, {"seed": 2}, {"seed": 3})
    shutil.rmtree(runs[2] / "provenance")
    comparison = compared(runs)
    assert [row.name for row in comparison.rows] == ["tile: seed=1", "tile: seed=2", "tile (2-tile)"]
    assert comparison.notes == [
        "How these were made is unknown, for not all of it is in their provenance/: tile (2-tile)."
    ]


def test_an_unknown_origin_is_no_matter_where_a_data_set_has_one_run(tmp_path):
    runs = [write_run(tmp_path / name, category=name) for name in ("tile", "leather")]
    shutil.rmtree(runs[0] / "provenance")
    assert compared(runs).notes == []


def test_folders_are_shown_without_what_all_of_them_begin_with(tmp_path):
    runs = [write_run(tmp_path / "runs" / name / "0-tile") for name in ("old", "new")]
    assert names(runs) == ["tile (old/0-tile)", "tile (new/0-tile)"]
    nested = [write_run(tmp_path / "nested"), write_run(tmp_path / "nested/again")]
    assert names(nested) == ["tile (nested)", "tile (nested/again)"]


def test_a_run_that_was_made_like_another_is_noted_and_said_why(tmp_path):
    runs = several(tmp_path, {}, {"seed": 1}, {"seed": 1})
    comparison = compared(runs)
    assert [row.repeats for row in comparison.rows] == [None, None, runs[1].as_posix()]
    first, again = (run.as_posix() for run in runs[1:])
    assert comparison.notes == [
        f"Pictures and settings of another row, so in no mean and never the best: {again} (as {first})."
    ]


def test_runs_of_other_teachers_data_or_unknown_origin_repeat_nothing(tmp_path):
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", teacher="another"),
        write_run(tmp_path / "c", category="leather", pictures="pictures of tile"),
        write_run(tmp_path / "d"),
        write_run(tmp_path / "e"),
    ]
    for run in runs[3:]:
        shutil.rmtree(run / "provenance")
    assert [row.repeats for row in compared(runs).rows] == [None] * 5


@pytest.mark.parametrize(("auroc", "repeats"), [(0.9, True), (0.8, False)])
def test_pictures_that_were_moved_are_the_same_if_the_figures_are(tmp_path, auroc, repeats):
    first = write_run(tmp_path / "a", metrics={"image_auroc": 0.9})
    second = write_run(tmp_path / "b", metrics={"image_auroc": auroc}, settings={"data.root": "/elsewhere"})
    assert (compared([first, second]).rows[1].repeats is not None) == repeats


def test_one_folder_under_two_names_is_one_run(tmp_path, monkeypatch):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", category="leather")
    monkeypatch.chdir(tmp_path)
    comparison = compared([Path("a"), Path("b"), tmp_path / "a"])
    assert [row.folder for row in comparison.rows] == ["a", "b"]


def test_data_sets_of_one_name_with_other_pictures_are_not_put_together(tmp_path):
    runs = [
        write_run(tmp_path / name, name="folder", category=None, pictures=name, metrics={"image_auroc": auroc})
        for name, auroc in (("screws", 0.7), ("nails", 0.8))
    ]
    comparison = compared(runs)
    assert comparison.notes == [
        "folder: the runs saw different pictures, labels or masks, so they count as 2 data sets "
        "(folder (screws); folder (nails))."
    ]
    assert comparison.best == {"image_auroc": []}
    assert comparison.seed_means == []
    assert comparison.means[0].figures == {"image_auroc": pytest.approx(0.75)}


def test_data_sets_of_the_same_names_with_other_contents_are_not_put_together(tmp_path):
    """One picture was replaced between the runs of two seeds."""
    runs = [
        write_run(tmp_path / str(seed), contents=contents, settings={"seed": seed}, metrics={"image_auroc": auroc})
        for seed, (contents, auroc) in enumerate([("before", 0.7), ("before", 0.72), ("after", 0.9)])
    ]
    comparison = compared(runs)
    assert comparison.notes == [
        "tile: the runs saw different pictures, labels or masks, so they count as 2 data sets "
        "(tile: seed=0, tile: seed=1; tile: seed=2)."
    ]
    assert [mean.figures for mean in comparison.seed_means] == [{"image_auroc": pytest.approx(0.71)}]
    assert comparison.best == {"image_auroc": ["tile: seed=1"]}


@pytest.mark.parametrize(
    ("contents", "root", "repeats"),
    [
        ((None, None), "/data/mvtec", True),
        ((None, "one"), "/data/mvtec", True),
        (("one", "one"), "/elsewhere", True),
        (("one", "other"), "/data/mvtec", False),
    ],
)
def test_runs_repeat_each_other_where_no_content_speaks_against_it(tmp_path, contents, root, repeats):
    first = write_run(tmp_path / "a", contents=contents[0], metrics={"image_auroc": 0.9})
    second = write_run(tmp_path / "b", contents=contents[1], metrics={"image_auroc": 0.8}, settings={"data.root": root})
    assert (compared([first, second]).rows[1].repeats is not None) == repeats


@pytest.mark.parametrize(
    ("contents", "roots", "repeats"),
    [
        ((None, "one", "other"), "aaa", (None, None, None)),
        ((None, "one", "one"), "aab", (None, "a", "a")),
        (("one", "one", None), "aba", (None, "a", "a")),
    ],
)
def test_a_run_that_does_not_know_what_its_pictures_held_goes_with_those_that_agree(tmp_path, contents, roots, repeats):
    names = ("a", "b", "c")
    runs = [
        write_run(
            tmp_path / name,
            contents=held,
            scored=held,
            settings={"data.root": root},
            metrics={"image_auroc": 0.9 - number / 10},
        )
        for number, (name, held, root) in enumerate(zip(names, contents, roots, strict=True))
    ]
    found = [row.repeats and row.repeats.rpartition("/")[2] for row in compared(runs).rows]
    assert tuple(found) == repeats


@pytest.mark.parametrize(
    ("tables", "repeats"), [(("a", "a"), True), (("a", "b"), False), (("none", "b"), False), ((None, "b"), True)]
)
def test_runs_that_were_evaluated_with_other_tables_of_saturated_defects_are_not_the_same(tmp_path, tables, repeats):
    runs = [write_run(tmp_path / str(n), contents="one", saturation=table) for n, table in enumerate(tables)]
    rows = compared(runs).rows
    assert (rows[1].repeats is not None) == repeats


@pytest.mark.parametrize(("limits", "repeats"), [((None, 5), True), ((5, 5), True), ((6, 5), False)])
def test_a_limit_of_pixels_that_older_notes_do_not_tell_keeps_no_run_from_being_the_same(tmp_path, limits, repeats):
    runs = [
        write_run(tmp_path / str(n), contents="one", settings={"data.max_image_pixels": limit} if limit else {})
        for n, limit in enumerate(limits)
    ]
    assert (compared(runs).rows[1].repeats is not None) == repeats
