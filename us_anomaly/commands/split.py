"""`usad split`: check every picture of the data set and divide it into train, val and test."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from us_anomaly.commands.picture_contents import files_of
from us_anomaly.commands.picture_list import write_left_out
from us_anomaly.commands.recipes import Recipes
from us_anomaly.commands.stage import make, read_split
from us_anomaly.data.images import BadImage, Inspection, find_duplicates, inspect_images, keep_good
from us_anomaly.data.images.brightness import WHITE_LEVELS
from us_anomaly.data.images.inspection import MAX_NAMED as MAX_BAD_NAMED
from us_anomaly.data.listing import some
from us_anomaly.data.sample import SPLITS, Sample, dump_labels
from us_anomaly.data.splitting import split_samples
from us_anomaly.errors import DataError
from us_anomaly.reporting.progress import progress
from us_anomaly.reporting.summary import Summary, print_table, show_summary
from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import write_text
from us_anomaly.settings import Settings

log = logging.getLogger(__name__)
MAX_NAMED = 5
PICTURES_AT_ONCE = 64
MAX_SQUEEZING = 1.5
"""Factor by which `image_size` may change the proportions of most pictures without a word; 4:3 to a square is 1.33."""
SIDE_UNIT_PX = 32
"""Sides that are proposed are multiples of this."""


def run(settings: Settings) -> None:
    """Write `split.jsonl`, unless the one that is there is what these settings make of these pictures.

    Raises:
        DataError: The data set cannot be used.
        StaleArtifactError: There is a split made from something else, and `overwrite` is false.
    """
    run_dir = RunDir(settings.run_dir)
    recipes = Recipes(settings)

    def build() -> None:
        write_text(run_dir.split, dump_labels(divide(settings, recipes.data.samples)))
        recipes.data.contents.note_split(files_of(recipes.data.samples, recipes.data.root))

    make(run_dir.split, recipes.split, build, settings=settings, is_precious=True)
    print_table(_table(read_split(run_dir)))
    written = [("split", run_dir.split), ("left out", run_dir.bad_images)]
    following = "finetune-backbone" if settings.finetuning.enabled else "distill-teacher"
    show_summary(Summary(command="split", written=written, next_command=following))


def divide(settings: Settings, samples: Sequence[Sample]) -> list[Sample]:
    """Look at every picture and divide those that can be used.

    Raises:
        DataError: Pictures cannot be decoded, or the split cannot be made.
    """
    inspections = _inspections(settings, samples)
    try:
        good, bad = keep_good(inspections, on_bad_image=settings.data.on_bad_image)
    except DataError:
        _list_all(inspections, RunDir(settings.run_dir))
        raise
    divided = split_samples(good, settings=settings.split, seed=settings.seed)
    duplicates = _duplicates(inspections, divided)
    _warn_about_contradictions(duplicates)
    _warn_about_crossing(duplicates)
    _warn_about_missing_masks(divided)
    _warn_about_squeezing(inspections, settings)
    _advise_a_white_level(inspections, settings)
    _write_bad_images(RunDir(settings.run_dir), bad)
    return divided


def _inspections(settings: Settings, samples: Sequence[Sample]) -> list[Inspection]:
    """Look at every picture, some at a time, so that progress can be told."""
    inspections: list[Inspection] = []
    with progress("checking pictures", len(samples), enabled=settings.runtime.progress) as on_step:
        on_step(0, {})  # or the first pictures would count as one
        for start in range(0, len(samples), PICTURES_AT_ONCE):
            inspections += inspect_images(
                Path(settings.data.root),
                samples[start : start + PICTURES_AT_ONCE],
                max_pixels=settings.data.max_image_pixels,
                white_level=settings.data.white_level,
                num_workers=settings.runtime.num_workers,
            )
            on_step(len(inspections), {})
    return inspections


def _advise_a_white_level(inspections: Sequence[Inspection], settings: Settings) -> None:
    """Say what was taken for white where that was guessed and the same for all; where it differs, there is a warning."""
    levels = {found.white_level for found in inspections if found.white_level is not None}
    if settings.data.white_level is None and len(levels) == 1 and levels <= set(WHITE_LEVELS):
        log.info(
            "pictures of more than 8 bits: %g was taken for white, a guess from the largest value of each; data.white_level=%g "
            "makes sure that darker and brighter pictures are read alike",
            *(2 * [*levels]),
        )


def _write_bad_images(run_dir: RunDir, bad: Sequence[BadImage]) -> None:
    if bad:
        write_left_out(run_dir.bad_images, {image.filename: image.reason for image in bad})
        first = f"{bad[0].filename}: {bad[0].reason}"
        log.warning("%d pictures left out, for example %s; all in %s", len(bad), first, run_dir.bad_images)
    else:
        run_dir.bad_images.unlink(missing_ok=True)


def _list_all(inspections: Sequence[Inspection], run_dir: RunDir) -> None:
    """Write down all bad pictures where the error message names the first ones only; no artifact is touched."""
    bad = {found.sample.filename: found.reason for found in inspections if found.reason is not None}
    if len(bad) > MAX_BAD_NAMED:
        path = run_dir.command_folder("split") / "bad_images.json"
        write_left_out(path, bad)
        log.warning("all %d bad pictures with their reasons: %s", len(bad), path)


def _duplicates(inspections: Sequence[Inspection], divided: Sequence[Sample]) -> list[list[Sample]]:
    """Return the groups of samples that show the very same picture."""
    kept = {sample.filename: sample for sample in divided}
    return [[kept[name] for name in group if name in kept] for group in find_duplicates(inspections)]


def _warn_about_contradictions(duplicates: Sequence[Sequence[Sample]]) -> None:
    """Warn about the same picture labelled normal and anomalous: one of both is wrong."""
    pairs = []
    for group in duplicates:
        first = {sample.is_anomalous: sample.filename for sample in reversed(group)}
        if len(first) == 2:
            pairs.append(f"{first[True]} = {first[False]}")
    if pairs:
        log.warning(
            "labels contradict, the same picture is there as anomalous and as normal: %s. "
            "Remove the wrong one of each pair and run `usad split` again with overwrite=true",
            some(pairs, limit=MAX_NAMED),
        )


def _warn_about_crossing(duplicates: Sequence[Sequence[Sample]]) -> None:
    """Warn about the same picture in two splits, which makes figures look better than they are."""
    crossing = [group for group in duplicates if len({sample.split for sample in group}) > 1]
    for group in crossing[:MAX_NAMED]:
        log.warning("the same picture in more than one split: %s", ", ".join(sample.filename for sample in group))
    if len(crossing) > MAX_NAMED:
        log.warning("and %d more pictures that are in more than one split", len(crossing) - MAX_NAMED)


def _warn_about_missing_masks(samples: Sequence[Sample]) -> None:
    """Warn where some masks are there and others are not, since the pixel metrics then know a part of the defects only."""
    anomalous = [sample for sample in samples if sample.is_anomalous]
    without = [sample.filename for sample in anomalous if sample.mask_path is None]
    if without and any(sample.mask_path for sample in samples):
        log.warning(
            "%d of %d anomalous pictures have no mask: %s. Those in test count for the image metrics, "
            "but are left out of the pixel metrics",
            len(without),
            len(anomalous),
            some(without, limit=MAX_NAMED),
        )


def _warn_about_squeezing(inspections: Sequence[Inspection], settings: Settings) -> None:
    """Warn where `image_size` changes the proportions of most pictures, and name one that keeps them at about the same cost."""
    height, width = settings.input_size()
    resized_to = [entry.params.get("size") for entry in settings.augmentation.evaluation if entry.name == "Resize"]
    proportions = sorted(found.size[1] / found.size[0] for found in inspections if found.size is not None)
    if resized_to != [[height, width]] or not proportions:
        return
    usual = proportions[len(proportions) // 2]
    squeezing = max(usual * height / width, width / (usual * height))
    if squeezing < MAX_SQUEEZING:
        return
    kept_height = math.sqrt(height * width / usual)
    sides = [max(1, round(side / SIDE_UNIT_PX)) * SIDE_UNIT_PX for side in (kept_height, kept_height * usual)]
    log.warning(
        "most pictures are %.2g times as wide as they are high, and image_size=[%d,%d] (height, width) squeezes them by a factor "
        "of %.2g: image_size=[%d,%d] nearly keeps their shape at the same cost",
        usual,
        height,
        width,
        squeezing,
        *sides,
    )


def _table(samples: Sequence[Sample]) -> Table:
    """Return the counts per split and kind of picture."""
    table = Table(title="Pictures")
    table.add_column("")
    for split in SPLITS:
        table.add_column(split, justify="right")
    counts = Counter((sample.split, sample.is_anomalous, sample.defect_type) for sample in samples)
    totals = Counter((sample.split, sample.is_anomalous) for sample in samples)
    table.add_row("normal", *(str(totals[split, False]) for split in SPLITS))
    table.add_row("anomalous", *(str(totals[split, True]) for split in SPLITS))
    for kind in sorted({sample.defect_type for sample in samples if sample.is_anomalous}):
        table.add_row(f"  {kind}", *(str(counts[split, True, kind]) for split in SPLITS))
    return table
