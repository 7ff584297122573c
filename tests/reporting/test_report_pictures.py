import base64
import logging
import zlib

import numpy as np
import pytest
from drawn_report import TEST_SCORES, VAL_SCORES, draw_report_source
from PIL import Image

from us_anomaly.reporting.heatmaps import colorize, write_heatmap
from us_anomaly.reporting.pages.drawing import Artist, in_threads
from us_anomaly.reporting.pages.files import link, link_into_data_root, link_into_run_dir, picture_key
from us_anomaly.reporting.readout import as_script, block_maximum, encode_map
from us_anomaly.reporting.thumbnails import (
    EDGE,
    FILL,
    fitted_size,
    scaled_mask,
    write_heatmap_copy,
    write_image_copy,
    write_mask_pictures,
)

RNG = np.random.default_rng(3)


def decoded(encoded: dict) -> np.ndarray:
    """Undo the coding as the page does."""
    halves = (
        np.frombuffer(zlib.decompress(base64.b64decode(encoded["data"])), dtype=np.uint8).astype(int).reshape(2, -1)
    )
    unsigned = (halves[0] + 256 * halves[1]).reshape(encoded["height"], encoded["width"])
    codes = np.cumsum(np.where(unsigned % 2, -(unsigned + 1) // 2, unsigned // 2), axis=1)
    return encoded["unit"] * np.sinh(
        encoded["low"] + codes / (encoded["codes"] - 1) * (encoded["high"] - encoded["low"])
    )


@pytest.mark.parametrize(("size", "copy"), [((100, 50), (100, 50)), ((2000, 1000), (256, 128)), ((3, 9000), (1, 256))])
def test_copies_keep_the_shape_and_are_never_enlarged(size, copy):
    assert fitted_size(*size, 256) == copy


def test_a_copy_of_full_size_shows_the_image_nearly_exactly(tmp_path):
    smooth = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60)))
    write_image_copy(tmp_path / "copy.jpg", smooth, longest_px=256)
    with Image.open(tmp_path / "copy.jpg") as picture:
        assert picture.size == (80, 60)
        assert np.abs(np.asarray(picture).astype(int) - smooth).mean() < 2


def test_a_smaller_copy_has_the_mean_colour(tmp_path):
    pixels = RNG.integers(0, 256, (300, 500, 3), dtype=np.uint8)
    write_image_copy(tmp_path / "copy.jpg", pixels, longest_px=100)
    with Image.open(tmp_path / "copy.jpg") as picture:
        assert picture.size == (100, 60)
        assert np.asarray(picture).mean() == pytest.approx(pixels.mean(), abs=2)


def test_a_heatmap_copy_averages_scores_not_colours(tmp_path):
    values = np.zeros((400, 400), dtype=np.float32)
    values[:, ::2] = 1.0  # blue beside red: their mean is the middle of the scale
    write_heatmap(tmp_path / "map.png", values, color_range=(0, 1))
    write_heatmap_copy(tmp_path / "copy.png", tmp_path / "map.png", longest_px=100)
    with Image.open(tmp_path / "copy.png") as picture:
        middle = colorize(np.full((1, 1), 0.5, dtype=np.float32), color_range=(0, 1))[0, 0].astype(int)
        assert np.abs(np.asarray(picture.convert("RGBA")).astype(int) - middle).max() <= 3


def test_any_other_transparent_picture_can_be_copied(tmp_path):
    Image.new("RGBA", (300, 200), (10, 200, 30, 128)).save(tmp_path / "map.png")
    write_heatmap_copy(tmp_path / "copy.png", tmp_path / "map.png", longest_px=100)
    with Image.open(tmp_path / "copy.png") as picture:
        assert picture.size == (100, 67)
        assert picture.convert("RGBA").getpixel((50, 30)) == pytest.approx((10, 200, 30, 128), abs=1)


def test_a_defect_of_one_pixel_survives_in_a_small_mask():
    mask = np.zeros((4000, 3000), dtype=bool)
    mask[1234, 567] = True
    shrunk = scaled_mask(mask, longest_px=512)
    assert shrunk.shape == (512, 384)
    rows, columns = np.nonzero(shrunk)
    assert abs(rows.mean() - 1234 * 512 / 4000) < 1
    assert abs(columns.mean() - 567 * 512 / 4000) < 1


def test_a_small_mask_is_enlarged_by_a_whole_factor():
    mask = RNG.random((5, 9)) < 0.5
    large = scaled_mask(mask, longest_px=64)
    assert large.shape == (35, 63)
    np.testing.assert_array_equal(large[3::7, 3::7], mask)


def test_a_mask_is_red_and_see_through_inside_and_strong_at_its_edge(tmp_path):
    mask = np.zeros((600, 600), dtype=bool)
    mask[100:400, 200:500] = True
    write_mask_pictures(tmp_path / "fill.png", tmp_path / "outline.png", mask)
    with Image.open(tmp_path / "fill.png") as opened:
        fill = opened.convert("RGBA")
    assert fill.getpixel((fill.width // 2, fill.height // 3)) == FILL
    assert FILL[3] < 130
    assert fill.getpixel((round(201 * 512 / 600), 200)) == EDGE
    assert fill.getpixel((10, 10))[3] == 0
    with Image.open(tmp_path / "outline.png") as opened:
        outline = opened.convert("RGBA")
    assert outline.getpixel((fill.width // 2, fill.height // 3))[3] == 0
    colors = {color for _, color in outline.getcolors()}
    assert {(255, 255, 255, 255), (0, 0, 0, 200)} < colors


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_read_out_keeps_scores_to_half_a_percent(scale):
    values = (np.exp(RNG.normal(0, 2, (40, 30))) * scale).astype(np.float32)
    unit = scale / 16
    encoded = encode_map(values, unit=unit)
    np.testing.assert_allclose(decoded(encoded), values, rtol=0.01, atol=unit * 0.02)


def test_the_read_out_knows_negative_scores_and_flat_maps():
    values = RNG.normal(0, 3, (10, 20)).astype(np.float32)
    np.testing.assert_allclose(decoded(encode_map(values, unit=1.0)), values, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(decoded(encode_map(np.full((3, 3), 2.5, dtype=np.float32), unit=1.0)), 2.5, rtol=1e-6)


def test_a_large_map_is_read_out_by_the_highest_score_of_each_cell():
    values = RNG.random((513, 1000)).astype(np.float32)
    encoded = encode_map(values, unit=0.1)
    assert (encoded["cell_px"], encoded["height"], encoded["width"]) == (7, 74, 143)
    expected = np.array([[values[r : r + 7, c : c + 7].max() for c in range(0, 1000, 7)] for r in range(0, 513, 7)])
    np.testing.assert_array_equal(block_maximum(values, cell_px=7), expected)
    np.testing.assert_allclose(decoded(encoded), expected, rtol=0.01)


def test_a_read_out_is_much_smaller_than_its_map():
    coarse = RNG.random((8, 8)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC))
    assert len(encode_map(smooth, unit=0.05)["data"]) < smooth.nbytes / 6


def test_a_script_is_plain_ascii_whatever_the_names():
    script = as_script("usad.take", {"name": "ü </script> \u2028 \ud800"})
    assert script.isascii()
    assert script.startswith("usad.take({")


def test_links_encode_what_a_browser_would_take_for_syntax():
    assert link("a b/c#d?e%f\"g'h<i>.png") == "a%20b/c%23d%3Fe%25f%22g%27h%3Ci%3E.png"
    assert link("ü") == "%C3%BC"


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "maps/../../x.png", "", None])
def test_no_link_leaves_the_run_directory(path):
    assert link_into_run_dir(path) is None


def test_a_link_into_the_run_directory_climbs_out_of_the_report():
    assert link_into_run_dir("maps/a b.tiff") == "../maps/a%20b.tiff"


def test_no_link_leaves_the_data_root(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "outside.png").touch()
    (root / "inside.png").touch()
    (root / "way out.png").symlink_to(tmp_path / "outside.png")
    assert link_into_data_root("../outside.png", root) is None
    assert link_into_data_root("way out.png", root) is None
    assert link_into_data_root("gone.png", root) is None
    assert link_into_data_root(str(tmp_path / "outside.png"), root) is None
    assert link_into_data_root("inside.png", root) == (root / "inside.png").as_uri()


def test_the_key_of_a_picture_changes_with_its_file_and_holds_no_character_of_its_name(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"1")
    first = picture_key('<script>"', path)
    path.write_bytes(b"12")
    assert first.isalnum()
    assert picture_key('<script>"', path) != first


def test_the_key_of_a_folder_of_masks_changes_with_a_mask_that_is_written_in_its_place(tmp_path):
    (tmp_path / "000").mkdir()
    (tmp_path / "000/0.png").write_bytes(b"1")
    first = picture_key("masks/000", tmp_path / "000")
    assert picture_key("masks/000", tmp_path / "000") == first
    with (tmp_path / "000/0.png").open("r+b") as file:
        file.write(b"12")
    assert picture_key("masks/000", tmp_path / "000") != first


@pytest.fixture
def source(tmp_path):
    return draw_report_source(tmp_path)


def test_pictures_are_drawn_once(source):
    first = Artist(source)
    for sample in source.samples:
        first.draw_image(sample)
    times = {path: path.stat().st_mtime_ns for path in (source.run_dir.report / "pictures").iterdir()}
    assert len(times) == len(source.samples) + 2 * 5
    second = Artist(source)
    for sample in source.samples:
        second.draw_image(sample)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert second.used == first.used


def test_a_changed_image_is_drawn_again_and_the_old_picture_removed(source):
    sample = source.samples[0]
    before = Artist(source)
    old = before.draw_image(sample)
    Image.new("RGB", (5, 7)).save(source.data_root / sample.filename)
    after = Artist(source)
    new = after.draw_image(sample)
    after.remove_unused()
    assert (new.height, new.width) == (7, 5)
    assert not (source.run_dir.report / old.image.gallery).exists()
    assert (source.run_dir.report / new.image.gallery).exists()


def test_large_pictures_get_a_copy_for_the_gallery_and_one_for_the_large_view(tmp_path):
    source = draw_report_source(tmp_path)
    sample = source.samples[3]
    Image.new("RGB", (99, 101)).resize((90, 100)).save(source.data_root / sample.filename)
    small = Artist(source).draw_image(sample)
    assert small.image.gallery == small.image.view
    import dataclasses

    roomy = dataclasses.replace(source, max_image_pixels=10_000_000)
    Image.new("RGB", (2048, 1024)).save(source.data_root / sample.filename)
    large = Artist(roomy).draw_image(sample)
    with (
        Image.open(source.run_dir.report / large.image.gallery) as gallery,
        Image.open(source.run_dir.report / large.image.view) as view,
    ):
        assert (gallery.size, view.size) == ((256, 128), (1024, 512))


def test_an_image_that_is_gone_is_left_out_with_a_warning(source, caplog):
    sample = next(sample for sample in source.samples if sample.mask_path)
    (source.data_root / sample.filename).unlink()
    (source.data_root / sample.mask_path).unlink()
    with caplog.at_level(logging.WARNING):
        drawn = Artist(source).draw_image(sample)
    assert (drawn.image, drawn.mask, drawn.outline, drawn.original) == (None, None, None, None)
    assert "left out of the report" in caplog.text


def test_predictions_show_the_heatmap_itself_where_it_is_small(source):
    record = source.predictions[0]["prediction"]
    drawn = Artist(source).draw_prediction(record)
    assert drawn.heatmap.gallery == drawn.heatmap.view == "../" + link(record["heatmap_path"])
    assert (source.run_dir.report / "values" / f"{drawn.values}.js").exists()


def test_a_large_heatmap_is_shown_by_copies(source):
    record = source.predictions[0]["prediction"]
    write_heatmap(
        source.run_dir.root / record["heatmap_path"], RNG.random((300, 1200)).astype(np.float32), color_range=(0, 1)
    )
    drawn = Artist(source).draw_prediction(record)
    assert drawn.heatmap.gallery.startswith("pictures/")
    assert drawn.heatmap.view.startswith("pictures/")
    with Image.open(source.run_dir.report / drawn.heatmap.view) as view:
        assert view.size == (1024, 256)


def test_a_damaged_map_or_heatmap_is_left_out_with_a_warning(source, caplog):
    record = source.predictions[0]["prediction"]
    for key in ("heatmap_path", "map_path"):
        (source.run_dir.root / record[key]).write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        drawn = Artist(source).draw_prediction(record)
    assert (drawn.heatmap, drawn.values) == (None, None)
    assert drawn.uncertainty is not None
    assert caplog.text.count("left out of the report") == 2


def test_threads_keep_the_order_and_count_what_is_done():
    done = []
    squares = in_threads(lambda number: number**2, range(100), num_workers=3, on_done=lambda: done.append(1))
    assert list(squares) == [number**2 for number in range(100)]
    assert len(done) == 100


def test_every_evaluated_image_is_in_the_drawn_run(source):
    assert len(source.predictions) == len(TEST_SCORES) + len(VAL_SCORES)
