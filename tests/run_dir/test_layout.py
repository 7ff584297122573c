import string
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.layout import is_inside


@pytest.mark.parametrize(
    "name", ["a", "maps/a.tiff", "a..b/c", "..a", "...", "maps/12:30:15.tiff", "mit Leerzeichen/ü"]
)
def test_names_below_the_folder_are_inside(name):
    assert is_inside(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "/etc/passwd",
        "//host/x",
        "C:\\x",
        "C:x",
        "\\\\host\\x",
        "a\\..\\..\\x",
        "a\0b",
    ],
)
def test_names_that_could_lead_elsewhere_are_not_inside(name):
    assert not is_inside(name)


@given(st.text(alphabet="ab./\\:" + string.digits, max_size=12))
def test_what_is_inside_never_leaves_the_folder(name):
    if is_inside(name):
        resolved: list[str] = []
        for part in PurePosixPath(name).parts:
            assert part != ".."
            resolved.append(part)
        assert resolved
        assert not name.startswith("/")


def test_names_of_artifacts_are_relative_with_forward_slashes():
    run_dir = RunDir(Path("runs") / "demo")
    assert run_dir.name_of(run_dir.teacher(33)) == "p33/teacher.pt"
    assert run_dir.provenance(run_dir.teacher(33)) == Path("runs/demo/provenance/p33/teacher.pt.json")
    assert run_dir.training_state(run_dir.teacher(33)) == Path("runs/demo/p33/teacher.resume.pt")


def test_every_artifact_has_a_name_of_its_own(tmp_path):
    run_dir = RunDir(tmp_path)
    paths = [getattr(run_dir, name) for name, kind in vars(RunDir).items() if isinstance(kind, property)]
    single = [path for path in paths if isinstance(path, Path)]
    for size in (17, 33, 65):
        single += [run_dir.teacher(size), run_dir.students(size), run_dir.teacher_statistics(size)]
        single += [run_dir.position_statistics(size)]
    assert len(set(single)) == len(single)
