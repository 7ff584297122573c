import hashlib
import importlib.util
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from us_anomaly.data import demo
from us_anomaly.data.demo import TEST_COLUMNS, make_demo, read_demo
from us_anomaly.errors import DataError, ResourceError

SIZES = {"image_side_px": 40, "num_train": 7, "num_test_normal": 4, "num_test_anomalous": 10}


def digest(folder: Path) -> str:
    parts = [
        f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "not" / "there"
    make_demo(root, **SIZES)
    return root


def test_the_demo_is_an_mvtec_category_with_four_kinds_of_defects_in_equal_parts(root: Path) -> None:
    samples = read_demo(root, **SIZES)
    kinds = Counter((sample.split, sample.defect_type) for sample in samples)
    assert kinds == {
        ("train", "good"): 7,
        ("test", "good"): 4,
        ("test", "hole"): 3,
        ("test", "patch"): 3,
        ("test", "scratch"): 2,
        ("test", "stain"): 2,
    }
    assert all((sample.mask_path is not None) == sample.is_anomalous for sample in samples)
    assert all((root / sample.filename).is_file() for sample in samples)


def test_pictures_are_square_and_masks_are_0_and_255(root: Path) -> None:
    for sample in read_demo(root, **SIZES):
        with Image.open(root / sample.filename) as image:
            assert (image.mode, image.size, image.format) == ("L", (40, 40), "PNG")
        if sample.mask_path:
            with Image.open(root / sample.mask_path) as image:
                assert np.unique(np.asarray(image)).tolist() == [0, 255]


def test_the_same_parameters_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    folder = make_demo(tmp_path, **SIZES)
    assert digest(folder) == digest(root / folder.name)


def test_other_parameters_live_in_another_folder(root: Path) -> None:
    before = digest(root / make_demo(root, **SIZES).name)
    other = make_demo(root, **(SIZES | {"num_train": 3}))
    assert len(list((other / "train/good").iterdir())) == 3
    assert digest(root / make_demo(root, **SIZES).name) == before


def test_a_demo_that_is_there_is_not_drawn_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_photograph", lambda _: pytest.fail("drawn again"))
    assert make_demo(root, **SIZES).is_dir()


def test_several_workers_at_once_leave_one_whole_demo_and_no_rubbish(root: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        folders = list(pool.map(lambda _: make_demo(tmp_path, **SIZES), range(6)))
    assert len(set(folders)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [folders[0].name]
    assert digest(folders[0]) == digest(root / folders[0].name)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo._Artist, "draw_anomalous", full)
    with pytest.raises(ResourceError) as caught:
        make_demo(tmp_path, **SIZES)
    assert str(caught.value) == (
        f"cannot write the demo pictures to {tmp_path}: No space left on device; choose another cache_dir="
    )
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_without_a_rival_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(demo.os, "rename", denied)
    with pytest.raises(ResourceError, match="Permission denied; choose another cache_dir="):
        make_demo(tmp_path, **SIZES)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot write the demo pictures to"):
        make_demo(tmp_path / "file", **SIZES)


def test_a_demo_that_lost_pictures_or_masks_is_refused(tmp_path: Path) -> None:
    folder = make_demo(tmp_path, **SIZES)
    (folder / "ground_truth/hole/000_mask.png").unlink()
    with pytest.raises(DataError, match=f"pictures or masks are missing in {folder}: delete it, it is drawn again"):
        read_demo(tmp_path, **SIZES)


def test_no_pixel_of_a_training_picture_is_shown_in_a_test_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs whose grey level tells the column show what each picture was cut from."""
    columns = np.tile(np.arange(512) // 2, (512, 1)).astype(np.uint8)
    monkeypatch.setattr(demo, "_photograph", lambda _: columns)
    folder = make_demo(tmp_path, **(SIZES | {"image_side_px": 160, "num_train": 60, "num_test_normal": 60}))
    for number, texture in enumerate(sorted(TEST_COLUMNS)):
        first, last = TEST_COLUMNS[texture]
        for name, is_test in (("train/good", False), ("test/good", True)):
            for index in range(number, 60, 3):
                with Image.open(folder / name / f"{index:03d}.png") as image:
                    shown = 2 * np.asarray(image)[:, [0, -1]].astype(int)
                left, right = shown[:, 0].min(), shown[:, 1].max()
                inside = first - 2 <= left and right <= last + 1
                outside = right <= first + 1 or left >= last - 2
                assert inside if is_test else outside


def test_textures_take_turns_and_foreign_patches_come_from_a_material_no_normal_picture_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = {"brick": 50, "grass": 120, "gravel": 190}
    levels = normal | {"coins": 10, "page": 240}
    monkeypatch.setattr(demo, "_photograph", lambda name: np.full((512, 512), levels[name], dtype=np.uint8))
    folder = make_demo(tmp_path, **(SIZES | {"num_train": 6, "num_test_anomalous": 24}))
    grounds = []
    for number in range(6):
        with Image.open(folder / f"train/good/{number:03d}.png") as image:
            grounds.append(int(np.asarray(image)[0, 0]))
        with Image.open(folder / f"test/patch/{number:03d}.png") as image:
            tones = set(np.unique(np.asarray(image)).tolist())
        assert len(tones) == 2
        assert len(tones & set(normal.values())) == 1
        assert len(tones & {10, 240}) == 1
    assert grounds == [50, 120, 190, 50, 120, 190]


def test_without_scikit_image_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError) as caught:
        make_demo(tmp_path, **SIZES)
    assert str(caught.value) == (
        "the demo is made of photographs inside scikit-image, which is not installed: pip install 'us-anomaly[offline]'"
    )


def test_a_scikit_image_without_the_photographs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: Spec)
    with pytest.raises(DataError, match=r"data/brick\.png, which this scikit-image lacks"):
        make_demo(tmp_path / "root", **SIZES)


def test_the_data_layer_imports_no_torch() -> None:
    program = (
        "import sys; import us_anomaly.data.sources, us_anomaly.data.splitting, us_anomaly.data.images; "
        "sys.exit('torch' in sys.modules or 'skimage' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
