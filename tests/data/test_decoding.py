import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from raw_files import png_chunk, write_deep_png, write_png_header

from us_anomaly.data.images import IMAGE_SUFFIXES, image_size, read_image
from us_anomaly.data.images.decoding import read_with_white_level, rgb_of
from us_anomaly.errors import BadImageError

LIMIT = 10**7


def read(path: Path) -> np.ndarray:
    pixels = read_image(path, max_pixels=LIMIT)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert image_size(path, max_pixels=LIMIT) == pixels.shape[:2]
    return pixels


def reason(path: Path, max_pixels: int = LIMIT) -> str:
    with pytest.raises(BadImageError) as caught:
        read_image(path, max_pixels=max_pixels)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(7, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG", ".BMP", ".TIF"])
def test_lossless_rgb_comes_out_exactly(tmp_path: Path, colours: np.ndarray, suffix: str) -> None:
    Image.fromarray(colours).save(tmp_path / f"a{suffix}")
    assert np.array_equal(read(tmp_path / f"a{suffix}"), colours)


def test_lossless_webp_comes_out_exactly(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "a.webp", lossless=True)
    assert np.array_equal(read(tmp_path / "a.webp"), colours)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_come_out_nearly(tmp_path: Path, suffix: str) -> None:
    smooth = np.stack(np.meshgrid(np.arange(60), np.arange(40)), axis=-1)
    smooth = np.dstack([smooth * 2, np.full((40, 60), 90)]).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a{suffix}", quality=95)
    assert np.abs(read(tmp_path / f"a{suffix}").astype(int) - smooth).max() < 16


def test_every_suffix_is_lower_case_with_its_dot() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)


def test_grey_becomes_three_equal_channels(tmp_path: Path, colours: np.ndarray) -> None:
    grey = colours[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), np.dstack([grey] * 3))


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    bits = np.random.default_rng(1).random((9, 11)) < 0.5
    Image.fromarray(bits).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "1"
    assert np.array_equal(read(tmp_path / "a.png"), np.dstack([bits * np.uint8(255)] * 3))


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=0)
    assert read(tmp_path / "a.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_half_transparent_palette_entry_is_mixed_with_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=bytes([51, 255]))
    assert read(tmp_path / "a.png").tolist() == [[[204, 204, 204], [200, 100, 50]]]


def test_opaque_alpha_changes_nothing(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(np.dstack([colours, np.full((7, 5), 255, np.uint8)])).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), colours)


@given(st.tuples(*[st.integers(0, 255)] * 4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_alpha_is_composited_over_white(tmp_path: Path, rgba: tuple[int, ...]) -> None:
    Image.new("RGBA", (1, 1), rgba).save(tmp_path / "a.png")
    alpha = rgba[3] / 255
    expected = [int(np.floor(value * alpha + 255 * (1 - alpha) + 0.5)) for value in rgba[:3]]
    assert np.abs(read(tmp_path / "a.png")[0, 0].astype(int) - expected).max() <= (0 if rgba[3] == 255 else 1)
    exact = [(value * rgba[3] + 255 * (255 - rgba[3]) + 127) // 255 for value in rgba[:3]]
    assert read(tmp_path / "a.png")[0, 0].tolist() == exact


def test_grey_with_alpha_is_composited_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 0], [80, 255]]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png")[0, :, 0].tolist() == [255, 80]


def test_transparent_colour_of_an_rgb_png_becomes_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert read(tmp_path / "a.png").tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_cmyk_becomes_the_colours_a_person_sees(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # full magenta and yellow ink is red
    image.save(tmp_path / "a.tif")
    image.save(tmp_path / "a.jpg", quality=95)
    assert read(tmp_path / "a.tif")[0, 0].tolist() == [255, 0, 0]
    assert np.abs(read(tmp_path / "a.jpg")[8, 8].astype(int) - [255, 0, 0]).max() < 12


def test_lab_tiff_is_converted(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (200, 40, 30))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    assert np.abs(read(tmp_path / "a.tif")[0, 0].astype(int) - [200, 40, 30]).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_exif_orientation_is_applied_as_pillow_does(
    tmp_path: Path, colours: np.ndarray, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(colours).save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    pixels = read(path)
    assert np.array_equal(pixels, expected)
    assert pixels.shape[:2] == ((5, 7) if orientation >= 5 else (7, 5))


def test_a_photograph_taken_upside_right_comes_out_upright(tmp_path: Path) -> None:
    stored = np.zeros((16, 32), dtype=np.uint8)
    stored[:, :8] = 255  # orientation 6: turn clockwise, so the left edge becomes the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=100)
    pixels = read(tmp_path / "a.jpg")
    assert pixels.shape == (32, 16, 3)
    assert pixels[:6].min() > 200
    assert pixels[10:].max() < 50


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"MM"])
def test_damaged_exif_data_means_upright(tmp_path: Path, colours: np.ndarray, exif: bytes) -> None:
    Image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(tmp_path / "a.png"), colours)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_the_first_frame_of_several_counts(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options)
    assert read(tmp_path / f"a{suffix}")[0, 0].tolist() == [250, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 30_000), (30_000, 1)])
def test_extreme_shapes_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(2).integers(0, 256, size=shape, dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png")[..., 1], grey)


def test_a_format_under_the_name_of_another_is_read(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(read(tmp_path / "a.jpg"), colours)


def test_deep_colour_png_keeps_both_bytes_of_a_12_bit_camera(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 4096, size=(6, 7, 3)).astype(np.uint16)
    values[0, 0] = 4095
    for row_filter in (0, 1, 2):
        write_deep_png(tmp_path / "a.png", values, row_filter=row_filter)
        assert np.array_equal(read(tmp_path / "a.png"), np.rint(values * (255 / 4095)).astype(np.uint8))


def test_deep_colour_with_alpha_is_composited_over_white(tmp_path: Path) -> None:
    values = np.array([[[65535, 0, 0, 65535], [0, 0, 0, 0], [257, 514, 771, 65535]]], dtype=np.uint16)
    write_deep_png(tmp_path / "a.png", values)
    assert read(tmp_path / "a.png").tolist() == [[[255, 0, 0], [255, 255, 255], [1, 2, 3]]]


def test_deep_grey_with_alpha_keeps_both_bytes(tmp_path: Path) -> None:
    values = np.array([[[4095, 65535], [1000, 65535], [7, 0]]], dtype=np.uint16)
    write_deep_png(tmp_path / "a.png", values)
    assert read(tmp_path / "a.png")[0, :, 0].tolist() == [255, round(1000 * 255 / 4095), 255]


@pytest.mark.parametrize(("channels", "key"), [(1, (500,)), (3, (500, 500, 500))])
def test_transparent_deep_value_becomes_white(tmp_path: Path, channels: int, key: tuple[int, ...]) -> None:
    values = np.full((1, 3, channels), 500, dtype=np.uint16)
    values[0, 1] = 0
    values[0, 2] = 1023
    write_deep_png(tmp_path / "a.png", values, key=key)
    assert read(tmp_path / "a.png")[0, :, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_deep_colour_tiff_keeps_both_bytes(
    tmp_path: Path, compression: str | None, byteorder: str, channels: int
) -> None:
    values = np.random.default_rng(4).integers(0, 1024, size=(9, 8, channels)).astype(np.uint16)
    values[..., 3:] = 65535
    values[0, 0, :3] = 1023
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="rgb", compression=compression, byteorder=byteorder, **extra
    )
    assert np.array_equal(read(tmp_path / "a.tif"), np.rint(values[..., :3] * (255 / 1023)).astype(np.uint8))


def test_turned_deep_colour_tiff_comes_out_upright(tmp_path: Path) -> None:
    values = np.random.default_rng(5).integers(0, 65536, size=(3, 5, 3)).astype(np.uint16)
    values[0, 0] = 65535
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    expected = np.rint(np.rot90(values, -1) * (255 / 65535)).astype(np.uint8)
    assert np.array_equal(read(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32])
def test_deep_grey_tiff_uses_the_range_of_its_content(tmp_path: Path, dtype: type) -> None:
    values = np.linspace(0, 4095, 60).reshape(6, 10).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert np.array_equal(read(tmp_path / "a.tif")[..., 2], np.rint(values * (255 / 4095)).astype(np.uint8))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_dark_picture_is_as_dark_as_others_where_white_is_named(tmp_path: Path, channels: int) -> None:
    values = np.full((4, 5, channels), 1000, dtype=np.uint16)
    values[..., 3:] = 65535
    tifffile.imwrite(tmp_path / "a.tif", values.squeeze(), photometric="minisblack" if channels == 1 else "rgb")
    assert np.unique(read(tmp_path / "a.tif")).tolist() == [249]  # of 1023
    named, white = read_with_white_level(tmp_path / "a.tif", max_pixels=LIMIT, white_level=4095)
    assert np.unique(named).tolist() == [62]
    assert white == 4095
    with pytest.raises(BadImageError, match=r"a\.tif: its values, 1000 to 1000, go beyond 0 to data\.white_level=999$"):
        read_image(tmp_path / "a.tif", max_pixels=LIMIT, white_level=999)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_of_pil_keeps_both_bytes_of_its_colours_and_goes_on_as_it_was(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(3).integers(0, 4096, size=(6, 7, channels)).astype(np.uint16)
    values[..., 3:] = 65535
    write_deep_png(tmp_path / "a.png", values)
    untouched = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"))
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(rgb_of(picture), read(tmp_path / "a.png"))
        assert np.array_equal(rgb_of(picture, white_level=65535), np.rint(values[..., :3] / 257).astype(np.uint8))
        with pytest.raises(
            BadImageError, match=r"^a picture of PIL: its values, .*go beyond 0 to data.white_level=999$"
        ):
            rgb_of(picture, white_level=999)
        assert np.array_equal(np.asarray(picture.convert("RGBA")), untouched)


def test_the_page_of_a_picture_of_pil_counts(tmp_path: Path) -> None:
    pages = np.random.default_rng(4).integers(0, 65536, size=(2, 6, 7, 3)).astype(np.uint16)
    pages[:, 0, 0] = 65535
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
    with Image.open(tmp_path / "a.tif") as picture:
        for number in (1, 0):
            picture.seek(number)
            assert np.array_equal(rgb_of(picture), np.rint(pages[number] / 257).astype(np.uint8))


def test_a_loaded_picture_of_pil_needs_its_file_no_more(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "a.tif", compression="tiff_lzw")
    with (tmp_path / "a.tif").open("rb") as file:
        picture = Image.open(file)
        picture.load()
    assert np.array_equal(rgb_of(picture), colours)


def test_memory_that_is_exhausted_is_no_damaged_picture(monkeypatch: pytest.MonkeyPatch, colours: np.ndarray) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    picture = Image.fromarray(colours)
    monkeypatch.setattr(picture, "convert", fail)
    with pytest.raises(MemoryError):
        rgb_of(picture)


def test_a_white_level_leaves_pictures_of_8_bits_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5, 3), 200, dtype=np.uint8)).save(tmp_path / "a.png")
    picture, white = read_with_white_level(tmp_path / "a.png", max_pixels=LIMIT, white_level=4095)
    assert np.unique(picture).tolist() == [200]
    assert white is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_float_tiff_with_values_that_are_no_numbers_is_refused(tmp_path: Path, bad: float) -> None:
    values = np.zeros((4, 4), dtype=np.float32)
    values[1, 2] = bad
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert "infinite values or not-a-number" in reason(tmp_path / "a.tif")


def test_missing_empty_and_foreign_files_say_so(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("These are not the pixels you are looking for.")
    Image.new("L", (4, 4)).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "gif.png")
    assert reason(tmp_path / "missing.png") == "it does not exist"
    assert reason(tmp_path / "empty.png") == "it is empty"
    assert reason(tmp_path / "text.png").startswith("it is not a PNG, JPEG, BMP, TIFF or WebP picture")
    assert reason(tmp_path / "gif.png").startswith("it is not a PNG, JPEG, BMP, TIFF or WebP picture")
    assert reason(tmp_path / "gif.png").endswith(" picture, whatever its name says")
    (tmp_path / "gif.png").rename(tmp_path / "some.gif")
    assert reason(tmp_path / "some.gif").endswith(" picture")
    assert reason(tmp_path) == "it is a folder, not a picture"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_every_truncation_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(6).integers(0, 256, size=(40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a{suffix}")
    whole = (tmp_path / f"a{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for share in (0.02, 0.1, 0.3, 0.5, 0.9):
        cut.write_bytes(whole[: int(len(whole) * share)])
        text = reason(cut)
        assert "damaged" in text or "not a PNG" in text


def test_a_header_alone_names_its_format(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert reason(tmp_path / "a.png") == "it begins like a PNG file but is damaged, incomplete or of an unusual kind"


def test_a_picture_without_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    content[18:22] = bytes(4)  # the width
    (tmp_path / "a.bmp").write_bytes(content)
    assert reason(tmp_path / "a.bmp").startswith("it begins like a BMP file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert reason(tmp_path / "a.png") == "permission to read it is denied"


def test_denied_permission_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert reason(tmp_path / "a.png") == "permission to read it is denied"


def test_other_faults_of_the_disk_are_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    assert reason(tmp_path / "a.png") == "Input/output error"


def test_a_link_to_itself_and_a_named_pipe_do_not_hang(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "a.png") == "it is a link that leads back to itself"
    assert reason(tmp_path / "pipe.png") == "it is not a regular file"


def test_a_picture_over_the_limit_is_refused_by_its_header(tmp_path: Path) -> None:
    write_png_header(tmp_path / "a.png", 20_000, 20_000)  # there are no such pixels to decode
    assert reason(tmp_path / "a.png", 10**6) == (
        "20000 x 20000 pixels are more than data.max_image_pixels=1000000 allows"
    )
    with pytest.raises(BadImageError, match="20000 x 20000 pixels"):
        image_size(tmp_path / "a.png", max_pixels=10**6)


def test_the_limit_is_inclusive(tmp_path: Path) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=100).shape == (10, 10, 3)
    assert "10 x 10" in reason(tmp_path / "a.png", 99)


@pytest.mark.parametrize("pillows_limit", [20, 60])  # Pillow raises above twice its limit and warns below
def test_the_limit_and_not_pillows_own_decides_and_pillows_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pillows_limit: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    picture = np.random.default_rng(7).integers(0, 256, size=(10, 10), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png")[..., 0], picture)
    assert pillows_limit == Image.MAX_IMAGE_PIXELS
    assert "10 x 10" in reason(tmp_path / "a.png", 50)
    assert pillows_limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises((Image.DecompressionBombError, Image.DecompressionBombWarning)):
        Image.open(tmp_path / "a.png").close()


def test_a_compressed_text_bomb_in_a_png_is_refused(tmp_path: Path) -> None:
    import zlib

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"A" * 10**8))
    (tmp_path / "a.png").write_bytes(content[:33] + bomb + content[33:])
    assert "damaged or incomplete" in reason(tmp_path / "a.png")


def test_pillows_warnings_reach_nobody_and_filters_come_back(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([51, 255]))
    Image.new("L", (6, 6)).save(tmp_path / "b.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(tmp_path / "a.png", max_pixels=LIMIT)
        read_image(tmp_path / "b.png", max_pixels=LIMIT)
    assert caught == []
    read_image(tmp_path / "a.png", max_pixels=LIMIT)
    assert list(warnings.filters) == before


def test_warnings_of_the_program_around_are_still_shown_once(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "a.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warnings.warn("seen before", stacklevel=1)
            read_image(tmp_path / "a.png", max_pixels=LIMIT)
    assert len(caught) == 1


def test_many_threads_read_the_same_and_leave_the_filters_alone(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    before = list(warnings.filters)
    results: list[bool] = []

    def work() -> None:
        for _ in range(30):
            results.append(np.array_equal(read_image(tmp_path / "a.png", max_pixels=LIMIT), colours))
            with pytest.raises(BadImageError):
                read_image(tmp_path / "bad.png", max_pixels=LIMIT)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 120
    assert list(warnings.filters) == before


def _seed_files() -> list[bytes]:
    import io

    picture = Image.fromarray(np.random.default_rng(8).integers(0, 256, size=(6, 6, 3), dtype=np.uint8))
    files = []
    for name, source in [
        ("PNG", picture),
        ("JPEG", picture),
        ("BMP", picture),
        ("WEBP", picture),
        ("TIFF", picture),
        ("TIFF", picture.convert("F")),
        ("PNG", picture.convert("P")),
        ("TIFF", picture.convert("CMYK")),
    ]:
        buffer = io.BytesIO()
        source.save(buffer, name)
        files.append(buffer.getvalue())
    return files


SEEDS = _seed_files()


@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    length=st.floats(0, 1),
)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_give_a_picture_or_one_clear_line(
    tmp_path: Path, seed: bytes, changes: list[tuple[int, int]], length: float
) -> None:
    content = bytearray(seed)
    for position, value in changes:
        content[position % len(content)] = value
    if not changes:
        content = content[: int(len(content) * length)]
    path = tmp_path / "fuzz.png"
    path.write_bytes(bytes(content))
    for reader in (read_image, image_size):
        try:
            reader(path, max_pixels=10**5)
        except BadImageError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
