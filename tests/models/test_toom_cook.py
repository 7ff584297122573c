import pytest
import torch

from us_anomaly.models.toom_cook import best_transforms, transforms


@pytest.mark.parametrize("side", [6, 7, 8, 9, 10])
@pytest.mark.parametrize("taps", [2, 3, 4, 5])
def test_the_transforms_give_the_sums_of_products_of_a_row(taps, side):
    known, generator = transforms(taps, side), torch.Generator().manual_seed(0)
    kernel, row = (torch.randn(length, generator=generator).double() for length in (taps, side))
    expected = [float((kernel * row[first : first + taps]).sum()) for first in range(side + 1 - taps)]
    found = known.outputs @ ((known.weights @ kernel) * (known.inputs @ row))
    assert known.side == side
    assert known.positions == side + 1 - taps
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_tiles_are_the_ones_that_multiply_least():
    assert best_transforms(65, 65, 4, torch.float32).positions == 5  # 13 x 13 tiles without a rest
    assert best_transforms(64, 64, 4, torch.bfloat16).side == 9  # 11 x 11 tiles of 6, not 10 x 10 of 7
    assert best_transforms(3, 3, 4, torch.float32).side == 6
