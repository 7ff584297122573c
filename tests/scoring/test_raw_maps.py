import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from us_anomaly.data import bands
from us_anomaly.models import compute
from us_anomaly.models.compute import Compute
from us_anomaly.models.ensemble import StudentEnsemble
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.scoring import raw_maps as module
from us_anomaly.scoring.raw_maps import Grid, error_and_uncertainty, raw_maps
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
    monkeypatch.setattr(module, "MAX_TILE_PIXELS", 100)
    by_parts = raw_maps(image, **detector, stride=2, border_px=0, compute=CPU, finish=finish)
    torch.testing.assert_close(by_parts.error, whole.error, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("border_px", [0, 16])
@pytest.mark.parametrize("size", [(41, 33), (9, 70), (3, 2), (1, 1)])
@pytest.mark.parametrize(("patch_size", "stride"), [(17, 1), (33, 1), (65, 1), (33, 2), (33, 3), (65, 4), (33, 8)])
def test_tiles_give_the_values_of_the_whole_picture(monkeypatch, patch_size, stride, size, border_px):
    image, detector = torch.randn(3, *size), detector_of(patch_size)
    whole = raw_maps(image, **detector, stride=stride, border_px=border_px, compute=CPU)
    monkeypatch.setattr(module, "MAX_TILE_PIXELS", 100)
    tiled = raw_maps(image, **detector, stride=stride, border_px=border_px, compute=CPU)
    torch.testing.assert_close(tiled.error, whole.error, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tiled.uncertainty, whole.uncertainty, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(33, 20), (60, 75)])
def test_tiles_never_hold_more_pixels_than_allowed(monkeypatch, size):
    windows = []
    original = module.descriptors_by_phase

    def watched(network, padded, **grid):
        windows.append((padded.shape[-2] - 16) * (padded.shape[-1] - 16))
        return original(network, padded, **grid)

    monkeypatch.setattr(module, "descriptors_by_phase", watched)
    monkeypatch.setattr(module, "MAX_TILE_PIXELS", 100)
    raw_maps(torch.randn(3, *size), **detector_of(17), stride=1, border_px=0, compute=CPU)
    assert max(windows) <= 100
    assert sum(windows) == 3 * size[0] * size[1]  # every pixel once, by the teacher and two students


def test_comparing_few_descriptors_at_once_gives_the_same_values(monkeypatch):
    image, detector = torch.randn(3, 21, 30), detector_of(33)
    at_once = raw_maps(image, **detector, stride=1, border_px=0, compute=CPU)
    monkeypatch.setattr(module, "COMPARED_AT_ONCE", 7 * 5)
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
