import time

import numpy as np
import pytest

from us_anomaly.data.blemishes import add_blemishes
from us_anomaly.data.drawings import lines, text
from us_anomaly.data.mixing import mix
from us_anomaly.data.procedural import PAINTERS, ProceduralPictures
from us_anomaly.data.recolouring import random_palette, recolour, recolour_lightly


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample_picture(seed: int = 0, side: int = 64) -> np.ndarray:
    return ProceduralPictures(side_px=side).draw(rng_of(seed))


@pytest.mark.parametrize("side", [32, 65, 160])
@pytest.mark.parametrize("painter", PAINTERS, ids=lambda painter: painter.__name__)
def test_every_painter_gives_pictures_that_show_something(painter, side: int) -> None:  # type: ignore[no-untyped-def]
    pictures = [painter(rng_of(seed), side) for seed in range(8)]
    assert all(picture.shape == (side, side, 3) and picture.dtype == np.uint8 for picture in pictures)
    deviations = [float(picture.std(axis=(0, 1)).max()) for picture in pictures]
    assert min(deviations) > 0.1
    assert np.median(deviations) > 1.5
    assert len({picture.tobytes() for picture in pictures}) == 8


def test_the_generator_decides_everything() -> None:
    first, second = ProceduralPictures(side_px=48), ProceduralPictures(side_px=48)
    one, two = rng_of(3), rng_of(3)
    for _ in range(60):
        assert (first.draw(one) == second.draw(two)).all()
    assert one.bit_generator.state == two.bit_generator.state


def test_pictures_span_dark_and_bright_quiet_and_busy() -> None:
    source, rng = ProceduralPictures(side_px=48), rng_of(0)
    pictures = [source.draw(rng) for _ in range(300)]
    means = [picture.mean() for picture in pictures]
    deviations = [picture.std() for picture in pictures]
    assert np.quantile(means, 0.1) < 70
    assert np.quantile(means, 0.9) > 170
    assert np.quantile(deviations, 0.1) < 16
    assert np.quantile(deviations, 0.9) > 50


def test_too_small_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="side_px must be at least 32, got 16"):
        ProceduralPictures(side_px=16)


def test_a_picture_is_drawn_in_milliseconds() -> None:
    source, rng = ProceduralPictures(side_px=160), rng_of(0)
    for _ in range(30):
        source.draw(rng)
    started = time.process_time()
    for _ in range(60):
        source.draw(rng)
    assert (time.process_time() - started) / 60 < 0.04  # about 0.006 s; the limit leaves room for slow machines


def test_blemishes_change_a_part_of_the_picture_and_not_the_original() -> None:
    changed = []
    for seed in range(60):
        picture = sample_picture(seed)
        before = picture.copy()
        blemished = add_blemishes(picture, rng_of(seed))
        assert blemished.shape == picture.shape
        assert (picture == before).all()
        changed.append(float((blemished != picture).any(axis=2).mean()))
    assert np.median(changed) < 0.4
    assert np.mean(np.array(changed) > 0) > 0.9


def test_mixing_stays_between_the_two_pictures() -> None:
    first, second = sample_picture(1), sample_picture(2)
    shares = []
    for seed in range(60):
        mixed = mix(first, second, rng_of(seed))
        low, high = np.minimum(first, second), np.maximum(first, second)
        assert ((mixed + 1.0 >= low) & (mixed <= high)).all()
        shares.append(float((mixed != first).any(axis=2).mean()))
    assert 0 < np.median(shares) < 1
    assert np.mean(np.array(shares) > 0) > 0.9


def test_about_a_third_or_more_of_the_recoloured_pictures_are_grey() -> None:
    picture = rng_of(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    grey = 0
    for seed in range(400):
        recoloured = recolour_lightly(picture, rng_of(seed)).astype(int)
        blurred = recoloured.mean(axis=(0, 1))
        spread = np.abs(recoloured - blurred - (recoloured - blurred).mean(axis=2, keepdims=True)).mean()
        grey += spread < 8
    assert 0.25 < grey / 400 < 0.45


@pytest.mark.parametrize("change", [recolour, recolour_lightly])
def test_recolouring_keeps_the_place_of_edges(change) -> None:  # type: ignore[no-untyped-def]
    picture = np.full((40, 40, 3), 60, dtype=np.uint8)
    picture[:, 20:] = (180, 140, 200)
    found = 0
    for seed in range(60):
        step = np.abs(np.diff(change(picture, rng_of(seed)).astype(int).mean(axis=0), axis=0)).sum(axis=1)
        found += int(np.argmax(step)) == 19
    assert found > 52  # a channel mix may make both sides alike


def test_recolouring_leaves_its_input_unchanged() -> None:
    picture = sample_picture(5)
    before = picture.copy()
    for seed in range(30):
        recolour(picture, rng_of(seed))
    assert (picture == before).all()


def test_palettes_are_256_colours_that_are_not_all_alike() -> None:
    for seed in range(40):
        palette = random_palette(rng_of(seed))
        assert palette.shape == (256, 3)
        assert palette.dtype == np.uint8
        assert np.ptp(palette.astype(int), axis=0).max() >= 15


@pytest.mark.parametrize("painter", [text, lines])
def test_ink_stands_out_from_its_ground(painter) -> None:  # type: ignore[no-untyped-def]
    contrasts = [np.ptp(painter(rng_of(seed), 96).astype(int), axis=(0, 1)).max() for seed in range(12)]
    assert np.median(contrasts) > 40
