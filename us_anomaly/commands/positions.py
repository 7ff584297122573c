"""What is normal at each position, measured on training pictures: the first part of `usad calibrate`."""

import functools
import logging
from dataclasses import replace
from pathlib import Path

from us_anomaly.commands.detectors import detector_of_scales
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make, read_split
from us_anomaly.commands.training_images import cached_images
from us_anomaly.data.augmentation import build_transforms
from us_anomaly.data.image_cache import ImageCache
from us_anomaly.errors import DataError
from us_anomaly.models.compute import choose_compute
from us_anomaly.reporting.progress import progress
from us_anomaly.run_dir import RunDir
from us_anomaly.scoring.position_statistics import (
    PositionGatherer,
    load_position_statistics,
    measured_precision,
    save_position_statistics,
)
from us_anomaly.settings import Settings

log = logging.getLogger(__name__)

MAX_POSITION_PICTURES = 300
"""What is normal at each position is measured on at most so many training pictures, evenly drawn."""
MIN_POSITION_PICTURES = 2


def make_position_statistics(settings: Settings, recipes: Recipes) -> None:
    """Measure what is normal at each position, for every patch size, on training pictures.

    Validation shows the same pattern on fewer pictures, and thresholds are measured on it: it must be new to the detector.
    """
    run_dir = RunDir(settings.run_dir)
    pictures = functools.cache(lambda: _pictures_for_positions(settings))
    precision = choose_compute(settings.runtime).precision
    for patch_size in settings.scales:
        artifact = run_dir.position_statistics(patch_size)

        def build(patch_size: int = patch_size, artifact: Path = artifact) -> None:
            _measure_positions(settings, patch_size, artifact, pictures())

        make(
            artifact,
            recipes.position_statistics(patch_size),
            build,
            settings=settings,
            is_precious=False,
            anew=settings.overwrite,
        )
        if (measured := measured_precision(artifact)) != precision:
            log.warning(
                "%s was measured in %s, and this computes in %s, so scores differ in their last digits; "
                "`usad calibrate overwrite=true` measures it again",
                artifact,
                measured,
                precision,
            )


def _pictures_for_positions(settings: Settings) -> ImageCache:
    """Return training pictures, evenly drawn, ready for the networks.

    Raises:
        DataError: There are too few, or they differ in size.
    """
    samples = read_split(RunDir(settings.run_dir), "train")
    count = min(len(samples), MAX_POSITION_PICTURES)
    if count < MIN_POSITION_PICTURES:
        raise DataError(
            f"scoring.per_position=true needs at least {MIN_POSITION_PICTURES} training pictures, and there are {count}: "
            "set it to false, or give other split.ratios"
        )
    samples = [samples[number * len(samples) // count] for number in range(count)]
    pipeline = build_transforms(settings.augmentation.evaluation, key="augmentation.evaluation", patch_size=None)
    cache = cached_images(settings, samples, pipeline, description="decoding")
    sizes = ["x".join(map(str, cache[index].shape[1:])) for index in range(len(cache))]
    for sample, size in zip(samples, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"scoring.per_position=true needs pictures of one size, and for the networks {samples[0].filename} has "
                f"{sizes[0]} pixels and {sample.filename} {size}: set it to false, or give augmentation.evaluation a Resize "
                "to one height and width"
            )
    return cache


def _measure_positions(settings: Settings, patch_size: int, artifact: Path, cache: ImageCache) -> None:
    """Measure the position statistics of one patch size and write them to `artifact`."""
    detector = detector_of_scales(settings, [patch_size], scoring=replace(settings.scoring, per_position=False))
    gatherer = PositionGatherer(max_components=settings.scoring.position_components)
    with progress(f"scoring training (p={patch_size})", len(cache), enabled=settings.runtime.progress) as on_step:
        for index in range(len(cache)):
            gatherer.add(detector.raw_maps(cache[index])[patch_size])
            on_step(index + 1, {})
    precision = detector.compute.precision
    save_position_statistics(artifact, gatherer.statistics(), num_images=len(cache), precision=precision)


def agreement(positions: dict[int, Path]) -> str:
    """Return how much of the error maps is the same in all pictures, at each patch size, and how many components they have."""
    parts = []
    for size, path in positions.items():
        known = load_position_statistics(path).error
        share = "not measured" if known.alignment is None else f"{known.alignment:.0%}"
        number = 0 if known.components is None else len(known.components.directions)
        parts.append(f"p={size}: {share}, {number or 'no'} component{'' if number == 1 else 's'}")
    return "; ".join(parts)
