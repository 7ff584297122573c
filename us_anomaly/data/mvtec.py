"""Layout *mvtec*: train/good, test/good, test/<defect>, ground_truth/<defect>; also MVTec LOCO and BTAD."""

from pathlib import Path

from us_anomaly.data.categories import category_folder
from us_anomaly.data.listing import (
    contents,
    folders_of_pictures,
    list_images,
    look_through,
    refuse_hidden_defect,
    refuse_outside,
    relative,
    some,
    subfolders,
)
from us_anomaly.data.mask_lookup import MaskIndex
from us_anomaly.data.other_files import tell_left_out, warn_about_others
from us_anomaly.data.sample import NORMAL_TYPE, Sample, Split
from us_anomaly.errors import DataError

_FOLDERS: tuple[tuple[str, Split], ...] = (("train", "train"), ("validation", "val"), ("test", "test"))


def read_mvtec(
    root: Path, *, category: str | None = None, normal: str = "good", allow_outside_root: bool = False
) -> list[Sample]:
    """Return the pictures of one category with the split that its folders prescribe, sorted by filename.

    Masks are `ground_truth/<defect>/<stem>_mask.*`, `<stem>.*` or a folder `<stem>/` of several that are
    united.

    Args:
        root: Folder that filenames are relative to.
        category: Folder of the category below `root`; None if `root` itself is the category.
        normal: Name of the folders with good pictures.
        allow_outside_root: Accept links that leave `root`.

    Raises:
        DataError: The category cannot be found (the message lists those there are), `train` holds anything
            but good pictures, or a path leaves `root`.
    """
    if category is not None and category in incomplete_categories(root, normal=normal):
        raise DataError(_nothing_usable(root, root / category, normal))
    folder = category_folder(root, category, mvtec_categories(root, normal=normal))
    if not (folder / "train" / normal).is_dir():
        raise DataError(_nothing_usable(root, folder, normal))
    stray = [kind for kind in subfolders(folder / "train") if kind != normal and list_images(folder / "train" / kind)]
    if stray:
        raise DataError(
            f"{folder / 'train'} holds {some(stray)} besides {normal}: anomalous pictures never train, "
            "move them to test/"
        )
    index = MaskIndex(root, folder / "ground_truth")
    samples = []
    others = []
    for name, split in _FOLDERS:
        kinds = folders_of_pictures(folder / name, kept=normal)
        refuse_hidden_defect(folder / name, kinds, normal)
        listings = {kind: look_through(folder / name / kind, without_results=True) for kind in kinds}
        tell_left_out(folder / name, listings, root=root)
        for kind, listing in listings.items():
            others += listing.others
            for path in listing.pictures:
                samples.append(
                    Sample(
                        filename=relative(root, path),
                        is_anomalous=kind != normal,
                        defect_type=NORMAL_TYPE if kind == normal else kind,
                        mask_path=index.find(path, below=folder / name) if split == "test" or kind != normal else None,
                        split=split,
                    )
                )
    warn_about_others(others, root=root)
    if not samples:
        raise DataError(f"data.root={root}: no pictures in the folders train, validation and test of {folder}")
    index.warn()
    paths = [path for sample in samples for path in (sample.filename, sample.mask_path) if path is not None]
    refuse_outside(root, paths, allow_outside_root=allow_outside_root)
    return sorted(samples, key=lambda sample: sample.filename)


def mvtec_categories(root: Path, *, normal: str = "good") -> list[str]:
    """Return the names of the folders below `root` that are categories, sorted."""
    return [name for name in subfolders(root) if (root / name / "train" / normal).is_dir()]


def incomplete_categories(root: Path, *, normal: str = "good") -> list[str]:
    """Return the names of the folders below `root` that are a part of a category: some of its folders, but no good pictures."""
    parts = ("train", "test", "ground_truth")
    whole = mvtec_categories(root, normal=normal)
    return [
        name
        for name in subfolders(root)
        if name not in whole and name not in parts and any((root / name / part).is_dir() for part in parts)
    ]


def _nothing_usable(root: Path, folder: Path, normal: str) -> str:
    categories = mvtec_categories(root, normal=normal) if folder == root else []
    if categories:
        return (
            f"data.root={root} holds {len(categories)} categories: {some(categories)}. "
            f"Choose one, for example data.category={categories[0]}, "
            "or all of them in turn with -m data.category=all"
        )
    return (
        f"data.root={root}: looked for train/{normal}/ and test/ in {folder}, but {contents(folder)}. "
        "Choose another layout: data=folder, data=csv"
    )
