"""The README: its commands are run (on fewer and smaller pictures), its examples read, its links followed."""

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import forked
import pytest

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
LEFT_OUT = "no-run"
"""Word behind the language of a block whose commands need what a test has not: a network, a data set, minutes."""

SMALL = [
    "data.image_side_px=48",
    "data.num_train=8",
    "data.num_test_normal=3",
    "data.num_test_anomalous=4",
    "image_size=48",
    "teacher.checkpoint=null",
    "teacher.steps=2",
    "teacher.batch_size=1",
    "teacher.crop_size_px=48",
    "teacher.descriptor_dim=4",
    "teacher.width=0.1",
    "students.steps=2",
    "students.batch_size=1",
    "scoring.stride_px=4",
    "evaluation.bootstrap_samples=10",
    "runtime.num_threads=1",
]
RUN_ALL = """
import json, os, sys
from us_anomaly import cli
commands, python = json.load(sys.stdin)
for arguments in commands:
    os.environ.pop("HYDRA_FULL_ERROR", None)
    sys.argv = ["usad", *arguments]
    code = cli._main(arguments)
    if code != 0:
        sys.exit(f"usad {' '.join(arguments)} ended with {code}")
exec(compile(python, "README.md", "exec"))
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of the README."""

    language: str
    is_run: bool
    text: str

    @property
    def commands(self):
        """The arguments of each line."""
        return [arguments for line in self.text.splitlines() if (arguments := shlex.split(line, comments=True))]


def blocks(*languages):
    fences = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [Block(language, LEFT_OUT not in words, text) for language, words, text in fences if language in languages]


def usad_commands(*, run):
    return [
        arguments[1:]
        for block in blocks("bash")
        if block.is_run == run
        for arguments in block.commands
        if arguments[0] == "usad"
    ]


def made_small(arguments):
    """Let a command look at fewer and smaller pictures."""
    if "data=demo" not in arguments:
        return arguments
    position = arguments.index("data=demo") + 1
    return [*arguments[:position], *SMALL, *arguments[position:]]


def test_its_commands_run_in_the_order_in_which_they_stand(tmp_path):
    commands = usad_commands(run=True)
    assert [arguments[0] for arguments in commands[:8]] == [
        "split",
        "distill-teacher",
        "normalize",
        "train-students",
        "calibrate",
        "infer",
        "evaluate",
        "report",
    ]
    (python,) = [block.text for block in blocks("python") if block.is_run]
    smaller = [made_small(arguments) for arguments in commands]
    result = forked.run(RUN_ALL, input=json.dumps([smaller, python]), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in ("split.jsonl", "evaluation.json", "report/index.html", "inference"):
        assert (tmp_path / "runs/demo" / name).exists()
    assert (tmp_path / "comparison.md").is_file()
    assert result.stdout.splitlines()[-1] == "(128, 128) (128, 128)"


def written_by_hand(folder):
    """Write the experiment that the README shows to where it says."""
    (path,) = re.findall(r"`(my_configs/experiment/\w+\.yaml)`", README)
    (text,) = [block.text for block in blocks("yaml")]
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(text)


def test_commands_that_are_not_run_have_settings_that_exist(tmp_path):
    commands = usad_commands(run=False)
    assert len(commands) >= 5
    written_by_hand(tmp_path)
    asked = []
    for arguments in commands:
        values = [value for value in arguments[1:] if value not in ("-m", "data.category=all")]
        assert (len(values) < len(arguments) - 1) == ("-m" in arguments)
        asked.append([arguments[0], "--cfg", "job", *values])
    result = forked.run(RUN_ALL, input=json.dumps([asked, ""]), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "num_students: 5" in result.stdout  # of the experiment


TRAPS = {
    "'data.root=\"~/parts, new (2)\"'": lambda settings: (
        settings.data.root == str(Path("~/parts, new (2)").expanduser())
    ),
    "'scales=[17,33,65]'": lambda settings: settings.scales == [17, 33, 65],
    "students.steps=null": lambda settings: settings.students.steps is None,
    "'teacher.images={train:0.3,generic:0.7}'": lambda settings: (
        settings.teacher.images == {"train": 0.3, "generic": 0.7}
    ),
    "'inference.input=${data.root}/new'": lambda settings: settings.inference.input == "x/new",
    "data=csv": lambda settings: settings.data.name == "csv",
}


@pytest.mark.parametrize("typed", TRAPS)
def test_what_it_says_about_the_grammar_holds(compose, typed):
    assert f"`{typed}`" in README
    more = ["scoring.normalization=zscore"] if "scales" in typed else []
    settings = compose("run", "data.root=x", *shlex.split(typed), *more)
    assert TRAPS[typed](settings)


def test_every_link_and_picture_is_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    local = [target for target in targets if not target.startswith("http")]
    assert len(local) > 4
    assert [target for target in local if not (CHECKOUT / target).exists()] == []


def test_every_file_that_it_names_is_there():
    named = re.findall(r"`((?:scripts|us_anomaly|configs|docs)/[\w./-]+)`", README)
    named += [
        word for block in blocks("bash") for arguments in block.commands for word in arguments if "scripts/" in word
    ]
    assert len(named) > 5
    assert [name for name in named if not (CHECKOUT / name).exists()] == []
    assert all(os.access(CHECKOUT / name, os.X_OK) for name in named if name.startswith("scripts/"))


def test_every_setting_that_it_names_exists():
    from us_anomaly.settings import GROUPS, Settings
    from us_anomaly.settings.documentation import explain

    keys = {entry.key for entry in explain(Settings, groups=GROUPS)}
    groups = {key.partition(".")[0] for key in keys}
    named = {match for match in re.findall(r"`'?([a-z_]+\.[a-z_]+)[=`]", README) if match.partition(".")[0] in groups}
    named = {name for name in named if not name.endswith((".json", ".jsonl", ".pt"))}
    assert len(named) > 8
    assert named - keys == set()


def test_it_is_short_enough_to_be_read():
    assert README.count("\n") < 250
