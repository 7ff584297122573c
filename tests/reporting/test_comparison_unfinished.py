"""Folders without an evaluation are listed with what ended their last command, and with a command that goes on."""

import json
import os
import time

import pytest
from compared_runs import rewrite_note, write_run

from us_anomaly.reporting.comparison_unfinished import FAILED, left_undone, why_unfinished

BEGUN = "2026-01-02 03:04:05,678 INFO us_anomaly.commands.run: [1/8] split\n"
ERROR = "2026-01-02 03:04:05,678 ERROR us_anomaly.cli.execution: "
UNKNOWN = (
    "it has no evaluation.json and no note of a failure: it is at work or was killed; type its whole command again"
)


def logged(folder, text):
    (folder / ".hydra/run").mkdir(parents=True)
    (folder / ".hydra/run/log.txt").write_text(text)
    return why_unfinished(folder)


def failure(command, reason):
    return f"{BEGUN}{ERROR}{FAILED % (command, reason)}\n"


def test_the_reason_and_the_command_are_told(tmp_path):
    command = f"usad run data=mvtec 'data.root=\"a, b\"' ++seed=1 run_dir={tmp_path}"
    assert logged(tmp_path, failure(command, "the disk is full")) == (
        f"it did not finish: the disk is full; to go on: {command}"
    )


def test_of_many_broken_pictures_the_first_is_told_and_how_many_follow(tmp_path):
    told = logged(
        tmp_path, failure(f"usad run run_dir={tmp_path}", "pictures cannot be used:\n  a.png: no PNG\n  b.png\n  c.png")
    )
    assert told == (
        f"it did not finish: pictures cannot be used: a.png: no PNG (and 2 more); to go on: usad run run_dir={tmp_path}"
    )


def test_a_failure_from_before_the_last_command_is_not_told(tmp_path):
    assert logged(tmp_path, failure("usad run data.root=x", "the disk is full") + BEGUN) == UNKNOWN


def test_a_picture_that_was_looked_at_tells_nothing(tmp_path):
    assert logged(tmp_path, failure("usad infer run_dir=x 'inference.input=\"y z.png\"'", "no picture")) == UNKNOWN


def test_a_run_directory_that_remembers_its_settings_needs_no_more(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/made_with.json").touch()
    assert why_unfinished(tmp_path) == f"it has no evaluation.json: `usad run run_dir={tmp_path}` goes on"


@pytest.mark.parametrize(
    "command",
    [
        "usad run data.root=x; rm -rf .",
        "usad run hydra.callbacks.x._target_=os.mkdir",
        "usad run +hydra/launcher=evil",
        "usad run --config-dir=evil data.root=x",
        "usad -m data.root=x",
        "usad run data.root=\x1b[31m",
        "usad run 'data.root=x",
        "usad run; data.root=x",
        "usad run run_dir={folder} overwrite=true",
        "usad run run_dir={folder} cache_dir=/etc",
        "usad run run_dir={folder} +data.allow_outside_root=true",
        "usad run run_dir={folder} tracking.directory=/etc",
        "usad run run_dir={folder}/precious",
    ],
)
def test_no_command_is_offered_that_a_stranger_may_have_written(tmp_path, command):
    told = logged(tmp_path, failure(command.replace("{folder}", str(tmp_path)), "a\x1b[31m\x07b"))
    assert told == "it did not finish: a?[31m?b; type its whole command again to go on"


REFUSED = "p33/students.pt was made from something else"


@pytest.fixture
def evaluated(tmp_path):
    """A run whose figures are of noon."""
    run = write_run(tmp_path / "tile")
    rewrite_note(run, "evaluation.json", made_at="2026-01-02T12:00:00+0100")
    return run


def log(run, command, when, *, text=None):
    """Append what a command wrote last: a failure, or `text`."""
    folder = run / ".hydra" / command.split()[1]
    folder.mkdir(parents=True, exist_ok=True)
    failed = f"ERROR us_anomaly.cli.execution: {FAILED % (command, REFUSED)}"
    with (folder / "log.txt").open("a") as file:
        file.write(f"2026-01-02 {when},678+0100 {text or failed}\n")


def lock(run, command, since):
    owner = {"pid": 1, "host": "node7", "boot_id": None, "since": since, "command": command}
    (run / ".lock").write_text(json.dumps(owner))


def test_a_command_that_failed_after_the_figures_were_made_is_told(evaluated):
    log(evaluated, "usad run run_dir=x students.steps=8000", "12:00:07")
    assert left_undone(evaluated) == f"its last command failed after these figures were made ({REFUSED})"


@pytest.mark.parametrize(
    "command", ["usad export run_dir=x", "usad report run_dir=x", "usad infer run_dir=x inference.input=a.png"]
)
def test_a_failure_that_is_none_of_the_figures_is_not_told(evaluated, command):
    log(evaluated, command, "12:00:07")
    lock(evaluated, command, "2026-01-02 12:00:09+0100")
    assert left_undone(evaluated) is None


@pytest.mark.parametrize("command", ["report", "infer", "split"])
def test_what_succeeds_without_making_figures_hides_no_failure(evaluated, command):
    log(evaluated, "usad run run_dir=x", "12:00:07")
    log(evaluated, f"usad {command} run_dir=x", "12:00:09", text="INFO us_anomaly.commands: done")
    assert left_undone(evaluated) is not None


def test_a_picture_that_cannot_be_looked_at_hides_no_failure(evaluated):
    log(evaluated, "usad run run_dir=x", "12:00:07")
    log(evaluated, "usad infer run_dir=x inference.input=a.png", "12:00:09")
    assert left_undone(evaluated) is not None


@pytest.mark.parametrize(("stage", "is_told"), [("[8/8] report", False), ("[7/8] evaluate", True)])
def test_figures_of_a_run_that_failed_in_its_report_are_its_own(evaluated, stage, is_told):
    log(evaluated, "usad run run_dir=x", "12:00:01", text=f"INFO us_anomaly.commands.run: {stage}")
    log(evaluated, "usad run run_dir=x", "12:00:07")
    assert (left_undone(evaluated) is not None) == is_told


@pytest.mark.parametrize(("offset", "is_told"), [("+0000", True), ("+0200", False)])
def test_machines_of_one_disk_may_have_several_time_zones(evaluated, offset, is_told):
    folder = evaluated / ".hydra/run"
    folder.mkdir(parents=True)
    failed = f"ERROR us_anomaly.cli.execution: {FAILED % ('usad run run_dir=x', REFUSED)}"
    (folder / "log.txt").write_text(f"2026-01-02 12:30:00,678{offset} {failed}\n")
    assert (left_undone(evaluated) is not None) == is_told


def test_a_failure_from_before_the_figures_is_not_told_whatever_the_times_of_the_files(evaluated):
    log(evaluated, "usad evaluate run_dir=x", "11:59:59", text="INFO us_anomaly.commands.stage: evaluated")
    log(evaluated, "usad run run_dir=x", "11:59:07")
    os.utime(evaluated / ".hydra/evaluate/log.txt", (0, 0))  # as a copy may have them
    assert left_undone(evaluated) is None


def test_a_command_that_ended_well_after_a_failure_is_the_last_one(evaluated):
    log(evaluated, "usad run run_dir=x", "12:00:07")
    log(evaluated, "usad evaluate run_dir=x", "12:00:09", text="INFO us_anomaly.commands.stage: up to date")
    assert left_undone(evaluated) is None


def test_a_command_that_is_at_work_or_was_killed_is_told(evaluated):
    lock(evaluated, "usad run overwrite=true run_dir=x", "2026-01-02 12:00:07+0100")
    assert left_undone(evaluated) == (
        "a command has begun there since these figures were made, and is at work or was killed"
    )
    lock(evaluated, "usad run overwrite=true run_dir=x", "2026-01-02 11:59:59+0100")  # it has made them
    assert left_undone(evaluated) is None


@pytest.mark.parametrize(("seconds", "is_told"), [(-60, False), (60, True)])
def test_where_no_note_says_when_the_figures_were_made_their_file_does(tmp_path, seconds, is_told):
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / ".hydra/run").mkdir(parents=True)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + seconds))
    failed = FAILED % ("usad run run_dir=x", "the disk is full")
    (tmp_path / ".hydra/run/log.txt").write_text(f"{when},678 ERROR us_anomaly.cli.execution: {failed}\n")
    assert (left_undone(tmp_path) is not None) == is_told
