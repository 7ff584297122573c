"""Layout *folder*: one subfolder of good pictures, one per kind of defect, and masks if there are any."""

from collections import defaultdict
from pathlib import Path

from us_anomaly.data.listing import (
    contents,
    list_images,
    refuse_hidden_defect,
    refuse_outside,
    relative,
    some,
    subfolders,
    without_suffix,
)
from us_anomaly.data.mask_lookup import MaskIndex
from us_anomaly.data.sample import NORMAL_TYPE, Sample
from us_anomaly.errors import DataError


def read_folder(root: Path, *, images: str, masks: str, normal: str, allow_outside_root: bool = False) -> list[Sample]:
    """Return the pictures of `images/<normal>/` and `images/<defect>/` below `root`, sorted by filename.

    The mask of `images/<defect>/<path>.png` is `masks/<defect>/<path>.*` (or `..._mask.*`, or a folder of
    that name); where there is none, the mask of that name anywhere in `masks/`, if picture and mask are the
    only ones so called.

    Raises:
        DataError: There is nothing usable (the message says what was looked for and found), a path leaves
            `root`, or masks cannot be told apart.
    """
    image_folder = root / images
    kinds = subfolders(image_folder)
    if normal not in kinds:
        found_in = image_folder if image_folder.is_dir() else root
        raise DataError(
            f"data.root={root}: looked for {images}/{normal}/ (good pictures) and {images}/<defect>/, "
            f"but in {found_in} {contents(found_in)}. Name the folders with data.images= and data.normal=, "
            "or choose another layout: data=mvtec, data=csv"
        )
    refuse_hidden_defect(image_folder, kinds, normal)
    pictures = {kind: list_images(image_folder / kind) for kind in kinds}
    if not any(pictures.values()):
        raise DataError(f"data.root={root}: no pictures in {image_folder} (its folders: {some(kinds)})")
    index = MaskIndex(root, root / masks)
    owners = defaultdict(list)
    for kind, paths in pictures.items():
        for path in paths:
            if kind != normal:
                owners[path.stem].append(relative(root, path))
    samples = []
    for kind, paths in pictures.items():
        for path in paths:
            mask = index.find(without_suffix(path.relative_to(image_folder)))
            if mask is None and kind != normal:
                mask = index.find_by_stem(path.stem, owners[path.stem])
            samples.append(
                Sample(
                    filename=relative(root, path),
                    is_anomalous=kind != normal,
                    defect_type=NORMAL_TYPE if kind == normal else kind,
                    mask_path=mask,
                )
            )
    index.warn_about_unused()
    refuse_outside(root, _paths(samples), allow_outside_root=allow_outside_root)
    return sorted(samples, key=lambda sample: sample.filename)


def _paths(samples: list[Sample]) -> list[str]:
    return [path for sample in samples for path in (sample.filename, sample.mask_path) if path is not None]
