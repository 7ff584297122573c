import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from us_anomaly.data.photographs import PACKAGED_PHOTOGRAPHS, load_photographs, multi_scale_crop, to_bytes
from us_anomaly.errors import UsadError


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def ramp(height: int, width: int) -> Image.Image:
    """Red tells the column, green the row, blue is full: every crop tells where it comes from."""
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    picture[..., 0] = np.linspace(40, 250, width).astype(np.uint8)[None, :]
    picture[..., 1] = np.linspace(40, 250, height).astype(np.uint8)[:, None]
    return Image.fromarray(picture)


def test_nineteen_colour_photographs_are_found_in_the_packages() -> None:
    photographs = load_photographs()
    assert len(photographs) == 19
    assert all(photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 for photo in photographs)
    assert all(photo.std() > 5 for photo in photographs)


def test_the_textures_of_the_demo_are_not_among_the_photographs() -> None:
    names = {name for _, names in PACKAGED_PHOTOGRAPHS.values() for name in names}
    assert not names & {"brick.png", "grass.png", "gravel.png"}


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsadError, match=r"need scikit-image, .*pip install 'us-anomaly\[offline\]'"):
        load_photographs()


def test_a_package_without_its_pictures_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(UsadError, match="holds none") as caught:
        load_photographs()
    assert str(tmp_path / "data") in str(caught.value)


def test_a_package_with_some_pictures_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for package, name in (("skimage/data", "coins.png"), ("sklearn/datasets/images", "china.jpg")):
        (tmp_path / package).mkdir(parents=True)
        ramp(30, 30).save(tmp_path / package / name)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / name / "__init__.py"))
    )
    with caplog.at_level(logging.WARNING):
        assert len(load_photographs()) == 2
    assert "holds 1 of 17 photographs" in caplog.text


@pytest.mark.parametrize("size", [(200, 300), (640, 90), (40, 40), (48, 70)])
def test_no_crop_has_a_pixel_from_outside_of_the_photograph(size: tuple[int, int]) -> None:
    photograph = ramp(*size)
    for seed in range(60):
        crop = multi_scale_crop(photograph, rng_of(seed), side_px=48)
        assert crop.shape == (48, 48, 3)
        assert crop.dtype == np.uint8
        assert crop[..., 2].min() >= 250
        assert crop.min() >= 36


@pytest.mark.parametrize("side", range(24, 77))
def test_a_photograph_smaller_than_the_smallest_crop_is_taken_whole(side: int) -> None:
    """Its side, taken as exp(log(side)), can come out larger than it is."""
    crop = multi_scale_crop(ramp(side, side), rng_of(0), side_px=256)
    assert crop.shape == (256, 256, 3)
    assert np.ptp(crop[..., 0].astype(int)) > 200
    assert np.ptp(crop[..., 1].astype(int)) > 200


def test_crops_reach_from_the_smallest_side_to_the_whole_photograph() -> None:
    photograph = ramp(400, 400)
    spans = []
    for seed in range(200):
        crop = multi_scale_crop(photograph, rng_of(seed), side_px=40, smallest_px=40)
        spans.append(float(np.ptp(crop[..., 0].astype(int))) / 210)  # share of the photograph's width
    assert min(spans) == pytest.approx(0.1, abs=0.03)
    assert max(spans) > 0.9
    assert 0.2 < np.median(spans) < 0.5  # log-uniform: the median is the geometric mean, 0.32


def test_a_crop_of_the_size_of_the_output_is_not_resampled_beyond_shifting() -> None:
    photograph = Image.fromarray(rng_of(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    crop = multi_scale_crop(photograph, rng_of(3), side_px=60, smallest_px=60)
    whole = np.asarray(photograph)
    turned = [np.rot90(whole, turns)[:, ::step] for turns in range(4) for step in (1, -1)]
    assert any((crop == candidate).all() for candidate in turned)


def test_to_bytes_clips_and_drops_fractions() -> None:
    assert to_bytes(np.array([-3.0, 0.9, 254.99, 300.0])).tolist() == [0, 0, 254, 255]
