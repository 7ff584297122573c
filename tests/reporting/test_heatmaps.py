import numpy as np
import pytest
from PIL import Image

from us_anomaly.reporting.color_scale import map_colors
from us_anomaly.reporting.heatmaps import (
    color_steps,
    color_values,
    colorize,
    overlay,
    read_color_steps,
    write_heatmap,
)

RAMP = np.linspace(-1, 3, 60, dtype=np.float32).reshape(5, 12)


def test_scores_outside_the_range_take_the_end_colours():
    values = np.array([[-5, 0, 1, 2, 9]], dtype=np.float32)
    assert color_values(values, color_range=(0, 2)).tolist() == [[0, 0, 0.5, 1, 1]]
    assert color_steps(values, color_range=(0, 2)).tolist() == [[0, 0, 128, 255, 255]]


def test_a_written_heatmap_is_the_coloured_map_to_every_reader(tmp_path):
    write_heatmap(tmp_path / "a" / "map.png", RAMP, color_range=(0, 2))
    with Image.open(tmp_path / "a" / "map.png") as picture:
        assert picture.format == "PNG"
        assert picture.has_transparency_data
        np.testing.assert_array_equal(np.asarray(picture.convert("RGBA")), colorize(RAMP, color_range=(0, 2)))


def test_colour_numbers_are_read_back_from_a_heatmap(tmp_path):
    write_heatmap(tmp_path / "map.png", RAMP, color_range=(0, 2))
    np.testing.assert_array_equal(read_color_steps(tmp_path / "map.png"), color_steps(RAMP, color_range=(0, 2)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_other_pictures_have_no_colour_numbers(tmp_path, mode):
    Image.new("RGB", (4, 4), (3, 2, 1)).convert(mode).save(tmp_path / "other.png")
    assert read_color_steps(tmp_path / "other.png") is None


def test_a_heatmap_is_read_whatever_its_size(tmp_path, monkeypatch):
    write_heatmap(tmp_path / "map.png", RAMP, color_range=(0, 2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RAMP.size // 3)  # Pillow raises above twice its limit
    np.testing.assert_array_equal(read_color_steps(tmp_path / "map.png"), color_steps(RAMP, color_range=(0, 2)))


def test_an_overlay_mixes_by_the_opacity_of_each_pixel():
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    heatmap = np.array([[[200, 0, 0, 0], [200, 0, 0, 255], [200, 0, 0, 51]]], dtype=np.uint8)
    assert overlay(image, heatmap).tolist() == [[[100, 100, 100], [200, 0, 0], [120, 80, 80]]]
    assert overlay(image, heatmap, opacity=0.5)[0, 1].tolist() == [150, 50, 50]


def test_one_fixed_range_gives_one_score_one_colour_in_every_map():
    calm, hot = np.full((2, 2), 0.5, dtype=np.float32), np.array([[0.5, 2.0]], dtype=np.float32)
    assert (colorize(calm, color_range=(0, 2))[0, 0] == colorize(hot, color_range=(0, 2))[0, 0]).all()
    assert colorize(hot, color_range=(0, 2))[0, 1].tolist() == map_colors()[255].tolist()
