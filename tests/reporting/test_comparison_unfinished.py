"""Folders without an evaluation are listed with what ended their last command, and with a command that goes on."""

import pytest

from us_anomaly.reporting.comparison_unfinished import FAILED, why_unfinished

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
