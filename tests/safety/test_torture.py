"""SIGKILL at random moments; `scripts/torture` does the same many times over."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torture
from forked import unmeasured
from torture import Tally, contents, damages, differences

SCRIPT = Path(torture.__file__)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_runs_that_are_killed_at_random_moments_end_with_the_same_bytes():
    done = subprocess.run(
        [sys.executable, SCRIPT, "4", "--seed", "3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=unmeasured(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^4 kills: ", done.stdout, re.MULTILINE)
    assert "commands that failed): 0" in done.stdout


def test_the_comparison_sees_every_kind_of_difference(trained, trained_copy):
    assert differences(contents(trained), contents(trained_copy)) == []
    (trained_copy / "calibration.json").write_text("{}")
    (trained_copy / "p33" / "students.pt").unlink()
    (trained_copy / "p33" / "students.resume.pt").write_text("")
    note = trained_copy / "provenance" / "split.jsonl.json"
    note.write_text(note.read_text().replace('"command": "split"', '"command": "other"'))
    assert differences(contents(trained), contents(trained_copy)) == [
        "calibration.json differs",
        "provenance/split.jsonl.json differs",
        "p33/students.pt is missing",
        "p33/students.resume.pt was left behind",
    ]


def test_damage_is_found_in_every_kind_of_artifact(trained_copy):
    assert damages(trained_copy) == []
    for name in ("split.jsonl", "predictions.jsonl", "calibration.json", "evaluation.json", "p33/teacher.pt"):
        path = trained_copy / name
        path.write_bytes(path.read_bytes()[:-20])
    found = damages(trained_copy)
    assert [line.split(" is damaged")[0] for line in found] == [
        "split.jsonl",
        "predictions.jsonl",
        "calibration.json",
        "evaluation.json",
        "p33/teacher.pt",
    ]


def test_a_list_that_vouches_for_missing_maps_is_found(trained_copy):
    next((trained_copy / "maps").rglob("*.tiff")).unlink()
    (trained_copy / "split.jsonl").unlink()
    assert sorted(damages(trained_copy)) == [
        "predictions.jsonl vouches for files that are not there",
        "split.jsonl is described but missing",
    ]


def test_the_tally_counts_kills_by_stage_and_names_every_fault():
    tally = Tally()
    tally.kills.update({"start": 2, "infer": 1})
    tally.kills_per_run += [1, 2]
    tally.faults.append("after kill 3: calibration.json differs")
    assert tally.lines() == [
        "3 kills: start 2, infer 1",
        "2 runs finished, after 1 to 2 kills each",
        "faults (files that differ from the undisturbed run, are damaged or left behind; commands that failed): 1",
        "  after kill 3: calibration.json differs",
    ]
