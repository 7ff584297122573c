"""Panels: the parts that are known stand side by side, boxes are where the regions are."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from drawn_report import COLOR_RANGE, THRESHOLD, UNCERTAINTY_RANGE, calibration
from PIL import Image

from us_anomaly.commands import results
from us_anomaly.detector import Detector, Prediction
from us_anomaly.reporting.heatmaps import colorize
from us_anomaly.reporting.panel import (
    BACKGROUND,
    CAPTION_PX,
    GAP_PX,
    HEADING_PX,
    MAX_SIDE_PX,
    Decision,
    panel,
    write_panel,
)
from us_anomaly.scoring.regions import strongest_regions


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def transparent(height: int = 40, width: int = 60) -> np.ndarray:
    return np.zeros((height, width, 4), dtype=np.uint8)


def test_each_known_part_takes_its_place() -> None:
    alone = panel(picture(), heatmap=None, uncertainty=None)
    whole = panel(picture(), heatmap=transparent(), uncertainty=transparent(), mask=np.zeros((40, 60), dtype=np.bool_))
    assert alone.size == (60 + 2 * GAP_PX, 40 + CAPTION_PX + GAP_PX)
    assert whole.size == (4 * (60 + GAP_PX) + GAP_PX, 40 + CAPTION_PX + GAP_PX)


def test_a_large_picture_is_reduced_with_its_proportions() -> None:
    sheet = panel(picture(1000, 2000), heatmap=None, uncertainty=None)
    assert sheet.size == (MAX_SIDE_PX + 2 * GAP_PX, MAX_SIDE_PX // 2 + CAPTION_PX + GAP_PX)


def test_the_mask_is_red_and_the_rest_as_it_was() -> None:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[10:20, 30:40] = True
    sheet = np.asarray(panel(picture(), heatmap=None, uncertainty=None, mask=mask)).astype(int)
    truth = sheet[CAPTION_PX : CAPTION_PX + 40, 2 * GAP_PX + 60 : 2 * GAP_PX + 120]
    assert (truth[mask][:, 0] > truth[mask][:, 1] + 50).all()
    assert (truth[~mask] == 128).all()


def test_a_box_is_drawn_around_the_strongest_region() -> None:
    scores = np.zeros((60, 60), dtype=np.float32)
    scores[30:40, 20:30] = 1
    regions = strongest_regions(scores, 0.5, 3)
    sheet = np.asarray(panel(picture(60, 60), heatmap=transparent(60, 60), uncertainty=None, regions=regions))
    shown = sheet.astype(int)[CAPTION_PX : CAPTION_PX + 60, 2 * GAP_PX + 60 : 2 * GAP_PX + 120]
    drawn = (shown != 128).any(axis=2)
    rows, cols = np.nonzero(drawn)
    line = 3
    assert (rows.max(), cols.min(), cols.max()) == (39 + line, 20 - line, 29 + line)
    box = drawn[30 - line : 40 + line, 20 - line : 30 + line]
    assert box[[0, 1, 2, -3, -2, -1]].all()
    assert box[:, [0, 1, 2, -3, -2, -1]].all()
    assert not box[line:-line, line:-line].any()


@pytest.mark.parametrize(
    ("rows", "place"),
    [((30, 40), slice(0, 26)), ((0, 10), slice(14, 60)), ((0, 60), slice(4, 56))],
    ids=["above", "below", "inside"],
)
def test_the_number_of_a_box_stands_where_there_is_room(rows: tuple[int, int], place: slice) -> None:
    scores = np.zeros((60, 60), dtype=np.float32)
    scores[rows[0] : rows[1], 20:50] = 1
    regions = strongest_regions(scores, 0.5, 1)
    sheet = panel(picture(60, 60), heatmap=transparent(60, 60), uncertainty=None, regions=regions)
    shown = np.asarray(sheet.convert("L"))[CAPTION_PX : CAPTION_PX + 60, 2 * GAP_PX + 60 : 2 * GAP_PX + 120]
    inside = shown[place, 21:49]
    assert (inside > 200).sum() >= 10
    assert (inside < 60).sum() >= 10


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (1000, 1500)])
def test_boxes_and_numbers_stand_out_on_any_ground(ground: int, height: int, width: int) -> None:
    boxed = changed_by_a_box(height, width, ground=ground, at=(0.5, 0.5))
    part_height, part_width = boxed.shape
    top, bottom, left, right = (
        round(edge * length)
        for edge, length in ((0.5, part_height), (0.6, part_height), (0.5, part_width), (0.6, part_width))
    )
    thick = round(max(boxed.shape) / 220)
    middle = ((top + bottom) // 2, (left + right) // 2)
    for side in (boxed[:top, middle[1]], boxed[bottom:, middle[1]], boxed[middle[0], :left], boxed[middle[0], right:]):
        assert (np.abs(side) >= 75).sum() >= thick
    number = boxed[: top - 3 * thick - 4, left - 3 * thick - 4 : left + 8 * thick]
    assert (np.abs(number) >= 75).sum() >= 12 * thick


def test_the_lines_of_a_box_grow_with_the_picture() -> None:
    lines = []
    for side in (200, 400, 640):
        boxed = changed_by_a_box(side, side, ground=0, at=(0.5, 0.5))
        lines.append(int((boxed[int(0.55 * side), : int(0.52 * side)] > 200).sum()))
    assert lines == [1, 2, 3]


def test_a_box_at_the_edge_of_the_picture_keeps_its_four_sides() -> None:
    boxed = changed_by_a_box(200, 200, ground=128, at=(0.0, 0.0), size=1.0)
    for side in (boxed[:4], boxed[-4:], boxed[:, :4], boxed[:, -4:]):
        assert (side > 75).sum() >= 190


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 200)])
def test_boxes_on_a_tiny_picture_are_no_fault(height: int, width: int) -> None:
    regions = strongest_regions(np.ones((height, width), dtype=np.float32), 0.5, 1)
    sheet = panel(picture(height, width), heatmap=transparent(height, width), uncertainty=None, regions=regions)
    assert sheet.height == height + CAPTION_PX + GAP_PX


def changed_by_a_box(
    height: int, width: int, *, ground: int, at: tuple[float, float], size: float = 0.1
) -> npt.NDArray[np.int64]:
    """What one box adds to the second part of the panel of an even picture; position and size are shares of the picture."""
    scores = np.zeros((height, width), dtype=np.float32)
    top, left = round(at[0] * height), round(at[1] * width)
    scores[top : top + round(size * height), left : left + round(size * width)] = 1
    image = np.full((height, width, 3), ground, dtype=np.uint8)
    regions = strongest_regions(scores, 0.5, 1)
    sheet = panel(image, heatmap=transparent(height, width), uncertainty=None, regions=regions)
    part = (sheet.width - 3 * GAP_PX) // 2
    shown = np.asarray(sheet.convert("L")).astype(int)[CAPTION_PX:-GAP_PX, 2 * GAP_PX + part : -GAP_PX]
    return shown - ground


def test_a_decision_is_told_in_words() -> None:
    found = Decision(is_anomalous=True, score=15.284, threshold=6.8841)
    passed = Decision(is_anomalous=False, score=3.5, threshold=6.8841)
    assert str(found) == "ANOMALOUS  score 15.28  threshold 6.884"
    assert str(passed) == "normal  score 3.5  threshold 6.884"


def test_the_decision_stands_above_the_pictures_and_is_never_cut_off() -> None:
    decision = Decision(is_anomalous=True, score=15.284, threshold=6.8841)
    plain = panel(picture(), heatmap=None, uncertainty=None)
    told = panel(picture(), heatmap=None, uncertainty=None, decision=decision)
    assert told.height == plain.height + HEADING_PX
    below = told.crop((0, HEADING_PX, plain.width, told.height))
    assert np.array_equal(np.asarray(below), np.asarray(plain))
    ink = (np.asarray(told) != BACKGROUND).any(axis=2)[:HEADING_PX]
    columns = np.flatnonzero(ink.any(axis=0))
    assert not ink[[0, -1]].any()
    assert 200 < columns.max() < told.width - GAP_PX + 1


def test_the_panel_of_an_inference_tells_the_decision_and_shows_both_maps_in_their_own_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(results, "panel", lambda *_, **parts: told.append(parts) or Image.new("RGB", (1, 1)))
    detector = Detector({}, pipeline=None, scoring=None, calibration=calibration(), compute=None)
    prediction = Prediction(
        anomaly_score=8.0,
        normalized_score=0.3,
        is_anomalous=False,
        anomaly_map=np.linspace(0, 20, 20, dtype=np.float32).reshape(4, 5),
        uncertainty_map=np.linspace(2, 0, 20, dtype=np.float32).reshape(4, 5),
    )
    results._write_panel(tmp_path / "p.png", picture(4, 5), prediction, [], detector, None)
    (parts,) = told
    assert parts["decision"] == Decision(is_anomalous=False, score=8.0, threshold=THRESHOLD)
    assert np.array_equal(parts["heatmap"], colorize(prediction.anomaly_map, color_range=COLOR_RANGE))
    assert np.array_equal(parts["uncertainty"], colorize(prediction.uncertainty_map, color_range=UNCERTAINTY_RANGE))


def test_on_a_very_large_picture_everything_stays_in_its_place() -> None:
    height, width, shrunk = 2600, 5200, 4  # shown at an eighth
    scores, mask = np.zeros((height, width), dtype=np.float32), np.zeros((height, width), dtype=np.bool_)
    scores[800:1600, 2400:3200] = 1
    mask[800:1600, 2400:3200] = True
    heatmap = transparent(height, width)
    heatmap[800:1600, 2400:3200] = (255, 0, 0, 255)
    regions = strongest_regions(scores, 0.5, 1)
    sheet = panel(picture(height, width), heatmap=heatmap, uncertainty=None, mask=mask, regions=regions)
    part = (MAX_SIDE_PX, MAX_SIDE_PX // 2)
    assert sheet.size == (3 * (part[0] + GAP_PX) + GAP_PX, part[1] + CAPTION_PX + GAP_PX)
    shown = np.asarray(sheet).astype(int)[CAPTION_PX : CAPTION_PX + part[1]]
    for number in (1, 2):
        left = GAP_PX + number * (part[0] + GAP_PX)
        red = np.argwhere(shown[:, left : left + part[0], 0] > shown[:, left : left + part[0], 1] + 50)
        corners = [*red.min(axis=0), *red.max(axis=0)]
        expected = np.array([800, 2400, 1600, 3200]) * part[0] / width
        assert np.abs(np.array(corners) - expected).max() <= 2 * shrunk


def test_a_panel_is_written_as_png(tmp_path: Path) -> None:
    write_panel(tmp_path / "a" / "p.png", panel(picture(), heatmap=None, uncertainty=None))
    with Image.open(tmp_path / "a" / "p.png") as written:
        assert written.format == "PNG"
