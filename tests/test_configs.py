"""The YAML files: all of them compose into typed settings, and every key of the settings is read."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from composition import composed, composed_by_hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from read_keys import keys_read

from us_anomaly import settings as module
from us_anomaly.cli import COMMANDS, TASKS, config_dir
from us_anomaly.errors import SettingsError
from us_anomaly.settings import BACKBONES, DATA_LAYOUTS, GROUPS, Settings
from us_anomaly.settings.documentation import explain

CONFIGS = config_dir()
PACKAGE = Path(module.__file__).parents[1]


GROUP_FILES = [
    (path.parent.name, path.stem)
    for path in sorted(CONFIGS.glob("*/*.yaml"))
    if path.parent.name not in ("hydra", "experiment")
]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "compare"])
def test_the_file_of_every_command_composes_into_settings(compose, command):
    settings = compose(command, "data.root=x")
    assert isinstance(settings, Settings)
    assert settings == compose("run", "data.root=x")


@pytest.mark.parametrize(("group", "name"), GROUP_FILES)
def test_every_file_of_a_group_composes_into_settings(compose, group, name):
    needed = [override for override in ("data.root=x", "backbone.name=resnet18") if needs(group, name, override)]
    settings = compose("run", f"{group}={name}", *needed, *([] if group == "data" else ["data.root=x"]))
    kind = type(getattr(settings, group))
    assert dataclasses.is_dataclass(kind)
    assert (kind in DATA_LAYOUTS) == (group == "data")
    assert (kind in BACKBONES) == (group == "backbone")


def needs(group, name, override):
    """Whether a file leaves this value to the user."""
    key = override.partition("=")[0].partition(".")
    return key[0] == group and re.search(rf"^{key[2]}: \?\?\?", (CONFIGS / group / f"{name}.yaml").read_text(), re.M)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("experiment/*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_composes_and_opens_with_its_command(compose, path):
    text = path.read_text()
    comment = text[: text.index("\n\n")] if "\n\n" in text else text
    assert "usad" in comment
    assert comment.startswith("#")
    assert compose("run", f"experiment={path.stem}", "data.root=x")


@pytest.mark.parametrize(
    "key", ["on_bad_image", "max_image_pixels", "white_level", "allow_outside_root", "group_pattern"]
)
def test_what_every_layout_has_has_the_same_default_in_all(key):
    contents = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS.glob("data/*.yaml")}
    values = {name: content.get("data", content)[key] for name, content in contents.items()}
    assert len(values) == 8
    assert len(set(values.values())) == 1, values


def test_every_yaml_file_is_tested_here():
    tested = {CONFIGS / group / f"{name}.yaml" for group, name in GROUP_FILES}
    tested |= {CONFIGS / f"{name}.yaml" for name in COMMANDS}
    tested |= {CONFIGS / "config.yaml", *CONFIGS.glob("experiment/*.yaml"), *CONFIGS.glob("hydra/**/*.yaml")}
    assert set(CONFIGS.rglob("*.yaml")) == tested


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_task_and_help_with_its_name(command):
    content = yaml.safe_load((CONFIGS / f"{command}.yaml").read_text())
    assert command in TASKS
    assert content["hydra"]["job"]["name"] == command
    assert content["hydra"]["help"]["app_name"] == f"usad {command}"
    assert content["hydra"]["help"]["header"].startswith(f"usad {command}")


def all_keys():
    return [entry.key for entry in explain(Settings, groups=GROUPS)]


@pytest.mark.parametrize(
    ("code", "read"),
    [
        ("def f(settings: Settings): settings.students.width", {"students", "students.width"}),
        ("def f(given: StudentSettings | None): given.width", {"students.width"}),
        ("def f(settings: Settings):\n    students = settings.students\n    students.width", {"students", "students.width"}),
        ("def f(settings: StudentSettings): getattr(settings, 'width')", {"students.width"}),
        ("class A:\n    x: FolderData\ndef f(a: A): a.x.root", {"data.root"}),
        ("class A:\n    def __init__(self, x: Settings): self.y = x\n    def f(self): self.y.seed", {"seed"}),
        ("class TeacherSettings:\n    def f(self): self.width\n    def g(self): self.epochs", set()),
        ("class TeacherSettings:\n    def f(self): self.width\ndef g(x: TeacherSettings): x.f()", {"teacher.f", "teacher.width"}),
        ("def f(console: Console): console.width", set()),
        ("def f(network: Network): network.students.width", set()),
        ("def f(settings: StudentSettings): settings.width = flat('students', settings)", set()),
    ],
)  # fmt: skip
def test_a_key_is_read_where_an_attribute_of_its_group_is(code, read):
    nested = [f"class Settings:\n    {field.name}: {field.type.__name__}" for field in dataclasses.fields(Settings)]
    assert keys_read([*nested, code]) == read


def test_every_key_is_read():
    read = keys_read(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
    assert [key for key in all_keys() if key not in read] == []


def test_no_yaml_file_names_code():
    assert [path.name for path in CONFIGS.rglob("*.yaml") if "_target_" in path.read_text()] == []


def test_the_files_are_found_in_a_checkout_and_in_an_installed_package(tmp_path, monkeypatch):
    from us_anomaly.cli import configuration

    monkeypatch.setattr(configuration, "__file__", str(tmp_path / "us_anomaly/cli/configuration.py"))
    assert configuration.config_dir() == tmp_path / "configs"
    (tmp_path / "us_anomaly/configs").mkdir(parents=True)
    assert configuration.config_dir() == tmp_path / "us_anomaly/configs"


# --- how the tests compose --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.root=x", "seed=7"),
        (
            "students.steps=4",
            "experiment=accurate",
            "data=mvtec",
            "data.root='a, b'",
            "backbone=timm",
            "scales=[17,33]",
        ),
        (
            "data.root=x",
            "teacher.images={train:0.3,generic:0.7}",
            "inference.input=${data.root}/new",
            "seed=1",
            "seed=2",
        ),
        ("data.root=x", "+added=1", "~experiment"),
    ],
)
def test_the_tests_compose_what_hydra_composes(overrides):
    for _ in range(2):  # the second time from what is kept of the first
        assert OmegaConf.to_yaml(composed("run", *overrides)) == OmegaConf.to_yaml(composed_by_hydra("run", *overrides))


@pytest.mark.parametrize("override", ["seed=abc", "teacher.learning_rte=1", "seed=1,2", "data=foo", "data.root=[a"])
def test_what_hydra_refuses_the_tests_refuse_in_its_words(override):
    said = []
    for compose_it in (composed, composed_by_hydra):
        with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
            compose_it("run", override)
        said.append(str(caught.value))
    assert said[0] == said[1]


# --- defaults ----------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_method(compose):
    settings = compose("run", "data.root=x")
    teacher, students = settings.teacher, settings.students
    assert (settings.backbone.name, settings.backbone.weights) == ("resnet18", "default")
    assert (teacher.learning_rate, teacher.weight_decay, teacher.batch_size) == (2e-4, 1e-5, 64)
    assert (teacher.epochs, teacher.descriptor_dim, teacher.width) == (200, 512, 0.5)
    assert (students.learning_rate, students.weight_decay, students.batch_size) == (1e-4, 1e-5, 1)
    assert (students.epochs, students.num_students) == (25, 3)
    assert (settings.scales, settings.image_size, settings.split.ratios) == ([33], 256, "70-15-15")
    assert (settings.scoring.normalization.name, settings.scoring.image_score.name) == ("none", "max")


def test_the_default_transform_lists_are_those_of_the_method(compose):
    lists = compose("run", "data.root=x").augmentation
    teacher = [(entry.name, entry.params) for entry in lists.teacher]
    assert [name for name, _ in teacher] == [
        "Resize",
        "RandomCrop",
        "RandomHorizontalFlip",
        "RandomVerticalFlip",
        "RandomRotation",
        "CenterCrop",
        "ToImage",
        "ToDtype",
        "Normalize",
    ]
    parameters = dict(teacher)
    assert parameters["Resize"] == {"size": [256, 256]}
    assert parameters["RandomCrop"] == {"size": "patch_size_sqrt2"}
    assert parameters["CenterCrop"] == {"size": "patch_size"}
    assert parameters["RandomRotation"]["degrees"] == 180
    assert [entry.name for entry in lists.students] == [
        "Resize",
        "RandomHorizontalFlip",
        "RandomVerticalFlip",
        "ToImage",
        "ToDtype",
        "Normalize",
    ]
    assert [entry.name for entry in lists.evaluation] == ["Resize", "ToImage", "ToDtype", "Normalize"]
    for entries in (lists.teacher, lists.students, lists.evaluation):
        assert entries[-1].params == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_one_image_size_decides_all_three_lists(compose):
    lists = compose("run", "data.root=x", "image_size=128").augmentation
    assert {tuple(entries[0].params["size"]) for entries in (lists.teacher, lists.students, lists.evaluation)} == {
        (128, 128)
    }


def test_an_image_size_that_is_not_square_decides_all_three_lists_too(compose):
    lists = compose("run", "data.root=x", "image_size=[128,320]").augmentation
    assert all(entries[0].params["size"] == [128, 320] for entries in (lists.teacher, lists.students, lists.evaluation))


def test_an_image_size_of_the_environment_is_a_number_too(compose, monkeypatch):
    monkeypatch.setenv("SIZE", "96")
    settings = compose("run", "data.root=x", "image_size=${oc.env:SIZE}")
    assert settings.input_size() == (96, 96)
    assert settings.augmentation.evaluation[0].params["size"] == [96, 96]


def test_a_list_that_was_written_for_one_side_is_refused_with_how_to_write_it_for_two(compose):
    own = '{name: Resize, params: {size: ["${image_size}", "${image_size}"]}}'
    assert compose("run", "data.root=x", f"augmentation.students=[{own}]").augmentation.students[0].params["size"] == [
        256,
        256,
    ]
    with pytest.raises(
        SettingsError, match=r"`size` of Resize in a transform list is \[\[48,96\],\[48,96\]\]: .*usad_size"
    ):
        compose("run", "data.root=x", "image_size=[48,96]", f"augmentation.students=[{own}]")


def test_the_run_directory_is_called_after_the_data_set(compose):
    assert compose("run", "data.root=x", "data=mvtec").run_dir == "runs/mvtec"
    assert compose("run", "data.root=x", "data.name=bolts").run_dir == "runs/bolts"


def test_caches_go_where_the_environment_says(compose, monkeypatch):
    monkeypatch.setenv("USAD_CACHE_DIR", "/somewhere")
    assert compose("run", "data=demo").data.root == "/somewhere/demo"
    monkeypatch.delenv("USAD_CACHE_DIR")
    monkeypatch.setenv("HOME", "/home/me")
    assert compose("run", "data=demo").data.root == "/home/me/.cache/us_anomaly/demo"


def test_the_demo_needs_no_download(compose):
    settings = compose("run", "data=demo")
    assert settings.backbone.name == "efficientnet_lite0"
    assert "train" not in settings.teacher.image_sources()


def test_the_fast_experiment_is_the_accurate_one_at_one_scale(compose):
    accurate, fast = (compose("run", "data.root=x", f"experiment={name}") for name in ("accurate", "fast"))
    assert fast.scales == [66]
    assert dataclasses.replace(fast, scales=accurate.scales, run_dir=accurate.run_dir) == accurate
