"""The colours against CIELAB from scikit-image and against simulated colour blindness (Machado et al. 2009, severity 1)."""

import numpy as np
import pytest
from skimage import color

from us_anomaly.reporting.color_scale import (
    DECISION_STOPS_LAB,
    MAP_STOPS_LAB,
    decision_gradient,
    lab_to_srgb,
    map_colors,
    map_gradient,
)

NUM_PROBES = 33
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


def probes() -> np.ndarray:
    """Evenly spaced colours of the table, in CIELAB."""
    rows = np.linspace(0, 255, NUM_PROBES).round().astype(int)
    return color.rgb2lab(map_colors()[rows, :3][None])[0]


def seen_by(matrix: list, num_colors: int = 17) -> np.ndarray:
    """The scale as a person with that kind of colour blindness sees it, in CIELAB."""
    rows = np.linspace(0, 255, num_colors).round().astype(int)
    srgb = map_colors()[rows, :3] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ np.array(matrix).T
    linear = linear.clip(0, 1)
    return color.rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)[None])[0]


def test_the_conversion_from_cielab_is_that_of_scikit_image():
    lab = np.array([[38.0, 13, -54], [85, 1, 18], [50, 0, 0], [3, 0, 0], [97, -10, 60]])
    np.testing.assert_allclose(lab_to_srgb(lab), color.lab2rgb(lab[None])[0], atol=2e-4)


def test_neighbouring_colours_of_maps_are_equally_far_apart_within_15_percent():
    distances = color.deltaE_cie76(probes()[:-1], probes()[1:])
    assert distances.min() > 0.85 * distances.mean()
    assert distances.max() < 1.15 * distances.mean()


def test_lightness_climbs_to_the_middle_and_falls_from_it_in_even_steps():
    steps = np.diff(probes()[:, 0])
    half = NUM_PROBES // 2
    assert (steps[:half] > 0).all()
    assert (steps[half:] < 0).all()
    assert np.abs(steps).max() < 1.3 * np.abs(steps).min()


def test_the_ends_are_a_blue_and_a_red_and_the_table_keeps_the_stops():
    first, last = map_colors()[0, :3].astype(int), map_colors()[255, :3].astype(int)
    assert first[2] > first[0] + 100
    assert last[0] > last[2] + 100
    measured = color.rgb2lab(map_colors()[[0, 127, 255], :3][None])[0]
    np.testing.assert_allclose(measured, MAP_STOPS_LAB, atol=1.2)


@pytest.mark.parametrize("matrix", [PROTANOPIA, DEUTERANOPIA], ids=["protanopia", "deuteranopia"])
def test_the_order_of_the_colours_is_kept_without_red_or_green_cones(matrix):
    blue_to_yellow = seen_by(matrix)[:, 2]
    assert (np.diff(blue_to_yellow) > 1).all()


@pytest.mark.parametrize("matrix", [PROTANOPIA, DEUTERANOPIA], ids=["protanopia", "deuteranopia"])
def test_no_two_colours_look_alike_without_red_or_green_cones(matrix):
    seen = seen_by(matrix)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    apart = [distances[i, j] for i in range(len(seen)) for j in range(i + 2, len(seen))]
    assert min(apart) > 9  # two steps of sixteen; a difference of 2.3 is just noticeable


def test_maps_are_transparent_where_normal_and_never_hide_the_image():
    alpha = map_colors()[:, 3].astype(int)
    assert alpha[0] == 0
    assert (np.diff(alpha) >= 0).all()
    assert alpha[154:].tolist() == [215] * 102


def test_the_table_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        map_colors()[0, 0] = 1


def test_gradients_are_colours_as_the_style_sheet_writes_them():
    for gradient, stops in ((map_gradient(3), MAP_STOPS_LAB), (decision_gradient(3), DECISION_STOPS_LAB)):
        colors = np.round(color.lab2rgb(np.array(stops)[None])[0] * 255).astype(int)
        assert gradient == ["#{:02x}{:02x}{:02x}".format(*of_stop) for of_stop in colors]


def test_gradients_begin_and_end_with_the_ends_of_their_scales_however_many_colours_they_have():
    for gradient in (map_gradient, decision_gradient):
        assert [gradient()[at] for at in (0, len(gradient()) // 2, -1)] == gradient(3)
    assert [map_gradient()[at] for at in (0, -1)] == [
        "#{:02x}{:02x}{:02x}".format(*map_colors()[row, :3]) for row in (0, -1)
    ]


def test_white_digits_are_readable_on_every_badge():
    for text in decision_gradient():
        srgb = np.array([int(text[start : start + 2], 16) for start in (1, 3, 5)]) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        luminance = float(linear @ [0.2126, 0.7152, 0.0722])
        assert 1.05 / (luminance + 0.05) > 3.9  # WCAG asks 3 of bold digits of this size
