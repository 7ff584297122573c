"""Files of the user's that settings name: their content decides, not their path, and a finished detector does without them."""

import errno
import shutil
from pathlib import Path

import pytest

from us_anomaly.commands import distill_teacher, finetune_backbone, infer, normalize, split, train_students
from us_anomaly.commands.recipes import Recipes
from us_anomaly.errors import DataError, ResourceError, StaleArtifactError, WeightsError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.provenance import content_hash, fingerprint

BUILTIN_TEACHERS = Path(distill_teacher.__file__).parents[1] / "teachers"


@pytest.fixture
def moved(trained_copy, tiny, resnet18_weights, tmp_path):
    """Return the settings of a trained detector, whose backbone's weights are now named by another path."""
    (tmp_path / "elsewhere").mkdir()
    weights = Path(shutil.copy(resnet18_weights, tmp_path / "elsewhere"))
    return tiny(trained_copy, f"backbone.weights={weights}"), weights


def modified(run_dir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run_dir / "p33").glob("*.pt")}


def test_the_same_weights_at_another_path_make_the_same_teacher(moved, trained_copy, compose):
    before = modified(trained_copy)
    for command in (distill_teacher, normalize, train_students):
        command.run(compose("run", *moved[0]))
    assert modified(trained_copy) == before


def test_a_fingerprint_knows_the_content_of_a_named_file_and_not_its_path(moved, trained_copy, compose, tiny):
    here, there = (Recipes(compose("run", *given)).teacher(33) for given in (tiny(trained_copy), moved[0]))
    assert here.settings["backbone.weights"] != there.settings["backbone.weights"]
    assert fingerprint(here) == fingerprint(there)
    there.inputs["backbone.weights"] = "0"
    assert fingerprint(here) != fingerprint(there)


def test_a_finished_detector_scores_pictures_without_the_weights_it_was_distilled_from(moved, compose, parts):
    overrides, weights = moved
    picture = next(iter(sorted((parts / "images" / "good").iterdir())))
    looked = compose("infer", *overrides, f"inference.input={picture}")
    infer.run(looked)
    weights.unlink()
    infer.run(looked)
    with pytest.raises(WeightsError, match=r"^`backbone.weights`: there is no file .*elsewhere/resnet18.pt$"):
        infer.run(compose("infer", *overrides))


def test_other_weights_are_refused_where_pictures_are_scored_too(moved, compose, parts):
    overrides, weights = moved
    weights.write_bytes(b"other weights")
    with pytest.raises(StaleArtifactError, match=r"it was made from another backbone.weights"):
        infer.run(compose("infer", *overrides, f"inference.input={parts}"))


@pytest.mark.parametrize("failing", ["is_file", "open"])
def test_a_finished_detector_does_without_weights_that_nobody_may_read(moved, compose, monkeypatch, failing):
    overrides, weights = moved
    real = getattr(Path, failing)

    def refused(path, *arguments, **options):
        if path == weights:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, failing, refused)
    settings = compose("run", *overrides)
    assert Recipes(settings, with_data=False).teacher(33).inputs["backbone.weights"]
    with pytest.raises(
        ResourceError, match=r"^cannot read .*elsewhere/resnet18.pt: this user may not; change its permissions$"
    ):
        Recipes(settings).teacher(33)


def test_the_path_of_the_weights_is_no_part_of_the_teacher(moved, compose, tiny, tmp_path):
    for name, given in (("here", tiny(tmp_path / "here")), ("there", [*moved[0], f"run_dir={tmp_path / 'there'}"])):
        settings = compose("run", *given, "teacher.cache=false", "teacher.steps=1")
        split.run(settings)
        distill_teacher.run(settings)
        assert (tmp_path / name / "p33/teacher.pt").exists()
    assert content_hash(tmp_path / "here/p33/teacher.pt") == content_hash(tmp_path / "there/p33/teacher.pt")


def test_a_finetuned_backbone_is_known_without_the_weights_it_came_from(compose, tiny, resnet18_weights, tmp_path):
    weights = Path(shutil.copy(resnet18_weights, tmp_path / "weights.pt"))
    tuned = ["finetuning.enabled=true", "finetuning.steps=1", f"backbone.weights={weights}"]
    settings = compose("run", *tiny(tmp_path / "run", *tuned))
    split.run(settings)
    finetune_backbone.run(settings)
    known = content_hash(weights)
    weights.unlink()
    assert Recipes(settings, with_data=False).backbone.inputs["backbone.weights"] == known


@pytest.mark.parametrize(("key", "others"), [("checkpoint", []), ("start_from", ["teacher.width=0.5"])])
def test_a_teacher_that_is_gone_is_known_by_what_was_noted(compose, tiny, tmp_path, key, others):
    named = Path(shutil.copy(BUILTIN_TEACHERS / "p33.safetensors", tmp_path / "teacher.safetensors"))
    overrides = tiny(tmp_path / "run", f"teacher.{key}={named}", "teacher.descriptor_dim=128", *others)
    settings = compose("run", *overrides)
    split.run(settings)
    distill_teacher.run(settings)
    known = content_hash(named)
    named.unlink()
    assert Recipes(settings, with_data=False).teacher(33).inputs[f"teacher.{key}"] == known
    with pytest.raises(DataError, match=rf"^`teacher.{key}`: there is no file .*teacher.safetensors$"):
        Recipes(settings).teacher(33)
    mistyped = compose("run", *overrides, f"teacher.{key}={tmp_path / 'taecher.safetensors'}")
    with pytest.raises(DataError, match=rf"^`teacher.{key}`: there is no file .*taecher.safetensors$"):
        Recipes(mistyped, with_data=False).teacher(33)
    RunDir(settings.run_dir).provenance(RunDir(settings.run_dir).teacher(33)).write_text("[]")
    with pytest.raises(DataError, match=r"there is no file"):
        Recipes(settings, with_data=False).teacher(33)


def test_the_teacher_that_ships_is_the_same_by_its_path(compose, tiny, tmp_path):
    def taken(name):
        settings = compose("run", *tiny(tmp_path / "run", f"teacher.checkpoint={name}"))
        split.run(settings)
        distill_teacher.run(settings)
        return modified(tmp_path / "run")

    assert taken("builtin") == taken(BUILTIN_TEACHERS / "p33.safetensors")
