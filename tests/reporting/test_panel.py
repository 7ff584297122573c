"""Panels: the parts that are known stand side by side, boxes are where the regions are."""

from pathlib import Path

import numpy as np
from PIL import Image

from us_anomaly.reporting.panel import CAPTION_PX, GAP_PX, MAX_SIDE_PX, panel, write_panel
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
    scores = np.zeros((40, 60), dtype=np.float32)
    scores[15:25, 20:30] = 1
    regions = strongest_regions(scores, 0.5, 3)
    sheet = np.asarray(panel(picture(), heatmap=transparent(), uncertainty=None, regions=regions)).astype(int)
    shown = sheet[CAPTION_PX : CAPTION_PX + 40, 2 * GAP_PX + 60 : 2 * GAP_PX + 120]
    rows, cols = np.nonzero((shown != 128).any(axis=2))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (13, 26, 18, 31)


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
