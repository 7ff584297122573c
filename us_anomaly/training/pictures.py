"""Pictures of each training step: what teacher and students see.

Shapes: B pictures, H W pixels; every batch is float, normalised, (B, 3, H, W).
"""

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from us_anomaly.data.augmentation import Pipeline, build_transforms
from us_anomaly.data.generic import (
    FolderPictures,
    GenericPictures,
    MixedPictures,
    PictureSource,
)
from us_anomaly.data.image_cache import ImageCache
from us_anomaly.data.sources import find_images
from us_anomaly.errors import DataError, SettingsError
from us_anomaly.settings import BUILT_IN_PICTURES, TRAIN, Settings, TeacherPositions, TeacherSettings
from us_anomaly.training.course import Batches, epoch_indices, step_rng

PATCHES_PER_DRAWN_PICTURE = 16
PENALTY_SIDE_PX = 128
log = logging.getLogger(__name__)

FIRST_STEP = 1_000_000
"""Added to the number of a step in its seed: held-out batches have negative numbers, seeds must not."""


def student_batches(cache: ImageCache, pipeline: Pipeline, *, batch_size: int, seed: int) -> Batches:
    """Return the pictures of each student step: every epoch shows every training picture once, augmented."""

    def draw(step: int) -> Tensor:
        step_rng(seed, stage="train-students", step=step)
        indices = epoch_indices(len(cache), seed=seed, stage="train-students", step=step, batch_size=batch_size)
        return stacked([pipeline.suffix(cache[index]) for index in indices], key="students.batch_size")

    return draw


def penalty_batches(settings: Settings) -> Batches | None:
    """Return the generic pictures of each student step, on which students must answer the mean descriptor; None without."""
    students = settings.students
    if students.penalty_images is None:
        return None
    if students.penalty_weight == 0:
        log.warning(
            "`students.penalty_images` changes nothing with students.penalty_weight=0: set it, for example to 1"
        )
        return None
    evaluation = build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    source = picture_source(
        {students.penalty_images: 1.0},
        size_px=(PENALTY_SIDE_PX, PENALTY_SIDE_PX),
        cache=None,
        max_pixels=settings.data.max_image_pixels,
        key="students.penalty_images",
    )
    return _crops(source, evaluation, count=1, seed=(settings.seed, 0))


def generic_inputs(settings: Settings, *, count: int) -> list[Tensor]:
    """Return generic pictures (3, H, W), normalised like others, that no step of a penalty sees.

    Raises:
        UsadError: The packages that hold the photographs are not installed.
    """
    evaluation = build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    draw = _crops(GenericPictures(side_px=PENALTY_SIDE_PX), evaluation, count=1, seed=(settings.seed, 0))
    return [draw(-1 - number)[0] for number in range(count)]


def stacked(pictures: Sequence[Tensor], *, key: str) -> Tensor:
    """Stack pictures (3, H, W) to a batch.

    Raises:
        DataError: Their sizes differ; `key` is the setting that asks for more than one at once.
    """
    sizes = {tuple(picture.shape[-2:]) for picture in pictures}
    if len(sizes) > 1:
        raise DataError(
            f"pictures of different sizes ({', '.join(f'{h}x{w}' for h, w in sorted(sizes)[:3])}, ...) do not fit into one "
            f"batch: set {key}=1, or let the transform list begin with Resize to a fixed height and width"
        )
    return torch.stack(list(pictures))


def teacher_batches(settings: Settings, *, patch_size: int, cache: ImageCache | None, seed: int) -> Batches:
    """Return the pictures of each distillation step: patches, or crops whose grid positions are patches.

    Args:
        settings: `teacher` says what the pictures are, `augmentation` how they are made.
        patch_size: Side of the patches.
        cache: The training pictures; needed when `train` is among the sources.
        seed: Seed of the run.
    """
    sources, max_pixels = settings.teacher.image_sources(), settings.data.max_image_pixels
    evaluation = build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    if settings.teacher.positions is TeacherPositions.dense:
        side_px = settings.teacher.crop_size_px
        source = picture_source(sources, size_px=(side_px, side_px), cache=cache, max_pixels=max_pixels)
        return _crops(source, evaluation, count=settings.teacher.batch_size, seed=(seed, patch_size))
    pipeline = build_transforms(settings.augmentation.teacher, key="augmentation.teacher", patch_size=patch_size)
    if list(sources) == [TRAIN]:
        assert cache is not None
        return _epochs_of_patches(cache, pipeline, settings.teacher, seed=seed)
    source = picture_source(sources, size_px=settings.input_size(), cache=cache, max_pixels=max_pixels)
    return _patches(source, pipeline, count=settings.teacher.batch_size, seed=seed)


def picture_source(
    sources: dict[str, float],
    *,
    size_px: tuple[int, int],
    cache: ImageCache | None,
    max_pixels: int,
    key: str = "teacher.images",
) -> PictureSource:
    """Return the stream of pictures that `teacher.images` or `students.penalty_images` names, of one height and width.

    Args:
        sources: Names with their weights.
        size_px: Height and width.
        cache: The training pictures, where `train` is among the sources.
        max_pixels: Files of more pixels in a folder of pictures are refused.
        key: The setting that names the sources.

    Raises:
        DataError: A folder holds no pictures.
    """
    parts: list[PictureSource] = []
    for name in sources:
        match name:
            case _ if name == TRAIN and cache is not None:
                parts.append(TrainingPictures(cache, size_px=size_px))
            case _ if name in BUILT_IN_PICTURES:
                generic = GenericPictures(side_px=max(size_px), photograph_fraction=BUILT_IN_PICTURES[name])
                parts.append(_Corners(generic, size_px=size_px))
            case _:
                folder = FolderPictures(_folder(name, key=key), side_px=max(size_px), max_pixels=max_pixels)
                parts.append(_Corners(folder, size_px=size_px))
    return parts[0] if len(parts) == 1 else MixedPictures(parts, list(sources.values()))


def require_sources(names: Iterable[str], *, key: str) -> None:
    """Refuse sources of pictures that are not there, without looking into folders.

    Raises:
        SettingsError: A name is neither built in nor that of a folder.
    """
    for name in names:
        is_built_in = name in BUILT_IN_PICTURES or (name == TRAIN and key == "teacher.images")
        if not is_built_in and not Path(name).is_dir():
            built_in = ", ".join(BUILT_IN_PICTURES)
            raise SettingsError(f"`{key}` may name {built_in} and folders of pictures; there is no folder {name}")


def _folder(name: str, *, key: str) -> list[Path]:
    require_sources([name], key=key)
    return find_images(name, key=key)


class _Corners:
    """The top left corners of square pictures of a stream."""

    def __init__(self, source: PictureSource, *, size_px: tuple[int, int]) -> None:
        """Take pictures from `source` that are as large as the longer of both sides."""
        self._source = source
        self._height, self._width = size_px

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the next picture, uint8 (height, width, 3); `rng` decides everything."""
        return self._source.draw(rng)[: self._height, : self._width]


class TrainingPictures:
    """The normal training pictures as a stream: random crops, flipped and turned, by right angles where they are square."""

    def __init__(self, cache: ImageCache, *, size_px: tuple[int, int]) -> None:
        """Take pictures from `cache`; crops have this height and width, smaller pictures are mirrored until they do."""
        self._cache = cache
        self._size_px = size_px

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the next crop, uint8 (height, width, 3); `rng` decides everything."""
        return self.crop(int(rng.integers(len(self._cache))), rng)

    def crop(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Return a crop of one picture, uint8 (height, width, 3); `rng` decides where."""
        picture = self._cache[index]
        height, width = self._size_px
        is_square = height == width
        rows, cols = (min(wanted, there) for wanted, there in zip(self._size_px, picture.shape[-2:], strict=True))
        if is_square:
            rows = cols = min(rows, cols)
        top, left = (
            int(rng.integers(there - taken + 1)) for there, taken in zip(picture.shape[-2:], (rows, cols), strict=True)
        )
        crop = picture[:, top : top + rows, left : left + cols].permute(1, 2, 0).numpy()
        crop = np.rot90(crop, int(rng.integers(4)) if is_square else 2 * int(rng.integers(2)))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        missing = ((0, height - rows), (0, width - cols), (0, 0))
        if any(after for _, after in missing):
            crop = np.pad(crop, missing, mode="symmetric" if min(rows, cols) > 1 else "edge")
        return np.ascontiguousarray(crop)


def _crops(source: PictureSource, evaluation: Pipeline, *, count: int, seed: tuple[int, int]) -> Batches:
    """Crops of a stream, normalised like pictures at evaluation."""

    def draw(step: int) -> Tensor:
        rng = np.random.default_rng([*seed, step + FIRST_STEP])  # the transforms draw nothing
        pictures = [torch.tensor(source.draw(rng)).permute(2, 0, 1) for _ in range(count)]
        return torch.stack([evaluation.suffix(picture) for picture in pictures])

    return draw


def _patches(source: PictureSource, pipeline: Pipeline, *, count: int, seed: int) -> Batches:
    """Patches of a stream, several from each picture, made by the teacher's transform list."""
    num_pictures = max(2, math.ceil(count / PATCHES_PER_DRAWN_PICTURE))  # the triplet loss compares pictures

    def draw(step: int) -> Tensor:
        rng = step_rng(seed, stage="distill-teacher", step=step + FIRST_STEP)
        heads = [pipeline.prefix(source.draw(rng)) for _ in range(num_pictures)]
        return torch.stack([pipeline.suffix(heads[number % num_pictures]) for number in range(count)])

    return draw


def _epochs_of_patches(cache: ImageCache, pipeline: Pipeline, teacher: TeacherSettings, *, seed: int) -> Batches:
    """Random patches of the training pictures; an epoch takes `teacher.patches_per_image` from each."""
    num_patches = len(cache) * teacher.patches_per_image

    def draw(step: int) -> Tensor:
        step_rng(seed, stage="distill-teacher", step=step + FIRST_STEP)
        stage = "distill-teacher" if step >= 0 else "distill-teacher/held-out"
        position = step if step >= 0 else -1 - step
        indices = epoch_indices(num_patches, seed=seed, stage=stage, step=position, batch_size=teacher.batch_size)
        return torch.stack([pipeline.suffix(cache[index % len(cache)]) for index in indices])

    return draw


def evaluation_inputs(cache: ImageCache, pipeline: Pipeline) -> Iterable[Tensor]:
    """Yield each cached picture as the network sees it at evaluation."""
    return (pipeline.suffix(cache[index]) for index in range(len(cache)))
