"""A look at every picture and mask of a data set before anything is made of them."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from us_anomaly.data.images.brightness import WHITE_LEVELS
from us_anomaly.data.images.decoding import read_with_white_level
from us_anomaly.data.images.masks import load_mask, same_proportions
from us_anomaly.data.sample import Sample
from us_anomaly.errors import BadImageError, DataError
from us_anomaly.settings import OnBadImage

log = logging.getLogger(__name__)
MAX_NAMED = 20
MAX_LEVELS_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class BadImage:
    """A sample that cannot be used because its picture or its mask cannot be read."""

    filename: str
    """The picture of the sample."""
    reason: str
    """Why; it names the mask if that is the bad file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a look at one sample found."""

    sample: Sample
    """The sample."""
    reason: str | None
    """Why it cannot be used; None if it can."""
    content_hash: str | None
    """Hash of size and upright RGB pixels: equal for the same picture in files of any lossless format."""
    remarks: tuple[str, ...]
    """What kinds of odd masks its mask belongs to."""
    size: tuple[int, int] | None = None
    """Height and width of the upright picture; None where it cannot be read."""
    white_level: float | None = None
    """Which value is white in a picture of more than 8 bits per channel."""


def inspect_images(
    root: Path, samples: Sequence[Sample], *, max_pixels: int, num_workers: int, white_level: float | None = None
) -> list[Inspection]:
    """Decode every picture and mask in `num_workers` threads (0 or 1: in this one); keep the order."""

    def inspect(sample: Sample) -> Inspection:
        return _inspect(root, sample, max_pixels, white_level)

    if num_workers <= 1:
        return [inspect(sample) for sample in samples]
    with ThreadPoolExecutor(max_workers=num_workers) as pool:
        return list(pool.map(inspect, samples))


def keep_good(inspections: Iterable[Inspection], *, on_bad_image: OnBadImage) -> tuple[list[Sample], list[BadImage]]:
    """Divide samples into those that can be used and those that cannot; warn about odd masks and brightness.

    Raises:
        DataError: `on_bad_image` is `error` and there are bad ones (all of them are counted, the first 20
            named), or every picture is bad.
    """
    good, bad, remarks, levels = [], [], defaultdict(list), defaultdict(list)
    for inspection in inspections:
        filename = inspection.sample.filename
        if inspection.reason is None:
            good.append(inspection.sample)
        else:
            bad.append(BadImage(filename=filename, reason=inspection.reason))
        if inspection.white_level is not None:
            levels[inspection.white_level].append(filename)
        for remark in inspection.remarks:
            remarks[remark].append(filename)
    if bad and (on_bad_image is OnBadImage.error or not good):
        raise DataError(_complaint(bad, nothing_left=not good))
    for remark, filenames in remarks.items():
        log.warning("%s: %d, for example that of %s", remark, len(filenames), filenames[0])
    if len(levels) > 1:
        _warn_about_brightness(levels)
    return good, bad


def _warn_about_brightness(levels: dict[float, list[str]]) -> None:
    found = [f"{level:g} in {len(names)}, for example {names[0]}" for level, names in sorted(levels.items())]
    log.warning(
        "pictures of more than 8 bits are not brought to one brightness, because their largest values differ: white is %s; the "
        "same grey looks different in them: %s",
        "; ".join(found[:MAX_LEVELS_NAMED]) + ("; ..." if len(found) > MAX_LEVELS_NAMED else ""),
        f"say what is white in all of them, here data.white_level={max(levels):g}"
        if set(levels) <= set(WHITE_LEVELS)
        else "save all of them as 8 bits by one scale",
    )


def find_duplicates(inspections: Iterable[Inspection]) -> list[list[str]]:
    """Return groups of filenames that show the very same picture, groups and names sorted."""
    by_content = defaultdict(list)
    for inspection in inspections:
        if inspection.content_hash is not None:
            by_content[inspection.content_hash].append(inspection.sample.filename)
    return sorted(sorted(names) for names in by_content.values() if len(names) > 1)


def _inspect(root: Path, sample: Sample, max_pixels: int, white_level: float | None) -> Inspection:
    path = root / sample.filename
    try:
        pixels, white = read_with_white_level(path, max_pixels=max_pixels, white_level=white_level)
    except BadImageError as error:
        return Inspection(sample=sample, reason=_without_path(error, path), content_hash=None, remarks=())
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=20)
    digest.update(pixels.data.cast("B"))
    remarks: tuple[str, ...] = ()
    if sample.mask_path is not None:
        try:
            remarks = _mask_remarks(root / sample.mask_path, sample, pixels.shape[:2], max_pixels)
        except BadImageError as error:
            return Inspection(sample=sample, reason=f"its mask {error}", content_hash=digest.hexdigest(), remarks=())
    return Inspection(
        sample=sample,
        reason=None,
        content_hash=digest.hexdigest(),
        remarks=remarks,
        size=(pixels.shape[0], pixels.shape[1]),
        white_level=white,
    )


def _mask_remarks(path: Path, sample: Sample, size: tuple[int, ...], max_pixels: int) -> tuple[str, ...]:
    mask = load_mask(path, max_pixels=max_pixels)
    has_defect = bool(mask.pixels.any())
    is_scaled = same_proportions(mask.pixels.shape, size)
    remarks = {
        "masks of other proportions than their picture, which `usad evaluate` refuses": not is_scaled,
        "masks that are not binary, cut at half of their range": not mask.is_binary,
        "masks of another size than their picture": mask.pixels.shape != size and is_scaled,
        "masks that mark nothing in a picture labelled anomalous": sample.is_anomalous and not has_defect,
        "masks that mark a defect in a picture labelled normal": not sample.is_anomalous and has_defect,
    }
    return tuple(remark for remark, applies in remarks.items() if applies)


def _without_path(error: BadImageError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _complaint(bad: Sequence[BadImage], *, nothing_left: bool) -> str:
    count = "1 picture cannot" if len(bad) == 1 else f"{len(bad)} pictures cannot"
    named = [f"  {image.filename}: {image.reason}" for image in bad[:MAX_NAMED]]
    if len(bad) > MAX_NAMED:
        named.append(f"  and {len(bad) - MAX_NAMED} more")
    way_out = "none is left" if nothing_left else "repair or remove them, or leave them out with data.on_bad_image=skip"
    return "\n".join([f"{count} be used ({way_out}):", *named])
