"""`usad help KEY`: every key has a meaning, that of its docstring. The page about clusters: its commands can be composed."""

import dataclasses
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Compose

from us_anomaly import settings
from us_anomaly.settings.documentation import attribute_docstrings, explain


def test_every_key_has_a_meaning() -> None:
    keys = explain(settings.Settings, groups=settings.GROUPS)
    assert len(keys) > 80
    assert [key.key for key in keys if len(key.meaning) < 15] == []


def test_keys_of_every_layout_are_explained_once() -> None:
    keys = [key.key for key in explain(settings.Settings, groups=settings.GROUPS)]
    assert len(keys) == len(set(keys))
    for layout in settings.DATA_LAYOUTS:
        for field in dataclasses.fields(layout):
            assert f"data.{field.name}" in keys


def test_a_docstring_over_several_lines_becomes_one_sentence() -> None:
    meaning = attribute_docstrings(settings.StudentSettings)["positions"]
    assert meaning.startswith("`grid` trains on a random phase of the stride-4 grid")
    assert "\n" not in meaning
    assert "  " not in meaning


def test_inherited_keys_are_explained() -> None:
    assert "Folder that holds the data set." in attribute_docstrings(settings.CsvData)["root"]


CLUSTER = (Path(__file__).parents[1] / "docs/cluster.md").read_text(encoding="utf-8")
OF_A_JOB = {"category": "screw", "seed": "2", "SLURM_CPUS_PER_TASK": "8"}


def commands_of_cluster() -> list[list[str]]:
    """Return the arguments of each `usad` on the page, with the variables of a job filled in and the first value of a sweep."""
    text = "".join(re.findall(r"^```bash[^\n]*\n(.*?)^```$", CLUSTER, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    text = re.sub(r"\$(\w+)", lambda found: OF_A_JOB.get(found[1], found[0]), text)
    lines = [found[1] for found in re.finditer(r"\busad ([a-z]+(?:-[a-z]+)* [^|\n]*)", text)]
    return [[re.sub(r"^(seed=\d+),.*", r"\1", word) for word in shlex.split(line)] for line in lines]


def test_the_commands_for_a_cluster_have_settings_that_exist(compose: Compose) -> None:
    composed = []
    for command, *words in commands_of_cluster():
        overrides = [word for word in words if not re.match(r"-m$|hydra|data.category=all$", word)]
        named = [] if any(word.startswith("data=") for word in words) else ["data.root=x"]  # remembered
        composed.append(compose(command, *named, *overrides))
    assert len(composed) == 5
    job, teacher, run, *_ = composed
    assert (job.run_dir, job.seed, job.runtime.num_threads) == ("runs/screw-2", 2, 8)
    assert run.teacher.checkpoint == f"{teacher.run_dir}/p{{patch_size}}/teacher.pt"


def test_the_settings_that_the_page_about_clusters_names_exist() -> None:
    keys = {key.key for key in explain(settings.Settings, groups=settings.GROUPS)}
    groups = {key.partition(".")[0] for key in keys if "." in key}
    named = {found for found in re.findall(r"`([a-z_]+\.[a-z_]+)[`=]", CLUSTER) if found.partition(".")[0] in groups}
    assert len(named) > 5
    assert named - keys == set()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_script_for_a_cluster_is_one() -> None:
    (script,) = re.findall(r"^```bash script\n(.*?)^```$", CLUSTER, re.DOTALL | re.MULTILINE)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    jobs = script.replace("srun", "echo").splitlines()
    number = "for SLURM_ARRAY_TASK_ID in 0 14 15 44; do\n"
    told = subprocess.run(
        ["bash", "-e", "-c", "SLURM_CPUS_PER_TASK=8\n" + number + "\n".join(jobs[:-2]) + "\ndone"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.findall(r"run_dir=(\S+)", told) == ["runs/bottle-0", "runs/zipper-0", "runs/bottle-1", "runs/zipper-2"]
