import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from us_anomaly.errors import TrainingError
from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import dense_descriptors
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import CheckpointSettings, OptimizerName, Schedule, StudentPositions, StudentSettings
from us_anomaly.training import regression
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import step_generator
from us_anomaly.training.normalization import TeacherStatistics
from us_anomaly.training.regression import regress
from us_anomaly.training.validation import Validation, mean_regression_error, mean_uncertainty

CPU = Compute(torch.device("cpu"), torch.float32)
SETTINGS = StudentSettings(
    num_students=2,
    width=None,
    epochs=1,
    steps=None,
    batch_size=1,
    optimizer=OptimizerName.adam,
    learning_rate=0.003,
    weight_decay=0.0,
    schedule=Schedule.constant,
    positions=StudentPositions.grid,
    window_px=None,
    hard_fraction=1.0,
    penalty_images=None,
    penalty_weight=0.0,
    extra_layers=0,
    noise=0.0,
    validate_every_steps=None,
    patience=None,
)


def changed(**values):
    return dataclasses.replace(SETTINGS, **values)


def picture(step, *, height=40, width=36):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(step))


def the_same_picture(step):
    return picture(0)


IDENTITY = TeacherStatistics(mean=torch.zeros(6), std=torch.ones(6))


def trained(
    settings,
    folder,
    *,
    steps,
    batches=picture,
    penalty_batches=None,
    seed=0,
    statistics=IDENTITY,
    validation=None,
    every_steps=None,
):
    """Train an ensemble on a random teacher; return it, the teacher and the values of all steps."""
    torch.manual_seed(8)
    teacher = PatchNetwork(17, descriptor_dim=6, width=0.1).requires_grad_(False)
    ensemble = StudentEnsemble(settings.num_students, patch_size=17, descriptor_dim=6, width=0.1, seed=seed)
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=1.0)
    values = []
    regress(
        ensemble,
        teacher,
        statistics,
        batches,
        penalty_batches=penalty_batches,
        validation=validation,
        settings=settings,
        steps=steps,
        seed=seed,
        compute=CPU,
        optimizer=optimizer,
        checkpoint=TrainingCheckpoint(
            folder / "students.resume.pt",
            folder / "students.losses.jsonl",
            key="test",
            parts={"ensemble": ensemble, "optimizer": optimizer, **({"validation": validation} if validation else {})},
            settings=CheckpointSettings(every_seconds=1000.0, every_steps=every_steps),
        ),
        on_step=lambda done, now: values.append(now),
    )
    return ensemble, teacher, values


# --- positions ---------------------------------------------------------------------------------------------------


def test_the_phases_of_the_grid_add_up_to_the_dense_loss_and_its_gradient():
    """The mean over all sixteen phases is the dense loss, so a random phase has the same expected gradient."""
    torch.manual_seed(1)
    student, image, target = PatchNetwork(33, descriptor_dim=4, width=0.1), picture(0, height=12, width=16), 0.5
    (dense_descriptors(student, image, stride=1, offset=(0, 0)) - target).square().mean().backward()
    dense = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    for offset in itertools.product(range(4), range(4)):
        loss = (dense_descriptors(student, image, stride=4, offset=offset) - target).square().mean()
        (loss / 16).backward()
    for parameter, gradient in zip(student.parameters(), dense, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", StudentPositions)
def test_training_reduces_the_loss(tmp_path, positions):
    _, _, values = trained(changed(positions=positions), tmp_path, steps=30, batches=the_same_picture)
    losses = [now["loss"] for now in values]
    assert np.mean(losses[-5:]) < 0.4 * losses[0]


def test_steps_in_windows_learn_what_a_step_of_the_whole_picture_learns(tmp_path):
    """A picture of two windows, hardly any learning: the losses of both have the mean of the loss of all positions."""
    still = changed(positions=StudentPositions.dense, learning_rate=1e-12)

    def losses(folder, **values):
        values = trained(
            dataclasses.replace(still, **values),
            tmp_path / folder,
            steps=8,
            batches=lambda step: picture(0, height=64, width=20),
        )[2]
        return {round(now["loss"], 5) for now in values}

    (whole,), (one, other) = losses("whole"), losses("windows", window_px=32)
    assert abs(one - other) > 0.001
    assert (one + other) / 2 == pytest.approx(whole, abs=2e-5)


def test_students_stay_different_while_they_learn(tmp_path):
    ensemble, _, _ = trained(SETTINGS, tmp_path, steps=5)
    one, other = (network.layers[0].weight.detach() for network in ensemble.networks)
    assert float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].abs()) < 0.15


def test_the_first_loss_is_the_mean_over_students_of_the_error_against_the_normalised_teacher(tmp_path):
    """Before the first update, students are as drawn: the value can be computed apart."""
    statistics = TeacherStatistics(mean=torch.full((6,), 3.0), std=torch.full((6,), 0.5))
    dense = changed(positions=StudentPositions.dense)
    _, teacher, values = trained(dense, tmp_path, steps=1, statistics=statistics)
    students = StudentEnsemble(2, patch_size=17, descriptor_dim=6, width=0.1, seed=0).networks
    with torch.inference_mode():
        target = (dense_descriptors(teacher, picture(0)) - 3) / 0.5
        errors = [(dense_descriptors(student, picture(0)) - target).square().mean() for student in students]
    assert values[0]["loss"] == pytest.approx(float(sum(errors) / 2), rel=1e-5)


def test_the_same_seed_gives_the_same_students_and_another_seed_others(tmp_path):
    results = [trained(SETTINGS, tmp_path / str(n), steps=3, seed=seed)[2] for n, seed in enumerate((0, 0, 1))]
    assert results[0] == results[1] != results[2]


def test_the_learning_rate_follows_the_schedule(tmp_path):
    """Adam moves every weight by about the learning rate, whose mean over a cosine is half of the constant one."""
    start = StudentEnsemble(2, patch_size=17, descriptor_dim=6, width=0.1, seed=0)

    def moved(schedule):
        folder = tmp_path / schedule.name
        ensemble, _, _ = trained(changed(schedule=schedule), folder, steps=12, batches=the_same_picture)
        return sum(
            float((a - b).abs().sum().detach()) for a, b in zip(ensemble.parameters(), start.parameters(), strict=True)
        )

    assert 0.3 * moved(Schedule.constant) < moved(Schedule.cosine) < 0.8 * moved(Schedule.constant)


def test_hard_elements_alone_give_a_larger_loss(tmp_path):
    _, _, easy = trained(SETTINGS, tmp_path / "all", steps=1)
    _, _, hard = trained(changed(hard_fraction=0.01), tmp_path / "hard", steps=1)
    assert hard[0]["loss"] > 3 * easy[0]["loss"]


def test_the_penalty_is_the_weighted_mean_square_of_the_answers_and_makes_them_smaller(tmp_path):
    def outside(step):
        return picture(99)

    def answer(ensemble):
        with torch.inference_mode():
            return [float(dense_descriptors(s, picture(99), stride=4).square().mean()) for s in ensemble.networks]

    settings = changed(penalty_images="generic", penalty_weight=0.5)
    start = StudentEnsemble(2, patch_size=17, descriptor_dim=6, width=0.1, seed=0)
    with_penalty, _, values = trained(settings, tmp_path / "with", steps=10, penalty_batches=outside)
    without, _, plain = trained(SETTINGS, tmp_path / "without", steps=10)
    assert values[0]["penalty"] == pytest.approx(0.5 * np.mean(answer(start)), rel=1e-5)
    assert "penalty" not in plain[0]
    assert np.mean(answer(with_penalty)) < 0.8 * np.mean(answer(without))


def test_a_loss_that_is_not_a_number_stops_and_leaves_the_weights_as_they_were(tmp_path):
    def batches(step):
        return picture(step) * (float("nan") if step == 1 else 1)

    with pytest.raises(TrainingError, match=r"the loss became nan at step 2: lower the learning rate"):
        trained(SETTINGS, tmp_path, steps=3, batches=batches)


# --- noise -------------------------------------------------------------------------------------------------------


def test_noise_has_the_deviation_asked_for_and_each_student_its_own():
    generator = step_generator(0, stage="train-students", step=0)
    image = picture(0, height=100, width=100)
    first, second = (regression._noisy(image, 0.3, generator) - image for _ in range(2))
    assert float(first.std()) == pytest.approx(0.3, rel=0.05)
    assert float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs()) < 0.05
    assert regression._noisy(image, 0.0, generator) is image


def test_only_the_students_see_the_noise(tmp_path):
    seen = []
    original = regression.listed_descriptors

    def watched(network, images, **options):
        seen.append(images)
        return original(network, images, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regression, "listed_descriptors", watched)
        trained(changed(noise=0.5), tmp_path, steps=1)
    teacher, *students = seen
    assert torch.equal(teacher, picture(0))
    assert [0.4 < float((one - picture(0)).std()) < 0.6 for one in students] == [True, True]
    assert not torch.equal(*students)


def test_training_with_noise_is_the_same_every_time_and_its_grid_is_that_without(tmp_path):
    runs = [trained(changed(noise=noise), tmp_path / str(n), steps=2)[2] for n, noise in enumerate((0.1, 0.1, 0.0))]
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0]["loss"] == pytest.approx(runs[2][0]["loss"], rel=0.2)


# --- validation --------------------------------------------------------------------------------------------------


def validation_of(pictures, *, every_steps=2, patience=None):
    return Validation(lambda: iter(pictures), every_steps=every_steps, patience=patience)


HELD_BACK = [picture(100)[0], picture(101, height=30, width=44)[0]]


def test_the_validation_error_is_that_of_the_mean_student_over_all_positions_and_dimensions(tmp_path):
    ensemble, teacher, values = trained(SETTINGS, tmp_path, steps=4, validation=validation_of(HELD_BACK, every_steps=4))
    errors = []
    with torch.inference_mode():
        for image in HELD_BACK:
            mean = sum(dense_descriptors(s, image[None], stride=4) for s in ensemble.networks) / 2
            errors.append((mean - dense_descriptors(teacher, image[None], stride=4)).square().flatten())
    assert values[-1]["validation"] == pytest.approx(float(torch.cat(errors).mean()), rel=1e-4)


def test_it_is_measured_every_so_many_steps_and_at_the_end_and_written_down(tmp_path):
    *_, values = trained(SETTINGS, tmp_path, steps=7, validation=validation_of(HELD_BACK, every_steps=3))
    assert [number for number, now in enumerate(values, start=1) if "validation" in now] == [3, 6, 7]
    points = [json.loads(line) for line in (tmp_path / "students.losses.jsonl").read_text().splitlines()]
    assert {point["step"]: point.get("validation") for point in points} == {
        number: round(now["validation"], 6) if "validation" in now else None
        for number, now in enumerate(values, start=1)
    }


def diverging(step):
    """Learn the validation picture, then one that has nothing to do with it."""
    return picture(100) if step < 6 else torch.full((1, 3, 40, 36), 4.0)


def test_the_weights_of_the_smallest_error_are_kept(tmp_path):
    held_back = [picture(100)[0]]
    ensemble, teacher, values = trained(
        SETTINGS, tmp_path, steps=12, batches=diverging, validation=validation_of(held_back)
    )
    errors = [now["validation"] for now in values if "validation" in now]
    assert len(errors) == 6
    assert min(errors) < 0.9 * errors[-1]
    error = mean_regression_error(ensemble, teacher, IDENTITY, held_back, compute=CPU)
    assert error == pytest.approx(min(errors), rel=1e-6)


def test_training_ends_when_the_error_was_not_smaller_for_so_many_validations(tmp_path):
    *_, values = trained(
        SETTINGS, tmp_path, steps=40, batches=diverging, validation=validation_of([picture(100)[0]], patience=2)
    )
    errors = [now["validation"] for now in values if "validation" in now]
    assert len(values) < 40
    assert errors.index(min(errors)) == len(errors) - 3


@pytest.mark.parametrize("stop_after", [3, 8, 9, None])
def test_a_stopped_training_with_validation_goes_on_to_the_same_weights(tmp_path, stop_after):
    """None: it ended by itself and the process died before it wrote the students."""
    settings = {"steps": 40, "batches": diverging, "every_steps": 1}
    whole, _, values = trained(
        SETTINGS, tmp_path / "whole", validation=validation_of([picture(100)[0]], patience=2), **settings
    )

    def dies(step):
        if step == stop_after:
            raise KeyError(step)
        return diverging(step)

    first = {**settings, "batches": dies}
    validation = validation_of([picture(100)[0]], patience=2)
    if stop_after is None:
        trained(SETTINGS, tmp_path / "parts", validation=validation, **first)
    else:
        with pytest.raises(KeyError):
            trained(SETTINGS, tmp_path / "parts", validation=validation, **first)
    again, _, rest = trained(
        SETTINGS, tmp_path / "parts", validation=validation_of([picture(100)[0]], patience=2), **settings
    )
    assert len(rest) == (0 if stop_after is None else len(values) - stop_after)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    curves = [(tmp_path / name / "students.losses.jsonl").read_bytes() for name in ("whole", "parts")]
    assert curves[0] == curves[1]


def test_large_pictures_are_measured_tile_by_tile_with_the_same_result(tmp_path, monkeypatch):
    ensemble, teacher, _ = trained(SETTINGS, tmp_path, steps=2)

    def measured():
        error = mean_regression_error(ensemble, teacher, IDENTITY, HELD_BACK, compute=CPU)
        return error, mean_uncertainty(ensemble, HELD_BACK, compute=CPU)

    whole = measured()
    monkeypatch.setattr("us_anomaly.models.dense.MAX_TILE_PIXELS", 20 * 20)
    assert measured() == pytest.approx(whole, rel=1e-5)


def test_disagreement_is_the_mean_uncertainty_per_dimension():
    ensemble = StudentEnsemble(3, patch_size=17, descriptor_dim=6, width=0.1, seed=0)
    values = []
    with torch.inference_mode():
        for image in HELD_BACK:
            answers = np.stack([dense_descriptors(s, image[None], stride=4).numpy() for s in ensemble.networks])
            values.append(((answers - answers.mean(axis=0)) ** 2).mean(axis=0).ravel())
    expected = float(np.concatenate(values).mean())
    assert mean_uncertainty(ensemble, HELD_BACK, compute=CPU) == pytest.approx(expected, rel=1e-4)
    alike = StudentEnsemble(2, patch_size=17, descriptor_dim=6, width=0.1, seed=0)
    alike.networks[1].load_state_dict(alike.networks[0].state_dict())
    assert mean_uncertainty(alike, HELD_BACK, compute=CPU) == 0
