"""Layout *visa*: VisA as downloaded: `<category>/Data/Images/{Normal,Anomaly}` and tables in `split_csv/`."""

from pathlib import Path

from us_anomaly.data.categories import category_folder
from us_anomaly.data.listing import contents, look_through, refuse_outside, relative, some, subfolders
from us_anomaly.data.mask_lookup import MaskIndex
from us_anomaly.data.other_files import tell_left_out
from us_anomaly.data.sample import NORMAL_TYPE, Sample, Split
from us_anomaly.data.table import ANOMALOUS_TYPE, Fault, Row, read_rows, refuse_faults
from us_anomaly.errors import DataError

_COLUMNS = ("object", "split", "label", "image", "mask")
_SPLITS: dict[str, Split] = {"train": "train", "test": "test"}


def read_visa(root: Path, *, category: str | None, table: str, allow_outside_root: bool = False) -> list[Sample]:
    """Return the pictures of one category, sorted by filename.

    The split is the one of `table` (columns object, split, label, image, mask); where that file does not
    exist, pictures have no split and `usad split` divides them by ratio.

    Raises:
        DataError: The category is not given or not there, the table has wrong rows, or a path leaves `root`.
    """
    categories = visa_categories(root)
    if category is None:
        raise DataError(_no_category(root, categories))
    folder = category_folder(root, category, categories)
    path = root / table
    samples = _from_table(root, path, category) if path.is_file() else _from_folders(root, folder)
    if not samples:
        raise DataError(f"data.root={root}: no pictures of {category}; in {folder}, {contents(folder)}")
    paths = [path for sample in samples for path in (sample.filename, sample.mask_path) if path is not None]
    refuse_outside(root, paths, allow_outside_root=allow_outside_root)
    return sorted(samples, key=lambda sample: sample.filename)


def visa_categories(root: Path) -> list[str]:
    """Return the names of the folders below `root` that are categories, sorted."""
    return [name for name in subfolders(root) if (root / name / "Data" / "Images" / "Normal").is_dir()]


def _from_table(root: Path, table: Path, category: str) -> list[Sample]:
    samples = []
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    for row in read_rows(table, required=_COLUMNS):
        if row.cells["object"] == category:
            fault = _fault(root, row, seen)
            if fault:
                faults.append(fault)
            else:
                is_anomalous = row.cells["label"] != "normal"
                samples.append(
                    Sample(
                        filename=row.cells["image"],
                        is_anomalous=is_anomalous,
                        defect_type=ANOMALOUS_TYPE if is_anomalous else NORMAL_TYPE,
                        mask_path=row.cells["mask"] or None,
                        split=_SPLITS[row.cells["split"]],
                    )
                )
    refuse_faults(table, faults)
    return samples


def _fault(root: Path, row: Row, seen: dict[str, int]) -> Fault | None:
    """Return what is wrong with a row; `seen` remembers the line of each picture."""
    cells = row.cells
    if cells["split"] not in _SPLITS:
        return Fault(row.line, "split must be train or test", cells["split"])
    if cells["label"] not in ("normal", "anomaly"):
        return Fault(row.line, "label must be normal or anomaly", cells["label"])
    if not cells["image"]:
        return Fault(row.line, "image is empty")
    first = seen.setdefault(cells["image"], row.line)
    if first != row.line:
        return Fault(row.line, f"{cells['image']} is already in line {first}")
    missing = [path for path in (cells["image"], cells["mask"]) if path and not (root / path).is_file()]
    return Fault(row.line, f"{some(missing)} does not exist in {root}") if missing else None


def _from_folders(root: Path, folder: Path) -> list[Sample]:
    images = folder / "Data" / "Images"
    index = MaskIndex(root, folder / "Data" / "Masks")
    samples = []
    listings = {kind: look_through(images / kind, without_results=True) for kind in ("Normal", "Anomaly")}
    tell_left_out(images, listings, root=root)
    for kind, is_anomalous in (("Normal", False), ("Anomaly", True)):
        for path in listings[kind].pictures:
            samples.append(
                Sample(
                    filename=relative(root, path),
                    is_anomalous=is_anomalous,
                    defect_type=ANOMALOUS_TYPE if is_anomalous else NORMAL_TYPE,
                    mask_path=index.find(path, below=images),
                )
            )
    index.warn()
    return samples


def _no_category(root: Path, categories: list[str]) -> str:
    if not categories:
        return f"data.root={root}: looked for <category>/Data/Images/Normal/, but {contents(root)}"
    return (
        f"data.root={root} holds {len(categories)} categories: {some(categories)}. "
        f"Choose one, for example data.category={categories[0]}, "
        "or all of them in turn with -m data.category=all"
    )
