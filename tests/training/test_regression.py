import dataclasses
import itertools

import numpy as np
import pytest
import torch

from us_anomaly.errors import TrainingError
from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import dense_descriptors
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import CheckpointSettings, Schedule, StudentPositions, StudentSettings
from us_anomaly.training import regression
from us_anomaly.training.checkpoint import TrainingCheckpoint
from us_anomaly.training.course import step_generator
from us_anomaly.training.normalization import TeacherStatistics
from us_anomaly.training.regression import regress, regression_loss

CPU = Compute(torch.device("cpu"), torch.float32)
SETTINGS = StudentSettings(
    num_students=2,
    width=None,
    epochs=1,
    steps=None,
    batch_size=1,
    learning_rate=0.003,
    weight_decay=0.0,
    schedule=Schedule.constant,
    positions=StudentPositions.grid,
    hard_fraction=1.0,
    penalty_images=None,
    penalty_weight=0.0,
)


def changed(**values):
    return dataclasses.replace(SETTINGS, **values)


def picture(step, *, height=40, width=36):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(step))


def the_same_picture(step):
    return picture(0)


IDENTITY = TeacherStatistics(mean=torch.zeros(6), std=torch.ones(6))


def trained(settings, folder, *, steps, batches=picture, penalty_batches=None, seed=0, statistics=IDENTITY):
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
        settings=settings,
        steps=steps,
        seed=seed,
        compute=CPU,
        optimizer=optimizer,
        checkpoint=TrainingCheckpoint(
            folder / "students.resume.pt",
            folder / "students.losses.jsonl",
            key="test",
            parts={"ensemble": ensemble, "optimizer": optimizer},
            settings=CheckpointSettings(every_seconds=1000.0, every_steps=None),
        ),
        on_step=lambda done, now: values.append(now),
    )
    return ensemble, teacher, values


# --- loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hard_fraction", [1.0, 0.5, 0.1, 0.013, 1e-6])
def test_the_loss_is_the_mean_of_the_largest_squared_errors(hard_fraction):
    student, target = torch.randn(2, 2, 5, 6, 7)
    errors = np.sort(((student - target).numpy() ** 2).ravel())[::-1]
    count = max(1, round(hard_fraction * errors.size))
    loss = regression_loss(student, target, hard_fraction=hard_fraction)
    assert float(loss) == pytest.approx(float(errors[:count].mean()), rel=1e-5)


def test_only_the_hard_elements_have_a_gradient():
    student, target = torch.randn(1, 4, 5, 5, requires_grad=True), torch.zeros(1, 4, 5, 5)
    regression_loss(student, target, hard_fraction=0.1).backward()
    hard = student.detach().abs() >= student.detach().abs().flatten().sort(descending=True).values[9]
    assert torch.equal(student.grad != 0, hard)


def test_equal_errors_everywhere_are_all_trained():
    loss = regression_loss(torch.full((1, 2, 3, 3), 2.0), torch.zeros(1, 2, 3, 3), hard_fraction=0.2)
    assert float(loss) == 4


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


def test_every_phase_of_the_grid_is_drawn_and_none_lies_outside_of_a_small_picture():
    image = picture(0)
    drawn = {
        regression._grid(SETTINGS, image, step_generator(0, stage="train-students", step=step)) for step in range(200)
    }
    assert drawn == {(4, offset) for offset in itertools.product(range(4), range(4))}
    small = {
        regression._grid(SETTINGS, picture(0, height=2, width=1), step_generator(0, stage="s", step=step))
        for step in range(20)
    }
    assert small == {(4, (0, 0)), (4, (1, 0))}


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", StudentPositions)
def test_training_reduces_the_loss(tmp_path, positions):
    _, _, values = trained(changed(positions=positions), tmp_path, steps=30, batches=the_same_picture)
    losses = [now["loss"] for now in values]
    assert np.mean(losses[-5:]) < 0.4 * losses[0]


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
