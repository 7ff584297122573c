"""A command that names a run directory and no data set takes the settings that the directory was made with."""

import os
from pathlib import Path

import pytest
import yaml

from us_anomaly.cli import _main
from us_anomaly.cli.remembered import with_remembered
from us_anomaly.errors import SettingsError

MADE_WITH = ["data=csv", "data.root=DIR", "experiment=fast", "run_dir=elsewhere", "students.steps=7"]


@pytest.fixture(autouse=True)
def _as_a_new_process(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it for itself


def remember(run_dir: Path, overrides: object, *, command: str = "run", age_seconds: int = 0) -> Path:
    """Write what a command was given, as if it had been some time ago."""
    path = run_dir / ".hydra" / command / "overrides.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(overrides if isinstance(overrides, str) else yaml.safe_dump(overrides))
    then = path.stat().st_mtime - age_seconds
    os.utime(path, (then, then))
    return path


def test_what_is_typed_comes_after_what_is_remembered_and_replaces_it(tmp_path, capsys):
    remember(tmp_path, MADE_WITH)
    named = f"run_dir={tmp_path}"
    assert with_remembered([named, "students.steps=9", "inference.input=x.png"]) == [
        *["data=csv", "data.root=DIR", "experiment=fast"],
        *[named, "students.steps=9", "inference.input=x.png"],
    ]
    assert capsys.readouterr().err == (
        f"usad: settings of {tmp_path}, as its `usad run` had them: data=csv data.root=DIR experiment=fast\n"
    )


@pytest.mark.parametrize(
    "typed",
    [
        ["data=folder", "run_dir=RUN"],
        ["data.root=DIR", "run_dir=RUN"],
        ["experiment=fast"],
        ["run_dir=RUN,RUN"],
        ["run_dir=RUN/nowhere"],
        ["run_dir=[RUN"],
        ["run_dir="],
    ],
)
def test_nothing_is_remembered_where_a_data_set_is_typed_or_no_single_run_directory_that_was_made(
    tmp_path, capsys, typed
):
    remember(tmp_path, MADE_WITH)
    given = [argument.replace("RUN", str(tmp_path)) for argument in typed]
    assert with_remembered(given) == given
    assert capsys.readouterr().err == ""


def test_the_newest_of_the_commands_that_make_a_detector_counts(tmp_path, capsys):
    remember(tmp_path, ["data=csv"], command="run", age_seconds=60)
    remember(tmp_path, ["data=visa"], command="calibrate", age_seconds=30)
    remember(tmp_path, ["data=demo", "inference.input=x.png"], command="infer")
    assert with_remembered([f"run_dir={tmp_path}"]) == ["data=visa", f"run_dir={tmp_path}"]
    assert "as its `usad calibrate` had them: data=visa\n" in capsys.readouterr().err


def test_what_belongs_to_one_command_is_not_remembered(tmp_path, capsys):
    remember(tmp_path, ["overwrite=true", "inference.input=x.png", "run_dir=y"])
    assert with_remembered([f"run_dir={tmp_path}"]) == [f"run_dir={tmp_path}"]
    assert "none but the defaults" in capsys.readouterr().err


@pytest.mark.parametrize(
    "planted",
    [
        "hydra.callbacks.x._target_=os.mkdir",
        "+hydra.callbacks.x={_target_: os.mkdir, path: /tmp/x}",
        "hydra/launcher=submitit_slurm",
        "hydra.searchpath=[file:///tmp]",
        "experiment=../../../tmp/evil",
        "data=/tmp/evil",
        "tracking=../evil",
        "+experiment=evil",
        "~data",
        "data@hydra=csv",
        "nothing.known=1",
        "--config-dir=/tmp",
    ],
)
def test_of_a_run_directory_from_elsewhere_settings_alone_are_taken(tmp_path, planted):
    remember(tmp_path, [planted, "data=csv"])
    assert with_remembered([f"run_dir={tmp_path}"]) == ["data=csv", f"run_dir={tmp_path}"]


@pytest.mark.parametrize("content", ["{", "a: b", "[1, 2]", "just text", "\x00"])
def test_a_damaged_memory_is_told_by_name(tmp_path, content):
    path = remember(tmp_path, content)
    with pytest.raises(SettingsError) as refused:
        with_remembered([f"run_dir={tmp_path}"])
    assert str(refused.value).startswith(f"{path} is damaged: remove it, and give the settings themselves")


def test_commands_go_on_with_the_settings_of_the_first(parts, tmp_path, capsys):
    run_dir = f"run_dir={tmp_path / 'run'}"
    made_with = ["data=folder", f"data.root={parts}", "image_size=48", "split.ratios=50-25-25"]
    assert _main(["split", run_dir, *made_with]) == 0
    before = (tmp_path / "run/split.jsonl").read_bytes()
    assert _main(["split", run_dir]) == 0
    assert (tmp_path / "run/split.jsonl").read_bytes() == before
    assert f"as its `usad split` had them: {' '.join(made_with)}\n" in capsys.readouterr().err
    remembered = yaml.safe_load((tmp_path / "run/.hydra/split/overrides.yaml").read_text())
    assert sorted(remembered) == sorted([*made_with, run_dir])
    assert _main(["split", run_dir, "split.ratios=60-20-20"]) == 1
    assert "split.ratios" in capsys.readouterr().err.splitlines()[-1]
