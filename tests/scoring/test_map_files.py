import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from us_anomaly.errors import ArtifactError
from us_anomaly.scoring.map_files import map_size, read_map, write_map

VALUES = np.random.default_rng(0).lognormal(size=(37, 53)).astype(np.float32)
VALUES[0, :4] = [0.0, -1.5, 3.4e38, 1e-40]


def test_a_map_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "maps" / "test" / "broken" / "000.tiff"
    write_map(path, VALUES)
    assert read_map(path).dtype == np.float32
    assert np.array_equal(read_map(path), VALUES)
    assert map_size(path) == (37, 53)


@pytest.mark.parametrize("pillows_limit", [500, 1500])  # Pillow raises above twice its limit and warns below
def test_a_map_is_read_whatever_its_size(tmp_path, monkeypatch, pillows_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    write_map(tmp_path / "000.tiff", VALUES)
    assert np.array_equal(read_map(tmp_path / "000.tiff"), VALUES)
    assert map_size(tmp_path / "000.tiff") == (37, 53)
    assert pillows_limit == Image.MAX_IMAGE_PIXELS


def test_a_map_larger_than_pictures_may_be_is_refused_by_its_header(tmp_path):
    write_map(tmp_path / "000.tiff", VALUES)
    assert map_size(tmp_path / "000.tiff", max_pixels=37 * 53) == (37, 53)
    for read in (read_map, map_size):
        with pytest.raises(ArtifactError, match=r"53 x 37 pixels are more than data\.max_image_pixels=1960 allows"):
            read(tmp_path / "000.tiff", max_pixels=37 * 53 - 1)


def test_the_reader_of_the_official_evaluation_sees_the_same_map(tmp_path):
    path = tmp_path / "000.tiff"
    write_map(path, VALUES)
    official = tifffile.imread(path)
    assert official.dtype == np.float32
    assert np.array_equal(official, VALUES)


def test_a_float64_map_is_stored_as_float32(tmp_path):
    path = tmp_path / "000.tiff"
    write_map(path, VALUES.astype(np.float64))
    assert np.array_equal(read_map(path), VALUES)


def test_a_map_that_another_program_wrote_with_compression_is_read(tmp_path):
    path = tmp_path / "000.tiff"
    tifffile.imwrite(path, VALUES, compression="zlib")
    assert np.array_equal(read_map(path), VALUES)


def test_only_two_dimensions_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"^a map has two dimensions, got shape \(1, 37, 53\)$"):
        write_map(tmp_path / "000.tiff", VALUES[None])


def test_a_missing_map_is_named_with_the_command_that_makes_it(tmp_path):
    path = tmp_path / "000.tiff"
    for read in (read_map, map_size):
        with pytest.raises(ArtifactError) as caught:
            read(path)
        assert str(caught.value) == (f"cannot read the map {path} (it does not exist); run `usad infer overwrite=true`")


@pytest.mark.parametrize("read", [read_map, map_size])
def test_a_file_that_is_no_picture_is_named_with_what_the_reader_says(tmp_path, read):
    path = tmp_path / "000.tiff"
    path.write_bytes(b"not a picture")
    said = r"UnidentifiedImageError: cannot identify image file .*000\.tiff'\)?"
    message = rf"^cannot read the map {re.escape(str(path))} \({said}\); run `usad infer overwrite=true`$"
    with pytest.raises(ArtifactError, match=message):
        read(path)


def test_a_truncated_map_is_named(tmp_path):
    path = tmp_path / "000.tiff"
    write_map(path, VALUES)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"cannot read the map .*000.tiff"):
        read_map(path)


def test_a_picture_of_bytes_is_no_map(tmp_path):
    path = tmp_path / "000.tiff"
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(path)
    with pytest.raises(ArtifactError) as caught:
        read_map(path)
    assert str(caught.value) == (f"{path} is a picture of mode L, not a float32 map; run `usad infer overwrite=true`")


def test_a_map_with_not_a_number_is_named(tmp_path):
    path = tmp_path / "000.tiff"
    broken = VALUES.copy()
    broken[3, 3] = np.nan
    write_map(path, broken)
    with pytest.raises(ArtifactError) as caught:
        read_map(path)
    assert str(caught.value) == (f"{path} holds values that are not finite numbers; run `usad infer overwrite=true`")
