"""Windows of the reflected picture are those of numpy, and tiles cover it once."""

import numpy as np
import pytest
import torch

from us_anomaly.models.windows import reflect_pad, reflect_window, tiles


def pictures_of(height, width):
    return torch.from_numpy(np.random.default_rng(height * width).normal(size=(2, 3, height, width))).float()


@pytest.mark.parametrize("margin", [0, 1, 4, 16, 50])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 9), (17, 16), (40, 3)])
def test_reflect_pad_is_the_reflection_of_numpy_for_any_size(size, margin):
    images = pictures_of(*size)
    around = [(0, 0), (0, 0), (margin, margin), (margin, margin)]
    assert np.array_equal(reflect_pad(images, margin).numpy(), np.pad(images.numpy(), around, mode="reflect"))


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (17, 16)])
def test_a_window_of_the_padded_picture_is_that_part_of_it(size):
    images = pictures_of(*size)
    whole = reflect_pad(images, 5)
    rows, cols = (size[0] // 2, size[0]), (0, -(-size[1] // 2))
    part = reflect_window(images, 5, rows=rows, cols=cols)
    assert torch.equal(part, whole[..., rows[0] : rows[1] + 10, cols[0] : cols[1] + 10])


@pytest.mark.parametrize(
    ("height", "width", "limit", "margin", "multiple"),
    [(100, 7, 70, 4, 4), (5, 1000, 40, 8, 8), (1, 1, 1, 64, 1), (300, 300, 65536, 32, 1), (90, 110, 1000, 64, 4)],
)
def test_tiles_cover_every_pixel_once_in_multiples_below_the_limit(height, width, limit, margin, multiple):
    seen = np.zeros((height, width), dtype=int)
    for rows, cols in tiles(height, width, max_positions=limit, margin=margin, multiple=multiple):
        seen[slice(*rows), slice(*cols)] += 1
        assert rows[0] % multiple == cols[0] % multiple == 0
        assert (rows[1] - rows[0]) * (cols[1] - cols[0]) <= max(limit, multiple**2)
    assert (seen == 1).all()


def test_a_picture_below_the_limit_is_one_tile_and_tiles_of_a_large_one_are_nearly_square():
    assert list(tiles(256, 250, max_positions=65536, margin=32, multiple=1)) == [((0, 256), (0, 250))]
    sides = {(r[1] - r[0], c[1] - c[0]) for r, c in tiles(8192, 8192, max_positions=65536, margin=32, multiple=4)}
    assert sides == {(256, 256)}
