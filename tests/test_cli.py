"""The command line, as a process: what it prints, how it exits, and what it says about mistakes."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import weakref
from pathlib import Path

import forked
import pytest
import yaml
from conftest import draw_parts, files_below
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st

from us_anomaly import __version__, cli
from us_anomaly.cli import ALIASES, COMMANDS, expand_categories, one_line, overview, register_schemas
from us_anomaly.cli.arguments import is_sweep
from us_anomaly.cli.messages import quoted
from us_anomaly.errors import DataError, TrainingError
from us_anomaly.reporting.comparison_unfinished import why_unfinished
from us_anomaly.run_dir.interruption import Interrupted

START = "import sys; sys.argv[0] = 'usad'; from us_anomaly.cli import main; main()"
SCRIPT = Path(sysconfig.get_path("scripts")) / "usad"
MAX_CPU_SECONDS = 0.5


def usad(*arguments, cwd, **variables):
    """Run `usad` as a process of its own."""
    command = [str(SCRIPT)] if SCRIPT.is_file() else [sys.executable, "-c", START]
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


# --- quick answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",), ("--version",)])
def test_help_and_version_take_less_than_half_a_second_of_the_processor(tmp_path, arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = usad(*arguments, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (f"usad {__version__}\n" if arguments == ("--version",) else overview() + "\n")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MAX_CPU_SECONDS
    assert list(tmp_path.iterdir()) == []


def test_what_answers_quickly_imports_no_arrays():
    code = "import sys, us_anomaly.cli; print(sorted({'numpy', 'PIL', 'torch'} & sys.modules.keys()))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"


def test_the_overview_names_every_command_with_what_it_does():
    lines = overview().splitlines()
    for name, command in COMMANDS.items():
        assert any(line.split() == [name, *command.summary.split()] for line in lines)


RUN_ALL = """
import contextlib, io, json, os, sys
from us_anomaly import cli
answers = []
for arguments, variables in json.load(sys.stdin):
    os.environ.pop("HYDRA_FULL_ERROR", None)
    os.environ.update(variables)
    sys.argv = ["usad", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli._main(arguments)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = repr(error)
    answers.append([code, out.getvalue(), err.getvalue(), "torch" in sys.modules])
print(json.dumps(answers))
"""

MISTAKES = {
    "unknown command": (["bogus"], "usad: there is no command 'bogus'; `usad --help` lists them"),
    "near command": (
        ["trian-students"],
        "usad: there is no command 'trian-students', did you mean 'train-students'?; `usad --help` lists them",
    ),
    "missing value": (
        ["split"],
        "usad: `data.root` is not set: add data.root=..., or run_dir= of a run directory that remembers it; "
        "there is no runs/folder",
    ),
    "run directory without a value": (
        ["split", "data.root=x", "run_dir=???"],
        "usad: `run_dir` is not set: add run_dir=...",
    ),
    "run directory from a variable that is not set": (
        ["split", "data.root=x", "run_dir=${oc.env:USAD_NO_SUCH}/x"],
        "usad: `run_dir`: Environment variable 'USAD_NO_SUCH' not found",
    ),
    "run directory of an unknown user": (
        ["split", "data.root=x", "run_dir='~nosuchuser/x'"],
        "usad: `run_dir`: there is no user of that name, got '~nosuchuser/x'",
    ),
    "unknown key": (
        ["split", "data.root=x", "teacher.learning_rte=1"],
        "usad: `teacher.learning_rte` is not a setting, did you mean `teacher.learning_rate`?; "
        "`usad COMMAND --cfg job` shows all of them",
    ),
    "unknown key of a layout": (
        ["split", "data.rot=x"],
        "usad: `data.rot` is not a setting, did you mean `data.root`?;",
    ),
    "added key": (["split", "data.root=x", "+bla=1"], "usad: `bla` is not a setting; `usad COMMAND --cfg job` shows"),
    "added key of a group": (
        ["split", "data.root=x", "+teacher.steeps=1"],
        "usad: `teacher.steeps` is not a setting, did y",
    ),
    "wrong type": (
        ["split", "data.root=x", "seed=abc"],
        "usad: `seed`: Value 'abc' of type 'str' could not be converted to",
    ),
    "an interpolation that does not fit": (
        ["split", "data.root=x", "seed=${run_dir}"],
        "usad: `seed`: Value 'runs/folder' of type 'str' could not be converted to Integer",
    ),
    "an interpolation that leads nowhere": (
        ["split", "data.root=x", "seed=${nothing.there}"],
        "usad: `seed`: Interpolation key 'nothing.there' not found",
    ),
    "a variable that is not set": (
        ["split", "data.root=${oc.env:USAD_NOT_SET}"],
        "usad: `data.root`: Environment variable 'USAD_NOT_SET' not found",
    ),
    "wrong type of a group": (["split", "data.root=x", "students.steps=1.5"], "usad: `students.steps`: Value '1.5'"),
    "wrong choice": (
        ["split", "data.root=x", "runtime.precision=float16"],
        "usad: `runtime.precision`: Invalid value 'float16', expected one of [auto, float32, bfloat16]",
    ),
    "out of range": (["split", "data.root=x", "seed=-1"], "usad: `seed` must be at least 0, got -1"),
    "out of range of a group": (
        ["run", "data.root=x", "students.hard_fraction=2"],
        "usad: `students.hard_fraction` must be between 0 and 1, got 2",
    ),
    "unknown layout": (
        ["split", "data=foo"],
        "usad: Could not find 'data/foo'. Available options in 'data': btad csv demo",
    ),
    "unknown backbone": (
        ["run", "data.root=x", "backbone=resnet19"],
        "usad: Could not find 'backbone/resnet19'. Available",
    ),
    "no option of a layout": (
        ["split", "data=3", "data.root=x"],
        "usad: `data=3` must name one of btad, csv, demo, folder, kolektor_sdd, mvtec, mvtec_loco, visa; leave it out for",
    ),
    "no option of an experiment in a sweep": (
        ["run", "-m", "data=demo", "experiment=fast,null"],
        "usad: `experiment=fast,null` must name one of accurate, as_described, fast,",
    ),
    "null": (
        ["split", "data.root=x", "teacher.epochs=null"],
        "usad: `teacher.epochs` cannot be null; `usad help teacher.epochs` says what it means\n",
    ),
    "an option that a package brings": (
        ["split", "-m", "data=demo", "hydra/launcher=submitit_slurm"],
        "usad: Could not find 'hydra/launcher/submitit_slurm'. Available options in 'hydra/launcher': basic; pip install "
        "hydra-submitit-launcher brings it\n",
    ),
    "several inputs": (
        ["infer", "data=demo", "inference.input=a.png,b.png"],
        "usad: `inference.input=a.png,b.png` has a comma: `inference.input` takes one file, folder or glob; if the comma is",
    ),
    "two sides without brackets": (
        ["split", "data.root=x", "image_size=48,96"],
        "usad: `image_size=48,96` has several values; add -m to run one job for each, write a list as image_size=[a,b], or",
    ),
    "a path alone": (
        ["infer", os.sep],
        f"usad: `{os.sep}` is not key=value; did you mean inference.input={os.sep}, or data.root={os.sep}?\n",
    ),
    "a run directory alone": (
        ["infer", "runs/cc"],
        "usad: `runs/cc` is not key=value; did you mean run_dir=runs/cc?\n",
    ),
    "decimal comma": (
        ["calibrate", "data.root=x", "calibration.threshold=5,5"],
        "usad: `calibration.threshold=5,5` has a comma: numbers have a point, calibration.threshold=5.5; if several values are "
        "meant, add -m to run one job for each\n",
    ),
    "decimal comma of a number that may be null": (
        ["split", "data.root=x", "teacher.max_gradient_norm=-1,5e-3"],
        "usad: `teacher.max_gradient_norm=-1,5e-3` has a comma: numbers have a point, teacher.max_gradient_norm=-1.5e-3; if",
    ),
    "whole numbers with a comma": (
        ["split", "data.root=x", "seed=1,5"],
        "usad: `seed=1,5` has several values; add -m to run one job for each, or, if it is one text, quote special",
    ),
    "names with a comma where a number can stand": (
        ["split", "data.root=x", "calibration.threshold=f1,quantile"],
        "usad: `calibration.threshold=f1,quantile` has several values; add -m",
    ),
    "spaces around the sign": (
        ["split", "data.root=x", "leather"],
        "usad: `leather` is not key=value; no spaces around `=`, and quotes around a value that has some\n",
    ),
    "a place in a list": (
        ["split", "augmentation.students[0].params.size=[9,9]"],
        "usad: `augmentation.students[0].params.size=[9,9]` is not key=value: the place in a list is written with a dot, "
        "augmentation.students.0.params.size=...\n",
    ),
    "a setting with dashes": (
        ["split", "--data=folder"],
        "usad: there is no flag --data; settings have no dashes: data=folder\n",
    ),
    "a setting of other commands": (
        ["compare", "x", "seed=3"],
        "usad: `seed` is not a setting of this command; `usad COMMAND --cfg job` shows those that are\n",
    ),
    "another network": (
        ["split", "data=demo", "backbone=resnet50"],
        "usad: Could not find 'backbone/resnet50'. Available options in 'backbone': efficientnet_lite0 resnet18 timm; other "
        "networks of torchvision: backbone.name=resnet50\n",
    ),
    "no list": (["split", "data.root=x", "scales=33"], "usad: `scales` is a list, as in scales=[a,b]\n"),
    "no value": (
        ["split", "data.root"],
        "usad: `data.root` is not key=value; no spaces around `=`, and quotes around a value that has some\n",
    ),
    "open bracket": (
        ["split", "data.root=[a"],
        "usad: `data.root=[a` is not key=value (no viable alternative at input '[a",
    ),
    "tilde": (
        ["split", "data.root=~/x"],
        "usad: `data.root=~/x` is not key=value; quote special characters, as in 'data.root=\"~/x\"'\n",
    ),
    "commas of a list": (
        ["split", "data.root=x", "scales=33,65"],
        "usad: `scales=33,65` has several values; add -m to run one job for each, write a list as scales=[a,b], or, if it",
    ),
    "umlaut": (
        ["split", "data.root=/größe"],
        "usad: `data.root=/größe` holds letters beyond ASCII, which Hydra reads only in quotes: type 'data.root=\"/größe\"'\n",
    ),
    "comma": (
        ["split", "data.root=/a,b"],
        "usad: `data.root=/a,b` has several values; add -m to run one job for each, or, if it is one text, "
        "quote special characters, as in 'data.root=\"/a,b\"'\n",
    ),
    "configuration of a sweep": (
        ["run", "-m", "data=demo", "--cfg", "job"],
        "usad: -m and --cfg cannot be used together: leave -m or --cfg out\n",
    ),
    "two questions": (
        ["run", "--cfg", "job", "data=demo", "--info"],
        "usad: --cfg and --info cannot be used together: leave --cfg or --info out\n",
    ),
    "settings on both sides of a flag": (
        ["split", "data.root=x", "-m", "seed=0,abc"],
        "usad: `seed`: Value 'abc' of type 'str' could",
    ),
    "no such folder": (["split", "data.root=/no/such/folder"], "usad: data.root=/no/such/folder: it does not exist"),
    "all categories without a sweep root": (
        ["split", "-m", "data=mvtec", "data.root=/no/such/folder", "data.category=all"],
        "usad: data.root=/no/such/folder holds no categories",
    ),
    "wrong type in a sweep": (
        ["split", "-m", "data.root=x", "seed=0,abc"],
        "usad: `seed`: Value 'abc' of type 'str' could",
    ),
    "no run directories": (["compare"], "usad: usad compare needs run directories"),
    "help for an unknown key": (["help", "sed"], "usad: `sed` is not a setting, did you mean `seed`?"),
}
QUESTIONS = {
    "cfg": (["split", "--cfg", "job", "data.root=x", "seed=7"], {}),
    "cfg between settings": (["split", "data.root=x", "--cfg", "job", "seed=7"], {}),
    "cfg of a comparison": (["compare", "a\\b", "--cfg", "job", 'q"x', "output=y"], {}),
    "part of a configuration": (["split", "data.root=x", "-p", "split", "seed=7", "-c", "job"], {}),
    "cfg of a teacher": (["distill-teacher", "--cfg", "job", "data.root=x"], {}),
    "cfg of the alias": (["train-teacher", "--cfg", "job", "data.root=x"], {}),
    "help of a command": (["calibrate", "--help"], {}),
    "help of a key": (["help", "students.hard_fraction"], {}),
    "help of a group": (["help", "checkpoint"], {}),
    "help of a group of files": (["help", "experiment"], {}),
    "help of a choice": (["help", "students.schedule"], {}),
    "help by a word": (["help", "false_positive"], {}),
    "a setting twice": (["split", "--cfg", "job", "data.root=x", "seed=1", "seed=2"], {}),
    "help of everything": (["help", "all"], {}),
    "install completion": (["-sc", "install=bash"], {}),
    "complete commands": (["-sc", "query=bash"], {"COMP_LINE": "usad tr"}),
    "complete a group": (["-sc", "query=bash"], {"COMP_LINE": "usad run back"}),
    "complete an option": (["-sc", "query=bash"], {"COMP_LINE": "usad run backbone="}),
    "complete a key": (["-sc", "query=bash"], {"COMP_LINE": "usad train-teacher teacher.learn"}),
    "complete an unknown command": (["-sc", "query=bash"], {"COMP_LINE": "usad bogus data"}),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What `usad` answers to all mistakes and questions: (code, stdout, stderr) by name, from one process."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "runs/cc/.hydra/split").mkdir(parents=True)
    (folder / "runs/cc/.hydra/split/log.txt").touch()
    asked = {name: (arguments, {}) for name, (arguments, _) in MISTAKES.items()} | QUESTIONS
    result = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(list(asked.values())),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    given = json.loads(result.stdout)
    assert not any(torch_loaded for *_, torch_loaded in given)
    assert not (folder / "outputs").exists()
    return {name: answer[:3] for name, answer in zip(asked, given, strict=True)}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_quotes_it(answers, name):
    code, out, err = answers[name]
    assert (code, out) == (1, "")
    assert err.count("\n") == 1, err
    assert err.startswith(MISTAKES[name][1])


def test_a_mistake_ends_the_process_with_one_and_no_traceback(tmp_path):
    result = usad("split", "data.root=x", "seed=abc", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "usad: `seed`: Value 'abc' of type 'str' could not be converted to Integer\n"


def test_a_developer_can_ask_for_the_traceback(tmp_path):
    result = usad("split", "data.root=x", "seed=abc", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("variable", [None, "0"])
def test_a_command_leaves_no_trace_in_its_process_so_the_next_one_tells_its_mistake_in_one_line(
    monkeypatch, capsys, variable
):
    if variable is None:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    else:
        monkeypatch.setenv("HYDRA_FULL_ERROR", variable)
    monkeypatch.setattr(cli, "faults", [DataError("of a command before")])
    for _ in range(2):
        assert cli._main(["split", "data.root=x", "seed=abc"]) == 1
        assert os.environ.get("HYDRA_FULL_ERROR") == variable
        assert capsys.readouterr().err.startswith("usad: `seed`: Value 'abc'")
    assert cli.faults == []


def test_a_signal_in_whose_place_a_library_puts_an_error_of_its_own_still_ends_the_command_as_a_signal(
    monkeypatch, capsys
):
    def clumsy(name: str, arguments: list[str]) -> list[str]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise UnboundLocalError("cannot access local variable 'f'") from None
        return arguments

    monkeypatch.setattr(cli, "prepared", clumsy)
    monkeypatch.setattr(sys, "argv", ["usad", "split"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 143
    assert capsys.readouterr().err == "usad: stopped by SIGTERM; run the same command again to go on\n"


def test_a_message_of_the_toolkit_is_printed_as_it_is():
    assert one_line(DataError("nothing there")) == "nothing there"


# --- questions ---------------------------------------------------------------------------------------------------


def test_cfg_job_prints_the_configuration_with_what_was_overridden(answers):
    code, out, _ = answers["cfg"]
    content = yaml.safe_load(out)
    assert code == 0
    assert (content["seed"], content["data"]["root"]) == (7, "x")
    assert "hydra" not in content


def test_settings_may_stand_on_both_sides_of_a_flag(answers):
    assert answers["cfg between settings"] == answers["cfg"]
    assert yaml.safe_load(answers["part of a configuration"][1])["mode"] == "auto"


def test_folders_to_compare_are_taken_as_they_are_called_whatever_stands_between(answers):
    content = yaml.safe_load(answers["cfg of a comparison"][1])
    assert (content["runs"], content["output"]) == (["a\\b", 'q"x'], "y")


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1).filter(lambda text: "${" not in text))
def test_a_quoted_text_is_read_as_just_this_text(text):
    override = OverridesParser.create().parse_override(f"key={quoted(text)}")
    assert override.value() == text


def test_train_teacher_is_distill_teacher(answers):
    assert ALIASES == {"train-teacher": "distill-teacher"}
    assert answers["cfg of the alias"] == answers["cfg of a teacher"]


def test_help_of_a_command_says_what_it_does_and_every_setting(answers):
    code, out, _ = answers["help of a command"]
    assert code == 0
    assert out.startswith("usad calibrate: choose thresholds and colours on validation pictures")
    assert "max_false_positive_rate: 0.01" in out


def test_help_of_a_key_or_a_group_gives_the_meaning(answers):
    assert "Only this fraction of the output elements" in answers["help of a key"][1]
    assert answers["help of a group"][1].count("checkpoint.") == 2
    assert answers["help of everything"][1].count("\n") > 200
    assert answers["help of a choice"][1].endswith("One of constant, cosine.\n")
    assert "experiment=accurate\n    the recipe that finds most" in answers["help of a group of files"][1]
    assert "Hardware" not in answers["help of a group of files"][1]
    assert "calibration.max_false_positive_rate\n" in answers["help by a word"][1]


def test_a_setting_that_is_given_twice_is_told(answers):
    code, out, err = answers["a setting twice"]
    assert code == 0
    assert "seed: 2" in out
    assert err == "usad: `seed` is given 2 times; the last one counts\n"


@pytest.mark.parametrize("text", ["students: [\n", "seed: 1\nseed: 2\n"])
def test_a_file_that_is_not_yaml_is_named_with_the_line(tmp_path, text):
    (tmp_path / "experiment").mkdir()
    path = tmp_path / "experiment/bad.yaml"
    path.write_text(text)
    result = usad("split", "--config-dir", str(tmp_path), "data=demo", "experiment=bad", cwd=tmp_path)
    assert result.returncode == 1
    assert re.fullmatch(rf'usad: this is not YAML: .* in "{re.escape(str(path))}", line \d+, .*\n', result.stderr)


def test_an_experiment_without_its_first_line_is_told_which(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/own.yaml").write_text("seed: 1\n")
    result = usad("split", "--config-dir", str(tmp_path), "data=demo", "experiment=own", cwd=tmp_path)
    assert result.stderr == "usad: an experiment of your own must begin with the line `# @package _global_`\n"


def test_commands_groups_options_and_keys_are_completed(answers):
    assert answers["complete commands"][1].split() == [*COMMANDS, *ALIASES]
    assert answers["complete a group"][1].split() == ["backbone.", "backbone="]
    assert answers["complete an option"][1].split() == [
        "backbone=efficientnet_lite0",
        "backbone=resnet18",
        "backbone=timm",
    ]
    assert answers["complete a key"][1].split() == ["teacher.learning_rate="]
    assert answers["complete an unknown command"][:2] == [0, ""]


@pytest.mark.skipif(shutil.which("bash") is None or not SCRIPT.is_file(), reason="needs bash and an installed usad")
def test_bash_completes_a_key_with_what_usad_gives_it_to_install(answers, tmp_path):
    (tmp_path / "install").write_text(answers["install completion"][1])
    ask = (
        ". ./install; COMP_LINE='usad run students.num'; COMP_POINT=21; COMP_WORDS=(usad run students.num); COMP_CWORD=2; "
        "hydra_bash_completion; echo ${COMPREPLY[@]}; complete -p usad"
    )
    result = subprocess.run(
        ["bash", "-c", ask],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.splitlines()[0] == "students.num_students="
    assert "hydra_bash_completion usad" in result.stdout


def test_a_reader_that_stops_early_is_no_fault(tmp_path):
    command = f'{sys.executable} -c "{START}" help all | head -n 1'
    result = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "run_dir\n"
    assert result.stderr == ""


# --- real commands -----------------------------------------------------------------------------------------------


def test_results_go_to_stdout_and_logs_to_stderr_and_to_a_file(parts, tmp_path):
    def split(*overrides):
        arguments = ("split", "data=folder", f"data.root={parts}", f"run_dir={tmp_path}/run", *overrides)
        result = usad(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result

    assert "anomalous" in split().stdout
    again = split()
    assert again.stderr == f"{tmp_path}/run/split.jsonl is up to date\n"
    assert split("runtime.log_level=warning").stderr == ""
    assert {name for name in files_below(tmp_path) if not name.startswith("run/.hydra/")} == {
        "run/split.jsonl",
        "run/provenance/split.jsonl.json",
    }
    assert "is up to date" in (tmp_path / "run/.hydra/split/log.txt").read_text()


def without_notes(folder):
    """The files of a run directory, without the notes of the command line and the insides of the report."""
    names = {name for name in files_below(folder) if not name.startswith(".hydra/")}
    return {"report/**" if name.startswith("report/") else name for name in names}


def test_a_sweep_leaves_a_complete_run_directory_per_job_and_a_failing_job_stops_no_other(tiny, trained, tmp_path):
    overrides = tiny(tmp_path / "run", f"teacher.checkpoint={trained}/p33/teacher.pt", "students.steps=1")
    others = [override for override in overrides if not override.startswith("students.num")]
    result = forked.run(
        forked.USAD, "run", "-m", *others, "students.num_students=1,0,2", cwd=tmp_path, is_measured=True
    )
    sweep = tmp_path / "run-sweep"
    expected = without_notes(trained) - {"p33/teacher.losses.jsonl"}
    for job in ("num_students-1", "num_students-2"):
        assert without_notes(sweep / job) == expected
    assert result.returncode == 1
    assert "usad: 1 of the jobs failed:" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"  {sweep}/num_students-0 (")
    assert "students.num_students=0" in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].endswith("`students.num_students` must be at least 1, got 0")
    assert "Traceback" not in result.stderr
    notes = [
        yaml.safe_load((sweep / job / ".hydra/run/config.yaml").read_text())
        for job in ("num_students-1", "num_students-2")
    ]
    assert [note["students"]["num_students"] for note in notes] == [1, 2]
    assert [note["run_dir"] for note in notes] == [str(sweep / f"num_students-{number}") for number in (1, 2)]


class Held:
    """Something large that a job holds."""


@pytest.fixture
def failing_sweep(monkeypatch, parts, tmp_path, as_a_new_process):
    """Return a function that runs a sweep whose jobs raise what is given, by seed."""

    def sweep(*errors, more=()):
        held = []

        def run(settings):
            large = Held()
            held.append(weakref.ref(large))
            assert all(reference() is None for reference in held[:-1]), "an earlier job still holds something"
            if (error := errors[settings.seed]) is not None:
                try:
                    raise ValueError("the cause")
                except ValueError as cause:
                    raise error from cause

        monkeypatch.setattr("us_anomaly.commands.split.run", run)
        seeds = ",".join(map(str, range(len(errors))))
        typed = ["split", "-m", f"run_dir={tmp_path}/run", "data=folder", f"data.root={parts}", f"seed={seeds}"]
        return cli._main([*typed, *more])

    return sweep


@pytest.mark.parametrize("is_first", [True, False])
def test_every_job_of_a_sweep_that_failed_is_listed_whatever_it_raised(failing_sweep, tmp_path, capsys, is_first):
    bug, fault = RuntimeError("no kernel image"), TrainingError("the loss became nan")
    assert failing_sweep(*((bug, fault) if is_first else (fault, bug))) == 1
    head, *listed = capsys.readouterr().err.splitlines()[-3:]
    assert head == "usad: 2 of the jobs failed:"
    log = tmp_path / f"run-sweep/seed-{0 if is_first else 1}/.hydra/split/log.txt"
    (told,) = [line for line in listed if "no kernel image" in line]
    assert told.endswith(f"): RuntimeError: no kernel image; the traceback is in {log}")
    assert [line for line in listed if line.endswith("): the loss became nan")]
    assert "` failed: RuntimeError: no kernel image\nTraceback" in log.read_text()
    assert why_unfinished(log.parents[2]).startswith(
        "it did not finish: RuntimeError: no kernel image; to go on: usad split"
    )


@pytest.mark.parametrize("kind", [RuntimeError, TrainingError])
def test_a_failed_job_of_a_sweep_leaves_its_memory_to_the_next(failing_sweep, capsys, kind):
    assert failing_sweep(kind("it failed"), None) == 1
    assert "usad: 1 of the jobs failed:" in capsys.readouterr().err


def test_a_sweep_in_batches_is_told_once_that_a_failed_job_stops_it(failing_sweep, tmp_path, capsys):
    assert failing_sweep(TrainingError("it failed"), None, more=["hydra.sweeper.max_batch_size=1"]) == 1
    told = "hydra.sweeper.max_batch_size=1: if a job fails, Hydra starts no batch after its own"
    assert capsys.readouterr().err.count(told) == 1
    assert not (tmp_path / "run-sweep/seed-1/.hydra").exists()


def test_what_no_job_raised_is_told_beside_the_jobs_that_failed(monkeypatch, capsys):
    def fail(error):
        def application(name, arguments):
            cli.failures.append("runs/a (seed=1): the loss became nan")
            raise error

        monkeypatch.setattr(cli, "_run_application", application)

    fail(HydraException("the launcher lost its jobs"))
    assert cli._main(["split", "-m", "seed=1,2"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "usad: 1 of the jobs failed:",
        "  runs/a (seed=1): the loss became nan",
        "usad: the launcher lost its jobs",
    ]
    fail(KeyError("a bug of the launcher"))
    with pytest.raises(KeyError):
        cli._main(["split", "-m", "seed=1,2"])
    assert "usad: 1 of the jobs failed:" in capsys.readouterr().err


def test_a_sweep_that_is_stopped_lists_the_jobs_that_had_failed(failing_sweep, capsys):
    assert failing_sweep(TrainingError("the loss became nan"), Interrupted(signal.SIGTERM)) == 143
    assert "usad: 1 of the jobs failed:" in capsys.readouterr().err


def test_after_each_job_of_a_sweep_the_memory_of_a_device_is_given_back(failing_sweep, monkeypatch):
    times = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: times.append(1))
    assert failing_sweep(RuntimeError("it failed"), None) == 1
    assert len(times) == 2


@pytest.fixture(scope="module")
def categories(tmp_path_factory):
    """A data set in the layout *mvtec* with two categories."""
    root = tmp_path_factory.mktemp("mvtec")
    for name in ("bolt", "nut"):
        drawn = draw_parts(root / "drawn")
        for number, path in enumerate(sorted(drawn.glob("images/good/*.png"))):
            target = root / name / ("train/good" if number < 9 else "test/good") / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for path in sorted(drawn.glob("images/cut/*.png")):
            target = root / name / "test/cut" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        shutil.rmtree(drawn)
    return root


def test_a_sweep_over_all_categories_calls_the_run_directories_after_them(categories, tmp_path):
    result = usad(
        "split", "-m", "data=mvtec", f"data.root={categories}", "data.category=all", "run_dir=runs/all", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "runs/all-sweep").iterdir() if path.is_dir()) == ["bolt", "nut"]
    for category in ("bolt", "nut"):
        first = json.loads((tmp_path / "runs/all-sweep" / category / "split.jsonl").read_text().splitlines()[0])
        assert first["filename"].startswith(category)


@pytest.mark.parametrize(
    "flag", [["--config-dir", "mine"], ["--config-dir=mine"], ["+hydra.searchpath=[file://mine,pkg://us_anomaly]"]]
)
def test_categories_are_found_with_an_experiment_of_ones_own_and_commas_in_paths(
    categories, tmp_path, monkeypatch, flag
):
    register_schemas()
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "parts, new"
    shutil.copytree(categories, root)
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/gentle.yaml").write_text("# @package _global_\nstudents: {num_students: 2}\n")
    given = [
        "-m",
        *flag,
        "data=mvtec",
        f"data.root={quoted(str(root))}",
        "experiment=gentle",
        "data.category=all",
        "seed=1,2",
    ]
    assert expand_categories("split", given) == [*given[:-2], "data.category=bolt,nut", "seed=1,2"]


def test_categories_are_handed_on_as_texts(categories, tmp_path):
    register_schemas()
    for number, name in enumerate(("1e3", "true", "part (2), b")):
        shutil.copytree(categories / ("bolt", "nut")[number % 2], tmp_path / name)
    given = ["-m", "data=mvtec", f"data.root={tmp_path}", "data.category=all"]
    expanded = expand_categories("split", given)
    assert expanded[-1] == 'data.category="1e3","part (2), b","true"'
    values = OverridesParser.create().parse_override(expanded[-1]).sweep_iterator()
    assert [value.text for value in values] == ["1e3", "part (2), b", "true"]


@pytest.mark.parametrize("flag", ["-m", "--multirun", "--multi", "--m"])
def test_a_sweep_is_one_however_its_flag_is_spelled(flag):
    assert is_sweep([flag, "seed=0,1"])
    assert not any(is_sweep([other, "seed=0"]) for other in ("--run", "--cfg", "--c", "-r"))


def test_patterns_of_categories_are_expanded_in_sweeps_only(categories):
    register_schemas()  # as the command line does first; other tests in this process may not have
    given = ["-m", "data=mvtec", f"data.root={categories}", "data.category=b*", "seed=0,1"]
    assert expand_categories("split", list(given)) == [*given[:3], "data.category=bolt", "seed=0,1"]
    single = given[1:4]
    assert expand_categories("split", list(single)) == single


# --- letters beyond ASCII, and help beside settings --------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "cured"),
    [
        (["data.root=my grün, x"], 'data.root="my grün, x"'),
        (["data.normal=[gut,sehr grün]"], 'data.normal=[gut,"sehr grün"]'),
        (["-m", "data.category=grün,blau"], 'data.category="grün",blau'),
        (["teacher.images={train:grün}"], 'teacher.images={train:"grün"}'),
    ],
)
def test_letters_beyond_ascii_are_answered_with_what_hydra_reads(capsys, typed, cured):
    assert cli._main(["split", *typed]) == 1
    answer = f"`{typed[-1]}` holds letters beyond ASCII, which Hydra reads only in quotes: type '{cured}'"
    assert capsys.readouterr().err == f"usad: {answer}\n"
    OverridesParser.create().parse_override(cured)


@pytest.mark.parametrize("override", ["data.root=~/x", "data.root=[a", "grün=3"])
def test_other_faults_of_the_grammar_are_not_taken_for_letters_beyond_ascii(capsys, override):
    assert cli._main(["split", override]) == 1
    assert "beyond ASCII" not in capsys.readouterr().err


@pytest.mark.parametrize("key", ["runs", "baseline", "output"])
def test_help_knows_the_settings_of_compare(capsys, key):
    assert cli._main(["help", key]) == 0
    assert f"{key} (of usad compare)\n    " in capsys.readouterr().out


def test_help_of_a_name_that_two_commands_have_tells_both(capsys):
    cli._main(["help", "output"])
    assert capsys.readouterr().out.startswith("inference.output\n")


@pytest.mark.parametrize("flag", ["--help", "-h", "--hel", "--hydra-help"])
@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["data=mvtec"], ""),
        (["-m", "seed=0,1", "data=mvtec", "data.root=/no/such/folder", "data.category=all"], ""),
        (["data=foo"], "Could not find 'data/foo'. Available"),
        (["data.root=grün"], "`data.root=grün` holds letters beyond ASCII"),
        (["data.rot=x"], "`data.rot` is not a setting"),
    ],
)
def test_help_is_shown_whatever_stands_beside_it(capsys, flag, settings, complaint):
    with pytest.raises(SystemExit) as done:
        cli._main(["run", *settings, flag])
    out, err = capsys.readouterr()
    assert done.value.code == 0
    if flag == "--hydra-help":
        assert "--hydra-help" in out
        assert err == ""
        return
    assert out.startswith("usad run: all stages in order")
    assert ("name: mvtec" in out) == (not complaint)
    assert err.startswith(f"usad: the help without what is typed: {complaint}" if complaint else "")
    assert err.count("\n") == bool(complaint)


def test_help_beside_a_flag_that_is_wrong_says_so(capsys, tmp_path):
    assert cli._main(["run", "--config-dir", str(tmp_path / "nowhere"), "--help"]) == 1
    assert capsys.readouterr().err == f"usad: Additional config directory '{tmp_path}/nowhere' not found\n"
