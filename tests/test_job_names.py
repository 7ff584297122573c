"""Run directories of a sweep are called after the values that differ, so that a sweep that grows finds what it has."""

import re

import forked
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from us_anomaly.cli.job_names import MAX_BYTES, job_name, name_jobs

QUOTED = r"^(['\"]?)([\w.+-]+)\1$"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["data=demo", "seed=1"], "seed-1"),
        (["students.steps=100", "seed=1"], "students.steps-100_seed-1"),
        (["students.hard_fraction=0.1"], "hard_fraction-0.1"),
        (["students.steps=1", "teacher.steps=2"], "students.steps-1_teacher.steps-2"),
        (["scales=[17,33]"], "scales-17-33"),
        (["scales=[17, 33]"], "scales-17-33"),
        (["experiment=fast"], "experiment-fast"),
        (["seed=0", "data.category=bottle"], "bottle_seed-0"),
        (["data.category=bottle"], "bottle"),
        (["data.category=.."], "category-.."),
        (["data.category=-x"], "category--x"),
        (['data.category="1e3"'], "1e3"),
        (["students.learning_rate=1e-3"], "students.learning_rate-1e-3"),
        (["split.ratios=70-15-15"], "ratios-70-15-15"),
        (["data@here=demo"], None),
        (["+hydra.x=1"], "x-1"),
        (["data=demo"], "4"),
        ([], "4"),
    ],
)
def test_a_job_is_called_after_its_category_and_what_differs(overrides, name):
    found = job_name(["data=demo"], 4, overrides)
    assert found == name if name is not None else re.fullmatch(r"data-here-\w{6}-demo", found)


def test_a_category_that_all_jobs_share_is_named_and_other_values_are_not():
    shared = ["data.category=bottle", "seed=1", "scales=[17,33]"]
    assert job_name(shared, 0, [*shared, "students.steps=4"]) == "bottle_students.steps-4"


def test_values_that_look_alike_in_a_name_are_told_apart():
    alike = ["/a/b", "/a-b", "a:b", "${x}", "a b", "ab", "'a  b'", "a-b", '"a,b"', "[a b]"]
    for key in ("data.root", "data.category"):
        names = {job_name([], 0, [f"{key}={value}"]) for value in alike}
        assert len(names) == len(alike)
        assert all(re.fullmatch(r"[\w.-]+", name) for name in names)


@pytest.mark.parametrize("letter", ["x", "深", "é"])
def test_names_that_are_too_long_for_a_folder_end_in_a_digest(letter):
    names = [job_name([], 0, [f"teacher.checkpoint={letter * 300}{end}"]) for end in "ab"]
    assert names[0] != names[1]
    assert all(len(name.encode()) <= MAX_BYTES + 7 for name in names)


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_name_is_one_folder_that_needs_no_quotes(value, other):
    name, another = (job_name([], 0, [f"data.category={one}", f"a.b={one}"]) for one in (value, other))
    assert re.fullmatch(r"[\w.+-]+", name)
    assert name not in (".", "..")
    assert not name.startswith("-")
    assert (name == another) == (re.sub(QUOTED, r"\2", value) == re.sub(QUOTED, r"\2", other))


@pytest.mark.parametrize(
    ("typed", "jobs"),
    [
        (["data=demo", "seed=0,1"], {"seed-0": ["data=demo", "seed=0"], "seed-1": ["data=demo", "seed=1"]}),
        (["scales=[17, 33]", "seed=range(2)"], {"seed-1": ["scales=[17,33]", "seed=1"]}),
        (['data.root="a, b"'], {"0": ['data.root="a, b"']}),
        (["data=demo"], {"seed-3": ["data=demo", "seed=3"]}),  # swept by hydra.sweeper.params
    ],
)
def test_what_was_typed_with_one_value_is_in_no_name(typed, jobs):
    name_jobs(typed)
    for name, overrides in jobs.items():
        config = OmegaConf.create({"task": overrides, "folder": "${usad_job:0,${task}}"})
        assert config.folder == name


def test_a_sweep_that_grows_keeps_what_it_has(parts, tmp_path):
    common = ["split", "-m", "data=folder", f"data.root={parts}", "run_dir=run", "split.ratios=70-15-15"]
    assert forked.run(forked.USAD, *common, "seed=0,1", cwd=tmp_path).returncode == 0
    before = (tmp_path / "run-sweep/seed-1/split.jsonl").stat().st_mtime_ns
    again = forked.run(forked.USAD, *common, "seed=2,1", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    folders = {path.name for path in (tmp_path / "run-sweep").iterdir() if path.is_dir()}
    assert folders == {"seed-0", "seed-1", "seed-2"}
    assert (tmp_path / "run-sweep/seed-1/split.jsonl").stat().st_mtime_ns == before
