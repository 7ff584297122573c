import numpy as np
import pytest
import torch

from us_anomaly.models.compute import Compute
from us_anomaly.models.dense import dense_descriptors
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import StudentPositions
from us_anomaly.training.normalization import RunningMoments, TeacherStatistics, teacher_statistics, whitening_matrix

CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture
def teacher():
    torch.manual_seed(2)
    return PatchNetwork(17, descriptor_dim=5, width=0.1).eval()


def pictures(count, side=20):
    return list(torch.randn(count, 3, side, side + 3, generator=torch.Generator().manual_seed(7)))


def all_descriptors(teacher, images):
    """Descriptors of all positions of all pictures, (N, D) in float64."""
    with torch.inference_mode():
        maps = [dense_descriptors(teacher, image[None])[0].flatten(1).T for image in images]
    return torch.cat(maps).double().numpy()


@pytest.mark.parametrize("sizes", [[1], [7, 1, 40], [3, 3, 3]])
def test_moments_of_blocks_are_those_of_the_whole(sizes):
    values = np.random.default_rng(0).normal(5, 2, size=(sum(sizes), 4))
    moments = RunningMoments()
    for block in torch.from_numpy(values).split(sizes):
        moments.update(block)
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, values.std(axis=0), rtol=1e-12)


def test_moments_keep_their_digits_where_the_mean_is_huge():
    values = torch.randn(1000, 1, dtype=torch.float64) + 1e9
    moments = RunningMoments()
    for block in values.split(10):
        moments.update(block)
    np.testing.assert_allclose(moments.std, values.numpy().std(axis=0), rtol=1e-6)


def test_dense_statistics_are_those_of_numpy_over_all_positions_of_all_pictures(teacher):
    images = pictures(3)
    statistics = teacher_statistics(teacher, images, positions=StudentPositions.dense, compute=CPU)
    descriptors = all_descriptors(teacher, images)
    assert len(descriptors) == 3 * 20 * 23
    np.testing.assert_allclose(statistics.mean, descriptors.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.std, descriptors.std(axis=0), rtol=1e-5)
    assert statistics.mean.dtype is statistics.std.dtype is torch.float32


def test_grid_statistics_of_sixteen_equal_pictures_are_those_of_all_positions(teacher):
    """Each of the sixteen phases comes once, so every position of the picture is seen exactly once."""
    picture = torch.randn(3, 24, 20)
    grid = teacher_statistics(teacher, [picture] * 16, positions=StudentPositions.grid, compute=CPU)
    dense = teacher_statistics(teacher, [picture], positions=StudentPositions.dense, compute=CPU)
    torch.testing.assert_close(grid.mean, dense.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid.std, dense.std, rtol=1e-4, atol=1e-5)


def test_grid_statistics_of_patches_at_half_the_resolution_need_64_pictures_for_all_positions():
    teacher = PatchNetwork(66, descriptor_dim=4, width=0.1)
    picture = torch.randn(3, 16, 24)
    grid = teacher_statistics(teacher, [picture] * 64, positions=StudentPositions.grid, compute=CPU)
    dense = teacher_statistics(teacher, [picture], positions=StudentPositions.dense, compute=CPU)
    torch.testing.assert_close(grid.mean, dense.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid.std, dense.std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", StudentPositions)
def test_statistics_of_large_pictures_are_taken_tile_by_tile_and_are_the_same(teacher, monkeypatch, positions):
    whole = teacher_statistics(teacher, pictures(3, side=50), positions=positions, compute=CPU, whitening_floor=0.1)
    monkeypatch.setattr("us_anomaly.models.dense.MAX_TILE_PIXELS", 20 * 20)
    tiled = teacher_statistics(teacher, pictures(3, side=50), positions=positions, compute=CPU, whitening_floor=0.1)
    torch.testing.assert_close(tiled.mean, whole.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tiled.std, whole.std, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tiled.whitening.abs(), whole.whitening.abs(), rtol=1e-3, atol=1e-4)


def test_pictures_smaller_than_the_grid_have_statistics(teacher):
    images = list(torch.randn(16, 3, 2, 3))
    statistics = teacher_statistics(teacher, images, positions=StudentPositions.grid, compute=CPU)
    assert torch.isfinite(statistics.std).all()


def test_a_constant_dimension_gets_the_typical_deviation(teacher):
    with torch.no_grad():
        teacher.layers[-1].weight[1] = 0
        teacher.layers[-1].bias[1] = 4.0
    statistics = teacher_statistics(teacher, pictures(2), positions=StudentPositions.dense, compute=CPU)
    others = statistics.std[[0, 2, 3, 4]]
    assert float(statistics.std[1]) in others.tolist()
    assert float(statistics.mean[1]) == pytest.approx(4)
    normal = statistics.normalize(torch.full((1, 5, 1, 1), 4.0))
    assert float(normal[0, 1]) == pytest.approx(0, abs=1e-5)


def test_a_teacher_that_is_constant_everywhere_divides_by_one(teacher):
    with torch.no_grad():
        teacher.layers[-1].weight.zero_()
    statistics = teacher_statistics(teacher, pictures(1), positions=StudentPositions.dense, compute=CPU)
    assert statistics.std.tolist() == [1.0] * 5


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation_per_dimension():
    statistics = TeacherStatistics(mean=torch.tensor([1.0, -2.0]), std=torch.tensor([2.0, 0.5]))
    descriptors = torch.randn(3, 2, 4, 5)
    expected = (descriptors.numpy() - np.array([1, -2]).reshape(2, 1, 1)) / np.array([2, 0.5]).reshape(2, 1, 1)
    np.testing.assert_allclose(statistics.normalize(descriptors), expected, rtol=1e-5, atol=1e-6)
    assert statistics.normalize(descriptors.bfloat16()).dtype is torch.float32


def test_progress_is_told_after_every_picture(teacher):
    done = []
    teacher_statistics(
        teacher,
        pictures(3),
        positions=StudentPositions.grid,
        compute=CPU,
        on_step=lambda number, values: done.append(number),
    )
    assert done == [1, 2, 3]


def test_covariance_of_blocks_is_that_of_the_whole_also_where_the_mean_is_huge():
    values = np.random.default_rng(0).normal(size=(60, 3)) @ np.random.default_rng(1).normal(size=(3, 3)) + 1e7
    moments = RunningMoments(with_covariance=True)
    for block in torch.from_numpy(values).split([7, 1, 40, 12]):
        moments.update(block)
    np.testing.assert_allclose(moments.covariance, np.cov(values.T, bias=True), rtol=1e-6)


def test_whitened_descriptors_are_uncorrelated_with_unit_variance(teacher):
    images = pictures(3)
    statistics = teacher_statistics(teacher, images, positions=StudentPositions.dense, compute=CPU, whitening_floor=0.0)
    with torch.inference_mode():
        maps = [statistics.normalize(dense_descriptors(teacher, image[None]))[0].flatten(1) for image in images]
    covariance = np.cov(torch.cat(maps, dim=1).double().numpy(), bias=True)
    np.testing.assert_allclose(covariance, np.eye(5), atol=1e-3)


@pytest.mark.parametrize("floor", [None, 0.01])
def test_rows_of_descriptors_are_normalised_like_maps_of_them(teacher, floor):
    images = pictures(3)
    statistics = teacher_statistics(
        teacher, images, positions=StudentPositions.grid, compute=CPU, whitening_floor=floor
    )
    maps = torch.randn(2, 5, 4, 3)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 5)
    kept = rows.clone()
    normalized = statistics.normalize(rows)
    assert normalized.is_contiguous()
    torch.testing.assert_close(normalized, statistics.normalize(maps).permute(0, 2, 3, 1).reshape(-1, 5))
    assert torch.equal(rows, kept)


def test_squared_length_after_whitening_is_the_mahalanobis_distance(teacher):
    images = pictures(3)
    statistics = teacher_statistics(teacher, images, positions=StudentPositions.dense, compute=CPU, whitening_floor=0.0)
    values = all_descriptors(teacher, images)
    centred = values - values.mean(axis=0)
    expected = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(np.cov(values.T, bias=True)), centred)
    with torch.inference_mode():
        whitened = [statistics.normalize(dense_descriptors(teacher, image[None]))[0].flatten(1) for image in images]
    np.testing.assert_allclose(torch.cat(whitened, dim=1).square().sum(dim=0), expected, rtol=1e-2, atol=1e-3)


def test_the_floor_keeps_an_axis_without_variance_from_being_stretched_without_end():
    matrix = whitening_matrix(torch.ones(2, 2), floor=0.01)  # two dimensions that are copies: variances 0 and 2
    np.testing.assert_allclose(sorted(np.linalg.norm(matrix, axis=1)), [2.01**-0.5, 0.01**-0.5], rtol=1e-6)


@pytest.mark.parametrize("is_whitened", [False, True])
def test_statistics_move_to_a_device_as_a_whole(is_whitened):
    statistics = TeacherStatistics(torch.zeros(3), torch.ones(3), torch.eye(3) if is_whitened else None)
    moved = statistics.to(torch.device("meta"))
    assert {moved.mean.device.type, moved.std.device.type} == {"meta"}
    assert (moved.whitening is not None and moved.whitening.device.type == "meta") == is_whitened
    assert statistics.mean.device.type == "cpu"
