import json

import numpy as np
import pytest
from drawn_run import save

from us_anomaly.errors import BadImageError, DataError
from us_anomaly.scoring.exact_pixels import ExactPixels
from us_anomaly.scoring.pixel_curve import pixel_figures
from us_anomaly.scoring.region_overlap import Defect, PixelTruth
from us_anomaly.scoring.saturation import DefectKind, read_saturation_table, saturation_file

CONFIG = [
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 10, "relative_saturation": False},
    {"defect_name": "swapped", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
    {"defect_name": "whole", "pixel_value": 253, "saturation_threshold": 1.0, "relative_saturation": True},
]


@pytest.fixture
def table(tmp_path):
    (tmp_path / "defects_config.json").write_text(json.dumps(CONFIG))
    return read_saturation_table(saturation_file(tmp_path.parent, tmp_path.name))


def square(value, *, rows=slice(0, 6), columns=slice(0, 6), side=20):
    pixels = np.zeros((side, side), dtype=np.uint8)
    pixels[rows, columns] = value
    return pixels


def auspro_by_definition(maps, defects, limit):
    """Threshold by threshold: min(found / saturation area, 1) averaged over the defects."""
    union = [np.any([pixels for pixels, _ in of_image], axis=0) for of_image in defects]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        called = [one >= threshold for one in maps]
        false = sum((c & ~m).sum() for c, m in zip(called, union, strict=True))
        overlaps = [
            min((c & pixels).sum() / area, 1.0)
            for c, of_image in zip(called, defects, strict=True)
            for pixels, area in of_image
        ]
        points.append((false / sum((~m).sum() for m in union), float(np.mean(overlaps))))
    x, y = np.array([*points, (1.0, 1.0)]).T
    # a vertical step has two values at one x: integrate each stretch between neighbours on its own
    area = sum(
        (min(x1, limit) - x0) * (y0 + (y0 + (y1 - y0) * (min(x1, limit) - x0) / (x1 - x0))) / 2
        for x0, y0, x1, y1 in zip(x[:-1], y[:-1], x[1:], y[1:], strict=True)
        if x0 < limit and x1 > x0
    )
    return area / limit


@pytest.mark.parametrize("levels", [4, 1000])
@pytest.mark.parametrize("limit", [0.05, 0.3])
def test_saturated_overlap_equals_the_definition_even_where_defects_overlap(levels, limit):
    generator = np.random.default_rng(levels)
    maps = generator.integers(0, levels, size=(4, 12, 12)).astype(np.float32)
    defects = [[(generator.random((12, 12)) < 0.2, area) for area in areas] for areas in ([3], [1, 7], [30.5], [5])]
    defects = [[(pixels, min(area, pixels.sum())) for pixels, area in of_image] for of_image in defects]
    pixels = ExactPixels()
    for one, of_image in zip(maps, defects, strict=True):
        union = np.any([pixels for pixels, _ in of_image], axis=0)
        pixels.add(one, PixelTruth(union, [Defect(*defect) for defect in of_image]), group="all")
    value = pixel_figures(pixels.curve(), saturated=True).values[f"auspro_{limit}"]
    assert value == pytest.approx(auspro_by_definition(maps, defects, limit), abs=1e-9)


def test_a_defect_found_up_to_its_saturation_area_counts_in_full():
    mask = square(1) > 0
    found = np.zeros((20, 20), dtype=np.float32)
    found[0, :6] = 1
    pixels = ExactPixels()
    pixels.add(found, PixelTruth(mask, [Defect(mask, 6)]), group="all")
    assert pixel_figures(pixels.curve(), saturated=True).values["auspro_0.05"] == pytest.approx(1.0)


def test_without_saturation_the_saturated_overlap_of_one_region_is_the_plain_one():
    generator = np.random.default_rng(0)
    mask = square(1) > 0
    values = generator.random((20, 20), dtype=np.float32)
    plain, saturated = ExactPixels(), ExactPixels()
    plain.add(values, PixelTruth(mask), group="all")
    saturated.add(values, PixelTruth(mask, [Defect(mask, 36)]), group="all")
    assert pixel_figures(plain.curve(), saturated=False).values["aupro_0.3"] == pytest.approx(
        pixel_figures(saturated.curve(), saturated=True).values["auspro_0.3"]
    )


def test_each_mask_picture_is_one_defect_with_the_area_of_its_value(table, tmp_path):
    folder = tmp_path / "000"
    save(folder / "000.png", square(255))
    save(folder / "001.png", square(254, rows=slice(3, 9)))
    save(folder / "002.png", square(253, rows=slice(12, 13)))
    truth = table.read_truth(folder, max_pixels=10_000)
    assert [defect.saturation_area_px for defect in truth.defects] == [10, 18, 6]
    assert truth.mask.sum() == 36 + 18 + 6  # the second overlaps the first by half


def test_a_saturation_area_never_exceeds_the_marked_area(table, tmp_path):
    save(tmp_path / "000" / "000.png", square(255, rows=slice(0, 1)))
    (defect,) = table.read_truth(tmp_path / "000", max_pixels=10_000).defects
    assert defect.saturation_area_px == 6


@pytest.mark.parametrize(("threshold", "is_relative"), [(0.4, False), (0.01, True)])
def test_at_least_one_pixel_must_be_found(threshold, is_relative):
    kind = DefectKind(name="dot", threshold=threshold, is_relative=is_relative)
    assert kind.saturation_area(36) == 1


def test_no_configuration_means_no_saturation(tmp_path):
    assert saturation_file(tmp_path, None) is None


@pytest.mark.parametrize("text", ["{}}", '[{"defect_name": "x"}]', '["x"]', "3"])
def test_a_malformed_configuration_is_named_with_its_right_form(tmp_path, text):
    (tmp_path / "defects_config.json").write_text(text)
    with pytest.raises(
        DataError,
        match=r"defects_config.json must be a list of objects with defect_name, pixel_value, saturation_threshold and relative",
    ):
        read_saturation_table(saturation_file(tmp_path, None))


def test_an_unknown_value_is_named_with_those_known(table, tmp_path):
    save(tmp_path / "000" / "000.png", square(7))
    with pytest.raises(
        DataError, match=rf"^{tmp_path}/000/000.png: the value 7 is not in .*defects_config.json.*\[253, 254, 255\]"
    ):
        table.read_truth(tmp_path / "000", max_pixels=10_000)


def test_several_values_in_one_picture_are_refused(table, tmp_path):
    pixels = square(255)
    pixels[0, 0] = 254
    save(tmp_path / "000" / "000.png", pixels)
    with pytest.raises(
        DataError, match=rf"^{tmp_path}/000/000.png: a mask of one defect must hold one value besides 0, not several$"
    ):
        table.read_truth(tmp_path / "000", max_pixels=10_000)


def test_masks_of_different_sizes_and_empty_folders_are_refused(table, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadImageError) as caught:
        table.read_truth(tmp_path / "empty", max_pixels=10_000)
    assert str(caught.value) == f"{tmp_path}/empty: a folder of masks without any picture in it"
    save(tmp_path / "000" / "000.png", square(255))
    save(tmp_path / "000" / "001.png", square(255, side=30))
    with pytest.raises(BadImageError) as caught:
        table.read_truth(tmp_path / "000", max_pixels=10_000)
    assert str(caught.value) == f"{tmp_path}/000/001.png: its size differs from that of the masks beside it"


def test_masks_are_listed_and_read_as_everywhere_else(table, tmp_path):
    """A file that macOS leaves beside another is no picture, and a mask of sixteen bits has values of its own."""
    folder = tmp_path / "masks"
    save(folder / "000.png", square(254))
    save(folder / "001.png", square(255, rows=slice(8, 12)).astype(np.uint16))
    (folder / "._000.png").write_bytes(b"no picture")
    truth = table.read_truth(folder, max_pixels=10_000)
    assert [defect.pixels.sum() for defect in truth.defects] == [36, 24]
    assert [defect.saturation_area_px for defect in truth.defects] == [18, 10]
