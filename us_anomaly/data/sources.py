"""Where pictures come from: the data set that the settings describe, or what a user points at."""

import glob
import itertools
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from us_anomaly.data.categories import choose
from us_anomaly.data.demo import read_demo
from us_anomaly.data.folder import read_folder
from us_anomaly.data.grouping import grouped
from us_anomaly.data.kolektor_sdd import read_kolektor_sdd
from us_anomaly.data.listing import (
    Listing,
    contents,
    exists,
    holds_results,
    is_image,
    look_through,
    may_be_picture,
    some,
)
from us_anomaly.data.mvtec import incomplete_categories, mvtec_categories, read_mvtec
from us_anomaly.data.other_files import FORMATS, MAX_OTHERS_NAMED, others_in_words
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
    _refuse_unwritable([sample.filename for sample in samples])
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
            raise SettingsError(
                f"no adapter reads {type(data).__name__}: `usad help data` lists the layouts that are read"
            )


def _refuse_unwritable(names: Sequence[str]) -> None:
    unwritable = [repr(name) for name in names if not _is_utf8(name)]
    if unwritable:
        raise DataError(f"file names that are not UTF-8 cannot be written down, rename them: {some(unwritable)}")


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


def find_images(path_or_glob: str, *, key: str) -> list[Path]:
    """Return the pictures that a file name, a folder (with all below it) or a glob pattern means, sorted.

    What exists under the very name is taken first, so that brackets in file names do no harm. `**` stands for
    any number of folders. `key` is the setting that names them.

    Raises:
        DataError: It matches no picture.
    """
    found = _look_for(path_or_glob, without_results=False)
    _refuse_nothing(found, path_or_glob, key=key)
    return found.pictures


def find_inputs(path_or_glob: str) -> list[Path]:
    """Return the pictures that `inference.input` means, as `find_images`, without the results of commands below a folder.

    What is left out is told: folders of results, and files that may be pictures of formats that are not read.

    Raises:
        DataError: It matches no picture, or one whose name cannot be written down.
    """
    found = _look_for(path_or_glob, without_results=True)
    if found.results:
        holds = "it holds" if len(found.results) == 1 else "they hold"
        named = some([path.as_posix() for path in found.results], limit=MAX_OTHERS_NAMED)
        log.warning("left out, because %s results of usad: %s", holds, named)
    if found.others and found.pictures:  # else the error tells them
        log.warning("%s", others_in_words(found.others, base=_fixed_part(Path(path_or_glob))))
    _refuse_nothing(found, path_or_glob, key="inference.input")
    _refuse_unwritable([str(path) for path in found.pictures])
    return found.pictures


def _refuse_nothing(found: Listing, path_or_glob: str, *, key: str) -> None:
    if found.pictures:
        return
    path = Path(path_or_glob)
    if path_or_glob and exists(path):
        formats = f"; pictures are {FORMATS} by their names" if found.others else ""
        raise DataError(f"{key}={path_or_glob}: no pictures in this folder, {contents(path)}{formats}")
    others = f"; {others_in_words(found.others, base=_fixed_part(path))}" if found.others else ""
    raise DataError(f"{key}={path_or_glob}: no such file or folder, and no picture matches it{others}")


def _look_for(path_or_glob: str, *, without_results: bool) -> Listing:
    """Return what a file name, a folder or a glob pattern means, sorted."""
    path = Path(path_or_glob)
    if path_or_glob and exists(path):
        return look_through(path, without_results=without_results) if path.is_dir() else Listing(pictures=[path])
    found = Listing()
    if not path_or_glob:  # Path("") would be the current folder
        return found
    fixed = path.parts[: path.parts.index("**")] if "**" in path.parts else path.parts
    rest = path.parts[len(fixed) :]  # not left to glob, which would follow links in circles for hours
    base = Path(*fixed)
    for match in map(Path, glob.glob(str(base))):  # noqa: PTH207 (Path.glob takes no absolute patterns)
        if match.is_dir() and without_results and glob.has_magic(base.name) and holds_results(match):
            found.results.append(match)
        elif match.is_dir():
            below = look_through(match, without_results=without_results)
            found.extend(_those_that_match(below, match, rest) if rest else below)
        elif not rest and is_image(match):
            found.pictures.append(match)
        elif not rest and may_be_picture(match):
            found.others.append(match)
    return found.in_order()


def _those_that_match(below: Listing, folder: Path, rest: Sequence[str]) -> Listing:
    """Return the files below a folder that match the rest of a pattern, with all folders that were left out."""
    pictures, others = (
        [path for path in paths if _matches(path.relative_to(folder).parts, rest)]
        for paths in (below.pictures, below.others)
    )
    return Listing(pictures=pictures, others=others, results=below.results)


def _fixed_part(path: Path) -> Path:
    """Return a folder itself, or the folder in which a glob pattern looks."""
    return path if exists(path) else Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, where `**` takes any number of parts."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[start:], patterns[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])
