import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from raw_files import write_deep_png

from us_anomaly.data.images import BadImage, find_duplicates, inspect_images, keep_good
from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError
from us_anomaly.settings import OnBadImage

LIMIT = 10**6


def sample(filename: str, *, mask: str | None = None, anomalous: bool | None = None) -> Sample:
    is_anomalous = mask is not None if anomalous is None else anomalous
    return Sample(filename=filename, is_anomalous=is_anomalous, mask_path=mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(generator.integers(0, 256, size=(6, 5, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.png").touch()
    return tmp_path


def save_mask(path: Path, *, size: tuple[int, int] = (6, 5), marked: int = 3, value: int = 255) -> None:
    mask = np.zeros(size, dtype=np.uint8)
    mask[:marked, 0] = value
    Image.fromarray(mask).save(path)


def checked(
    root: Path, samples: list[Sample], *, on_bad_image: OnBadImage, max_pixels: int = LIMIT, num_workers: int = 1
) -> tuple[list[Sample], list[BadImage]]:
    """Look at the samples and divide them."""
    inspections = inspect_images(root, samples, max_pixels=max_pixels, num_workers=num_workers)
    return keep_good(inspections, on_bad_image=on_bad_image)


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_error_lists_every_bad_file_at_once_with_the_count_first(root: Path, num_workers: int) -> None:
    samples = [sample(name) for name in ("a.png", "broken.png", "b.png", "empty.png", "none.png")]
    with pytest.raises(DataError) as caught:
        checked(root, samples, on_bad_image=OnBadImage.error, num_workers=num_workers)
    assert str(caught.value).splitlines() == [
        "3 pictures cannot be used (repair or remove them, or leave them out with data.on_bad_image=skip):",
        "  broken.png: it begins like a PNG file but is damaged, incomplete or of an unusual kind",
        "  empty.png: it is empty",
        "  none.png: it does not exist",
    ]


@pytest.mark.parametrize("num_workers", [0, 4])
def test_skip_returns_good_samples_in_order_and_the_bad_with_reasons(root: Path, num_workers: int) -> None:
    samples = [sample(name) for name in ("c.png", "empty.png", "a.png", "b.png")]
    good, bad = checked(root, samples, on_bad_image=OnBadImage.skip, num_workers=num_workers)
    assert [one.filename for one in good] == ["c.png", "a.png", "b.png"]
    assert bad == [BadImage(filename="empty.png", reason="it is empty")]


def test_only_twenty_bad_files_are_named(root: Path) -> None:
    samples = [sample("a.png")] + [sample(f"none{number:02d}.png") for number in range(23)]
    with pytest.raises(DataError) as caught:
        checked(root, samples, on_bad_image=OnBadImage.error)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("23 pictures cannot be used")
    assert len(lines) == 22
    assert lines[-1] == "  and 3 more"


def test_skip_with_nothing_left_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match=r"1 picture cannot be used \(none is left\):\n  empty\.png: it is empty"):
        checked(root, [sample("empty.png")], on_bad_image=OnBadImage.skip)


def test_a_bad_mask_makes_its_sample_bad_and_is_named(root: Path) -> None:
    samples = [sample("a.png", mask="empty.png"), sample("b.png")]
    good, bad = checked(root, samples, on_bad_image=OnBadImage.skip)
    assert [one.filename for one in good] == ["b.png"]
    assert bad == [BadImage(filename="a.png", reason=f"its mask {root / 'empty.png'}: it is empty")]


def test_pictures_over_the_limit_are_bad(root: Path) -> None:
    _, bad = checked(root, [sample("a.png")], on_bad_image=OnBadImage.skip, max_pixels=30)
    assert bad == []
    with pytest.raises(DataError, match=r"5 x 6 pixels are more than data.max_image_pixels=29 allows"):
        checked(root, [sample("a.png")], on_bad_image=OnBadImage.error, max_pixels=29)


@pytest.mark.parametrize(
    ("mask", "anomalous", "remark"),
    [
        ({"size": (12, 10)}, True, "masks of another size than their picture"),
        ({"size": (5, 6)}, True, "masks of other proportions than their picture, which `usad evaluate` refuses"),
        ({"marked": 0}, True, "masks that mark nothing in a picture labelled anomalous"),
        ({}, False, "masks that mark a defect in a picture labelled normal"),
    ],
)
def test_odd_masks_are_told_once_with_count_and_example(
    root: Path, caplog: pytest.LogCaptureFixture, mask: dict, remark: str, *, anomalous: bool
) -> None:
    save_mask(root / "mask.png", **mask)
    samples = [sample(name, mask="mask.png", anomalous=anomalous) for name in ("a.png", "b.png")]
    with caplog.at_level(logging.WARNING):
        good, _ = checked(root, samples, on_bad_image=OnBadImage.error)
    assert len(good) == 2
    assert caplog.messages == [f"{remark}: 2, for example that of a.png"]


def test_a_mask_that_is_not_binary_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    grey = np.arange(30, dtype=np.uint8).reshape(6, 5) * 8
    Image.fromarray(grey).save(root / "mask.png")
    with caplog.at_level(logging.WARNING):
        checked(root, [sample("a.png", mask="mask.png")], on_bad_image=OnBadImage.error)
    assert caplog.messages == ["masks that are not binary, cut at half of their range: 1, for example that of a.png"]


def test_good_masks_are_not_remarked_upon(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_mask(root / "mask.png")
    save_mask(root / "blank.png", marked=0)
    samples = [sample("a.png", mask="mask.png"), sample("b.png", mask="blank.png", anomalous=False)]
    with caplog.at_level(logging.WARNING):
        checked(root, samples, on_bad_image=OnBadImage.error)
    assert caplog.messages == []


def test_the_same_picture_in_other_formats_is_a_duplicate(root: Path) -> None:
    with Image.open(root / "a.png") as image:
        image.save(root / "copy.bmp")
        image.save(root / "copy.tif")
    with Image.open(root / "b.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(root / "turned.png")
    names = ["turned.png", "copy.tif", "b.png", "a.png", "copy.bmp", "empty.png", "broken.png"]
    inspections = inspect_images(root, [sample(name) for name in names], max_pixels=LIMIT, num_workers=2)
    assert find_duplicates(inspections) == [["a.png", "copy.bmp", "copy.tif"]]


def test_two_constant_pictures_of_other_shape_are_no_duplicates(root: Path) -> None:
    Image.new("L", (4, 6)).save(root / "wide.png")
    Image.new("L", (6, 4)).save(root / "high.png")
    inspections = inspect_images(root, [sample("wide.png"), sample("high.png")], max_pixels=LIMIT, num_workers=1)
    assert find_duplicates(inspections) == []


def test_no_pictures_are_no_error(root: Path) -> None:
    assert keep_good([], on_bad_image=OnBadImage.error) == ([], [])


def save_deep(path: Path, *values: int) -> None:
    Image.fromarray(np.array([values], dtype=np.uint16)).save(path)


def test_pictures_of_one_camera_that_get_several_brightnesses_are_told(root: Path, caplog) -> None:
    for name, brightest in (("a.png", 1023), ("b.png", 4000), ("c.png", 900)):
        save_deep(root / name, 600, brightest)
    found = inspect_images(
        root, [sample(name) for name in ("a.png", "b.png", "c.png")], max_pixels=LIMIT, num_workers=1
    )
    assert [inspection.white_level for inspection in found] == [1023, 4095, 1023]
    keep_good(found, on_bad_image=OnBadImage.error)
    assert "white is 1023 in 2, for example a.png; 4095 in 1, for example b.png; the same grey" in caplog.text
    assert "data.white_level=4095" in caplog.text
    caplog.clear()
    names = [sample(name) for name in ("a.png", "b.png", "c.png")]
    keep_good(
        inspect_images(root, names, max_pixels=LIMIT, num_workers=1, white_level=4095), on_bad_image=OnBadImage.error
    )
    assert not caplog.records


def test_no_white_level_is_advised_for_what_no_camera_gives(root: Path, caplog) -> None:
    for name, brightest in (("a.tif", 1.0), ("b.tif", 1.02)):
        tifffile.imwrite(root / name, np.array([[0.5, brightest]], dtype=np.float32))
    keep_good(
        inspect_images(root, [sample("a.tif"), sample("b.tif")], max_pixels=LIMIT, num_workers=1),
        on_bad_image=OnBadImage.error,
    )
    assert "save all of them as 8 bits by one scale" in caplog.text
    assert "data.white_level" not in caplog.text


def test_brightness_of_colours_is_told_too(root: Path, caplog) -> None:
    for name, brightest in (("a.png", 1023), ("b.png", 4000)):
        write_deep_png(root / name, np.array([[[600, 5, brightest]]], dtype=np.uint16))
    keep_good(
        inspect_images(root, [sample("a.png"), sample("b.png")], max_pixels=LIMIT, num_workers=1),
        on_bad_image=OnBadImage.error,
    )
    assert "white is 1023 in 1, for example a.png; 4095 in 1, for example b.png" in caplog.text


def test_one_brightness_for_all_is_no_remark(root: Path, caplog) -> None:
    for name in ("a.png", "b.png"):
        save_deep(root / name, 600, 2000)
    found = inspect_images(
        root, [sample(name) for name in ("a.png", "b.png", "c.png")], max_pixels=LIMIT, num_workers=1
    )
    assert [inspection.white_level for inspection in found] == [4095, 4095, None]
    keep_good(found, on_bad_image=OnBadImage.error)
    assert not caplog.records
