import itertools
from collections import Counter

import pytest
import torch
from training.test_regression import SETTINGS, changed

from us_anomaly.models.dense import dense_descriptors, listed_descriptors
from us_anomaly.models.patch_network import PatchNetwork
from us_anomaly.settings import StudentPositions
from us_anomaly.training.course import step_generator
from us_anomaly.training.step_positions import draw_positions


def drawn(count, *, size, settings=SETTINGS, patch_size=17):
    """Draw the positions of `count` steps."""
    network = PatchNetwork(patch_size, descriptor_dim=8, width=0.1)
    generators = (step_generator(0, stage="train-students", step=step) for step in range(count))
    return [draw_positions(network, size, settings, generator) for generator in generators]


def spans(positions):
    """Return where rows and columns of positions begin (at most) and end, in pixels of the picture."""
    parts = zip((positions.rows, positions.cols), positions.ends, strict=True)
    return tuple(part.start + end for part, end in parts)


@pytest.mark.parametrize(("patch_size", "stride"), [(17, 4), (66, 8)])
def test_every_phase_of_the_grid_is_drawn_and_none_lies_outside_of_a_small_picture(patch_size, stride):
    positions = drawn(600, size=(40, 36), patch_size=patch_size)
    assert {at.stride for at in positions} == {stride}
    assert {at.offset for at in positions} == set(itertools.product(range(stride), repeat=2))
    small = drawn(20, size=(2, 1), patch_size=patch_size)
    assert {at.offset for at in small} == {(0, 0), (1, 0)}
    assert {at.ends for at in small} == {(2, 1)}


@pytest.mark.parametrize("window_px", [None, 64, 100])
def test_pictures_that_fit_into_the_window_are_seen_whole(window_px):
    for at in drawn(10, size=(64, 40), settings=changed(window_px=window_px)):
        assert (at.rows, at.cols, at.ends) == (slice(0, 64), slice(0, 40), (64, 40))


def test_a_window_changes_nothing_about_the_random_numbers_of_pictures_that_fit_into_it():
    assert drawn(20, size=(64, 40), settings=changed(window_px=64)) == drawn(20, size=(64, 40))


def test_windows_cover_the_picture_once_where_they_divide_it_and_each_is_as_likely():
    settings = changed(window_px=32, positions=StudentPositions.dense)
    positions = drawn(1200, size=(96, 64), settings=settings)
    counts = Counter(spans(at) for at in positions)
    assert set(counts) == set(itertools.product((32, 64, 96), (32, 64)))
    assert all(abs(count - 200) < 60 for count in counts.values())  # four and a half deviations
    for at in positions:
        assert [end - start for start, end in zip(at.offset, at.ends, strict=True)] == [32, 32]


def test_windows_overlap_as_evenly_as_can_be_where_they_do_not_divide_the_picture():
    ends = {spans(at)[0] for at in drawn(100, size=(75, 20), settings=changed(window_px=32))}
    assert ends == {32, 54, 75}


@pytest.mark.parametrize("positions", StudentPositions)
@pytest.mark.parametrize("patch_size", [17, 33, 65, 66])
def test_in_a_window_positions_have_the_descriptors_of_the_whole_picture(patch_size, positions):
    """At inner sides of the window real pixels lie around it, at the border of the picture its reflection."""
    torch.manual_seed(5)
    images = torch.randn(2, 3, 101, 70)
    network = PatchNetwork(patch_size, descriptor_dim=5, width=0.1)
    settings = changed(window_px=40, positions=positions)
    seen = set()
    with torch.inference_mode():
        whole = dense_descriptors(network, images)
        for step in range(12):
            generator = step_generator(1, stage="train-students", step=step)
            at = draw_positions(network, (101, 70), settings, generator)
            part = images[..., at.rows, at.cols]
            listed = listed_descriptors(network, part, stride=at.stride, offset=at.offset, ends=at.ends)
            rows, cols = (
                [within.start + position for position in range(first, end, at.stride)]
                for within, first, end in zip((at.rows, at.cols), at.offset, at.ends, strict=True)
            )
            expected = whole[:, :, rows][..., cols].permute(0, 2, 3, 1).flatten(0, 2)
            places = torch.cdist(listed.double(), expected.double()).argmin(dim=1)
            assert len(places.unique()) == len(expected) == len(listed)
            torch.testing.assert_close(listed, expected[places], atol=2e-5, rtol=0)
            seen.add(spans(at))
    assert len(seen) >= 4


@pytest.mark.parametrize("patch_size", [17, 65, 132])
def test_a_window_comes_with_no_more_than_the_margin_of_its_patches(patch_size):
    for at in drawn(20, size=(1024, 900), settings=changed(window_px=256), patch_size=patch_size):
        for part in (at.rows, at.cols):
            assert 256 < part.stop - part.start <= 256 + 2 * (patch_size // 2)
