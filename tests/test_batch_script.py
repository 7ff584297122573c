"""The recipe for whole data sets, with a `usad` that only writes down what it is told."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from compared_runs import write_run
from conftest import draw_parts
from hydra import compose, initialize_config_dir

from us_anomaly.cli import config_dir, register_schemas

CHECKOUT = Path(__file__).parents[1]
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="the scripts need bash")

FAKE_USAD = """#!/bin/bash
printf '%s|' "$@" >>calls.txt; echo >>calls.txt
if [ "$1" = run ] && [ -e sweep_fails ]; then exit 3; fi
"""


@pytest.fixture
def call(tmp_path):
    usad = tmp_path / "bin" / "usad"
    usad.parent.mkdir()
    usad.write_text(FAKE_USAD)
    usad.chmod(0o755)

    def batch(*arguments):
        environment = {**os.environ, "PATH": f"{usad.parent}{os.pathsep}{os.environ['PATH']}"}
        script = [BASH, CHECKOUT / "scripts" / "batch", *arguments]
        done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        calls = tmp_path / "calls.txt"
        return done, [line.split("|")[:-1] for line in calls.read_text().splitlines()] if calls.exists() else []

    return batch


@pytest.mark.parametrize("name", ["mvtec", "mvtec_loco", "visa", "btad"])
def test_every_category_is_run_and_compared(call, name):
    done, (run, compare) = call(name, "/data/some set")
    assert done.returncode == 0
    assert run == ["run", "-m", f"data={name}", "data.root=/data/some set", f"run_dir=runs/{name}", "data.category=all"]
    assert compare == ["compare", f"runs/{name}-sweep", f"output='runs/{name}-sweep'"]


@pytest.mark.parametrize(
    "typed", [[], ["run_dir=runs/x"], ["run_dir=runs/x/"], ['run_dir="runs/a, b"'], ["run_dir='a b/'"]]
)
def test_the_table_is_of_the_folder_into_which_hydra_puts_the_jobs(call, typed):
    register_schemas()
    _, (run, compare) = call("mvtec", "/data", *typed)
    assert sum(argument.startswith("run_dir=") for argument in run) == 1
    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        config = compose(config_name="run", overrides=run[2:], return_hydra_config=True)
    assert compare[1] == config.hydra.sweep.dir
    assert compare[2] == f"output='{compare[1]}'"


def test_a_data_set_without_categories_is_not_asked_for_them(call):
    _, (run, _) = call("kolektor_sdd", "/data")
    assert not any("category" in argument for argument in run)


def test_chosen_categories_and_more_settings_are_handed_on(call):
    _, (run, _) = call("visa", "/data", "data.category=candle,fryum", "seed=1")
    assert run[-2:] == ["data.category=candle,fryum", "seed=1"]
    assert "data.category=all" not in run


def test_a_failed_category_does_not_keep_the_table_away(call, tmp_path):
    (tmp_path / "sweep_fails").touch()
    done, calls = call("mvtec", "/data")
    assert [arguments[0] for arguments in calls] == ["run", "compare"]
    assert done.returncode == 3


def test_under_the_table_stands_why_a_category_failed_and_a_command_that_goes_on(tmp_path):
    drawn = draw_parts(tmp_path / "drawn")
    for source, target in (("good", "train/good"), ("good", "test/good"), ("cut", "test/cut")):
        shutil.copytree(drawn / "images" / source, tmp_path / "my set/nut" / target)
    (tmp_path / "my set/nut/train/good/bad.png").write_text("no picture")
    write_run(tmp_path / "runs/mvtec-sweep/bolt", metrics={"image_auroc": 0.5}, settings={"seed": 0})
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    batch = [BASH, CHECKOUT / "scripts/batch", "mvtec", "my set", "experiment=fast"]
    done = subprocess.run(batch, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("not in the table: ")]
    assert line.startswith(
        "not in the table: runs/mvtec-sweep/nut: it did not finish: 1 picture cannot be used (repair or"
    )
    assert "nut/train/good/bad.png: it is not a PNG" in line
    (tmp_path / "my set/nut/train/good/bad.png").unlink()
    _, _, *settings = shlex.split(line.partition("; to go on: ")[2])
    split = [sys.executable, "-m", "us_anomaly", "split", *settings]
    done = subprocess.run(split, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/mvtec-sweep/nut/split.jsonl").is_file()


@pytest.mark.parametrize("arguments", [[], ["mvtec"], ["imagenet", "/data"]])
def test_anything_else_shows_the_recipes(call, arguments):
    done, calls = call(*arguments)
    assert done.returncode == 2
    assert "scripts/batch mvtec_loco" in done.stderr
    assert "set -euo" not in done.stderr
    assert calls == []


def test_each_recipe_has_a_preset_of_its_name():
    names = re.findall(r"^#   scripts/batch (\w+)", (CHECKOUT / "scripts" / "batch").read_text(), flags=re.MULTILINE)
    assert len(names) == 5
    assert all((CHECKOUT / "configs" / "data" / f"{name}.yaml").is_file() for name in names)
