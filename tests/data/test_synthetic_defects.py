"""Synthetic defects: the mask marks what changed, nothing else changes, and the generator decides everything."""

import numpy as np
import pytest

from us_anomaly.data.synthetic_defects import KINDS, MIN_DIFFERENCE, add_synthetic_defect


def surface(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(60, 190, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("size", [(64, 64), (96, 140)])
def test_a_defect_is_visible_where_the_mask_says_and_the_rest_is_untouched(kind: str, size: tuple[int, int]) -> None:
    clean = surface(*size)
    for seed in range(8):
        drawn, mask = add_synthetic_defect(clean, np.random.default_rng(seed), kind=kind)
        changed = np.abs(drawn.astype(int) - clean).max(axis=2)
        assert drawn.dtype == np.uint8
        assert drawn.shape == clean.shape
        assert mask.shape == size
        assert 0 < mask.mean() < 0.5
        assert (changed >= MIN_DIFFERENCE)[mask].mean() > 0.5  # holes inside of a mask are filled
        assert not (changed >= MIN_DIFFERENCE)[~mask].any()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_generator_decides_everything(kind: str) -> None:
    clean = surface(64, 64)
    first, again, other = (add_synthetic_defect(clean, np.random.default_rng(s), kind=kind) for s in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_the_clean_picture_is_not_written_to() -> None:
    clean = surface(64, 64)
    before = clean.copy()
    for kind in KINDS:
        add_synthetic_defect(clean, np.random.default_rng(0), kind=kind)
    assert np.array_equal(clean, before)


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(KeyError):
        add_synthetic_defect(surface(64, 64), np.random.default_rng(0), kind="rust")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_defect_is_visible_on_a_flat_picture_too(kind: str) -> None:
    flat = np.full((64, 64, 3), 120, dtype=np.uint8)
    for seed in range(4):
        drawn, mask = add_synthetic_defect(flat, np.random.default_rng(seed), kind=kind)
        assert mask.any()
        assert not np.array_equal(drawn[mask], flat[mask])
