import numpy as np
import pytest
import torch
from plain_scores import scoring
from scipy import ndimage

from us_anomaly.data import bands
from us_anomaly.models.compute import Compute
from us_anomaly.scoring import anomaly_map
from us_anomaly.scoring.anomaly_map import MapStatistics, combine, image_score, smooth
from us_anomaly.scoring.raw_maps import Grid, RawMaps
from us_anomaly.settings import ImageScore, Normalization

CPU = Compute(torch.device("cpu"), torch.float32)


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
