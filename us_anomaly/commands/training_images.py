"""The normal training pictures of a run, decoded and resized once."""

import functools
from collections.abc import Callable, Sequence

from us_anomaly.commands.stage import image_paths, read_split
from us_anomaly.data.augmentation import Pipeline, build_transforms
from us_anomaly.data.image_cache import ImageCache
from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError
from us_anomaly.reporting.progress import progress
from us_anomaly.run_dir import RunDir
from us_anomaly.settings import Settings, TransformSettings

TrainingImages = Callable[[], tuple[ImageCache, Pipeline]]


def training_images(settings: Settings, pipeline: Pipeline) -> ImageCache:
    """Decode the training split and apply the deterministic head of `pipeline`.

    Raises:
        DataError: The training split is empty.
        BadImageError: A file cannot be decoded any more.
    """
    samples = read_split(RunDir(settings.run_dir), "train")
    if not samples:
        raise DataError("the training split is empty: give other split.ratios and run `usad split overwrite=true`")
    return cached_images(settings, samples, pipeline, description="decoding")


def shared_training_images(settings: Settings, transforms: Sequence[TransformSettings], *, key: str) -> TrainingImages:
    """Return what gives the training pictures and their pipeline: decoded when first asked for, and kept for all patch sizes.

    Args:
        settings: The settings in force.
        transforms: A transform list without patches.
        key: The setting that holds it.
    """

    @functools.cache
    def pictures() -> tuple[ImageCache, Pipeline]:
        pipeline = build_transforms(transforms, key=key, patch_size=None)
        return training_images(settings, pipeline), pipeline

    return pictures


def cached_images(settings: Settings, samples: list[Sample], pipeline: Pipeline, *, description: str) -> ImageCache:
    """Decode pictures and apply the deterministic head of `pipeline`."""
    with progress(description, len(samples), enabled=settings.runtime.progress) as on_step:
        return ImageCache(
            image_paths(settings, samples),
            pipeline=pipeline,
            max_pixels=settings.data.max_image_pixels,
            white_level=settings.data.white_level,
            folder=RunDir(settings.run_dir).root,
            num_workers=settings.runtime.num_workers,
            on_progress=lambda done: on_step(done, {}),
        )
