"""Where pictures come from: the data set that the settings describe, or what a user points at."""

import glob
from pathlib import Path

from us_anomaly.data.categories import choose
from us_anomaly.data.demo import read_demo
from us_anomaly.data.folder import read_folder
from us_anomaly.data.kolektor_sdd import read_kolektor_sdd
from us_anomaly.data.listing import contents, is_image, list_images
from us_anomaly.data.mvtec import mvtec_categories, read_mvtec
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


def read_samples(data: DataSettings) -> list[Sample]:
    """Return the pictures of the data set, sorted by filename, whatever its layout.

    Raises:
        DataError: There is nothing usable under `data.root`; the message says what was looked for and what was found.
    """
    root = Path(data.root)
    allow = data.allow_outside_root
    if not root.is_dir() and not isinstance(data, DemoData):
        raise DataError(f"data.root={root}: {contents(root)}")
    match data:
        case FolderData():
            return read_folder(
                root, images=data.images, masks=data.masks, normal=data.normal, allow_outside_root=allow
            )
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
                f"no adapter reads {type(data).__name__}: choose data=folder, csv, mvtec or demo"
            )


def list_categories(data: DataSettings) -> list[str]:
    """Return the categories that `data.category` means: null or `all`, a name, names with commas, or a pattern.

    Raises:
        DataError: `data.root` holds none, or none that is meant.
        SettingsError: The layout has no categories.
    """
    root = Path(data.root)
    match data:
        case MvtecData():
            return choose(root, data.category, mvtec_categories(root, normal=data.normal))
        case VisaData():
            return choose(root, data.category, visa_categories(root))
        case _:
            raise SettingsError(
                f"the layout of data={data.name} has no categories; data=mvtec and data=visa have"
            )


def find_images(path_or_glob: str) -> list[Path]:
    """Return the pictures that a file name, a folder (with all below it) or a glob pattern means, sorted.

    What exists under the very name is taken first, so that brackets in file names do no harm.

    Raises:
        DataError: It matches no picture.
    """
    path = Path(path_or_glob).expanduser()
    if _exists(path):
        if not path.is_dir():
            return [path]
        found = list_images(path)
        if not found:
            raise DataError(f"inference.input={path_or_glob}: no pictures in this folder, {contents(path)}")
        return found
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (absolute patterns)
    found = [match for match in matches if match.is_file() and is_image(match)]
    for match in matches:
        if match.is_dir():
            found += list_images(match)
    if not found:
        reason = f"its {len(matches)} matches hold no picture" if matches else "no such file, folder or match"
        raise DataError(f"inference.input={path_or_glob}: {reason}")
    return sorted(set(found), key=lambda match: match.as_posix())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
