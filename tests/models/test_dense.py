import numpy as np
import pytest
import torch

from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import (
    dense_descriptors,
    dense_descriptors_of_padded,
    descriptors_by_phase,
    descriptors_by_tile,
    listed_descriptors,
    weave,
)
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.models.windows import reflect_pad

PATCH_SIZES = (17, 33, 65, 66)
SMALLER_THAN_ANY_PATCH = (13, 9)
ODD_AND_NOT_SQUARE = (41, 27)
LARGER_THAN_ANY_PATCH = (70, 83)
SIZES = (SMALLER_THAN_ANY_PATCH, ODD_AND_NOT_SQUARE, LARGER_THAN_ANY_PATCH)
STRIDES = (1, 2, 3, 4, 8)
NUM_COMPARED = 24
CPU = Compute(torch.device("cpu"), torch.float32)


def network_of(patch_size, dtype=torch.float32):
    torch.manual_seed(patch_size)
    return PatchNetwork(patch_size, descriptor_dim=6, width=0.1).to(dtype).eval()


def picture_of(height, width, batch=1):
    return torch.from_numpy(np.random.default_rng(height * width).normal(size=(batch, 3, height, width))).float()


def crop_by_crop(network, images, rows, cols):
    """The definition: the network applied to the crop around each position of the picture that numpy has padded."""
    margin = network.patch_size // 2
    around = [(0, 0), (0, 0), (margin, margin), (margin, margin)]
    padded = torch.from_numpy(np.pad(images.float().numpy(), around, mode="reflect")).to(images.dtype)
    side = network.patch_size
    crops = [padded[..., row : row + side, col : col + side] for row, col in zip(rows, cols, strict=True)]
    with torch.inference_mode():
        return torch.stack([network(crop) for crop in crops])  # (positions, B, D)


def compared_positions(num_rows, num_cols):
    """The corners and some more cells of a grid."""
    rng = np.random.default_rng(0)
    rows = [0, 0, num_rows - 1, num_rows - 1, *rng.integers(0, num_rows, NUM_COMPARED)]
    cols = [0, num_cols - 1, 0, num_cols - 1, *rng.integers(0, num_cols, NUM_COMPARED)]
    return np.array(rows), np.array(cols)


def assert_equals_crop_by_crop(network, images, *, stride, offset=None, tolerance=1e-5):
    height, width = images.shape[-2:]
    with torch.inference_mode():
        dense = dense_descriptors(network, images, stride=stride, offset=offset)
    top, left = offset if offset is not None else (min(stride // 2, height - 1), min(stride // 2, width - 1))
    all_rows, all_cols = np.arange(top, height, stride), np.arange(left, width, stride)
    assert dense.shape == (len(images), network.descriptor_dim, len(all_rows), len(all_cols))
    rows, cols = compared_positions(len(all_rows), len(all_cols))
    expected = crop_by_crop(network, images, all_rows[rows], all_cols[cols])
    difference = dense[:, :, rows, cols].permute(2, 0, 1) - expected
    assert difference.abs().max() < tolerance


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_the_dense_form_equals_the_network_crop_by_crop(patch_size, size, stride):
    assert_equals_crop_by_crop(network_of(patch_size), picture_of(*size), stride=stride)


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_every_position_of_a_small_picture_equals_its_crop(patch_size):
    network, images = network_of(patch_size), picture_of(11, 6)
    rows, cols = (axis.flatten() for axis in np.mgrid[0:11, 0:6])
    with torch.inference_mode():
        dense = dense_descriptors(network, images)[0].flatten(1).T
    torch.testing.assert_close(dense, crop_by_crop(network, images, rows, cols)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("offset", [(0, 0), (3, 1), (1, 3)])
@pytest.mark.parametrize(("patch_size", "stride"), [(17, 4), (33, 4), (65, 4), (33, 3), (65, 8)])
def test_a_grid_may_start_anywhere(patch_size, stride, offset):
    images = picture_of(*ODD_AND_NOT_SQUARE)
    assert_equals_crop_by_crop(network_of(patch_size), images, stride=stride, offset=offset)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_pictures_of_a_batch_do_not_mix(patch_size, stride):
    assert_equals_crop_by_crop(network_of(patch_size), picture_of(19, 24, batch=2), stride=stride)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3)])
def test_pictures_of_a_single_pixel_have_a_descriptor(size):
    for stride in (1, 4):
        assert_equals_crop_by_crop(network_of(33), picture_of(*size), stride=stride)


@pytest.mark.parametrize("size", [(16, 24), (13, 9), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_listed_descriptors_are_those_of_every_position_in_one_order_for_all_networks(patch_size, stride, size):
    """The order is read off one network and holds for another one, which is wider and deeper."""
    images = picture_of(*size, batch=2)
    one = network_of(patch_size)
    other = PatchNetwork(patch_size, descriptor_dim=3, width=0.2, extra_layers=1)
    with torch.inference_mode():
        listed, others = (listed_descriptors(network, images, stride=stride) for network in (one, other))
        maps, other_maps = (
            dense_descriptors(network, images, stride=stride).permute(0, 2, 3, 1).flatten(0, 2)
            for network in (one, other)
        )
    assert listed.is_contiguous()
    assert listed.shape == maps.shape
    places = torch.cdist(listed.double(), maps.double()).argmin(dim=1)
    assert len(places.unique()) == len(maps)
    torch.testing.assert_close(listed, maps[places], atol=1e-5, rtol=0)
    torch.testing.assert_close(others, other_maps[places], atol=1e-5, rtol=0)


@pytest.mark.parametrize("offset", [None, (0, 0), (3, 2)])
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_tiles_have_the_descriptors_of_the_whole_picture_each_position_once(monkeypatch, patch_size, stride, offset):
    monkeypatch.setattr("us_anomaly.models.dense.MAX_TILE_PIXELS", 20 * 20)
    network, images = network_of(patch_size), picture_of(*ODD_AND_NOT_SQUARE, batch=2)
    other = PatchNetwork(patch_size, descriptor_dim=3, width=0.2)
    with torch.inference_mode():
        tiles = list(descriptors_by_tile([network, other], images, stride=stride, offset=offset, compute=CPU))
        whole, others = (listed_descriptors(one, images, stride=stride, offset=offset) for one in (network, other))
    assert len(tiles) > 2
    assert max(len(rows) for rows, _ in tiles) <= 2 * 20 * 20
    tiled, tiled_others = (torch.cat(parts) for parts in zip(*tiles, strict=True))
    places = torch.cdist(tiled.double(), whole.double()).argmin(dim=1)
    assert len(places.unique()) == len(whole) == len(tiled)
    torch.testing.assert_close(tiled, whole[places], atol=1e-5, rtol=0)
    torch.testing.assert_close(tiled_others, others[places], atol=1e-4, rtol=0)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_channels_last_bfloat16_stays_within_three_percent_of_float32(patch_size, stride):
    """Eight binary digits round each of up to five layers by 0.2 percent of the size of the descriptors."""
    images = picture_of(*ODD_AND_NOT_SQUARE)
    rounded = images.bfloat16().to(memory_format=torch.channels_last)
    network = network_of(patch_size, torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        exact = dense_descriptors(network_of(patch_size), images, stride=stride)
        coarse = dense_descriptors(network, rounded, stride=stride)
    assert coarse.dtype is torch.bfloat16
    assert (coarse.float() - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()


@pytest.mark.parametrize("form", [dense_descriptors, listed_descriptors])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_the_gradient_of_the_dense_form_is_that_of_the_crops(patch_size, stride, form):
    network, images = network_of(patch_size), picture_of(9, 7)
    rows, cols = (axis.flatten() for axis in np.mgrid[0:9:stride, 0:7:stride])
    margin = patch_size // 2
    padded = reflect_pad(images, margin)
    crops = [padded[..., r : r + patch_size, c : c + patch_size] for r, c in zip(rows, cols, strict=True)]
    network(torch.cat(crops)).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    form(network, images, stride=stride, offset=(0, 0)).square().sum().backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_pictures_are_left_as_they_are():
    images = picture_of(12, 12)
    before = images.clone()
    with torch.inference_mode():
        dense_descriptors(network_of(17), images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("stride", [1, 4])
def test_a_part_of_the_picture_gives_the_same_values_as_the_whole(stride):
    network, images = network_of(33), picture_of(40, 37)
    padded = reflect_pad(images, 16)
    with torch.inference_mode():
        whole = dense_descriptors(network, images, stride=stride, offset=(0, 0))
        part = dense_descriptors_of_padded(network, padded, rows=(8, 20), cols=(4, 33), stride=stride)
    expected = whole[..., 8 // stride : 20 // stride, 4 // stride : -(-33 // stride)]
    torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("patch_size", "num_phases"), [(17, 1), (33, 16), (65, 64)])
def test_woven_scalars_of_the_phases_are_the_scalars_of_the_dense_form(patch_size, num_phases):
    network, padded = network_of(patch_size), reflect_pad(picture_of(13, 22, batch=2), patch_size // 2)
    grid = {"rows": (0, 13), "cols": (0, 22), "stride": 1}
    with torch.inference_mode():
        phases = descriptors_by_phase(network, padded, **grid)
        dense = dense_descriptors_of_padded(network, padded, **grid)
    assert len(phases) == 2 * num_phases
    sums = weave(phases.sum(dim=1, keepdim=True), num_images=2)[..., :13, :22]
    torch.testing.assert_close(sums, dense.sum(dim=1, keepdim=True), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [1, 3])
def test_descriptors_with_a_gradient_are_pooled_to_the_same_values(stride):
    network, images = network_of(33), picture_of(19, 24, batch=2).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = dense_descriptors(network, images, stride=stride)
    torch.testing.assert_close(dense_descriptors(network, images, stride=stride), expected, atol=1e-6, rtol=0)
