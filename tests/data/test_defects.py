import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from us_anomaly.data.defects import DEFECT_TYPES, MIN_DIFFERENCE, DefectType, Random, draw_defect


def clean_and_foreign(side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = Random(seed)
    return tuple(random.randint(0, 256, size=(side, side)).astype(np.uint8) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", DEFECT_TYPES)
@pytest.mark.parametrize("side", [32, 128, 256])
@pytest.mark.parametrize("seed", range(4))
def test_the_mask_marks_exactly_the_changed_pixels_and_they_change_visibly(
    kind: DefectType, side: int, seed: int
) -> None:
    clean, foreign = clean_and_foreign(side, seed)
    untouched = clean.copy()
    drawn, mask = draw_defect(clean, kind, Random(seed), foreign=foreign)
    assert np.array_equal(clean, untouched)
    assert drawn.dtype == np.uint8
    assert np.array_equal(mask, drawn != clean)
    assert np.abs(drawn.astype(int) - clean)[mask].min() >= MIN_DIFFERENCE


@pytest.mark.parametrize("value", [0, 3, 128, 252, 255])
@pytest.mark.parametrize("kind", DEFECT_TYPES)
def test_marked_pixels_change_even_where_the_defect_has_the_tone_of_the_ground(kind: DefectType, value: int) -> None:
    flat = np.full((64, 64), value, dtype=np.uint8)
    drawn, mask = draw_defect(flat, kind, Random(1), foreign=flat)
    assert np.array_equal(mask, drawn != flat)


@pytest.mark.parametrize("kind", DEFECT_TYPES)
def test_defects_are_well_visible_yet_small(kind: DefectType) -> None:
    clean, foreign = clean_and_foreign(128, 0)
    shares = [draw_defect(clean, kind, Random(seed), foreign=foreign)[1].mean() for seed in range(60)]
    assert min(shares) > 0.004
    assert max(shares) < 0.15


@pytest.mark.parametrize("kind", DEFECT_TYPES)
def test_the_same_random_state_draws_the_same_and_another_something_else(kind: DefectType) -> None:
    clean, foreign = clean_and_foreign(64, 0)
    first, again, other = (draw_defect(clean, kind, Random(seed), foreign=foreign) for seed in (5, 5, 6))
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[1], other[1])


def test_a_patch_shows_the_foreign_texture() -> None:
    clean, foreign = clean_and_foreign(128, 3)
    drawn, mask = draw_defect(clean, "patch", Random(0), foreign=foreign)
    far = np.abs(foreign.astype(int) - clean) >= MIN_DIFFERENCE
    assert np.array_equal(drawn[mask & far], foreign[mask & far])


def test_a_stain_is_soft_at_its_edge() -> None:
    flat = np.full((128, 128), 128, dtype=np.uint8)
    drawn, mask = draw_defect(flat, "stain", Random(0), foreign=flat)
    change = np.abs(drawn.astype(int) - flat)
    core = binary_erosion(mask, iterations=8)
    edge = mask & ~binary_erosion(mask, iterations=2)
    assert change[core].mean() > 3 * change[edge].mean()
