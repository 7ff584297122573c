import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from us_anomaly.scoring.regions import CocoWriter, Region, strongest_regions


def flood(mask, start):
    """The pixels that hang together with `start` by eight neighbours."""
    todo, found = [start], set()
    while todo:
        row, column = todo.pop()
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
        if (row, column) not in found and inside and mask[row, column]:
            found.add((row, column))
            todo += [(row + r, column + c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
    return found


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 9))
def test_regions_equal_a_flood_fill(seed, threshold):
    values = np.random.default_rng(seed).integers(0, 10, size=(9, 11)).astype(np.float32)
    mask = values >= threshold
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    expected = []
    while left:
        pixels = flood(mask, next(iter(left)))
        left -= pixels
        rows, columns = np.array(sorted(pixels)).T
        scores = values[rows, columns]
        expected.append(
            (
                float(scores.max()),
                len(pixels),
                (int(columns.min()), int(rows.min())),
                (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1),
                (round(columns.mean(), 9), round(rows.mean(), 9)),
                round(float(scores.mean(dtype=np.float64)), 5),
            )
        )
    found = [
        (
            region.peak_score,
            region.area_px,
            (region.left, region.top),
            (region.width, region.height),
            (round(region.centroid_x, 9), round(region.centroid_y, 9)),
            round(region.mean_score, 5),
        )
        for region in strongest_regions(values, threshold)
    ]
    assert sorted(found) == sorted(expected)
    assert [peak for peak, *_ in found] == sorted((peak for peak, *_ in found), reverse=True)


@pytest.mark.parametrize(
    ("places", "order"),
    [
        ([(6, 1), (2, 7)], [(2, 7), (6, 1)]),
        ([(2, 1), (6, 7), (4, 4)], [(2, 1), (4, 4), (6, 7)]),
        ([(4, 7), (4, 1)], [(4, 1), (4, 7)]),
        ([(6, 5), (6, 1), (0, 3)], [(0, 3), (6, 1), (6, 5)]),
    ],
)
def test_of_equal_regions_the_upper_comes_first_and_of_those_in_one_row_the_left(places, order):
    values = np.zeros((9, 9), dtype=np.float32)
    for row, column in places:
        values[row, column] = 2
    assert [(region.top, region.left) for region in strongest_regions(values, 1.0)] == order


def test_of_equal_regions_in_one_row_the_left_box_comes_first_even_where_its_first_pixel_is_further_right():
    values = np.zeros((9, 10), dtype=np.float32)
    for row, column in [(0, 8), (1, 8), (2, 8), (3, 8), (4, 7), (5, 6), (6, 5), (7, 4), (7, 3), (7, 2)]:
        values[row, column] = 2
    values[0:3, 4:7] = values[3, 4] = 2
    regions = strongest_regions(values, 1.0)
    assert [(region.top, region.left, region.area_px) for region in regions] == [(0, 2, 10), (0, 4, 10)]


def test_a_drawn_region_is_described_in_pixels_of_the_image():
    values = np.zeros((40, 60), dtype=np.float32)
    values[10:14, 20:30] = 2
    values[12, 27] = 5
    assert strongest_regions(values, 1.0) == [
        Region(
            peak_score=5.0,
            mean_score=pytest.approx(2.075),
            peak_x=27,
            peak_y=12,
            centroid_x=24.5,
            centroid_y=11.5,
            left=20,
            top=10,
            width=10,
            height=4,
            area_px=40,
        )
    ]


def test_the_strongest_come_first_and_no_more_than_asked_for():
    values = np.zeros((10, 30), dtype=np.float32)
    values[2, 2], values[2, 8], values[2:4, 14], values[2, 20] = 1, 3, 2, 2
    assert [region.left for region in strongest_regions(values, 0.5)] == [8, 14, 20, 2]
    assert [region.left for region in strongest_regions(values, 0.5, limit=2)] == [8, 14]


def test_the_threshold_itself_belongs_to_a_region():
    assert strongest_regions(np.float32([[0.5]]), 0.5)[0].area_px == 1
    assert strongest_regions(np.float32([[0.5]]), np.nextafter(0.5, 1)) == []


def written(images):
    """What a COCO file of some images says to a reader of JSON."""
    file = io.StringIO()
    writer = CocoWriter(file, description="drawn")
    for image in images:
        writer.add(*image)
    writer.finish()
    return json.loads(file.getvalue())


def test_a_coco_file_without_regions_or_images_is_whole():
    assert (
        written([])["annotations"] == written([])["images"] == written([('ä"b.png', (1, 2), [])])["annotations"] == []
    )
    assert written([('ä"b.png', (1, 2), [])])["images"] == [{"id": 1, "file_name": 'ä"b.png', "height": 1, "width": 2}]


def test_coco_regions_point_to_their_image_and_survive_json():
    values = np.zeros((10, 30), dtype=np.float32)
    values[2:5, 3:9] = 4
    regions = strongest_regions(values, 1)
    coco = written([("a.png", (10, 30), []), ("b.png", (10, 30), regions)])
    assert coco["images"][1] == {"id": 2, "file_name": "b.png", "height": 10, "width": 30}
    (annotation,) = coco["annotations"]
    assert (annotation["image_id"], annotation["bbox"], annotation["area"]) == (2, [3, 2, 6, 3], 18)
    assert annotation["category_id"] == coco["categories"][0]["id"]
    assert annotation["score"] == 4.0


def test_coco_regions_hold_what_the_format_asks_for_and_the_rest_beside_it():
    region = Region(
        peak_score=4.0,
        peak_x=3,
        peak_y=2,
        centroid_x=3.5,
        centroid_y=2.5,
        left=3,
        top=2,
        width=2,
        height=2,
        mean_score=3.0,
        area_px=4,
    )
    coco = written([("a.png", (10, 30), [region, region])])
    assert coco["info"] == {"description": "drawn"}
    assert coco["categories"] == [{"id": 1, "name": "anomaly", "supercategory": "defect"}]
    assert [annotation.pop("id") for annotation in coco["annotations"]] == [1, 2]
    assert coco["annotations"][1] == {
        "image_id": 1,
        "category_id": 1,
        "bbox": [3, 2, 2, 2],
        "area": 4,
        "iscrowd": 0,
        "score": 4.0,
        "mean_score": 3.0,
        "peak": [3, 2],
        "centroid": [3.5, 2.5],
    }
