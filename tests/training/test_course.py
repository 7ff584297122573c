import math

import numpy as np
import pytest
import torch

from us_anomaly.settings import Schedule
from us_anomaly.training.course import (
    epoch_indices,
    learning_rate,
    num_steps,
    read_out,
    set_learning_rate,
    step_generator,
    step_rng,
)


def test_epochs_end_with_a_smaller_batch_and_steps_override_them():
    assert num_steps(steps=None, epochs=3, items_per_epoch=10, batch_size=4) == 9
    assert num_steps(steps=None, epochs=2, items_per_epoch=8, batch_size=4) == 4
    assert num_steps(steps=7, epochs=3, items_per_epoch=10, batch_size=4) == 7


def epoch(number, *, seed=0, stage="students", num_items=10, batch_size=4):
    steps = math.ceil(num_items / batch_size)
    return [
        epoch_indices(num_items, seed=seed, stage=stage, step=step, batch_size=batch_size)
        for step in range(number * steps, (number + 1) * steps)
    ]


def test_every_epoch_shows_every_item_once_in_batches():
    for number in range(3):
        batches = epoch(number)
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert sorted(index for batch in batches for index in batch) == list(range(10))


def test_the_order_depends_on_epoch_seed_and_stage_and_on_nothing_else():
    assert epoch(1) == epoch(1)
    assert len({str(order) for order in (epoch(0), epoch(1), epoch(0, seed=1), epoch(0, stage="teacher"))}) == 4


def test_random_numbers_of_a_step_follow_from_seed_stage_and_step():
    def draw(*, seed=0, stage="students", step=3):
        generator = step_rng(seed, stage=stage, step=step)
        return float(generator.random()), float(torch.rand(()))

    assert draw() == draw()
    draws = [draw(), draw(seed=1), draw(stage="teacher"), draw(step=4)]
    for position in (0, 1):  # numpy's and torch's
        assert len({pair[position] for pair in draws}) == 4


def test_random_numbers_of_the_loop_are_apart_from_the_global_generator():
    def draw(step):
        return float(torch.rand((), generator=step_generator(0, stage="students", step=step)))

    torch.manual_seed(0)
    expected = float(torch.rand(()))
    torch.manual_seed(0)
    assert draw(1) == draw(1) != draw(2)
    assert float(torch.rand(())) == expected


def test_a_constant_schedule_stays_and_a_cosine_falls_to_a_hundredth():
    rates = {
        schedule: np.array([learning_rate(2.0, schedule=schedule, step=step, steps=100) for step in range(101)])
        for schedule in Schedule
    }
    assert (rates[Schedule.constant] == 2).all()
    cosine = rates[Schedule.cosine]
    np.testing.assert_allclose(cosine[[0, 50, 100]], [2, 2 * 0.505, 0.02])
    assert (np.diff(cosine) < 0).all()


def test_the_learning_rate_is_set_for_all_parameters():
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 5.0}]
    optimizer = torch.optim.Adam(groups, lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize("step", [0, 5])
def test_one_item_is_shown_in_every_step(step):
    assert epoch_indices(1, seed=0, stage="students", step=step, batch_size=4) == [0]


def test_losses_are_read_out_as_numbers_in_their_order():
    losses = {"loss": torch.tensor(3.0, requires_grad=True) * 1, "penalty": torch.tensor(0.25)}
    assert list(read_out(losses).items()) == [("loss", 3.0), ("penalty", 0.25)]
