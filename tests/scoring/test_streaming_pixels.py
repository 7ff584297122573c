import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from scipy import ndimage

from us_anomaly.scoring.exact_pixels import count_exactly
from us_anomaly.scoring.pixel_curve import pixel_figures
from us_anomaly.scoring.region_overlap import Defect, PixelItem, PixelTruth
from us_anomaly.scoring.streaming_pixels import (
    BinnedPixels,
    coarse_bins,
    count_streaming,
    ordered_keys,
    refined,
)


def drawn_items(seed, *, shape=(96, 96), images=12, transform=None):
    """Smooth heavy-tailed maps like those of a detector; every third image is normal."""
    generator = np.random.default_rng(seed)
    items = []
    for number in range(images):
        mask = np.zeros(shape, dtype=bool)
        if number % 3:
            mask = ndimage.gaussian_filter(generator.normal(size=shape), 6) > 0.1
        field = ndimage.gaussian_filter(generator.normal(size=shape), 2) * 6 + 1.5 * ndimage.gaussian_filter(
            mask.astype(float), 3
        )
        values = np.exp(field)
        if transform:
            values = transform(values)
        group = ("good", "cut", "hole")[number % 3]
        items.append(PixelItem(values.astype(np.float32), PixelTruth(mask), group))
    return items


transforms = {
    "heavy-tailed": None,
    "shifted far from zero": lambda values: values / 1e4 + 1.0,
    "negative and positive": lambda values: np.log(values),
    "tiny": lambda values: values * 1e-38,
    "with one giant": lambda values: np.where(values == values.max(), 1e30, values),
    "full of ties": lambda values: np.floor(values * 2),
    "constant": lambda values: np.full_like(values, 0.25),
}


@pytest.mark.parametrize("name", transforms)
def test_streaming_agrees_with_exact_within_one_in_ten_thousand(name):
    items = drawn_items(1, transform=transforms[name])
    exact = pixel_figures(count_exactly(items).curve(), saturated=False).values
    streaming = pixel_figures(count_streaming(items).curve(), saturated=False).values
    assert streaming == pytest.approx(exact, abs=1e-4)


def test_streaming_agrees_with_exact_for_each_group():
    items = drawn_items(2)
    exact, streaming = count_exactly(items), count_streaming(items)
    assert streaming.groups == exact.groups == ["cut", "good", "hole"]
    for group in ("cut", "hole"):
        one = pixel_figures(exact.curve(["good", group]), saturated=False).values
        other = pixel_figures(streaming.curve(["good", group]), saturated=False).values
        assert other == pytest.approx(one, abs=1e-4)


def test_streaming_agrees_with_exact_where_overlap_saturates():
    items = [
        PixelItem(item.anomaly_map, PixelTruth(item.truth.mask, [Defect(item.truth.mask, 50)]), item.group)
        for item in drawn_items(3)
        if item.truth.mask.any()
    ]
    exact = pixel_figures(count_exactly(items).curve(), saturated=True).values
    streaming = pixel_figures(count_streaming(items).curve(), saturated=True).values
    assert streaming == pytest.approx(exact, abs=1e-4)


def test_few_distinct_scores_are_counted_exactly():
    items = drawn_items(4, transform=lambda values: np.floor(values * 2))
    exact, streaming = count_exactly(items).curve(), count_streaming(items).curve()
    assert np.array_equal(streaming.defect, exact.defect)
    assert np.array_equal(streaming.normal_before, exact.normal_before)
    assert np.array_equal(streaming.normal_after, exact.normal_after)
    assert streaming.overlap == pytest.approx(exact.overlap)


def test_memory_does_not_grow_with_the_number_of_images():
    def peak(images):
        def again():
            generator = np.random.default_rng(0)
            for number in range(images):
                mask = np.zeros((64, 64), dtype=bool)
                mask[:9, :9] = number % 2
                yield PixelItem(generator.random((64, 64), dtype=np.float32), PixelTruth(mask), "good")

        class Items:
            def __iter__(self):
                return again()

        tracemalloc.start()
        count_streaming(Items())
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return memory

    assert peak(200) < 1.05 * peak(20)


@settings(max_examples=100, deadline=None)
@given(numpy_strategies.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_keys_are_ordered_and_equal_exactly_as_the_scores(scores):
    scores[0], scores[1] = 0.0, -0.0
    keys = np.empty(20, dtype=np.uint32)
    ordered_keys(scores, out=keys)
    keys = keys.astype(np.int64)
    assert np.array_equal(np.sign(keys[:, None] - keys), np.sign(scores[:, None].astype(float) - scores))


def test_fine_bins_are_bounded_and_keep_the_order():
    generator = np.random.default_rng(0)
    shares = generator.pareto(0.5, size=coarse_bins().size)
    bins = refined(shares / shares.sum())
    assert bins.size <= (1 << 17) + coarse_bins().size
    scores = np.sort(generator.normal(size=10_000).astype(np.float32) * 10)
    assert (np.diff(bins.index(scores).astype(np.int64)) >= 0).all()
    assert bins.index(np.float32([3.4e38])).max() < bins.size


def test_bins_follow_the_data():
    pixels = BinnedPixels(coarse_bins())
    for item in drawn_items(5, images=3):
        pixels.add(item.anomaly_map, item.truth, group=item.group)
    bins = refined(pixels.shares())
    everything = np.concatenate([item.anomaly_map.ravel() for item in drawn_items(5, images=3)])
    fullest = np.bincount(bins.index(everything)).max()
    assert fullest < everything.size * 1e-3


def test_neighbouring_numbers_are_told_apart_where_all_scores_lie_close_together():
    lower, higher = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    mask = np.eye(4, dtype=bool)
    items = [PixelItem(np.where(mask, higher, lower).astype(np.float32), PixelTruth(mask), "cut")]
    values = pixel_figures(count_streaming(items).curve(), saturated=False).values
    assert (values["pixel_auroc"], values["pixel_f1_max"]) == (1.0, 1.0)


def test_normal_pixels_defect_pixels_and_regions_have_a_third_of_the_bins_each_however_few_they_are():
    pixels = BinnedPixels(coarse_bins())
    one_defect = np.array([[True, False, False, False]])
    pixels.add(np.array([[8, 1, 1, 2]], dtype=np.float32), PixelTruth(one_defect), group="cut")
    shares = pixels.shares()
    bins = pixels.bins.index(np.array([1, 2, 8], dtype=np.float32))
    assert shares[bins] == pytest.approx([2 / 9, 1 / 9, 2 / 3])
    assert shares.sum() == pytest.approx(1)


def test_no_picture_at_all_is_an_empty_curve():
    for empty in (count_streaming([]), count_exactly([])):
        curve = empty.curve()
        assert len(curve.defect) == curve.num_normal == curve.num_regions == 0
