"""Where pictures come from: the data set that the settings describe, or what a user points at."""

import glob
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from us_anomaly.data.categories import choose
from us_anomaly.data.demo import read_demo
from us_anomaly.data.folder import read_folder
from us_anomaly.data.grouping import grouped
from us_anomaly.data.kolektor_sdd import read_kolektor_sdd
from us_anomaly.data.listing import contents, exists, is_image, list_images, some
from us_anomaly.data.mvtec import incomplete_categories, mvtec_categories, read_mvtec
from us_anomaly.data.sample import Sample
from us_anomaly.data.table import read_table
from us_anomaly.data.visa import read_visa, visa_categories
from us_anomaly.errors import DataError, SettingsError
from us_anomaly.settings import (
    CsvData,
    DataSettings,
    DemoData,
    FolderData,
    KolektorSddData,
    MvtecData,
    VisaData,
)

log = logging.getLogger(__name__)


def read_samples(data: DataSettings) -> list[Sample]:
    """Return the pictures of the data set, sorted by filename, whatever its layout.

    Raises:
        DataError: There is nothing usable under `data.root`; the message says what was looked for and what
            was found.
    """
    root = Path(data.root)
    if not isinstance(data, DemoData) and not (exists(root) and root.is_dir()):
        raise DataError(f"data.root={root}: {contents(root)}")
    samples = _read(root, data)
    unwritable = [repr(sample.filename) for sample in samples if not _is_utf8(sample.filename)]
    if unwritable:
        raise DataError(f"file names that are not UTF-8 cannot be written down, rename them: {some(unwritable)}")
    return samples if data.group_pattern is None else grouped(samples, pattern=data.group_pattern)


def _read(root: Path, data: DataSettings) -> list[Sample]:
    allow = data.allow_outside_root
    match data:
        case FolderData():
            return read_folder(root, images=data.images, masks=data.masks, normal=data.normal, allow_outside_root=allow)
        case CsvData():
            return read_table(root, file=data.file, allow_outside_root=allow)
        case MvtecData():
            return read_mvtec(root, category=data.category, normal=data.normal, allow_outside_root=allow)
        case VisaData():
            return read_visa(root, category=data.category, table=data.table, allow_outside_root=allow)
        case KolektorSddData():
            return read_kolektor_sdd(root, max_pixels=data.max_image_pixels, allow_outside_root=allow)
        case DemoData():
            return read_demo(
                root,
                image_side_px=data.image_side_px,
                num_train=data.num_train,
                num_test_normal=data.num_test_normal,
                num_test_anomalous=data.num_test_anomalous,
            )
        case _:
            raise SettingsError(f"no adapter reads {type(data).__name__}: choose data=folder, csv, mvtec or demo")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def list_categories(data: DataSettings) -> list[str]:
    """Return the categories that `data.category` means: null or `all`, or names and patterns with commas.

    Raises:
        DataError: `data.root` holds none, or none that is meant.
        SettingsError: The layout has no categories.
    """
    root = Path(data.root)
    match data:
        case MvtecData():
            chosen = choose(root, data.category, mvtec_categories(root, normal=data.normal))
            if incomplete := incomplete_categories(root, normal=data.normal):
                log.warning("left out, because they hold no train/%s: %s", data.normal, some(incomplete))
            return chosen
        case VisaData():
            return choose(root, data.category, visa_categories(root))
        case _:
            raise SettingsError(f"the layout of data={data.name} has no categories; data=mvtec and data=visa have")


def find_images(path_or_glob: str, *, key: str = "inference.input") -> list[Path]:
    """Return the pictures that a file name, a folder (with all below it) or a glob pattern means, sorted.

    What exists under the very name is taken first, so that brackets in file names do no harm. `**` stands for
    any number of folders. `key` is the setting that names them.

    Raises:
        DataError: It matches no picture.
    """
    path = Path(path_or_glob)
    if path_or_glob and exists(path):
        if not path.is_dir():
            return [path]
        found = list_images(path)
        if not found:
            raise DataError(f"{key}={path_or_glob}: no pictures in this folder, {contents(path)}")
        return found
    found = _matching(path) if path_or_glob else []  # Path("") would be the current folder
    if not found:
        raise DataError(f"{key}={path_or_glob}: no such file or folder, and no picture matches it")
    return sorted(set(found), key=lambda match: match.as_posix())


def _matching(pattern: Path) -> list[Path]:
    """Return the pictures that match, and those in folders that match."""
    if "**" not in pattern.parts:
        found = []
        for match in map(Path, glob.glob(str(pattern))):  # noqa: PTH207 (Path.glob takes no absolute patterns)
            found += list_images(match) if match.is_dir() else [match] if is_image(match) else []
        return found
    fixed = pattern.parts[: pattern.parts.index("**")]  # glob would follow links in circles for hours
    base = Path(*fixed)
    folders = [Path(match) for match in glob.glob(str(base))]  # noqa: PTH207
    rest = pattern.parts[len(fixed) :]
    return [
        path for folder in folders for path in list_images(folder) if _matches(path.relative_to(folder).parts, rest)
    ]


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, where `**` takes any number of parts."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[start:], patterns[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])
