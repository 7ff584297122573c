"""The loss of one student, its gradient, and which elements train."""

import numpy as np
import pytest
import torch

from us_anomaly.training import regression_loss as module
from us_anomaly.training.regression_loss import largest, regression_loss


@pytest.mark.parametrize("hard_fraction", [1.0, 0.5, 0.1, 0.013, 1e-6])
def test_the_loss_is_the_mean_of_the_largest_squared_errors(hard_fraction):
    student, target = torch.randn(2, 2, 5, 6, 7)
    errors = np.sort(((student - target).numpy() ** 2).ravel())[::-1]
    count = max(1, round(hard_fraction * errors.size))
    loss = regression_loss(student, target, hard_fraction=hard_fraction)
    assert float(loss) == pytest.approx(float(errors[:count].mean()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hard_fraction", [1.0, 0.2])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_gradient_of_the_loss_is_that_of_its_formula(monkeypatch, dtype, hard_fraction, factor):
    monkeypatch.setattr(module, "COMPARED_AT_ONCE", 7)  # several pieces, and a smaller one at the end
    student, target = torch.randn(6, 5).to(dtype).requires_grad_(), torch.randn(6, 5)
    (factor * regression_loss(student, target, hard_fraction=hard_fraction)).backward()
    found, student.grad = student.grad, None
    errors = (student.float() - target).square().flatten()
    (factor * errors.topk(round(hard_fraction * 30)).values.mean()).backward()
    assert found.dtype is dtype
    torch.testing.assert_close(found, student.grad)


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("hard_fraction", [1.0, 0.2])
def test_the_gradient_of_the_loss_may_be_asked_for_twice(hard_fraction, factor):
    student, target = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    loss = factor * regression_loss(student, target, hard_fraction=hard_fraction)
    loss.backward(retain_graph=True)
    once = student.grad.clone()
    loss.backward()
    torch.testing.assert_close(student.grad, 2 * once)


@pytest.mark.parametrize("hard_fraction", [1.0, 0.2])
def test_other_layouts_in_memory_give_the_same_loss_and_gradient(hard_fraction):
    student, target = torch.randn(6, 5), torch.randn(6, 5)
    found = []
    for answer in (student.clone(), student.T.contiguous().T):
        answer.requires_grad_()
        loss = regression_loss(answer, target, hard_fraction=hard_fraction)
        loss.backward()
        found.append((loss.detach(), answer.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("hard_fraction", [1.0, 0.2])
def test_unlike_shapes_are_refused(hard_fraction):
    with pytest.raises(ValueError, match=r"an answer \(2, 5, 3, 1\) cannot be compared with a target \(6, 5\)"):
        regression_loss(torch.randn(2, 5, 3, 1), torch.randn(6, 5), hard_fraction=hard_fraction)


def test_only_the_hard_elements_have_a_gradient():
    student, target = torch.randn(1, 4, 5, 5, requires_grad=True), torch.zeros(1, 4, 5, 5)
    regression_loss(student, target, hard_fraction=0.1).backward()
    hard = student.detach().abs() >= student.detach().abs().flatten().sort(descending=True).values[9]
    assert torch.equal(student.grad != 0, hard)


def test_of_equal_errors_as_many_are_trained_as_the_share_says():
    student = torch.full((1, 2, 3, 3), 2.0, requires_grad=True)
    loss = regression_loss(student, torch.zeros(1, 2, 3, 3), hard_fraction=0.2)
    loss.backward()
    assert float(loss.detach()) == 4
    assert int((student.grad != 0).sum()) == 4


def test_a_loss_with_an_error_that_is_not_a_number_is_none():
    student = torch.zeros(4, 5)
    student[1, 2] = -np.nan
    for hard_fraction in (1.0, 0.1):
        assert torch.isnan(regression_loss(student, torch.ones(4, 5), hard_fraction=hard_fraction))


# --- the largest -------------------------------------------------------------------------------------------------


def values_of(kind):
    drawn = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    return torch.from_numpy({
        "squares": drawn**2,
        "of one size": 1 + 1e-6 * np.abs(drawn),
        "few different": np.round(np.abs(drawn)),
        "all equal": np.full(5000, 0.25, dtype=np.float32),
        "zeros": np.zeros(5000, dtype=np.float32),
        "of all sizes": np.exp(10 * drawn),
        "with infinity": np.where(drawn > 2, np.inf, np.abs(drawn)),
    }[kind].astype(np.float32))  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 499, 500, 4999, 5000])
@pytest.mark.parametrize(
    "kind", ["squares", "of one size", "few different", "all equal", "zeros", "of all sizes", "with infinity"]
)
def test_the_largest_are_those_that_sorting_finds(kind, count):
    values = values_of(kind)
    taken = largest(values, count)
    assert taken.dtype is torch.bool
    assert torch.equal(values[taken].sort().values, values.sort().values[-count:])


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_not_a_number_is_larger_than_infinity(sign):
    values = torch.tensor([0.0, np.inf, sign * np.nan, 3.0])
    assert largest(values, 1).tolist() == [False, False, True, False]
    assert largest(values, 2).tolist() == [False, True, True, False]


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1])
def test_the_largest_number_there_is_counts(bits):
    values = torch.cat([torch.ones(3), torch.tensor([bits], dtype=torch.int32).view(torch.float32)])
    assert largest(values, 1).tolist() == [False, False, False, True]
