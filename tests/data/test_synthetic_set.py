"""The data set for choosing between recipes: held-back normal pictures and synthetic defects on them."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from us_anomaly.data.images import read_image, read_mask
from us_anomaly.data.synthetic_defects import KINDS, MIN_DIFFERENCE
from us_anomaly.data.synthetic_set import synthetic_set
from us_anomaly.errors import BadImageError, DataError

LIMIT = 1_000_000


@pytest.fixture
def normals(tmp_path):
    """Draw three pictures, one of them gray."""
    rng = np.random.default_rng(3)
    paths = [tmp_path / f"{name}.png" for name in "cab"]
    for number, path in enumerate(paths):
        shape = (40, 52) if number == 1 else (40, 52, 3)
        Image.fromarray(rng.integers(60, 190, shape, dtype=np.uint8)).save(path)
    return paths


def made(folder, normals, *, seed=0, num_per_picture=4):
    return synthetic_set(folder, normals, num_per_picture=num_per_picture, seed=seed, max_pixels=LIMIT)


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_normal_picture_is_there_unchanged_with_as_many_defective_copies_as_asked(tmp_path, normals):
    samples = made(tmp_path / "set", normals)
    good = [sample for sample in samples if not sample.is_anomalous]
    assert len(samples) - len(good) == 12
    for sample, path in zip(good, normals, strict=True):
        np.testing.assert_array_equal(
            read_image(tmp_path / "set" / sample.filename, max_pixels=LIMIT), read_image(path, max_pixels=LIMIT)
        )


def test_kinds_take_turns(tmp_path, normals):
    kinds = [sample.defect_type for sample in made(tmp_path / "set", normals) if sample.is_anomalous]
    expected = {kind: (12 - number + len(KINDS) - 1) // len(KINDS) for number, kind in enumerate(sorted(KINDS))}
    assert {kind: kinds.count(kind) for kind in kinds} == {kind: count for kind, count in expected.items() if count}


def test_masks_mark_what_differs_from_the_normal_picture(tmp_path, normals):
    for sample in made(tmp_path / "set", normals):
        if not sample.is_anomalous:
            assert sample.mask_path is None
            continue
        number = int(sample.filename.rpartition("/")[2][:4])
        picture = read_image(tmp_path / "set" / sample.filename, max_pixels=LIMIT).astype(int)
        difference = np.abs(picture - read_image(normals[number], max_pixels=LIMIT)).max(axis=2)
        mask = read_mask(tmp_path / "set" / sample.mask_path, max_pixels=LIMIT)
        assert mask.any()
        assert (difference[mask] > 0).mean() > 0.5
        assert mask[difference >= MIN_DIFFERENCE].mean() > 0.9


def test_the_same_seed_gives_the_same_files_and_another_one_other_defects(tmp_path, normals):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        made(tmp_path / name, normals, seed=seed)
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert {name for name in one if one[name] != three[name]} >= {name for name in one if name.startswith("masks")}


def test_a_set_that_is_there_is_read_and_not_written_again(tmp_path, normals):
    first = made(tmp_path / "set", normals)
    for path in normals:
        path.unlink()
    assert made(tmp_path / "set", normals) == first


def test_what_an_interrupted_call_left_is_no_data_set(tmp_path, normals):
    normals.append(tmp_path / "broken.png")
    normals[-1].write_bytes(b"no picture")
    with pytest.raises(BadImageError, match=r"broken\.png"):
        made(tmp_path / "set", normals)
    assert not (tmp_path / "set").exists()
    assert len(made(tmp_path / "set", normals[:1])) == 5
    assert not (tmp_path / "set.partial").exists()


def test_without_normal_pictures_it_says_what_is_missing(tmp_path):
    with pytest.raises(
        DataError, match=r"no normal pictures to put synthetic defects on: give a split with a validation"
    ):
        made(tmp_path / "set", [])
