import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from us_anomaly.data.images.brightness import WHITE_LEVELS, ValueRangeError, to_8_bits, value_range


@pytest.mark.parametrize(
    ("maximum", "white"),
    [
        (0, 255),
        (255, 255),
        (256, 1023),
        (1023, 1023),
        (1024, 4095),
        (4095, 4095),
        (4096, 16383),
        (16384, 65535),
        (65535, 65535),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_white_is_the_full_scale_of_the_smallest_sensor_that_fits(maximum: int, white: int, dtype: type) -> None:
    if dtype is np.float32 and maximum == 0:
        white = 1  # floating point within 0..1 is a picture of its own kind
    assert value_range(np.array([0, maximum], dtype=dtype)) == (0, white)


def test_floating_point_within_0_and_1_keeps_its_scale() -> None:
    assert to_8_bits(np.array([0.0, 0.2, 1.0], dtype=np.float32)).tolist() == [0, 51, 255]


def test_anything_else_is_stretched_from_its_minimum_to_its_maximum() -> None:
    assert value_range(np.array([-5, 10])) == (-5, 10)
    assert to_8_bits(np.array([-5.0, 2.5, 10.0])).tolist() == [0, 128, 255]
    assert to_8_bits(np.array([0, 70_000])).tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_white_level_that_is_named_holds_for_dark_pictures_too(dtype: type) -> None:
    values = np.array([0, 100, 1000], dtype=dtype)
    assert to_8_bits(values, white_level=4095).tolist() == np.rint(values * (255 / 4095)).tolist()
    assert value_range(np.array([0.0, 0.5]), white_level=4095) == (0, 4095)


@pytest.mark.parametrize("values", [[0, 4096], [-1, 100]])
def test_values_beyond_the_white_level_are_refused_not_clipped(values: list[int]) -> None:
    with pytest.raises(ValueRangeError, match=r"its values, .* to .*, go beyond 0 to data\.white_level=4095$"):
        to_8_bits(np.array(values), white_level=4095)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_16_bits_become_8_by_rounding_to_the_nearest_whatever_the_array_type(values: list[int]) -> None:
    white = next(level for level in WHITE_LEVELS if level >= max(values))
    exact = [(2 * value * 255 + white) // (2 * white) for value in values]
    for dtype in (np.uint16, np.dtype(">u2"), np.int32):
        assert to_8_bits(np.array(values, dtype=dtype)).tolist() == exact


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=20))
def test_order_is_kept_and_nothing_is_clipped(values: list[int]) -> None:
    scaled = to_8_bits(np.array(sorted(values), dtype=np.uint16)).astype(int)
    assert (np.diff(scaled) >= 0).all()
    assert scaled.max() == 255 or max(values) < max(WHITE_LEVELS)


@pytest.mark.parametrize("value", [0, 7, 65535, -3, 10**6, 0.5, -0.5])
def test_a_constant_picture_divides_by_nothing(value: float) -> None:
    scaled = to_8_bits(np.full((3, 3), value))
    assert len(np.unique(scaled)) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="infinite values or not-a-number"):
        to_8_bits(np.array([0.0, value]))
