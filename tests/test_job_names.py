"""Run directories of a sweep are called after the values that differ, so that a sweep that grows finds what it has."""

import re

import forked
import pytest
from hypothesis import given
from hypothesis import strategies as st

from us_anomaly.cli.job_names import MAX_LENGTH, job_name, swept_keys


@pytest.mark.parametrize(
    ("swept", "overrides", "name"),
    [
        (["seed"], ["data=demo", "seed=1"], "seed-1"),
        (["students.steps", "seed"], ["seed=1", "students.steps=100"], "steps-100_seed-1"),
        (
            ["students.steps", "teacher.steps"],
            ["students.steps=1", "teacher.steps=2"],
            "students.steps-1_teacher.steps-2",
        ),
        (["scales"], ["scales=[17, 33]"], "scales-17-33"),
        (["experiment"], ["experiment=fast", "students.steps=4"], "experiment-fast"),
        (["data.category", "seed"], ["seed=0", "data.category=bottle"], "bottle_seed-0"),
        (["seed", "data.category"], ["seed=0", "data.category=bottle"], "bottle_seed-0"),
        ([], ["data.category=bottle", "seed=0"], "bottle"),
        (["students.learning_rate"], ["students.learning_rate=1e-3"], "learning_rate-1e-3"),
        (["split.ratios"], ["split.ratios='70-15-15'"], "ratios-70-15-15"),
        ([], ["data=demo"], "4"),
        (["seed"], [], "4"),
    ],
)
def test_a_job_is_called_after_its_category_and_what_differs(swept, overrides, name):
    assert job_name(swept, 4, overrides) == name


def test_values_that_look_alike_in_a_name_are_told_apart():
    names = {job_name(["data.root"], 0, [f"data.root={path}"]) for path in ("/a/b", "/a-b", "a:b", "${x}")}
    assert len(names) == 4
    assert all(re.fullmatch(r"root-[\w-]+", name) for name in names)


def test_names_that_are_too_long_for_a_folder_end_in_a_digest():
    long = "x" * 300
    names = [job_name(["teacher.checkpoint"], 0, [f"teacher.checkpoint={long}{end}"]) for end in "ab"]
    assert names[0] != names[1]
    assert all(len(name) <= MAX_LENGTH + 7 for name in names)


@given(st.text(min_size=1))
def test_every_name_is_one_folder_that_needs_no_quotes(value):
    name = job_name(["data.category", "a.b"], 0, [f"data.category={value}", f"a.b={value}"])
    assert re.fullmatch(r"[\w.+-]+", name)
    assert name not in (".", "..")
    assert not name.startswith("-")


def test_swept_keys_are_those_with_several_values():
    given_ = [
        "data=demo",
        "seed=0,1",
        "scales=[17],[33]",
        "students.steps=range(1,3)",
        "split.ratios=70-15-15",
        "image_size=64",
    ]
    assert swept_keys(given_) == ["seed", "scales", "students.steps"]
    assert swept_keys(["seed=0,1", "broken=["]) == []


def test_a_sweep_that_grows_keeps_what_it_has(parts, tmp_path):
    common = ["split", "-m", "data=folder", f"data.root={parts}", "run_dir=run"]
    assert forked.run(forked.USAD, *common, "seed=0,1", cwd=tmp_path).returncode == 0
    before = (tmp_path / "run-sweep/seed-1/split.jsonl").stat().st_mtime_ns
    again = forked.run(forked.USAD, *common, "seed=2,1", "split.ratios=70-15-15", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    folders = {path.name for path in (tmp_path / "run-sweep").iterdir() if path.is_dir()}
    assert folders == {"seed-0", "seed-1", "seed-2"}
    assert (tmp_path / "run-sweep/seed-1/split.jsonl").stat().st_mtime_ns == before
