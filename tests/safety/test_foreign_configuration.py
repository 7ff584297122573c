"""Configuration files from elsewhere set values; they make nothing run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from us_anomaly.cli import _main
from us_anomaly.cli.configuration import config_dir
from us_anomaly.cli.foreign import refuse_code, refuse_hidden
from us_anomaly.errors import SettingsError

EVIL = {
    "a callback": "hydra:\n  callbacks:\n    x: {_target_: os.mkdir, path: MARKER}\n",
    "a log handler": "hydra:\n  job_logging:\n    handlers:\n      x: {(): os.mkdir, path: MARKER}\n",
    "a log file": (
        "hydra:\n  job_logging:\n    handlers:\n      x: {class: logging.FileHandler, filename: MARKER, mode: w}\n"
    ),
    "the file of our log": "hydra:\n  job_logging:\n    handlers:\n      file: {filename: MARKER, mode: w, delay: false}\n",
    "a place in a log": "defaults:\n  - seeds@hydra.job_logging.handlers.file: one\n",
    "a word that is a module": "hydra:\n  job_logging:\n    handlers:\n      x: {class: evil}\n",
    "a place in a log, as a text": "defaults:\n  - seeds/one@hydra.job_logging.handlers.file\n",
    "a place in a log, from the root": "defaults:\n  - seeds@_global_.hydra.job_logging.handlers.file: one\n",
    "an escaped key": 'hydra:\n  callbacks:\n    x: {"_tar\\u0067et_": os.mkdir, path: MARKER}\n',
    "an entry of a list": "augmentation:\n  students:\n    - {_target_: os.mkdir, path: MARKER}\n",
    "a way to other folders": "hydra:\n  searchpath: [file:///tmp]\n",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    return tmp_path / "configs"


def plant(folder: Path, text: str, name: str = "experiment/x.yaml") -> Path:
    marker = folder.parent / "exploded"
    (folder / name).write_text("# @package _global_\n" + text.replace("MARKER", str(marker)))
    return marker


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize(
    "flags",
    [
        ["--config-dir", "FOLDER"],
        ["--config-dir=FOLDER"],
        ["-cd", "FOLDER"],
        ["--config-d", "FOLDER"],
        ["-cp", "FOLDER"],
        ["hydra.searchpath=[file://FOLDER]"],
        ["+hydra.searchpath=['FOLDER',pkg://x]"],
    ],
)
def test_a_file_from_elsewhere_that_names_something_to_call_is_refused_by_name(folder, capsys, kind, flags):
    marker = plant(folder, EVIL[kind])
    arguments = [flag.replace("FOLDER", str(folder)) for flag in flags]
    assert _main(["split", *arguments, "experiment=x", "data=demo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"usad: {folder}/experiment/x.yaml: the key ")
    assert "configuration is data only" in said
    assert len(said.splitlines()) == 1
    assert not marker.exists()


@pytest.mark.parametrize(
    "header", ["# @package PLACE", "# @package _global_.PLACE", "# @package _global_\n# @package PLACE"]
)
def test_a_file_that_is_put_into_the_configuration_of_logs_is_refused(folder, header):
    header = header.replace("PLACE", "hydra.job_logging.handlers.file")
    (folder / "experiment/x.yaml").write_text(f"{header}\nfilename: victim\n")
    with pytest.raises(
        SettingsError, match=r"the key hydra\.job_logging\.handlers\.file\.filename could make something run"
    ):
        refuse_code(["--config-dir", str(folder)])


def test_annotations_in_a_folder_of_configuration_are_no_code(folder):
    (folder / "labels.yaml").write_text("- {filename: 1.png, class: scratch}\n- {filename: 2.png, class: 3}\n")
    refuse_code(["--config-dir", str(folder)])


@pytest.mark.parametrize("flags", [["--config-dir", "FOLDER"], ["-cd", "FOLDER"], ["hydra.searchpath=[file://FOLDER]"]])
def test_an_experiment_called_as_one_that_ships_is_refused(folder, capsys, flags):
    plant(folder, "seed: 3\n", "experiment/fast.yaml")
    named = [flag.replace("FOLDER", str(folder)) for flag in flags]
    assert _main(["split", *named, "experiment=fast", "data=demo"]) == 1
    assert capsys.readouterr().err == (
        f"usad: {folder}/experiment/fast.yaml: a file of this name ships with the package and would be taken instead; "
        "give yours another name\n"
    )


def test_a_copy_of_the_whole_configuration_may_replace_ours(folder):
    shutil.copytree(config_dir(), folder, dirs_exist_ok=True)
    refuse_hidden(["--config-path", str(folder)])
    refuse_hidden(["-cp", str(folder)])
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")
    with pytest.raises(SettingsError, match="ships with the package"):
        refuse_hidden([f"--config-dir={folder}"])


def test_a_file_behind_a_link_is_looked_at_and_circles_end(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    plant(tmp_path / "elsewhere", EVIL["a callback"], "y.yaml")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    with pytest.raises(
        SettingsError, match=r"linked/y\.yaml: the key hydra\.callbacks\.x\._target_ could make something run"
    ):
        refuse_code(["--config-dir", str(folder)])


def test_the_bomb_would_explode_without_the_check(folder, tmp_path):
    """Hydra calls what a callback names: this is why the check is there."""
    marker = plant(folder, EVIL["a callback"])
    code = (
        "import sys, us_anomaly.cli as cli; cli.refuse_code = lambda arguments: None; "
        "sys.argv = ['usad', *sys.argv[1:]]; cli.main()"
    )
    arguments = ["split", "--config-dir", str(folder), "experiment=x", "data=demo", f"run_dir={tmp_path / 'run'}"]
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert marker.exists()


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--experimental-rerun=job.pickle", "--exp"])
def test_a_pickled_job_is_not_run_again(capsys, flag):
    assert _main(["split", flag, "job.pickle"]) == 1
    assert "loads pickled Python objects, which could run code" in capsys.readouterr().err


def test_values_from_elsewhere_are_taken(folder, capsys):
    plant(folder, "seed: 7\nhydra:\n  job: {name: split}\n")
    assert _main(["split", "--config-dir", str(folder), "experiment=x", "data=demo", "--cfg", "job"]) == 0
    assert "seed: 7" in capsys.readouterr().out


def test_a_file_that_is_no_yaml_is_left_to_hydra(folder):
    (folder / "broken.yaml").write_text("a: [")
    refuse_code(["--config-dir", str(folder)])


def test_the_configuration_of_the_package_names_nothing_to_call():
    refuse_code(["--config-dir", str(config_dir())])


@pytest.mark.parametrize("value", ["${eval:1+1}", "${python:1}", "${os.system:x}", "${call:x}"])
def test_there_is_no_resolver_that_evaluates(capsys, value):
    assert _main(["split", "data=demo", f"data.name={value}", "run_dir=unused", "--cfg", "job", "--resolve"]) == 1
    assert "Unsupported interpolation type" in capsys.readouterr().err
