import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_scores import scoring
from scipy import ndimage

from us_anomaly.data import bands
from us_anomaly.models import compute
from us_anomaly.models.compute import Compute
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.scoring import anomaly_map
from us_anomaly.scoring.anomaly_map import (
    Grid,
    MapStatistics,
    RawMaps,
    combine,
    error_and_uncertainty,
    image_score,
    raw_maps,
    smooth,
)
from us_anomaly.settings import ImageScore, Normalization
from us_anomaly.training.normalization import TeacherStatistics

CPU = Compute(torch.device("cpu"), torch.float32)


# --- error and uncertainty ---------------------------------------------------------------------------------------


def test_error_and_uncertainty_are_those_of_the_formulas():
    answers, target = torch.randn(3, 2, 5, 4, 6), torch.randn(2, 5, 4, 6)
    error, uncertainty = error_and_uncertainty(list(answers), target)
    students, teacher = answers.double().numpy(), target.double().numpy()
    mean = students.mean(axis=0)
    np.testing.assert_allclose(error, ((mean - teacher) ** 2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(uncertainty, ((students - mean) ** 2).sum(axis=2).mean(axis=0), rtol=1e-5)


def test_students_that_agree_are_certain_and_students_that_know_make_no_error():
    target = torch.randn(1, 5, 3, 3)
    error, uncertainty = error_and_uncertainty([target + 2, target + 2], target)
    torch.testing.assert_close(error, torch.full((1, 3, 3), 20.0))  # 5 dimensions, 2 squared
    torch.testing.assert_close(uncertainty, torch.zeros(1, 3, 3), atol=1e-10, rtol=0)
    error, uncertainty = error_and_uncertainty([target - 3, target + 3], target)
    torch.testing.assert_close(error, torch.zeros(1, 3, 3), atol=1e-10, rtol=0)
    torch.testing.assert_close(uncertainty, torch.full((1, 3, 3), 45.0))  # 5 dimensions, 3 squared


def test_a_single_student_has_an_error_and_no_uncertainty():
    answer, target = torch.randn(2, 1, 4, 2, 2)
    error, uncertainty = error_and_uncertainty([answer], target)
    torch.testing.assert_close(error, (answer - target).square().sum(dim=1))
    assert float(uncertainty.abs().max()) == 0


def test_answers_in_bfloat16_are_added_up_in_float32_and_left_as_they_are():
    answers = list(torch.randn(3, 1, 4, 2, 2).bfloat16())
    target, before = torch.randn(1, 4, 2, 2), [answer.clone() for answer in answers]
    kept = target.clone()
    maps = error_and_uncertainty(answers, target)
    expected = error_and_uncertainty([answer.float() for answer in answers], target)
    for values, wanted in zip(maps, expected, strict=True):
        assert values.dtype is torch.float32
        torch.testing.assert_close(values, wanted)
    assert torch.equal(target, kept)
    assert all(map(torch.equal, answers, before))


# --- maps of a picture -------------------------------------------------------------------------------------------


def detector_of(patch_size):
    torch.manual_seed(patch_size)
    teacher = PatchNetwork(patch_size, descriptor_dim=5, width=0.1).requires_grad_(False)
    ensemble = StudentEnsemble(2, patch_size=patch_size, descriptor_dim=5, width=0.1, seed=0).requires_grad_(False)
    statistics = TeacherStatistics(mean=torch.randn(5), std=torch.rand(5) + 0.5)
    return {"teacher": teacher, "ensemble": ensemble, "statistics": statistics}


def by_definition(image, row, col, *, teacher, ensemble, statistics):
    """Error and uncertainty at one pixel, from the patch around it."""
    half = teacher.patch_size // 2
    padded = np.pad(image.numpy(), [(0, 0), (half, half), (half, half)], mode="reflect")
    side = teacher.patch_size
    patch = torch.from_numpy(padded[None, :, row : row + side, col : col + side].copy())
    target = ((teacher(patch)[0] - statistics.mean) / statistics.std).numpy()
    answers = np.stack([student(patch)[0].numpy() for student in ensemble.networks])
    error = ((answers.mean(axis=0) - target) ** 2).sum()
    return error, ((answers - answers.mean(axis=0)) ** 2).sum(axis=1).mean()


@pytest.mark.parametrize("patch_size", [17, 33])
def test_every_pixel_is_scored_by_the_patch_around_it(patch_size):
    image, detector = torch.randn(3, 25, 31), detector_of(patch_size)
    maps = raw_maps(image, **detector, stride=1, border_px=0, compute=CPU)
    assert maps.error.shape == maps.uncertainty.shape == (25, 31)
    for row, col in ((0, 0), (24, 30), (12, 0), (7, 19)):
        error, uncertainty = by_definition(image, row, col, **detector)
        assert float(maps.error[row, col]) == pytest.approx(float(error), rel=1e-4)
        assert float(maps.uncertainty[row, col]) == pytest.approx(float(uncertainty), rel=1e-4)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_grid_is_exact_at_its_own_pixels(stride):
    image, detector = torch.randn(3, 37, 42), detector_of(33)
    dense = raw_maps(image, **detector, stride=1, border_px=0, compute=CPU)
    coarse = raw_maps(image, **detector, stride=stride, border_px=0, compute=CPU)
    grid = np.s_[stride // 2 :: stride, stride // 2 :: stride]
    torch.testing.assert_close(coarse.error, dense.error[grid], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coarse.uncertainty, dense.uncertainty[grid], rtol=1e-4, atol=1e-4)
    full = coarse.grid.at_every_pixel(coarse.error)
    assert full.shape == (37, 42)
    torch.testing.assert_close(full[grid], coarse.error)


@pytest.mark.parametrize("size", [(41, 33), (3, 2)])
def test_what_each_pixel_needs_alone_may_be_done_tile_by_tile(monkeypatch, size):
    image, detector = torch.randint(0, 256, (3, *size), dtype=torch.uint8), detector_of(17)

    def finish(part):
        return (part.float() - 100) / 50

    whole = raw_maps(finish(image), **detector, stride=2, border_px=0, compute=CPU)
    monkeypatch.setattr(anomaly_map, "MAX_TILE_PIXELS", 100)
    by_parts = raw_maps(image, **detector, stride=2, border_px=0, compute=CPU, finish=finish)
    torch.testing.assert_close(by_parts.error, whole.error, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("border_px", [0, 16])
@pytest.mark.parametrize("size", [(41, 33), (9, 70), (3, 2), (1, 1)])
@pytest.mark.parametrize(("patch_size", "stride"), [(17, 1), (33, 1), (65, 1), (33, 2), (33, 3), (65, 4), (33, 8)])
def test_tiles_give_the_values_of_the_whole_picture(monkeypatch, patch_size, stride, size, border_px):
    image, detector = torch.randn(3, *size), detector_of(patch_size)
    whole = raw_maps(image, **detector, stride=stride, border_px=border_px, compute=CPU)
    monkeypatch.setattr(anomaly_map, "MAX_TILE_PIXELS", 100)
    tiled = raw_maps(image, **detector, stride=stride, border_px=border_px, compute=CPU)
    torch.testing.assert_close(tiled.error, whole.error, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tiled.uncertainty, whole.uncertainty, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(33, 20), (60, 75)])
def test_tiles_never_hold_more_pixels_than_allowed(monkeypatch, size):
    windows = []
    original = anomaly_map.descriptors_by_phase

    def watched(network, padded, **grid):
        windows.append((padded.shape[-2] - 16) * (padded.shape[-1] - 16))
        return original(network, padded, **grid)

    monkeypatch.setattr(anomaly_map, "descriptors_by_phase", watched)
    monkeypatch.setattr(anomaly_map, "MAX_TILE_PIXELS", 100)
    raw_maps(torch.randn(3, *size), **detector_of(17), stride=1, border_px=0, compute=CPU)
    assert max(windows) <= 100
    assert sum(windows) == 3 * size[0] * size[1]  # every pixel once, by the teacher and two students


def test_comparing_few_descriptors_at_once_gives_the_same_values(monkeypatch):
    image, detector = torch.randn(3, 21, 30), detector_of(33)
    at_once = raw_maps(image, **detector, stride=1, border_px=0, compute=CPU)
    monkeypatch.setattr(anomaly_map, "COMPARED_AT_ONCE", 7 * 5)
    bit_by_bit = raw_maps(image, **detector, stride=1, border_px=0, compute=CPU)
    assert torch.equal(bit_by_bit.error, at_once.error)
    assert torch.equal(bit_by_bit.uncertainty, at_once.uncertainty)


@pytest.mark.parametrize(("patch_size", "stride"), [(33, 1), (33, 4), (65, 1), (66, 4)])
def test_networks_and_comparison_are_one_graph_to_torch_compile_and_give_the_same_values(
    monkeypatch, patch_size, stride
):
    graphs = []

    def keep(graph, examples):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    in_one_graph = functools.cache(functools.partial(torch.compile, backend=keep, fullgraph=True))
    monkeypatch.setattr(compute, "_compiled", in_one_graph)
    image, detector = torch.randn(3, 13, 22), detector_of(patch_size)
    expected = raw_maps(image, **detector, stride=stride, border_px=0, compute=CPU)
    for _ in range(2):
        given = raw_maps(image, **detector, stride=stride, border_px=0, compute=replace(CPU, compile=True))
        torch.testing.assert_close(given.error, expected.error, atol=1e-3, rtol=1e-4)  # added up in another order
        torch.testing.assert_close(given.uncertainty, expected.uncertainty, atol=1e-3, rtol=1e-4)
    assert len(graphs) == 1


@pytest.mark.parametrize("pixels_at_once", [2**20, 100, 1])
@pytest.mark.parametrize(("height", "width", "stride"), [(16, 16, 4), (17, 9, 4), (10, 31, 3), (5, 3, 8), (33, 20, 8)])
def test_between_grid_pixels_values_are_interpolated_and_constant_outside(
    monkeypatch, height, width, stride, pixels_at_once
):
    rows = np.arange(min(stride // 2, height - 1), height, stride)
    cols = np.arange(min(stride // 2, width - 1), width, stride)
    values = np.random.default_rng(0).normal(size=(len(rows), len(cols)))
    monkeypatch.setattr(bands, "PIXELS_AT_ONCE", pixels_at_once)
    full = Grid(height, width, stride).at_every_pixel(torch.from_numpy(values).float())
    by_rows = np.stack([np.interp(np.arange(height), rows, column) for column in values.T], axis=1)
    expected = np.stack([np.interp(np.arange(width), cols, row) for row in by_rows])
    np.testing.assert_allclose(full, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "row", "col"), [((3, 2), 2, 1), ((1, 5), 0, 4), ((4, 1), 3, 0)])
def test_a_picture_smaller_than_half_a_step_of_the_grid_is_scored_at_its_last_position(size, row, col):
    image, detector = torch.randn(3, *size), detector_of(17)
    maps = raw_maps(image, **detector, stride=16, border_px=0, compute=CPU)
    error, uncertainty = by_definition(image, row, col, **detector)
    for values, expected in ((maps.error, error), (maps.uncertainty, uncertainty)):
        full = maps.grid.at_every_pixel(values)
        torch.testing.assert_close(full, torch.full(size, float(expected)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 3, 4])
@pytest.mark.parametrize(("patch_size", "border_px", "border"), [(33, 5, 5), (33, 16, 16), (17, 16, 8), (66, 16, 16)])
def test_the_border_takes_the_scores_beside_it_but_none_farther_than_half_a_patch(
    patch_size, border_px, border, stride
):
    image, detector = torch.randn(3, 51, 63), detector_of(patch_size)
    whole = raw_maps(image, **detector, stride=1, border_px=0, compute=CPU)
    maps = raw_maps(image, **detector, stride=stride, border_px=border_px, compute=CPU)
    rows, cols = (
        [position for position in range(stride // 2, length, stride) if border <= position < length - border]
        for length in (51, 63)
    )
    for values, expected in ((maps.error, whole.error), (maps.uncertainty, whole.uncertainty)):
        made = maps.grid.at_every_pixel(values)
        assert made.shape == (51, 63)
        torch.testing.assert_close(made[np.ix_(rows, cols)], expected[np.ix_(rows, cols)], rtol=1e-4, atol=1e-4)
        assert torch.equal(made[: rows[0]], made[rows[0]].expand(rows[0], -1))
        assert torch.equal(made[rows[-1] + 1 :], made[rows[-1]].expand(51 - rows[-1] - 1, -1))
        assert torch.equal(made[:, : cols[0]], made[:, cols[0], None].expand(-1, cols[0]))
        assert torch.equal(made[:, cols[-1] + 1 :], made[:, cols[-1], None].expand(-1, 63 - cols[-1] - 1))


def test_a_picture_of_the_size_of_a_patch_has_one_position_inside():
    image, detector = torch.randn(3, 33, 33), detector_of(33)
    maps = raw_maps(image, **detector, stride=1, border_px=16, compute=CPU)
    error, uncertainty = by_definition(image, 16, 16, **detector)
    torch.testing.assert_close(maps.error, torch.full((33, 33), float(error)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps.uncertainty, torch.full((33, 33), float(uncertainty)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(20, 12), (16, 16), (1, 1)])
def test_a_picture_that_is_all_border_is_scored_everywhere(size):
    image, detector = torch.randn(3, *size), detector_of(17)
    without, whole = (raw_maps(image, **detector, stride=1, border_px=width, compute=CPU) for width in (8, 0))
    if size == (20, 12):  # only its width is all border
        assert torch.equal(without.error[0], without.error[8])
        torch.testing.assert_close(without.error[8:12], whole.error[8:12])
    else:
        torch.testing.assert_close(without.error, whole.error)


# --- a common scale ----------------------------------------------------------------------------------------------

STATISTICS = MapStatistics(mean=2.0, std=4.0, quantile_90=10.0, quantile_995=30.0)


def test_zscore_subtracts_the_mean_and_divides_by_the_deviation():
    values = STATISTICS.normalize(torch.tensor([2.0, 6.0, -2.0]), normalization=Normalization.zscore)
    assert values.tolist() == [0, 1, -1]


def test_the_quantiles_become_zero_and_a_tenth():
    values = STATISTICS.normalize(torch.tensor([10.0, 30.0, 20.0, 0.0]), normalization=Normalization.quantile)
    torch.testing.assert_close(values, torch.tensor([0.0, 0.1, 0.05, -0.05]))


def test_none_leaves_values_as_they_are():
    values = torch.randn(3, 3)
    assert torch.equal(STATISTICS.normalize(values, normalization=Normalization.none), values)


@pytest.mark.parametrize("normalization", [Normalization.zscore, Normalization.quantile])
def test_maps_without_any_spread_stay_finite(normalization):
    flat = MapStatistics(mean=1.0, std=0.0, quantile_90=1.0, quantile_995=1.0)
    values = flat.normalize(torch.tensor([1.0, 1.5]), normalization=normalization)
    assert float(values[0]) == 0
    assert torch.isfinite(values).all()


def random_maps(*patch_sizes):
    return {size: RawMaps(torch.rand(6, 7) * size, torch.rand(6, 7), Grid(6, 7, 1)) for size in patch_sizes}


def test_without_normalisation_the_score_is_the_weighted_sum():
    maps = random_maps(33)
    total, doubt = combine(maps, statistics={}, settings=scoring(error_weight=2.0, uncertainty_weight=0.5))
    torch.testing.assert_close(total, 2 * maps[33].error + 0.5 * maps[33].uncertainty)
    assert torch.equal(doubt, maps[33].uncertainty)


def test_scales_are_averaged_after_each_map_is_standardised():
    maps = random_maps(17, 33, 65)
    statistics = {
        size: {
            "error": MapStatistics(mean=0.1 * size, std=size, quantile_90=0, quantile_995=1),
            "uncertainty": MapStatistics(mean=0.5, std=0.01 * size, quantile_90=0, quantile_995=1),
        }
        for size in maps
    }
    total, doubt = combine(maps, statistics=statistics, settings=scoring(normalization=Normalization.zscore))
    expected = doubts = 0.0
    for size, raw in maps.items():
        uncertainty = (raw.uncertainty.numpy() - 0.5) / (0.01 * size)
        expected = expected + ((raw.error.numpy() - 0.1 * size) / size + uncertainty) / 3
        doubts = doubts + uncertainty / 3
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(doubt, doubts, rtol=1e-4, atol=1e-5)


def test_scales_added_up_on_a_grid_give_the_values_of_full_maps():
    grid = Grid(22, 27, 4)
    maps = {size: RawMaps(torch.rand(5, 7) * size, torch.rand(5, 7), grid) for size in (33, 65)}
    known = {"error": STATISTICS, "uncertainty": MapStatistics(mean=0.5, std=0.2, quantile_90=0.4, quantile_995=0.9)}
    for normalization in Normalization:
        settings = scoring(normalization=normalization, smoothing_sigma_px=1.5)
        full = {
            size: RawMaps(grid.at_every_pixel(raw.error), grid.at_every_pixel(raw.uncertainty), Grid(22, 27, 1))
            for size, raw in maps.items()
        }
        statistics = dict.fromkeys(maps, known)
        for made, expected in zip(
            combine(maps, statistics=statistics, settings=settings),
            combine(full, statistics=statistics, settings=settings),
            strict=True,
        ):
            assert made.shape == (22, 27)
            torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_the_anomaly_map_is_smoothed_and_the_uncertainty_is_not():
    maps = random_maps(33)
    total, doubt = combine(maps, statistics={}, settings=scoring(smoothing_sigma_px=1.5))
    torch.testing.assert_close(total, smooth(maps[33].error + maps[33].uncertainty, sigma_px=1.5))
    assert torch.equal(doubt, maps[33].uncertainty)


@pytest.mark.parametrize("size", [(30, 41), (6, 5), (1, 9)])
@pytest.mark.parametrize("sigma_px", [0.5, 1.0, 1.7, 4.0])
def test_smoothing_is_the_gaussian_filter_of_scipy(sigma_px, size):
    values = torch.rand(*size)
    expected = ndimage.gaussian_filter(values.double().numpy(), sigma_px, mode="mirror", truncate=4.0)
    np.testing.assert_allclose(smooth(values, sigma_px=sigma_px), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at_once", [1, 40, 700])
def test_a_large_map_is_smoothed_band_by_band_to_the_same_values(monkeypatch, at_once):
    values = torch.rand(37, 29)
    expected = smooth(values, sigma_px=2.0)
    monkeypatch.setattr(bands, "PIXELS_AT_ONCE", at_once)
    heights = []
    convolve = torch.nn.functional.conv2d

    def counted(window, *rest, **others):
        heights.append(window.shape[-2])
        return convolve(window, *rest, **others)

    monkeypatch.setattr(anomaly_map.nn.functional, "conv2d", counted)
    torch.testing.assert_close(smooth(values, sigma_px=2.0), expected, rtol=0, atol=1e-6)
    assert max(heights) <= max(1, at_once // 29) + 16  # what is smoothed at once, and its margin


def test_smoothing_by_nothing_changes_nothing():
    values = torch.rand(5, 5)
    assert torch.equal(smooth(values, sigma_px=0.0), values)


# --- one score per picture ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fraction", "expected"),
    [
        (ImageScore.max, 0.1, 99),
        (ImageScore.top_mean, 0.1, np.mean(range(90, 100))),
        (ImageScore.top_mean, 1.0, np.mean(range(100))),
        (ImageScore.top_mean, 0.001, 99),  # at least one pixel
        (ImageScore.quantile, 0.1, 90),
        (ImageScore.quantile, 0.01, 99),
    ],
)
def test_the_image_score_looks_at_the_highest_values(kind, fraction, expected):
    values = torch.randperm(100).float().reshape(4, 25)
    score = image_score(values, settings=scoring(image_score=kind, image_score_fraction=fraction))
    assert isinstance(score, float)
    assert score == pytest.approx(expected)


@pytest.mark.parametrize("kind", [ImageScore.top_mean, ImageScore.quantile])
def test_the_highest_values_of_a_large_map_are_found_block_by_block(monkeypatch, kind):
    values, settings = torch.rand(23, 31), scoring(image_score=kind, image_score_fraction=0.2)
    at_once = image_score(values, settings=settings)
    monkeypatch.setattr(anomaly_map, "VALUES_AT_ONCE", 50)
    assert image_score(values, settings=settings) == at_once
