from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from raw_files import write_deep_png

from us_anomaly.data.images import load_mask, read_mask
from us_anomaly.errors import BadImageError

LIMIT = 10**6
TRUTH = np.array([[0, 1, 1], [0, 0, 1]], dtype=bool)


def marked(path: Path) -> list[list[bool]]:
    mask = read_mask(path, max_pixels=LIMIT)
    assert mask.dtype == np.bool_
    return mask.tolist()


@pytest.mark.parametrize("value", [1, 3, 31, 32, 100, 127, 128, 254, 255])
def test_two_values_are_a_binary_mask_whatever_they_are(tmp_path: Path, value: int) -> None:
    Image.fromarray(TRUTH.astype(np.uint8) * value).save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png", max_pixels=LIMIT)
    assert mask.pixels.tolist() == TRUTH.tolist()
    assert mask.is_binary


def test_the_larger_of_two_values_is_the_defect(tmp_path: Path) -> None:
    Image.fromarray(np.where(TRUTH, 200, 100).astype(np.uint8)).save(tmp_path / "a.png")
    assert marked(tmp_path / "a.png") == TRUTH.tolist()


@pytest.mark.parametrize(("value", "expected"), [(0, False), (1, True), (255, True)])
def test_a_constant_mask_marks_all_or_nothing(tmp_path: Path, value: int, *, expected: bool) -> None:
    Image.new("L", (3, 2), value).save(tmp_path / "a.png")
    assert marked(tmp_path / "a.png") == [[expected] * 3] * 2


def test_one_bit_masks_are_read(tmp_path: Path) -> None:
    Image.fromarray(TRUTH).save(tmp_path / "a.png")
    Image.fromarray(TRUTH).save(tmp_path / "a.bmp")
    assert marked(tmp_path / "a.png") == TRUTH.tolist()
    assert marked(tmp_path / "a.bmp") == TRUTH.tolist()


def test_small_whole_numbers_are_kinds_of_defects(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2], [0, 31, 3]], dtype=np.uint8)).save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png", max_pixels=LIMIT)
    assert mask.pixels.tolist() == [[False, True, True], [False, True, True]]
    assert mask.is_binary


def test_a_grey_mask_is_cut_at_half_of_its_range_and_says_so(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128], [1, 254, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png", max_pixels=LIMIT)
    assert mask.pixels.tolist() == [[False, False, True], [False, True, True]]
    assert not mask.is_binary


def test_a_deep_mask_is_cut_at_half_of_its_range(tmp_path: Path) -> None:
    values = np.array([[0, 32767, 32768], [5, 60000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert marked(tmp_path / "a.png") == [[False, False, True], [False, True, True]]
    tifffile.imwrite(tmp_path / "a.tif", (values / 65535).astype(np.float32))
    assert marked(tmp_path / "a.tif") == [[False, False, True], [False, True, True]]


def test_a_deep_binary_mask_is_read(tmp_path: Path) -> None:
    Image.fromarray(TRUTH.astype(np.uint16) * 65535).save(tmp_path / "a.png")
    write_deep_png(tmp_path / "b.png", np.dstack([TRUTH.astype(np.uint16) * 65535] * 3))
    assert marked(tmp_path / "a.png") == TRUTH.tolist()
    assert marked(tmp_path / "b.png") == TRUTH.tolist()


def test_a_mask_of_values_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, np.nan]], dtype=np.float32))
    with pytest.raises(BadImageError, match="infinite values or not-a-number"):
        read_mask(tmp_path / "a.tif", max_pixels=LIMIT)


def test_a_jpeg_mask_is_cut_at_half_because_compression_adds_noise(tmp_path: Path) -> None:
    truth = np.zeros((32, 32), dtype=bool)
    truth[8:24, 8:20] = True
    Image.fromarray(truth * np.uint8(255)).save(tmp_path / "a.jpg", quality=60)
    mask = load_mask(tmp_path / "a.jpg", max_pixels=LIMIT)
    assert np.array_equal(mask.pixels, truth)
    assert not mask.is_binary
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (32, 32), dtype=np.uint8)).save(tmp_path / "b.jpg")
    assert not read_mask(tmp_path / "b.jpg", max_pixels=LIMIT).any()


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (0, 128, 0)])
def test_any_colour_on_black_marks_a_defect(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    Image.fromarray(TRUTH[..., None] * np.array(colour, dtype=np.uint8)).save(tmp_path / "a.png")
    assert marked(tmp_path / "a.png") == TRUTH.tolist()


def test_a_palette_of_few_colours_numbers_kinds_of_defects(tmp_path: Path) -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 60, 0, 200, 200, 0])
    image.putdata([0, 1, 2, 3])
    image.save(tmp_path / "a.png")
    assert marked(tmp_path / "a.png") == [[False, True, True, True]]


def test_a_palette_of_many_greys_is_cut_at_half(tmp_path: Path) -> None:
    image = Image.new("P", (256, 1))
    image.putpalette([value for index in range(256) for value in (0, index, 0)])
    image.putdata(list(range(256)))
    image.save(tmp_path / "a.png")
    mask = load_mask(tmp_path / "a.png", max_pixels=LIMIT)
    assert mask.pixels.sum() == 128
    assert not mask.is_binary


def test_transparency_counts_as_black(tmp_path: Path) -> None:
    rgba = np.full((2, 3, 4), 255, dtype=np.uint8)
    rgba[..., 3] = TRUTH * 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert marked(tmp_path / "a.png") == TRUTH.tolist()


def test_black_marks_on_a_transparent_ground_are_told_by_alpha(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), dtype=np.uint8)
    rgba[..., 3] = TRUTH * 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert marked(tmp_path / "a.png") == TRUTH.tolist()


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    for value in (0, 255):
        rgba = np.dstack([TRUTH.astype(np.uint8) * value] * 3 + [np.full((2, 3), 255, np.uint8)])
        Image.fromarray(rgba).save(tmp_path / "a.png")
        assert marked(tmp_path / "a.png") == (TRUTH & (value > 0)).tolist()


def test_exif_orientation_turns_masks_as_it_turns_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(TRUTH * np.uint8(255)).save(tmp_path / "a.png", exif=exif)
    assert marked(tmp_path / "a.png") == np.rot90(TRUTH, -1).tolist()


def test_a_folder_of_masks_is_their_union_and_every_value_counts(tmp_path: Path) -> None:
    folder = tmp_path / "000"
    folder.mkdir()
    Image.fromarray(np.array([[0, 246, 0]], dtype=np.uint8)).save(folder / "000.png")
    Image.fromarray(np.array([[0, 1, 200]], dtype=np.uint8)).save(folder / "001.png")
    Image.new("L", (9, 9), 255).save(folder / "._001.png")
    (folder / "notes.txt").touch()
    assert marked(folder) == [[False, True, True]]
    assert load_mask(folder, max_pixels=LIMIT).is_binary


def test_in_a_folder_of_masks_the_noise_of_a_jpeg_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "000"
    folder.mkdir()
    wanted = np.zeros((64, 64), dtype=bool)
    wanted[20:30, 12:23] = True
    Image.fromarray(wanted * np.uint8(255)).save(folder / "000.jpg", quality=60)
    with Image.open(folder / "000.jpg") as stored:
        assert (np.asarray(stored) > 0).sum() > 1.5 * wanted.sum()
    assert (read_mask(folder, max_pixels=LIMIT) == wanted).all()


def test_an_empty_folder_of_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="a folder of masks without any picture in it"):
        read_mask(tmp_path, max_pixels=LIMIT)


def test_masks_of_one_folder_must_have_one_size(tmp_path: Path) -> None:
    Image.new("L", (3, 2), 255).save(tmp_path / "0.png")
    Image.new("L", (4, 2), 255).save(tmp_path / "1.png")
    with pytest.raises(BadImageError, match="its size 4 x 2 differs from 3 x 2 of the masks beside it"):
        read_mask(tmp_path, max_pixels=LIMIT)


def test_a_missing_mask_and_one_over_the_limit_say_so(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"none\.png: it does not exist"):
        read_mask(tmp_path / "none.png", max_pixels=LIMIT)
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    with pytest.raises(BadImageError, match="10 x 10 pixels are more than"):
        read_mask(tmp_path / "a.png", max_pixels=99)
