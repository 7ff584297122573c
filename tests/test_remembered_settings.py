"""A command that names a run directory and no data set takes the settings that the directory was made with."""

import errno
import json
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from us_anomaly.cli import _main
from us_anomaly.cli.remembered import remember, renew_paths, with_remembered
from us_anomaly.errors import ArtifactError
from us_anomaly.reporting.comparison_unfinished import why_unfinished
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.interruption import Interrupted

MADE_WITH = ["data=csv", "data.root=/parts", "experiment=fast", "run_dir=elsewhere", "students.steps=7"]


pytestmark = pytest.mark.usefixtures("as_a_new_process")


def made(run_dir: Path, overrides: list[str], *, command: str = "run", paths: dict[str, str] | None = None) -> str:
    """Note what a command was given; return the override that names the run directory."""
    resolved = [override.replace("${oc.env:PARTS}", "my parts") for override in overrides]
    remember(RunDir(run_dir), command=command, typed=overrides, resolved=resolved, paths=paths or {})
    return f"run_dir={run_dir}"


def plant(run_dir: Path, content: str) -> str:
    """Write a note as a stranger might; return the override that names the run directory."""
    RunDir(run_dir).made_with.parent.mkdir(parents=True)
    RunDir(run_dir).made_with.write_text(content)
    return f"run_dir={run_dir}"


# --- what is taken over ------------------------------------------------------------------------------------------


def test_what_is_typed_comes_after_what_is_remembered_and_replaces_it(tmp_path, capsys):
    named = made(tmp_path, MADE_WITH)
    assert with_remembered([named, "students.steps=9", "inference.input=x.png"]) == [
        *["data=csv", "data.root=/parts", "experiment=fast"],
        *[named, "students.steps=9", "inference.input=x.png"],
    ]
    assert capsys.readouterr().err == (
        f"usad: settings of {tmp_path}, as its `usad run` had them: data=csv data.root=/parts experiment=fast\n"
    )


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        ("backbone=resnet18", ["data=csv", "data.root=/parts", "scales=[17]"]),
        ("experiment=accurate", ["data=csv", "data.root=/parts"]),
        ("backbone.name=resnet10t", ["data=csv", "data.root=/parts", "backbone=timm", "scales=[17]"]),
    ],
)
def test_a_group_replaces_its_values_and_an_experiment_all_but_the_data_set(tmp_path, typed, left):
    named = made(tmp_path, ["data=csv", "data.root=/parts", "backbone=timm", "backbone.name=resnet18", "scales=[17]"])
    assert with_remembered([named, typed]) == [*left, named, typed]


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
def test_nothing_is_taken_where_a_data_set_is_typed_or_no_single_run_directory_that_was_made(tmp_path, capsys, typed):
    made(tmp_path, MADE_WITH)
    given = [argument.replace("RUN", str(tmp_path)) for argument in typed]
    assert with_remembered(given) == given
    assert "settings of" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "lost", "out"),
    [
        (["data.root=DIR"], "experiment=fast students.steps=7", "data.root="),
        (["data=csv", "data.root=/parts", "students.steps=7"], "experiment=fast", "data= and data.root="),
        (["data=csv", "students.steps=9"], "experiment=fast", "data="),
    ],
)
def test_what_a_command_that_names_its_data_leaves_behind_is_said(tmp_path, capsys, typed, lost, out):
    with_remembered([made(tmp_path, MADE_WITH), *typed])
    assert capsys.readouterr().err == (
        f"usad: {tmp_path} was made with {lost}, which this command, as it names its data, does not take over: "
        f"leave {out} out to take them, or type them\n"
    )


@pytest.mark.parametrize("typed", [MADE_WITH, ["data.root=DIR", "experiment=accurate"]])
def test_nothing_is_said_of_what_a_command_that_names_its_data_has_or_replaces(tmp_path, capsys, typed):
    named = made(tmp_path, [*MADE_WITH, "overwrite=true", "data.file=x.csv"])
    with_remembered([*typed, named])
    assert capsys.readouterr().err == ""


def test_a_command_that_names_its_data_does_not_mind_a_damaged_note(tmp_path, capsys):
    given = [plant(tmp_path, "{"), "data.root=DIR"]
    assert with_remembered(given) == given
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("form", ["run_dir={}", '++run_dir="{}"'])
def test_a_run_directory_may_be_named_in_every_way_that_hydra_knows(tmp_path, form):
    made(tmp_path / "a, b", ["data=csv"])
    named = form.format(tmp_path / "a, b")
    assert with_remembered([named]) == (["data=csv", named] if '"' in named else [named])


def test_what_belongs_to_one_command_is_not_taken(tmp_path, capsys):
    named = made(tmp_path, ["overwrite=true", "inference.input=x.png", "run_dir=y", "cache_dir=z"])
    assert with_remembered([named]) == [named]
    assert "none but the defaults" in capsys.readouterr().err


def test_settings_are_remembered_as_hydra_takes_them_again(tmp_path, capsys):
    given = ["++data=csv", "+seed=3", "data.file=${oc.env:PARTS}", "students={steps: 2}", "scales=[17,33]"]
    named = made(tmp_path, given)
    taken = ["data=csv", "seed=3", 'data.file="my parts"', "scales=[17,33]"]
    assert with_remembered([named]) == [*taken, named]
    assert "; not taken over, type it again if you want it: 'students={steps: 2}'\n" in capsys.readouterr().err


@pytest.mark.parametrize("root", ["parts", "my parts, new", "a=b"])
def test_the_folder_of_the_pictures_is_remembered_as_an_absolute_path(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    named = made(tmp_path / "run", ["data=folder", "data.root=${oc.env:PARTS}"], paths={"data.root": root})
    expected = str(tmp_path / root)
    taken = with_remembered([named])
    assert taken == ["data=folder", f"data.root={expected}" if root == "parts" else f'data.root="{expected}"', named]


def test_files_that_settings_name_are_remembered_as_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["teacher.checkpoint='p{patch_size}.pt'", "backbone.weights=default", "students.steps=2"]
    named = made(tmp_path / "run", given, paths={"teacher.checkpoint": "p{patch_size}.pt"})
    first, *others = with_remembered([named])
    assert first == f'teacher.checkpoint="{tmp_path}/p{{patch_size}}.pt"'
    assert others == ["backbone.weights=default", "students.steps=2", named]


@pytest.mark.parametrize("folder", ["größe", "部品", "a b"])
def test_files_in_folders_of_any_name_are_remembered(tmp_path, folder):
    named = made(tmp_path / "run", ["data.root=x"], paths={"data.root": f"{tmp_path}/{folder}"})
    taken, _ = with_remembered([named])
    assert OverridesParser.create().parse_override(taken).value() == f"{tmp_path}/{folder}"


def test_files_that_lie_elsewhere_now_are_remembered_there(trained_copy, tiny, resnet18_weights, tmp_path, capsys):
    named = f"run_dir={trained_copy}"
    assert _main(["distill-teacher", *tiny(trained_copy)]) == 0
    moved = shutil.copy(resnet18_weights, tmp_path / "moved.pt")
    assert _main(["normalize", named, f"backbone.weights={moved}"]) == 0
    assert f"backbone.weights={moved}" in with_remembered([named])
    assert _main(["infer", named, "backbone.weights=resnet.pt", "inference.input=x.png"]) == 1
    assert capsys.readouterr().err.endswith("usad: `backbone.weights`: there is no file resnet.pt\n")
    assert f"backbone.weights={moved}" in with_remembered([named])


# --- what a stranger may have written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "planted",
    [
        "hydra.callbacks.x._target_=os.mkdir",
        "+hydra.callbacks.x={_target_: os.mkdir, path: /tmp/x}",
        "hydra/launcher=submitit_slurm",
        "hydra.searchpath=[file:///tmp]",
        "experiment=../../../tmp/evil",
        "data=/tmp/evil",
        "data=null",
        "experiment=3",
        "tracking=../evil",
        "tracking=mlflow",
        "tracking.directory=/tmp/x",
        "cache_dir=/tmp/x",
        "data.allow_outside_root=true",
        "inference={input: /etc}",
        "students={steps: 1}",
        "data.file=${oc.env:SECRET}",
        "teacher.images=${oc.env:SECRET}",
        "+experiment=evil",
        "~data",
        "data",
        "data@hydra=csv",
        "nothing.known=1",
        "--config-dir=/tmp",
    ],
)
def test_settings_of_the_detector_and_its_data_are_all_that_is_taken(tmp_path, planted):
    named = plant(tmp_path, json.dumps({"command": "run", "overrides": [planted, "data=csv"]}))
    assert with_remembered([named]) == ["data=csv", named]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "null",
        "[1, 2]",
        "text",
        "\x00",
        "[" * 100_000,
        '{"command": "run"}',
        '{"command": "run", "overrides": [1]}',
    ],
)
def test_a_damaged_note_is_told_by_name(tmp_path, content):
    named = plant(tmp_path, content)
    with pytest.raises(ArtifactError) as refused:
        with_remembered([named])
    assert str(refused.value).startswith(
        f"{tmp_path}/.hydra/made_with.json is damaged: remove it, and give the settings"
    )


def test_what_is_shown_of_a_note_can_do_nothing_to_a_terminal(tmp_path, capsys):
    evil = "x\x1b[31m\x07\nusad: everything fine"
    named = plant(tmp_path, json.dumps({"command": evil, "overrides": [f'data.root="{evil}"', f"a={evil}"]}))
    with_remembered([named])
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.rstrip("\n").isprintable()


@pytest.mark.parametrize("folder", ["nowhere", "{tmp}/nowhere", "{tmp}/\x1b[31m", "", 3])
def test_a_folder_of_configuration_that_cannot_be_one_is_not_told(tmp_path, capsys, folder):
    (tmp_path / "\x1b[31m").mkdir()
    planted = folder.replace("{tmp}", str(tmp_path)) if isinstance(folder, str) else folder
    note = {"command": "run", "overrides": ["data=csv"], "config_dir": planted}
    with_remembered([plant(tmp_path / "run", json.dumps(note))])
    assert "--config-dir" not in capsys.readouterr().err


# --- commands ----------------------------------------------------------------------------------------------------


def test_commands_go_on_with_the_settings_of_the_first(parts, tmp_path, monkeypatch, capsys):
    shutil.copytree(parts, tmp_path / "my parts")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    made_with = ["data=folder", 'data.root="my parts"', "image_size=48", "split.ratios=50-25-25"]
    assert _main(["split", "run_dir=run", *made_with]) == 0
    before = (tmp_path / "run/split.jsonl").stat().st_mtime_ns
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert _main(["split", "run_dir=../run"]) == 0
    assert (tmp_path / "run/split.jsonl").stat().st_mtime_ns == before
    assert "../run/split.jsonl is up to date" in capsys.readouterr().err


@pytest.fixture
def own_experiment(tmp_path):
    """A folder with an experiment of one's own."""
    path = tmp_path / "my configs/experiment/gentle.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\nsplit:\n  ratios: 50-25-25\n")
    return path.parents[1]


def test_the_folder_of_an_experiment_of_ones_own_is_told_and_not_taken(
    parts, tmp_path, own_experiment, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    given = ["run_dir=run", "data=folder", f"data.root={parts}", "experiment=gentle"]
    assert _main(["split", "--config-dir", "my configs", *given]) == 0
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # as in a new process
    capsys.readouterr()
    flag = f"--config-dir={own_experiment}"
    assert _main(["split", "run_dir=run"]) == 1
    *_, taken, refused = capsys.readouterr().err.splitlines()
    assert taken.endswith(f"; not taken over, type it again if you want it: '{flag}'")
    assert refused.startswith("usad: Could not find 'experiment/gentle'.")
    assert refused.endswith(f"; one of your own needs '{flag}'")
    assert _main(["split", "run_dir=run", "--config-dir", "my configs"]) == 0
    assert "not taken over" not in capsys.readouterr().err
    assert why_unfinished(Path("run")) == f"it has no evaluation.json: `usad run run_dir=run '{flag}'` goes on"


def test_a_command_that_failed_is_offered_with_the_folder_of_its_experiment(
    parts, tmp_path, own_experiment, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = ["run_dir=run", "data=folder", f"data.root={parts}", "experiment=gentle", "data.normal=bad"]
    assert _main(["split", "--config-dir", "my configs", *given]) == 1
    assert why_unfinished(Path("run")).endswith(
        f"to go on: usad split '--config-dir={own_experiment}' {shlex.join(given)}"
    )
    own_experiment.rename("moved")
    assert why_unfinished(Path("run")).endswith("; type its whole command again to go on")


def test_the_folder_of_an_experiment_is_still_known_when_paths_are_noted_anew(tmp_path):
    made(tmp_path / "run", ["data.root=x"], paths={"data.root": "/old"})
    remember(RunDir(tmp_path / "run"), command="run", typed=[], resolved=[], paths={}, config_dir=str(tmp_path))
    note = RunDir(tmp_path / "run").made_with
    note.write_text(json.dumps(json.loads(note.read_text()) | {"overrides": ["data.root=/old"]}))
    renew_paths(RunDir(tmp_path / "run"), {"data.root": "/new"})
    assert json.loads(note.read_text()) == {
        "command": "run",
        "overrides": ["data.root=/new"],
        "config_dir": str(tmp_path),
    }


@pytest.mark.parametrize("wrong", ["split.ratios=60-20-20", "data.images=nowhere", "data.normal=bad", "seed=-1"])
def test_a_command_that_failed_is_not_remembered(parts, tmp_path, capsys, wrong):
    made_with = ["data=folder", f"data.root={parts}", "split.ratios=50-25-25"]
    named = f"run_dir={tmp_path / 'run'}"
    assert _main(["split", named, *made_with]) == 0
    assert _main(["split", named, wrong]) == 1
    capsys.readouterr()
    assert _main(["split", named]) == 0
    assert f"as its `usad split` had them: {' '.join(made_with)}\n" in capsys.readouterr().err


def test_a_run_directory_that_remembers_nothing_is_told(tmp_path, capsys):
    assert _main(["infer", f"run_dir={tmp_path}", "inference.input=x.png"]) == 1
    assert capsys.readouterr().err == (
        "usad: `data.root` is not set: add data.root=..., or run_dir= of a run directory that remembers it; "
        f"{tmp_path} does not\n"
    )


def test_a_run_directory_that_remembers_and_is_not_asked_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made(Path("runs/folder"), ["data=folder", "data.root=/parts"])

    def refusal(*arguments):
        assert _main(["evaluate", *arguments]) == 1
        return capsys.readouterr().err

    assert refusal("run_dir=runs/folder", "data=folder") == (
        "usad: `data.root` is not set: runs/folder remembers it, but takes nothing over where data= is typed: leave data= out, "
        "or add data.root=...\n"
    )
    assert refusal("data=folder") == (
        "usad: `data.root` is not set: runs/folder remembers it, but takes nothing over where it is not named alone: leave data= "
        "out and add run_dir=runs/folder, or add data.root=...\n"
    )
    assert refusal().endswith("where it is not named alone: add run_dir=runs/folder, or add data.root=...\n")
    RunDir("runs/folder").made_with.write_text("{")
    assert refusal("run_dir=runs/folder", "data=folder").endswith("that remembers it; runs/folder does not\n")
    assert refusal("run_dir='~nosuchuser/x'").endswith("there is no ~nosuchuser/x\n")


@pytest.mark.parametrize("typed", [["run_dir=run"], ["run_dir=run", "data=folder"]])
def test_a_run_directory_in_which_nothing_has_finished_is_told(parts, tmp_path, monkeypatch, capsys, typed):
    def stopped(settings):
        raise Interrupted(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("us_anomaly.commands.split.run", stopped)
        assert _main(["split", "run_dir=run", "data=folder", f"data.root={parts}"]) == 130
    capsys.readouterr()
    assert _main(["split", *typed]) == 1
    assert capsys.readouterr().err == (
        "usad: `data.root` is not set, and run does not remember it, for no command has finished there yet: type the whole "
        "command again; run/.hydra/split/overrides.yaml has its settings\n"
    )


def test_only_folders_that_can_be_looked_into_are_offered_for_a_mistyped_run_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.txt").touch()
    (tmp_path / "dangling").symlink_to("nowhere")

    def why_not(name):
        assert _main(["infer", f"run_dir={name}", "inference.input=x.png"]) == 1
        return capsys.readouterr().err.partition("that remembers it; ")[2]

    assert why_not("result.txt") == "there is no result.txt\n"
    assert why_not("dangling") == "dangling does not\n"

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refused)
    assert why_not("runs") == "there is no runs\n"


def test_a_mistyped_run_directory_is_told_and_not_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/demo").mkdir(parents=True)
    assert _main(["infer", "run_dir=runs/dmo", "inference.input=x.png"]) == 1
    assert capsys.readouterr().err == (
        "usad: `data.root` is not set: add data.root=..., or run_dir= of a run directory that remembers it; "
        "there is no runs/dmo, did you mean runs/demo?\n"
    )
    assert _main(["infer", "run_dir=elsewhere/parts", "inference.input=x.png"]) == 1
    assert capsys.readouterr().err.endswith("that remembers it; there is no elsewhere/parts\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "demo"]


def test_settings_of_later_commands_are_remembered_and_pictures_looked_at_are_not(
    trained_copy, tiny, monkeypatch, capsys
):
    named = f"run_dir={trained_copy}"
    evaluate = ["evaluate", *tiny(trained_copy, "evaluation.bootstrap_samples=0", "evaluation.pixel_samples=7")]
    assert _main(evaluate[:-1]) == 0
    picture = next(trained_copy.glob("heatmaps/**/*.png"))
    assert _main(["infer", named, f"inference.input={picture}"]) == 0
    capsys.readouterr()
    assert _main(["report", named]) == 0
    said = capsys.readouterr().err
    assert "evaluation.bootstrap_samples=0" in said
    assert "inference.input" not in said


def test_a_command_that_made_nothing_changes_nothing_that_is_remembered(parts, tmp_path):
    named = f"run_dir={tmp_path / 'run'}"
    given = ["data=folder", f"data.root={parts}", "split.ratios=50-25-25"]
    assert _main(["split", named, *given, "students.steps=7"]) == 0
    before = (tmp_path / "run/.hydra/made_with.json").read_bytes()
    assert _main(["split", named, *given]) == 0
    assert (tmp_path / "run/.hydra/made_with.json").read_bytes() == before
    assert b"students.steps=7" in before


def test_a_sweep_goes_out_from_what_is_remembered(parts, tmp_path):
    named = f"run_dir={tmp_path / 'run'}"
    assert _main(["split", named, "data=folder", f"data.root={parts}", "split.ratios=50-25-25"]) == 0
    assert _main(["split", "-m", named, "seed=1,2"]) == 0
    for seed in (1, 2):
        note = json.loads((tmp_path / f"run-sweep/seed-{seed}/.hydra/made_with.json").read_text())
        assert note["overrides"] == ["data=folder", f"data.root={parts}", "split.ratios=50-25-25", f"seed={seed}"]


def test_a_home_directory_is_the_same_everywhere(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(parts)
    assert _main(["split", 'run_dir="~/det"', "data=folder", f"data.root={parts}"]) == 0
    assert _main(["split", 'run_dir="~/det"']) == 0
    assert (tmp_path / "det/split.jsonl").is_file()
    assert not (parts / "~").exists()


def test_a_refusal_says_that_the_run_directory_remembers(parts, tmp_path, capsys):
    given = [f"run_dir={tmp_path / 'run'}", "data=folder", f"data.root={parts}"]
    assert _main(["split", *given, "split.ratios=50-25-25"]) == 0
    assert _main(["split", *given]) == 1
    takes = (
        f"give the settings it was made with (run_dir={tmp_path / 'run'} without data= and data.root= takes them) or"
    )
    assert takes in capsys.readouterr().err.splitlines()[-1]
