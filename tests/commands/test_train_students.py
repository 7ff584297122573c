"""`usad train-students`: what it adds to the regression: validation, deeper students, and how much they disagree."""

import json
import logging

import pytest
import torch

from us_anomaly.commands import distill_teacher, normalize, split, train_students, training_images
from us_anomaly.commands.recipes import Recipes
from us_anomaly.errors import DataError, UsadError
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_tensors, write_tensors
from us_anomaly.training.artifacts import load_statistics, load_students, load_teacher


def test_the_summary_tells_how_much_the_students_disagree_and_the_file_keeps_it(compose, tiny, trained_copy, capsys):
    measured = read_tensors(RunDir(trained_copy).students(33))["uncertainty_per_dimension"]
    normal, generic = measured["normal"], measured["generic"]
    assert min(normal, generic) > train_students.MIN_DISAGREEMENT
    train_students.run(compose("train-students", *tiny(trained_copy)))
    text = capsys.readouterr().out
    assert "disagreement, p=33" in text
    assert (
        f"{normal:.3g} per dimension on normal pictures, {generic:.3g} on generic ones: {generic / normal:.3g} ti"
        in text
    )


def test_every_weight_of_every_student_learns(compose, tiny, trained):
    run_dir = RunDir(trained)
    start = train_students._untrained(
        compose("train-students", *tiny(trained)), load_teacher(run_dir.teacher(33))
    ).state_dict()
    end = load_students(run_dir.students(33)).state_dict()
    assert end.keys() == start.keys()
    assert not [name for name in end if torch.equal(start[name], end[name])]


def test_students_learn_by_the_penalty_that_the_settings_ask_for(compose, tiny, trained_copy):
    penalty = ("students.penalty_images=procedural", "students.penalty_weight=1", "students.steps=2")
    train_students.run(compose("train-students", *tiny(trained_copy), *penalty, "overwrite=true"))
    lines = (trained_copy / "p33/students.losses.jsonl").read_text().splitlines()
    assert [json.loads(line).keys() for line in lines] == [{"step", "loss", "penalty"}] * 2
    assert all(json.loads(line)["penalty"] > 0 for line in lines)


@pytest.fixture
def given(compose, tiny, trained_copy, monkeypatch):
    """Return a function that trains students with some settings, and what it gave to the regression before the first step."""

    def train(*overrides):
        noted = {}

        def regress(ensemble, teacher, statistics, batches, **others):
            noted["start"] = {name: tensor.clone() for name, tensor in ensemble.state_dict().items()}
            noted["pictures"] = torch.cat([batches(step) for step in range(6)])
            noted.update(others, statistics=statistics)

        monkeypatch.setattr(train_students, "regress", regress)
        settings = compose("train-students", *tiny(trained_copy), *overrides)
        transforms = settings.augmentation.students
        pictures = training_images.shared_training_images(settings, transforms, key="augmentation.students")
        train_students.train(settings, 33, RunDir(trained_copy).students(33), key="", pictures=pictures)
        return noted

    return train


def test_the_seed_decides_the_first_weights_the_pictures_and_the_steps_of_students(given):
    one, other = (given(f"seed={seed}") for seed in (0, 1))
    drawn = [name for name in one["start"] if name.endswith("weight")]  # a bias begins at zero
    assert not [name for name in drawn if torch.equal(one["start"][name], other["start"][name])]
    assert not torch.equal(one["pictures"], other["pictures"])
    assert (one["seed"], other["seed"]) == (0, 1)


def test_students_of_each_patch_size_learn_with_the_statistics_of_its_own_teacher(given, trained_copy):
    run_dir = RunDir(trained_copy)
    own = load_statistics(run_dir.teacher_statistics(33))
    state = read_tensors(run_dir.teacher_statistics(33))
    write_tensors(run_dir.teacher_statistics(17), {**state, "mean": state["mean"] + 1})
    noted = given("scales=[17,33]", "scoring.normalization=zscore")
    assert torch.equal(noted["statistics"].mean, own.mean)


def test_students_that_are_noisy_deeper_and_validated_are_trained_and_read_again(compose, tiny, trained_copy):
    settings = compose(
        "train-students",
        *tiny(trained_copy),
        *("students.noise=0.1", "students.extra_layers=1", "students.validate_every_steps=2", "students.patience=5"),
        "overwrite=true",
    )
    train_students.run(settings)
    run_dir = RunDir(trained_copy)
    path = run_dir.students(33)
    ensemble = load_students(path)
    assert [network.extra_layers for network in ensemble.networks] == [1, 1]
    points = [json.loads(line) for line in run_dir.loss_curve(path).read_text().splitlines()]
    assert [point["step"] for point in points if "validation" in point] == [2, 4, 6]
    before = path.stat().st_mtime_ns
    train_students.run(settings)
    assert path.stat().st_mtime_ns == before


def test_the_training_pictures_are_decoded_once_for_all_patch_sizes_and_only_where_something_is_made(
    compose, tiny, tmp_path, monkeypatch
):
    decoded = []
    genuine = training_images.cached_images
    monkeypatch.setattr(
        training_images, "cached_images", lambda *given, **named: decoded.append(named) or genuine(*given, **named)
    )
    settings = compose("run", *tiny(tmp_path / "run"), "scales=[17,33]", "scoring.normalization=zscore")
    split.run(settings)
    distill_teacher.run(settings)
    for command in (normalize, train_students):
        for times in (1, 0):
            decoded.clear()
            command.run(settings)
            assert len(decoded) == times


def test_validation_takes_the_normal_pictures_of_its_split_only(compose, tiny, trained, monkeypatch):
    asked = []
    monkeypatch.setattr(train_students, "cached_images", lambda settings, samples, *_, **__: asked.extend(samples))
    train_students._validation(compose("train-students", *tiny(trained), "students.validate_every_steps=2"))
    assert asked
    assert {(sample.split, sample.is_anomalous) for sample in asked} == {("val", False)}


def test_validation_without_normal_pictures_is_refused_with_the_ways_out(compose, tiny, trained, monkeypatch):
    monkeypatch.setattr(train_students, "read_split", lambda *_: [])
    settings = compose("train-students", *tiny(trained), "students.validate_every_steps=2")
    with pytest.raises(
        DataError,
        match=r"`students.validate_every_steps` needs normal pictures in validation, and there are none: give split.ratios",
    ):
        train_students._validation(settings)


@pytest.mark.parametrize(("value", "num_students", "warns"), [(9e-5, 2, True), (2e-4, 2, False), (0.0, 1, False)])
def test_students_that_hardly_differ_are_told(caplog, value, num_students, warns):
    with caplog.at_level(logging.WARNING):
        train_students._report({"normal": value / 10, "generic": value}, num_students=num_students)
    assert ("THE STUDENTS ARE NEARLY IDENTICAL" in caplog.text) == warns


@pytest.mark.parametrize(
    ("size", "window", "patch_size", "told"),
    [
        ((1024, 1024), "null", 33, "every step looks at 1024 x 1024 pixels: with students.window_px=256,"),
        ((1024, 1024), "null", 33, "are about 13 times as fast"),
        ((64, 4096), "null", 33, "are about 14 times as fast"),
        ((1024, 1024), "null", 65, None),
        ((1024, 1024), "300", 33, None),
        ((400, 512), "null", 33, None),
    ],
)
def test_the_way_to_learn_large_pictures_is_told_once(compose, caplog, size, window, patch_size, told):
    settings = compose("train-students", "data=demo", "scales=[33,65]", f"students.window_px={window}")
    with caplog.at_level(logging.INFO):
        train_students._suggest_a_window(settings, patch_size, size)
    assert (told in caplog.text) if told else not caplog.text


def test_without_the_packaged_photographs_the_disagreement_on_normal_pictures_is_known(
    compose, tiny, trained_copy, monkeypatch
):
    def missing(*_, **__):
        raise UsadError("not installed")

    monkeypatch.setattr(train_students, "generic_inputs", missing)
    train_students.run(compose("train-students", *tiny(trained_copy), "students.steps=2", "overwrite=true"))
    measured = read_tensors(RunDir(trained_copy).students(33))["uncertainty_per_dimension"]
    assert measured["generic"] is None
    assert measured["normal"] > 0
    assert train_students._facts(RunDir(trained_copy), 33) == []


def test_maps_without_a_border_do_not_make_a_calibration_of_before_stale(compose, tiny, trained):
    without, width_of_two = (
        Recipes(compose("calibrate", *tiny(trained), f"scoring.border_px={width}")).calibration.settings
        for width in (0, 2)
    )
    assert width_of_two == {**without, "scoring.border_px": 2}
    assert "scoring.border_px" not in without


def test_settings_that_are_off_do_not_make_students_of_before_stale(compose, tiny, trained):
    added = {"extra_layers": "1", "noise": "0.5", "validate_every_steps": "2", "window_px": "48"}
    off = Recipes(compose("train-students", *tiny(trained))).students(33).settings
    assert not {f"students.{name}" for name in (*added, "patience")} & off.keys()
    for name, value in added.items():
        changed = compose("train-students", *tiny(trained), f"students.{name}={value}")
        settings = Recipes(changed).students(33).settings
        assert {key: settings[key] for key in settings.keys() - off.keys()} == {f"students.{name}": float(value)}
