import numpy as np
import pytest
from scipy.spatial import cKDTree

from us_anomaly.data.noise import band_noise, log_uniform, spectral_noise, to_unit, turned_coordinates
from us_anomaly.data.textures import TEXTURES, _voronoi


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.8])
def test_the_amplitude_spectrum_falls_with_the_exponent(exponent: float) -> None:
    side = 256
    power = np.mean(
        [np.abs(np.fft.fft2(spectral_noise(rng_of(s), side, exponent=exponent))) ** 2 for s in range(8)],
        axis=0,
    )
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    inner = (frequency > 0.04) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[inner]), np.log(power[inner]), 1)[0]
    assert slope / -2 == pytest.approx(exponent, abs=0.1)


def test_noise_has_zero_mean_and_unit_deviation() -> None:
    for field in (spectral_noise(rng_of(0), 96, exponent=1.2), band_noise(rng_of(1), 96, wavelength_px=9)):
        assert field.dtype == np.float32
        assert field.shape == (96, 96)
        assert float(field.mean()) == pytest.approx(0, abs=1e-4)
        assert float(field.std()) == pytest.approx(1, abs=1e-4)


def test_stretched_noise_varies_less_along_its_angle() -> None:
    field = spectral_noise(rng_of(0), 128, exponent=1.0, stretch=16, angle=0.0)
    along, across = np.diff(field, axis=1).std(), np.diff(field, axis=0).std()
    assert across > 2 * along


@pytest.mark.parametrize("wavelength", [6, 16])
def test_band_noise_peaks_at_its_wavelength(wavelength: int) -> None:
    side = 192
    power = np.abs(np.fft.fft2(band_noise(rng_of(2), side, wavelength_px=wavelength))) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    centre = (power * frequency).sum() / power.sum()
    assert 1 / centre == pytest.approx(wavelength, rel=0.15)


def test_log_uniform_has_the_geometric_mean_as_its_median() -> None:
    rng = rng_of(0)
    values = [log_uniform(rng, 2, 200) for _ in range(4000)]
    assert min(values) >= 2
    assert max(values) <= 200
    assert np.median(values) == pytest.approx(20, rel=0.1)


def test_to_unit_centres_the_mean_and_clips() -> None:
    field = to_unit(rng_of(0).normal(7, 3, (80, 80)), deviations=2)
    assert float(field.min()) == 0
    assert float(field.max()) == 1
    assert float(np.median(field)) == pytest.approx(0.5, abs=0.02)


def test_turned_coordinates_keep_distances() -> None:
    u, v = turned_coordinates(rng_of(5), 40)
    across = np.hypot(u[0, -1] - u[0, 0], v[0, -1] - v[0, 0])
    diagonal = np.hypot(u[-1, -1] - u[0, 0], v[-1, -1] - v[0, 0])
    assert across == pytest.approx(39, rel=1e-3)
    assert diagonal == pytest.approx(39 * np.sqrt(2), rel=1e-3)


def test_cells_know_the_nearest_of_all_points() -> None:
    v, u = np.mgrid[0:6:60j, 0:6:60j].astype(np.float32)
    nearest, second, owner = _voronoi(rng_of(1), u, v)
    jitter = rng_of(1)
    amount = jitter.uniform(0.15, 1)
    offsets = (0.5 + amount * jitter.uniform(-0.5, 0.5, (2, 1024))).astype(np.float32)
    squares = [(column, row) for column in range(-2, 9) for row in range(-2, 9)]
    numbers = [(column * 73 + row * 179) % 1024 for column, row in squares]
    points = [(c + offsets[0, n], r + offsets[1, n]) for (c, r), n in zip(squares, numbers, strict=True)]
    distance, index = cKDTree(points).query(np.stack([u.ravel(), v.ravel()], axis=1), k=2)
    np.testing.assert_allclose(nearest.ravel(), distance[:, 0], atol=1e-4)
    assert (owner.ravel() == np.array(numbers)[index[:, 0]]).mean() > 0.999
    assert (np.abs(second.ravel() - distance[:, 1]) < 1e-4).mean() > 0.98  # a far second may lie outside of 3 x 3


@pytest.mark.parametrize("texture", TEXTURES, ids=lambda texture: texture.__name__)
def test_every_texture_is_a_varied_field_between_0_and_1(texture) -> None:  # type: ignore[no-untyped-def]
    for seed in range(12):
        field = texture(rng_of(seed), 64)
        assert field.shape == (64, 64)
        assert field.dtype == np.float32
        assert field.min() >= 0
        assert field.max() <= 1
        assert field.std() > 0.003
