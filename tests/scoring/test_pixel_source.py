import json
import logging

import numpy as np
import pytest
from drawn_run import save

from us_anomaly.errors import BadImageError, DataError
from us_anomaly.scoring.data_problems import DataProblems
from us_anomaly.scoring.map_files import write_map
from us_anomaly.scoring.pixel_source import PixelSource
from us_anomaly.scoring.saturation import read_saturation_table
from us_anomaly.scoring.scored_images import ScoredImage


def blob(shape=(20, 32), *, value=255):
    pixels = np.zeros(shape, dtype=np.uint8)
    pixels[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = value
    return pixels


@pytest.fixture
def source_of(tmp_path):
    def build(*images, shape=(20, 32), network_size=None, saturation=None):
        """Each image: (name, is_anomalous, mask pixels or None)."""
        scored = []
        for name, is_anomalous, mask in images:
            write_map(tmp_path / "run" / f"{name}.tiff", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
            if isinstance(mask, np.ndarray):
                save(tmp_path / "data" / f"{name}_mask.png", mask)
                mask = f"{name}_mask.png"
            scored.append(
                ScoredImage(
                    filename=f"{name}.png",
                    is_anomalous=is_anomalous,
                    defect_type="cut" if is_anomalous else "good",
                    mask_path=mask,
                    score=1.0,
                    map_path=f"{name}.tiff",
                    heatmap_path=None,
                )
            )
        return PixelSource(
            images=scored,
            run_dir=tmp_path / "run",
            data_root=tmp_path / "data",
            max_image_pixels=1_000_000,
            network_size=None if network_size is None else lambda size: network_size,
            saturation=saturation,
            problems=DataProblems(),
        )

    return build


def occurred(source):
    return {kind: count for kind, count in source.problems.counts().items() if count}


def test_maps_come_with_their_mask_and_group(source_of):
    source = source_of(("a", True, blob()), ("b", False, None))
    first, second = source
    assert np.array_equal(first.truth.mask, blob() > 0)
    assert (first.group, second.group) == ("cut", "good")
    assert not second.truth.mask.any()
    assert second.truth.mask.shape == second.anomaly_map.shape == (20, 32)
    assert occurred(source) == {}
    assert source.sizes() == [(20, 32), (20, 32)]


def test_a_second_reading_gives_the_same_and_counts_nothing_twice(source_of):
    source = source_of(("a", True, blob((40, 64))), ("b", True, np.zeros((20, 32), dtype=np.uint8)))
    assert len(list(source)) == len(list(source)) == 1
    assert occurred(source) == {"masks_resized": 1, "anomalous_with_empty_mask": 1}


def test_a_mask_of_another_size_but_the_same_proportions_is_resized_and_counted(source_of, caplog):
    source = source_of(("a", True, blob((40, 64))), ("b", True, blob((60, 96))))
    for item in source:
        assert np.array_equal(item.truth.mask, blob() > 0)
    assert occurred(source) == {"masks_resized": 2}
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "a.png: masks of another size than their image were resized to it, nearest neighbour "
        "(said once; evaluation.json has the count)"
    ]


def test_a_mask_of_other_proportions_is_refused_with_both_sizes(source_of):
    source = source_of(("a", True, blob((32, 20))))
    with pytest.raises(DataError) as caught:
        list(source)
    assert str(caught.value) == (
        f"{source.data_root}/a_mask.png: the mask has 20 x 32 pixels and its image a.png has 32 x 20: other proportions, so it "
        "cannot be the mask of this image; correct or remove it"
    )


@pytest.mark.parametrize(
    ("shape", "mask_shape", "fits"),
    [
        ((10, 16), (40, 60), True),  # four times as large: 16 could be anything from 15 up, rounded
        ((10, 16), (40, 68), True),
        ((40, 60), (10, 16), True),
        ((10, 16), (40, 59), False),
        ((10, 16), (40, 69), False),
        ((10, 10), (10, 11), True),
        ((10, 10), (10, 12), False),
        ((10, 12), (10, 10), False),
    ],
)
def test_proportions_may_differ_by_a_pixel_of_the_smaller_of_picture_and_mask(source_of, shape, mask_shape, fits):
    source = source_of(("a", True, blob(mask_shape)), shape=shape)
    if fits:
        (item,) = source
        assert item.truth.mask.shape == shape
        assert occurred(source) == {"masks_resized": 1}
    else:
        with pytest.raises(DataError, match="other proportions"):
            list(source)


def test_a_mask_that_is_not_binary_is_cut_at_half_and_counted(source_of):
    mask = blob()
    mask[0, 0], mask[0, 1] = 100, 200
    source = source_of(("a", True, mask))
    (item,) = source
    assert not item.truth.mask[0, 0]
    assert item.truth.mask[0, 1]
    assert occurred(source) == {"masks_not_binary": 1}


def test_an_anomalous_image_with_an_empty_mask_is_left_out_and_counted(source_of):
    source = source_of(("a", True, np.zeros((20, 32), dtype=np.uint8)), ("b", True, blob()))
    assert len(list(source)) == 1
    assert occurred(source) == {"anomalous_with_empty_mask": 1}
    assert source.problems.num_left_out() == 1


def test_a_normal_image_with_a_defect_mask_is_left_out_and_counted(source_of):
    source = source_of(("a", False, blob()))
    assert list(source) == []
    assert occurred(source) == {"normal_with_defect_mask": 1}
    assert source.problems.examples() == {"normal_with_defect_mask": ["a.png"]}


def test_a_normal_image_with_an_empty_mask_is_in_order(source_of):
    source = source_of(("a", False, np.zeros((20, 32), dtype=np.uint8)))
    assert len(list(source)) == 1
    assert occurred(source) == {}


def test_an_anomalous_image_without_mask_is_left_out_and_counted(source_of):
    source = source_of(("a", True, None), ("b", True, blob()))
    assert len(list(source)) == 1
    assert occurred(source) == {"anomalous_without_mask": 1}


def test_an_unreadable_mask_is_named(source_of, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(BadImageError, match=r"broken.png"):
        list(source_of(("a", True, "broken.png")))


def test_at_network_resolution_map_and_mask_have_its_size(source_of):
    source = source_of(("a", True, blob((40, 64))), shape=(40, 64), network_size=(8, 16))
    (item,) = source
    assert item.anomaly_map.shape == item.truth.mask.shape == (8, 16)
    assert item.anomaly_map.dtype == np.float32
    assert np.array_equal(item.truth.mask, blob((40, 64))[2::5, 2::4] > 0)
    assert source.sizes() == [(8, 16)]


def test_a_defect_too_small_for_the_network_resolution_is_left_out_and_counted(source_of):
    mask = np.zeros((40, 64), dtype=np.uint8)
    mask[0, 0] = 255
    source = source_of(("a", True, mask), shape=(40, 64), network_size=(10, 10))
    assert list(source) == []
    assert occurred(source) == {"defects_lost_by_resizing": 1}


def test_a_folder_of_masks_is_united_without_saturation_and_kept_apart_with_it(source_of, tmp_path):
    save(tmp_path / "data" / "a" / "0.png", blob(value=255))
    save(tmp_path / "data" / "a" / "1.png", blob(value=254)[::-1])
    union = (blob() | blob()[::-1]) > 0
    (plain,) = source_of(("a", True, "a"))
    assert plain.truth.defects is None
    assert np.array_equal(plain.truth.mask, union)
    entry = {"defect_name": "x", "saturation_threshold": 0.1, "relative_saturation": True}
    config = [{**entry, "pixel_value": value} for value in (254, 255)]
    (tmp_path / "defects_config.json").write_text(json.dumps(config))
    (apart,) = source_of(("a", True, "a"), saturation=read_saturation_table(tmp_path / "defects_config.json"))
    assert np.array_equal(apart.truth.mask, union)
    assert [defect.pixels.sum() for defect in apart.truth.defects] == [40, 40]
    assert [defect.saturation_area_px for defect in apart.truth.defects] == [4, 4]


@pytest.mark.parametrize(
    ("shape", "network_size", "area_px", "saturation_area_px"),
    [((20, 32), None, 40, 2.5), ((40, 64), (8, 8), 4, 0.25), ((20, 32), (8, 8), 4, 0.25), ((80, 128), None, 640, 40)],
)
def test_saturation_areas_shrink_and_grow_with_the_masks_and_defects_that_vanish_are_gone(
    source_of, tmp_path, shape, network_size, area_px, saturation_area_px
):
    """Masks have 40 x 64 pixels, of which 10 of 160 saturate the defect; the one-pixel defect is lost by resizing."""
    dot = np.zeros((40, 64), dtype=np.uint8)
    dot[0, 0] = 254
    save(tmp_path / "data" / "a" / "0.png", blob((40, 64), value=255))
    save(tmp_path / "data" / "a" / "1.png", dot)
    entry = {"defect_name": "x", "saturation_threshold": 10, "relative_saturation": False}
    (tmp_path / "defects_config.json").write_text(json.dumps([{**entry, "pixel_value": value} for value in (254, 255)]))
    source = source_of(
        ("a", True, "a"),
        shape=shape,
        network_size=network_size,
        saturation=read_saturation_table(tmp_path / "defects_config.json"),
    )
    (item,) = source
    defect = item.truth.defects[0]
    assert len(item.truth.defects) == (2 if shape == (80, 128) else 1)
    assert defect.pixels.sum() == area_px
    assert defect.saturation_area_px == pytest.approx(saturation_area_px)
    assert np.array_equal(item.truth.mask, np.logical_or.reduce([defect.pixels for defect in item.truth.defects]))


def test_an_image_whose_only_annotated_defect_vanishes_is_left_out_and_counted(source_of, tmp_path):
    dot = np.zeros((40, 64), dtype=np.uint8)
    dot[0, 0] = 255
    save(tmp_path / "data" / "a" / "0.png", dot)
    entry = {"defect_name": "x", "pixel_value": 255, "saturation_threshold": 1, "relative_saturation": False}
    (tmp_path / "defects_config.json").write_text(json.dumps([entry]))
    table = read_saturation_table(tmp_path / "defects_config.json")
    source = source_of(("a", True, "a"), shape=(40, 64), network_size=(10, 10), saturation=table)
    assert list(source) == []
    assert occurred(source) == {"defects_lost_by_resizing": 1}
