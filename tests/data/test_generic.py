from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from us_anomaly.data import generic
from us_anomaly.data.generic import FolderPictures, GenericPictures, MixedPictures, PictureSource
from us_anomaly.errors import BadImageError, DataError


class Constant:
    """A source of one grey."""

    def __init__(self, value: int) -> None:
        self.value = value

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.full((8, 8, 3), self.value, dtype=np.uint8)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(source: PictureSource, count: int, *, seed: int) -> np.ndarray:
    """The first pictures of a source, (count, side, side, 3)."""
    rng = rng_of(seed)
    return np.stack([source.draw(rng) for _ in range(count)])


def photograph(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    coarse = rng_of(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def save_photographs(folder: Path, *, count: int, **size: int) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(photograph(number, **size)).save(path)
    return paths


def test_the_generator_decides_everything() -> None:
    first = drawn(GenericPictures(side_px=40), 50, seed=1)
    second = drawn(GenericPictures(side_px=40), 50, seed=1)
    assert first.shape == (50, 40, 40, 3)
    assert first.dtype == np.uint8
    assert (first == second).all()
    assert not (first == drawn(GenericPictures(side_px=40), 50, seed=2)).all()


def test_drawing_keeps_no_state_between_pictures() -> None:
    source = GenericPictures(side_px=40)
    before = source.draw(rng_of(9))
    drawn(source, 5, seed=0)
    assert (source.draw(rng_of(9)) == before).all()


def test_almost_no_picture_is_empty_and_none_repeats() -> None:
    batch = drawn(GenericPictures(side_px=64), 300, seed=0)
    deviations = batch.reshape(300, -1).std(axis=1)
    assert np.mean(deviations < 2) < 0.01
    assert len({picture.tobytes() for picture in batch}) == 300


def test_grey_and_coloured_pictures_are_both_frequent() -> None:
    batch = drawn(GenericPictures(side_px=48), 300, seed=4).astype(int)
    saturation = np.ptp(batch, axis=3).mean(axis=(1, 2))
    assert np.mean(saturation < 12) > 0.15
    assert np.mean(saturation > 30) > 0.2


def test_without_photographs_none_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generic, "load_photographs", lambda: pytest.fail("photographs were loaded"))
    assert drawn(GenericPictures(side_px=32, photograph_fraction=0), 20, seed=0).shape == (20, 32, 32, 3)


def test_photographs_alone_come_from_the_given_photographs() -> None:
    blue = np.zeros((50, 50, 3), dtype=np.uint8)
    blue[..., 2] = np.linspace(100, 250, 50).astype(np.uint8)
    source = GenericPictures(side_px=32, photograph_fraction=1, photographs=[blue])
    batch = drawn(source, 100, seed=0).astype(int)
    untouched = (batch[..., :2].max(axis=(1, 2, 3)) == 0) & (batch[..., 2].min(axis=(1, 2)) >= 95)
    assert untouched.sum() >= 8


def test_wanting_photographs_and_giving_none_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no photographs"):
        GenericPictures(side_px=32, photographs=[])


def test_a_folder_gives_crops_of_its_photographs(tmp_path: Path) -> None:
    source = FolderPictures(save_photographs(tmp_path, count=3), side_px=36, max_pixels=10**9)
    first = drawn(source, 30, seed=0)
    assert first.shape == (30, 36, 36, 3)
    assert first.dtype == np.uint8
    again = drawn(FolderPictures(save_photographs(tmp_path, count=3), side_px=36, max_pixels=10**9), 30, seed=0)
    assert (first == again).all()


def test_a_folder_reads_each_photograph_once_while_memory_is_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = generic.read_image
    monkeypatch.setattr(generic, "read_image", lambda path, **options: (reads.append(path), read(path, **options))[1])
    paths = save_photographs(tmp_path, count=3)
    drawn(FolderPictures(paths, side_px=36, max_pixels=10**9), 40, seed=0)
    assert sorted(reads) == paths


def test_a_folder_forgets_photographs_beyond_the_granted_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generic, "KEPT_PIXELS", 2 * 90 * 120)
    paths = save_photographs(tmp_path, count=4)
    source = FolderPictures(paths, side_px=36, max_pixels=10**9)
    small = drawn(source, 40, seed=0)
    assert len(source._kept) == 2
    assert source._kept_pixels == 2 * 90 * 120
    monkeypatch.undo()
    assert (drawn(FolderPictures(paths, side_px=36, max_pixels=10**9), 40, seed=0) == small).all()


def test_huge_photographs_are_kept_reduced(tmp_path: Path) -> None:
    source = FolderPictures(save_photographs(tmp_path, count=1, height=1600, width=2000), side_px=36, max_pixels=10**9)
    source.draw(rng_of(0))
    assert source._kept[0].size == (1000, 800)


def test_a_broken_photograph_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(BadImageError, match=r"broken\.jpg"):
        FolderPictures([tmp_path / "broken.jpg"], side_px=36, max_pixels=10**9).draw(rng_of(0))


def test_an_empty_folder_is_refused() -> None:
    with pytest.raises(DataError, match=r"of `teacher\.images` holds no picture"):
        FolderPictures([], side_px=36, max_pixels=10**9)


def test_mixed_sources_are_drawn_by_weight() -> None:
    source = MixedPictures([Constant(10), Constant(200), Constant(90)], [3, 1, 1])
    values = drawn(source, 3000, seed=0)[:, 0, 0, 0]
    assert np.mean(values == 10) == pytest.approx(0.6, abs=0.04)
    assert np.mean(values == 200) == pytest.approx(0.2, abs=0.04)
    assert np.mean(values == 90) == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 0.0], [1.0, -1.0]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="one positive weight for each source"):
        MixedPictures([Constant(1), Constant(2)], weights)
