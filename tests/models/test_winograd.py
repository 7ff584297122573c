import copy

import pytest
import torch
from torch import nn

from us_anomaly.models import winograd
from us_anomaly.models.dense import dense_descriptors
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.models.winograd import Convolution, best_transforms, convolve, pays, transforms

FLOAT32_TOLERANCE, BFLOAT16_POINTS_TOLERANCE = 1e-5, 1e-4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(taps, channels=5, dims=7):
    return drawn(dims, channels, taps, taps, seed=1) / (channels**0.5 * taps), drawn(dims, seed=2)


def ordinary(features, weight, bias=None):
    return nn.functional.conv2d(features.double(), weight.double(), None if bias is None else bias.double())


def relative_error(values, expected):
    return float((values.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("side", [6, 7, 8, 9, 10])
@pytest.mark.parametrize("taps", [2, 3, 4, 5])
def test_the_transforms_give_the_sums_of_products_of_a_row(taps, side):
    known = transforms(taps, side)
    kernel, row = drawn(taps).double(), drawn(side, seed=1).double()
    expected = [float((kernel * row[first : first + taps]).sum()) for first in range(side + 1 - taps)]
    found = known.outputs @ ((known.weights @ kernel) * (known.inputs @ row))
    assert known.side == side
    assert known.positions == side + 1 - taps
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tiles_at_once", [1, 3, 256])
@pytest.mark.parametrize("size", [(5, 6), (9, 5), (12, 12), (13, 23), (40, 17)])
@pytest.mark.parametrize("taps", [2, 4, 5])
def test_the_convolution_is_the_ordinary_one_for_any_size(monkeypatch, taps, size, tiles_at_once):
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", tiles_at_once)
    (weight, bias), features = layer_of(taps), drawn(3, 5, *size)
    found = convolve(features, weight, bias, dtype=torch.float32)
    expected = ordinary(features, weight, bias)
    assert found.shape == expected.shape
    assert found.dtype is torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(found, expected) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("slope", [None, 0.1])
@pytest.mark.parametrize("has_bias", [True, False])
def test_bias_and_leaky_relu_are_those_of_the_ordinary_layer(has_bias, slope):
    (weight, bias), features = layer_of(4), drawn(2, 5, 20, 21)
    bias = bias if has_bias else None
    expected = ordinary(features, weight, bias)
    expected = expected if slope is None else nn.functional.leaky_relu(expected, slope)
    assert relative_error(convolve(features, weight, bias, dtype=torch.float32, slope=slope), expected) < 1e-5


@pytest.mark.parametrize("taps", [2, 4, 5])
def test_the_larger_tiles_of_bfloat16_round_far_less_than_bfloat16_does(taps):
    (weight, bias), features = layer_of(taps, channels=64, dims=32), drawn(1, 64, 29, 31)
    known = best_transforms(100, 100, taps, torch.bfloat16)
    assert known.side > 8
    by_points = winograd._convolved(
        features, winograd.transformed(weight, known), known, bias, dtype=torch.float32
    )  # as for bfloat16, before the result is rounded
    expected = ordinary(features, weight, bias)
    assert relative_error(by_points, expected) < BFLOAT16_POINTS_TOLERANCE
    rounded = convolve(features.bfloat16(), weight.bfloat16(), bias.bfloat16(), dtype=torch.bfloat16)
    assert rounded.dtype is torch.bfloat16
    assert BFLOAT16_POINTS_TOLERANCE < relative_error(rounded, expected) < 0.005


def test_the_last_row_and_column_beyond_a_picture_take_no_part():
    """What lies beyond is 0, not whatever memory held: a value that is not a number would reach all of its tile."""
    (weight, bias), features = layer_of(5), drawn(1, 5, 11, 10)
    around = torch.full((1, 5, 31, 30), torch.nan)
    around[..., 10:21, 10:20] = features
    found = convolve(around[..., 10:21, 10:20], weight, bias, dtype=torch.float32)
    assert relative_error(found, ordinary(features, weight, bias)) < FLOAT32_TOLERANCE


def test_tiles_are_the_ones_that_multiply_least():
    assert best_transforms(65, 65, 4, torch.float32).positions == 5  # 13 x 13 tiles without a rest
    assert best_transforms(64, 64, 4, torch.bfloat16).side == 9  # 11 x 11 tiles of 6, not 10 x 10 of 7
    assert best_transforms(3, 3, 4, torch.float32).side == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taps", [2, 4, 5])
def test_gradients_are_those_of_the_ordinary_convolution(taps, dtype):
    weight, bias = (values.requires_grad_() for values in layer_of(taps))
    features = drawn(2, 5, 19, 14).requires_grad_()
    wanted = [values.detach().double().requires_grad_() for values in (features, weight, bias)]
    expected = ordinary(*wanted)
    factors = drawn(*expected.shape, seed=3)
    (expected * factors).sum().backward()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        found = Convolution.apply(features, weight, bias)
    assert found.dtype is dtype
    (found * factors).sum().backward()
    tolerance = FLOAT32_TOLERANCE if dtype is torch.float32 else 0.005
    assert relative_error(found.detach(), expected.detach()) < tolerance
    for mine, theirs in zip((features, weight, bias), wanted, strict=True):
        assert mine.grad.dtype is torch.float32
        assert relative_error(mine.grad, theirs.grad) < tolerance


def test_only_the_gradients_that_are_wanted_are_computed():
    weight, bias = (values.requires_grad_() for values in layer_of(4))
    features = drawn(1, 5, 12, 12)
    Convolution.apply(features, weight, bias).sum().backward()
    assert features.grad is None
    assert weight.grad is not None


def test_transformed_weights_are_made_anew_when_the_weights_change(monkeypatch):
    made = []
    original = winograd.transformed
    monkeypatch.setattr(winograd, "transformed", lambda *given: made.append(1) or original(*given))
    weight, bias = layer_of(4)
    features = drawn(1, 5, 20, 20)

    def is_right():
        return relative_error(convolve(features, weight, bias, dtype=torch.float32), ordinary(features, weight, bias))

    assert max(is_right(), is_right()) < FLOAT32_TOLERANCE
    assert len(made) == 1
    weight.mul_(2)
    assert is_right() < FLOAT32_TOLERANCE
    weight.data = weight.data.flip(0).clone()
    assert is_right() < FLOAT32_TOLERANCE
    assert len(made) == 3
    with torch.inference_mode():
        weight = weight * 3
        assert is_right() < FLOAT32_TOLERANCE
        weight.mul_(2)
        assert is_right() < FLOAT32_TOLERANCE


def test_wide_layers_pay_and_narrow_or_small_ones_do_not(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(winograd, "bfloat16_speedup", lambda: 2.3)
    wide, narrow = drawn(1, 1, 1, 1).expand(256, 128, 5, 5), drawn(1, 1, 1, 1).expand(16, 8, 5, 5)
    features, few = drawn(1, 1, 1, 1).expand(1, 128, 60, 60), drawn(1, 1, 1, 1).expand(1, 8, 60, 60)
    assert pays(features, wide, learns=False)
    assert pays(features, wide, learns=True)
    assert pays(features.bfloat16(), wide, learns=False)
    assert pays(features.bfloat16(), wide, learns=True)
    assert not pays(few, narrow, learns=False)
    medium, half = drawn(1, 1, 1, 1).expand(128, 64, 5, 5), features[:, :64].bfloat16()
    assert pays(half, medium, learns=False)
    assert not pays(half, medium, learns=True)
    assert not pays(features[..., :5, :5], wide, learns=False)
    assert not pays(features[..., :4, :60], wide, learns=False)
    assert not pays(features.to("meta"), wide, learns=False)
    assert not pays(features.double(), wide.double(), learns=False)
    monkeypatch.setattr(winograd, "bfloat16_speedup", lambda: 6.5)  # AMX
    assert not pays(features.bfloat16(), wide, learns=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not pays(features, wide, learns=False)
    assert pays(features, wide, learns=False)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not pays(features, wide, learns=False)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("patch_size", [17, 33, 65, 66])
def test_networks_of_the_published_width_give_the_same_descriptors_and_gradients(monkeypatch, patch_size, stride):
    torch.manual_seed(0)
    network = PatchNetwork(patch_size, descriptor_dim=64).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(network)
    images = drawn(1, 3, 40, 33)
    used = []
    monkeypatch.setattr(
        winograd,
        "pays",
        lambda features, weight, *, learns: used.append(learns) or (weight.shape[1] > 3 and weight.shape[-1] > 1),
    )
    monkeypatch.setattr(winograd, "LARGEST_TILE", {torch.float32: 8})
    with torch.inference_mode():
        inferred = dense_descriptors(network, images, stride=stride)
    learned = dense_descriptors(network, images, stride=stride)
    learned.square().mean().backward()
    assert set(used) == {False, True}
    monkeypatch.setattr(winograd, "pays", lambda *given, **named: False)
    expected = dense_descriptors(plain, images, stride=stride)
    expected.square().mean().backward()
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(inferred, expected, rtol=0, atol=2e-5 * scale)
    torch.testing.assert_close(learned, expected, rtol=0, atol=2e-5 * scale)
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert (
            relative_error(mine.grad, theirs.grad) < 0.01
        )  # values near zero fall on the other side of the leaky ReLU
