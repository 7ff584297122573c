import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from us_anomaly.data.augmentation import Pipeline, build_transforms
from us_anomaly.data.image_cache import ImageCache
from us_anomaly.errors import BadImageError, ResourceError
from us_anomaly.settings.dataset import TransformSettings

TO_FLOAT = TransformSettings(name="ToDtype", params={"dtype": "float32", "scale": True})
RESIZED = [TransformSettings(name="Resize", params={"size": [24, 20]}), TO_FLOAT]


def pipeline_of(entries: list[TransformSettings]) -> Pipeline:
    return build_transforms(entries, key="augmentation.students", patch_size=None)


def draw_pictures(folder: Path, *, sizes: list[tuple[int, int]]) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for number, (height, width) in enumerate(sizes):
        paths.append(folder / f"{number:03d}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def build(paths: list[Path], folder: Path, **options: object) -> ImageCache:
    options = {"pipeline": pipeline_of(RESIZED), "max_pixels": 10**6} | options
    return ImageCache(paths, folder=folder, **options)  # type: ignore[arg-type]


def lie_in_one_tensor(cache: ImageCache) -> bool:
    return len({picture.untyped_storage().data_ptr() for picture in cache}) == 1


def test_pictures_of_one_size_are_one_tensor_in_order(tmp_path: Path) -> None:
    paths = draw_pictures(tmp_path, sizes=[(30, 40), (50, 20), (24, 20)])
    cache = build(paths, tmp_path / "cache")
    assert len(cache) == 3
    assert lie_in_one_tensor(cache)
    assert [(picture.shape, picture.dtype) for picture in cache] == [((3, 24, 20), torch.uint8)] * 3
    assert not (tmp_path / "cache").exists()  # only a file needs the folder
    assert (cache[2].permute(1, 2, 0).numpy() == np.asarray(Image.open(paths[2]))).all()


@pytest.mark.parametrize("entries", [RESIZED, [TO_FLOAT]])
def test_the_mapped_file_holds_the_same_pictures_as_the_memory(
    tmp_path: Path, entries: list[TransformSettings]
) -> None:
    paths = draw_pictures(tmp_path, sizes=[(30, 40), (50, 20), (24, 20), (9, 11)])
    in_memory = build(paths, tmp_path / "none", pipeline=pipeline_of(entries))
    mapped = build(paths, tmp_path / "cache", pipeline=pipeline_of(entries), memory_budget_bytes=0)
    assert (tmp_path / "cache").exists()
    assert not (tmp_path / "none").exists()
    assert len(mapped) == len(in_memory) == 4
    assert lie_in_one_tensor(mapped)
    assert lie_in_one_tensor(in_memory) == (entries is RESIZED)
    for index in range(4):
        assert torch.equal(mapped[index], in_memory[index])


def test_pictures_of_many_sizes_move_to_the_file_when_they_outgrow_the_budget(tmp_path: Path) -> None:
    paths = draw_pictures(tmp_path, sizes=[(4, 4), (4, 4), (60, 60), (5, 5)])
    cache = build(paths, tmp_path / "cache", pipeline=pipeline_of([TO_FLOAT]), memory_budget_bytes=5000)
    assert (tmp_path / "cache").exists()
    assert [tuple(cache[index].shape) for index in range(4)] == [(3, 4, 4), (3, 4, 4), (3, 60, 60), (3, 5, 5)]


def test_no_file_remains_when_the_cache_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = build(draw_pictures(tmp_path, sizes=[(8, 8)] * 2), folder, memory_budget_bytes=0)
    assert int(cache[1].sum()) > 0
    del cache
    gc.collect()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_threads_change_neither_order_nor_content(tmp_path: Path, num_workers: int) -> None:
    paths = draw_pictures(tmp_path, sizes=[(10 + number, 12) for number in range(30)])
    expected = build(paths, tmp_path, pipeline=pipeline_of([TO_FLOAT]))
    cache = build(paths, tmp_path, pipeline=pipeline_of([TO_FLOAT]), num_workers=num_workers)
    assert all(torch.equal(cache[index], expected[index]) for index in range(30))


def test_progress_is_reported_picture_by_picture(tmp_path: Path) -> None:
    seen: list[int] = []
    paths = draw_pictures(tmp_path, sizes=[(8, 8)] * 5)
    build(paths, tmp_path, num_workers=2, on_progress=seen.append)
    build(paths, tmp_path, memory_budget_bytes=0, on_progress=seen.append)
    assert seen == [1, 2, 3, 4, 5] * 2


@pytest.mark.parametrize("budget", [10**9, 0])
def test_a_broken_picture_is_named_and_leaves_no_file(tmp_path: Path, budget: int) -> None:
    paths = draw_pictures(tmp_path, sizes=[(8, 8)] * 3)
    paths[1].write_bytes(b"not a picture")
    folder = tmp_path / "cache"
    folder.mkdir()
    with pytest.raises(BadImageError, match=r"001\.png"):
        build(paths, folder, num_workers=2, memory_budget_bytes=budget)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path: Path) -> None:
    paths = draw_pictures(tmp_path, sizes=[(8, 8)])
    with pytest.raises(ResourceError, match=r"cannot be written in .*000\.png"):
        build(paths, paths[0] / "cache", memory_budget_bytes=0)


def test_an_empty_list_gives_an_empty_cache(tmp_path: Path) -> None:
    assert len(build([], tmp_path)) == 0
