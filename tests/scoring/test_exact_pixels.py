import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from us_anomaly.scoring import exact_pixels
from us_anomaly.scoring.exact_pixels import ExactPixels
from us_anomaly.scoring.pixel_curve import pixel_figures
from us_anomaly.scoring.region_overlap import PixelTruth, defect_pixels, limited_area


def aupro_by_definition(maps, masks, limit):
    """The definition, threshold by threshold: REFERENCE for every test here."""
    regions = []
    for number, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(number, labels == label) for label in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(np.concatenate([np.ravel(one) for one in maps]))[::-1]:
        called = [one >= threshold for one in maps]
        false = sum((c & ~m).sum() for c, m in zip(called, masks, strict=True))
        rates.append(false / sum((~m).sum() for m in masks))
        overlaps.append(np.mean([called[number][region].mean() for number, region in regions]))
    rates.append(1.0)
    overlaps.append(1.0)
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(zip(rates, overlaps, strict=True)):
        if x1 > limit:
            area += (limit - x0) * (y0 + (y0 + (y1 - y0) * (limit - x0) / (x1 - x0))) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def drawn_set(seed, *, levels=None, images=5, side=16):
    """Heavy-tailed maps, defects that score higher on average, two normal images, several regions."""
    generator = np.random.default_rng(seed)
    maps, masks = [], []
    for number in range(images):
        mask = ndimage.gaussian_filter(generator.normal(size=(side, side + 3)), 1.5) > 0.25
        mask &= number >= 2
        values = generator.lognormal(sigma=1.5, size=mask.shape) * np.where(mask, 3, 1)
        if levels:
            values = np.floor(np.minimum(values, levels))
        maps.append(values.astype(np.float32))
        masks.append(mask)
    return maps, masks


def figures(maps, masks, **chosen):
    pixels = ExactPixels()
    for one, mask in zip(maps, masks, strict=True):
        pixels.add(one, PixelTruth(mask), group="all")
    return pixel_figures(pixels.curve(**chosen), saturated=False)


@pytest.mark.parametrize("levels", [None, 2, 5, 40])
@pytest.mark.parametrize("seed", range(4))
def test_overlap_equals_the_definition_with_and_without_ties(seed, levels):
    maps, masks = drawn_set(seed, levels=levels)
    values = figures(maps, masks).values
    assert values["aupro_0.3"] == pytest.approx(aupro_by_definition(maps, masks, 0.3), abs=1e-9)
    assert values["aupro_0.05"] == pytest.approx(aupro_by_definition(maps, masks, 0.05), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.05, 0.3]))
def test_overlap_equals_the_definition_on_tiny_images_full_of_ties(seed, levels, limit):
    generator = np.random.default_rng(seed)
    maps = [generator.integers(0, levels + 1, size=(4, 5)).astype(np.float32) for _ in range(3)]
    masks = [generator.random((4, 5)) < 0.3 for _ in range(3)]
    masks[0][0, 0], masks[0][3, 4] = True, False
    assert figures(maps, masks).values[f"aupro_{limit}"] == pytest.approx(
        aupro_by_definition(maps, masks, limit), abs=1e-9
    )


@pytest.mark.parametrize("levels", [None, 3])
def test_pixel_figures_equal_scikit_learn(levels):
    maps, masks = drawn_set(11, levels=levels)
    truth, scores = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    values = figures(maps, masks).values
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert values["pixel_average_precision"] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    precision, recall, _ = precision_recall_curve(truth, scores)
    best = np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert values["pixel_f1_max"] == pytest.approx(best, abs=1e-12)


def test_blocks_of_any_size_give_the_same_figures(monkeypatch):
    maps, masks = drawn_set(5, levels=30)
    whole = figures(maps, masks)
    monkeypatch.setattr(exact_pixels, "_BLOCK_PIXELS", 700)
    assert figures(maps, masks) == whole


def test_a_group_is_measured_against_the_groups_asked_for():
    maps, masks = drawn_set(2)
    pixels = ExactPixels()
    names = ["good", "good", "cut", "cut", "hole"]
    for one, mask, name in zip(maps, masks, names, strict=True):
        pixels.add(one, PixelTruth(mask), group=name)
    alone = pixel_figures(pixels.curve(["good", "hole"]), saturated=False)
    assert alone == figures(maps[:2] + maps[4:], masks[:2] + masks[4:])
    assert pixel_figures(pixels.curve(), saturated=False) == figures(maps, masks)


def test_a_perfect_map_has_every_figure_at_one():
    _, masks = drawn_set(0)
    assert figures([m.astype(np.float32) for m in masks], masks).values == {
        "pixel_auroc": 1.0,
        "pixel_average_precision": 1.0,
        "pixel_f1_max": 1.0,
        "aupro_0.3": pytest.approx(1.0),
        "aupro_0.05": pytest.approx(1.0),
    }


def test_a_constant_map_ranks_like_chance():
    maps, masks = drawn_set(0)
    values = figures([np.full_like(one, 0.5) for one in maps], masks).values
    share = np.mean([m.mean() for m in masks])
    assert values["pixel_auroc"] == 0.5
    assert values["pixel_average_precision"] == pytest.approx(share)
    assert values["aupro_0.3"] == pytest.approx(0.15)  # the diagonal, up to 0.3, divided by 0.3


def test_regions_weigh_the_same_whatever_their_size():
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:12, 2:12] = True  # 100 pixels, found
    mask[17, 17] = True  # 1 pixel, not found
    found = np.zeros((20, 20), dtype=np.float32)
    found[2:12, 2:12] = 1
    # half the regions at FPR 0, then a straight line to (1, 1)
    assert figures([found], [mask]).values["aupro_0.3"] == pytest.approx(0.5 + 0.5 * 0.3 / 2)


def test_pixels_that_touch_at_a_corner_are_one_region():
    mask = np.zeros((6, 6), dtype=bool)
    mask[1, 1] = mask[2, 2] = True
    pixels = ExactPixels()
    pixels.add(np.zeros((6, 6), dtype=np.float32), PixelTruth(mask), group="all")
    assert pixels.curve().num_regions == 1


def test_without_defect_pixel_every_figure_is_absent_with_the_reason():
    maps, masks = drawn_set(0)
    metrics = figures(maps, [np.zeros_like(m) for m in masks])
    assert metrics.values == {}
    assert set(metrics.absent.values()) == {"no test image with a mask of its defect"}
    assert "aupro_0.3" in metrics.absent


def test_without_normal_pixel_every_figure_is_absent_with_the_reason():
    maps, masks = drawn_set(0)
    assert set(figures(maps, [np.ones_like(m) for m in masks]).absent.values()) == {"no normal pixel in test"}


def test_the_order_of_images_does_not_matter():
    maps, masks = drawn_set(9, levels=50)
    forward = figures(maps, masks).values
    assert figures(maps[::-1], masks[::-1]).values == pytest.approx(forward, abs=1e-12)


def test_scores_at_the_ends_of_float32_are_counted():
    maps = [np.array([[-3.4e38, 3.4e38, 0.0, -0.0]], dtype=np.float32)]
    masks = [np.array([[False, True, True, False]])]
    assert figures(maps, masks).values["pixel_auroc"] == pytest.approx(0.875)  # one tie among four pairs


def test_normal_pixels_are_put_in_order_as_they_come_so_that_few_are_waiting(monkeypatch):
    monkeypatch.setattr(exact_pixels, "_BLOCK_PIXELS", 128)
    pixels = ExactPixels()
    for _ in range(7):
        pixels.add(np.zeros((8, 8), dtype=np.float32), PixelTruth(np.zeros((8, 8), dtype=bool)), group="good")
        assert pixels._groups["good"].num_pending < 128
    assert [block.size for block in pixels._groups["good"].blocks] == [128, 128, 128]


@pytest.mark.parametrize(("limit", "area"), [(0.05, 0.5125), (0.3, 0.575), (1.0, 0.75)])
def test_a_curve_goes_straight_on_to_full_overlap_at_a_false_positive_rate_of_one(limit, area):
    assert limited_area(np.array([0.0]), np.array([0.5]), limit=limit) == pytest.approx(area)


def test_a_map_without_defect_has_no_defect_pixel_and_no_region():
    found = defect_pixels(np.ones((3, 4), dtype=np.float32), PixelTruth(np.zeros((3, 4), dtype=bool)))
    assert (found.scores.shape, found.weights.shape, found.num_regions) == ((0,), (0,), 0)
