"""Muon against torch's own for matrices, against torch's Adam for biases, and against what orthogonalisation means."""

import copy
import math

import pytest
import torch
from torch import nn

from us_anomaly.settings import OptimizerName
from us_anomaly.training.optimizers import Muon, build_optimizer, orthogonalised


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(optimizer, weights, *, steps, first=0):
    """Make some steps with gradients that differ from step to step and from weight to weight."""
    for step in range(first, first + steps):
        for number, weight in enumerate(weights):
            weight.grad = noise(*weight.shape, seed=100 * step + number) + weight.detach()
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


# --- orthogonalisation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 16, 75), (1, 75, 16), (3, 32, 64), (2, 1, 9)])
def test_all_singular_values_become_about_one(shape):
    values = torch.linalg.svdvals(orthogonalised(noise(*shape)))
    assert 0.6 < values.min() <= values.max() < 1.25


def test_directions_stay_as_they_are():
    u, _, vh = torch.linalg.svd(noise(12, 40), full_matrices=False)
    skewed = (u * torch.logspace(0, -1.5, 12)) @ vh
    alignment = (u.mT @ orthogonalised(skewed[None])[0] @ vh.mT).diagonal()
    assert alignment.min() > 0.6
    torch.testing.assert_close(alignment.square().sum(), orthogonalised(skewed[None]).square().sum(), rtol=1e-3, atol=0)


def test_the_scale_of_a_matrix_does_not_matter_and_zeros_stay_zeros():
    matrix = noise(1, 8, 20)
    torch.testing.assert_close(orthogonalised(1e-6 * matrix), orthogonalised(matrix))
    assert (orthogonalised(torch.zeros(1, 8, 20)) == 0).all()


def test_matrices_together_give_what_each_gives_alone():
    matrices = noise(3, 8, 20) * torch.tensor([1.0, 100.0, 0.01])[:, None, None]
    alone = torch.cat([orthogonalised(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalised(matrices), alone)


@pytest.mark.parametrize("shape", [(2, 16, 75), (2, 75, 16)])
@pytest.mark.parametrize("smallest", [1, 1e-2, 1e-4])
def test_orthogonalisation_is_the_published_iteration(shape, smallest):
    u, values, vh = torch.linalg.svd(noise(*shape), full_matrices=False)
    skewed = (u * torch.logspace(0, math.log10(smallest), values.shape[-1])) @ vh
    expected = skewed.double() / skewed.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = expected.mT @ expected
        a, b, c = 3.4445, -4.7750, 2.0315
        expected = a * expected + expected @ (b * gram + c * gram @ gram)
    torch.testing.assert_close(
        orthogonalised(skewed), expected.float(), rtol=0, atol=1e-3 * float(expected.abs().max())
    )


# --- steps -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_matrices_move_as_with_the_muon_of_torch(shape):
    start = noise(*shape, seed=7)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    (found,) = moved(Muon([ours], learning_rate=0.02, weight_decay=0.1), [ours], steps=4)
    (expected,) = moved(reference, [theirs], steps=4)
    difference = (found - expected).norm() / (expected - start).norm()
    assert difference < 0.05  # torch iterates in bfloat16


def test_a_convolution_moves_as_the_matrix_of_its_output_channels():
    start = noise(8, 3, 5, 5)
    matrix = nn.Parameter(start.flatten(1).clone())
    kernel = nn.Parameter(start.clone().to(memory_format=torch.channels_last))
    for weight, gradient in ((matrix, noise(8, 75, seed=1)), (kernel, noise(8, 75, seed=1).view(8, 3, 5, 5))):
        weight.grad = gradient.clone()
        Muon([weight], learning_rate=0.1).step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())
    assert not torch.equal(matrix, start.flatten(1))


def test_biases_move_as_with_adam():
    ours, theirs = nn.Parameter(noise(9)), nn.Parameter(noise(9))
    found = moved(Muon([ours], learning_rate=0.01, weight_decay=0.1), [ours], steps=5)
    torch.testing.assert_close(found, moved(torch.optim.Adam([theirs], lr=0.01), [theirs], steps=5))


def test_a_weight_without_gradient_stays():
    weight, other = nn.Parameter(noise(4, 4)), nn.Parameter(noise(4, 4))
    other.grad = noise(4, 4, seed=1)
    Muon([weight, other], learning_rate=0.1, weight_decay=0.5).step()
    assert torch.equal(weight, noise(4, 4))
    assert not torch.equal(other, noise(4, 4))


@pytest.mark.parametrize("shape", [(64, 3, 5, 5), (32, 128)])
def test_steps_have_the_size_of_adams(shape):
    weight = nn.Parameter(noise(*shape))
    weight.grad = noise(*shape, seed=1)
    Muon([weight], learning_rate=0.01).step()
    assert (weight.detach() - noise(*shape)).square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.2)


def test_training_goes_on_where_it_was_saved():
    weights = [nn.Parameter(noise(6, 3, 2, 2)), nn.Parameter(noise(6))]
    optimizer = Muon(weights, learning_rate=0.05)
    moved(optimizer, weights, steps=3)
    resumed_weights = [nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = Muon(resumed_weights, learning_rate=0.05)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected = moved(optimizer, weights, steps=2, first=3)
    for found, wanted in zip(moved(resumed, resumed_weights, steps=2, first=3), expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="Muon takes no closure"):
        Muon([nn.Parameter(noise(2, 2))], learning_rate=0.1).step(lambda: 0.0)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("muon", Muon)])
def test_the_optimiser_is_the_one_that_is_named(name, kind):
    optimizer = build_optimizer(OptimizerName[name], [nn.Parameter(noise(2))], learning_rate=0.5, weight_decay=0.25)
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.5, 0.25)
