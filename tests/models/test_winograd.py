import copy

import pytest
import torch
from torch import nn

from us_anomaly.models import winograd, winograd_tiles
from us_anomaly.models.dense import dense_descriptors
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.models.toom_cook import best_transforms
from us_anomaly.models.winograd import Convolution, convolve, pays

FLOAT32_TOLERANCE, BFLOAT16_POINTS_TOLERANCE = 1e-5, 1e-4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(taps, channels=5, dims=7):
    return drawn(dims, channels, taps, taps, seed=1) / (channels**0.5 * taps), drawn(dims, seed=2)


def ordinary(features, weight, bias=None):
    return nn.functional.conv2d(features.double(), weight.double(), None if bias is None else bias.double())


def relative_error(values, expected):
    return float((values.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("tiles_at_once", [1, 3, 256])
@pytest.mark.parametrize("size", [(5, 6), (9, 5), (12, 12), (13, 23), (40, 17)])
@pytest.mark.parametrize("taps", [2, 4, 5])
def test_the_convolution_is_the_ordinary_one_for_any_size(monkeypatch, taps, size, tiles_at_once):
    monkeypatch.setattr(winograd_tiles, "TILES_AT_ONCE", tiles_at_once)
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


def test_what_memory_held_takes_no_part(monkeypatch):
    """What lies beyond a picture is 0: a value that is not a number would reach all of its tile."""
    original = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *given, **named: original(*given, **named).fill_(torch.nan))
    (weight, bias), features = layer_of(5), drawn(2, 5, 11, 10)
    found = convolve(features, weight, bias, dtype=torch.float32)
    assert relative_error(found, ordinary(features, weight, bias)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("tiles_at_once", [2, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taps", [2, 4, 5])
def test_gradients_are_those_of_the_ordinary_convolution(monkeypatch, taps, dtype, tiles_at_once):
    monkeypatch.setattr(winograd_tiles, "TILES_AT_ONCE", tiles_at_once)
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


@pytest.mark.parametrize(("what", "function"), [("features", "_convolved"), ("weight", "weight_gradient")])
def test_only_the_gradients_that_are_wanted_are_computed(monkeypatch, what, function):
    given = {"features": drawn(1, 5, 12, 12), "weight": layer_of(4)[0], "bias": layer_of(4)[1]}
    for name, values in given.items():
        values.requires_grad_(name != what)
    answer = Convolution.apply(*given.values())
    monkeypatch.setattr(winograd, function, lambda *given, **named: pytest.fail("it was computed all the same"))
    answer.sum().backward()
    assert [name for name, values in given.items() if values.grad is None] == [what]


def changed_by(how, weight):
    match how:
        case "optimiser":
            weight.grad = torch.ones_like(weight)
            torch.optim.Adam([weight], lr=0.1, fused=True).step()
        case "in place":
            with torch.no_grad():
                weight.mul_(2)
        case "uncounted":
            weight.data.mul_(2)
        case "replaced":
            weight.data = weight.data.flip(0).clone()
        case "numpy":
            weight.detach().numpy()[...] *= 2
        case "rounded":
            weight.data = weight.data.bfloat16().float()


@pytest.mark.parametrize("how", ["optimiser", "in place", "uncounted", "replaced", "numpy", "rounded"])
def test_transformed_weights_are_made_anew_when_the_weights_change_in_any_way(monkeypatch, how):
    made = []
    original = winograd.transformed
    monkeypatch.setattr(winograd, "transformed", lambda *given: made.append(1) or original(*given))
    weight, bias = (nn.Parameter(values) for values in layer_of(4))
    features = drawn(1, 5, 20, 20)

    def error():
        with torch.no_grad():
            found = convolve(features, weight, bias, dtype=torch.float32)
            return relative_error(found, ordinary(features, weight, bias))

    assert max(error(), error()) < FLOAT32_TOLERANCE
    assert len(made) == 1
    changed_by(how, weight)
    assert error() < FLOAT32_TOLERANCE
    assert len(made) == 2


def test_transformed_weights_are_those_of_the_size_of_the_tiles():
    weight, bias = layer_of(4)
    with torch.inference_mode():
        for side in (8, 9, 8):
            features = drawn(1, 5, side, side)
            found = convolve(features, weight, bias, dtype=torch.float32)
            assert relative_error(found, ordinary(features, weight, bias)) < FLOAT32_TOLERANCE
    assert best_transforms(5, 5, 4, torch.float32).side != best_transforms(6, 6, 4, torch.float32).side


def test_learning_keeps_nothing():
    weight, bias = (values.requires_grad_() for values in layer_of(4))
    Convolution.apply(drawn(1, 5, 12, 12), weight, bias).sum().backward()
    assert weight not in winograd._KEPT


def test_a_backward_pass_inside_of_autocast_gives_the_gradients_of_one_outside():
    gradients = []
    for is_inside in (False, True):
        weight, bias = (values.requires_grad_() for values in layer_of(4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = Convolution.apply(drawn(1, 5, 20, 20), weight, bias).float().square().sum()
            if is_inside:
                loss.backward()
        if not is_inside:
            loss.backward()
        gradients.append(weight.grad)
    assert torch.equal(*gradients)


def test_a_bias_that_learns_alone_learns(monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda features, weight, *, learns: learns or pytest.fail("nothing learns"))
    network = PatchNetwork(33, descriptor_dim=8, width=0.1).requires_grad_(False)
    network.layers[2].bias.requires_grad_()
    monkeypatch.setattr(network, "layers", network.layers[2:])
    network.apply_layer(0, drawn(1, 16, 20, 20)).square().sum().backward()
    assert network.layers[0].bias.grad is not None


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning", "ignore::DeprecationWarning")
def test_traced_networks_do_without(monkeypatch):
    monkeypatch.setattr(winograd, "TRANSFORM_COST", 0)
    monkeypatch.setattr(winograd, "CALL_COST", 0)
    torch.manual_seed(0)
    network = PatchNetwork(33, descriptor_dim=64).requires_grad_(False)
    picture = drawn(1, 3, 33, 33)
    traced = torch.jit.trace(network, picture, check_trace=False)
    expected = network(picture)
    torch.testing.assert_close(traced(picture), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    by_sample = torch.func.vmap(network)(picture[None])[0]
    torch.testing.assert_close(by_sample, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_wide_layers_pay_and_narrow_or_small_ones_do_not(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(winograd, "bfloat16_speedup", lambda: 2.3)
    wide, narrow = drawn(1, 1, 1, 1).expand(256, 128, 5, 5), drawn(1, 1, 1, 1).expand(16, 8, 5, 5)
    features, few = drawn(1, 1, 1, 1).expand(1, 128, 60, 60), drawn(1, 1, 1, 1).expand(1, 8, 60, 60)
    assert pays(features, wide, learns=False)
    assert pays(features, wide, learns=True)
    assert pays(features.bfloat16(), wide.bfloat16(), learns=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pays(features, wide, learns=True)
        assert pays(features.bfloat16(), wide, learns=True)
    assert not pays(few, narrow, learns=False)
    medium, half = drawn(1, 1, 1, 1).expand(128, 64, 5, 5).bfloat16(), features[:, :64].bfloat16()
    assert pays(half, medium, learns=False)
    assert not pays(half, medium, learns=True)
    assert not pays(features[..., :5, :5], wide, learns=False)
    assert not pays(features[..., :4, :60], wide, learns=False)
    assert not pays(features.to("meta"), wide, learns=False)
    assert not pays(features.double(), wide.double(), learns=False)
    assert not pays(features.bfloat16(), wide, learns=False)  # as the ordinary convolution refuses them
    assert pays(features[..., :8, :8], wide, learns=False)
    assert not pays(features[..., :8, :8], wide, learns=True)  # too few tiles to transform the weights for
    monkeypatch.setattr(winograd, "bfloat16_speedup", lambda: 6.5)  # AMX
    assert not pays(features.bfloat16(), wide.bfloat16(), learns=False)
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
    for parameter in network.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    plain = copy.deepcopy(network)
    images = drawn(1, 3, 40, 33)
    used = []
    monkeypatch.setattr(
        winograd,
        "pays",
        lambda features, weight, *, learns: used.append(learns) or (weight.shape[1] > 3 and weight.shape[-1] > 1),
    )
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
