"""Layout *folder*: one subfolder of good pictures, one per kind of defect, and masks if there are any."""

import os
from collections import defaultdict
from pathlib import Path

from us_anomaly.data.listing import (
    contents,
    folders_of_pictures,
    is_image,
    look_through,
    refuse_hidden_defect,
    refuse_outside,
    relative,
    some,
    subfolders,
)
from us_anomaly.data.mask_lookup import MaskIndex
from us_anomaly.data.other_files import tell_left_out, warn_about_others
from us_anomaly.data.sample import NORMAL_TYPE, Sample
from us_anomaly.data.table import NORMAL_TYPES
from us_anomaly.errors import DataError, SettingsError


def read_folder(root: Path, *, images: str, masks: str, normal: str, allow_outside_root: bool = False) -> list[Sample]:
    """Return the pictures of `images/<normal>/` and `images/<defect>/` below `root`, sorted by filename.

    The mask of `images/<defect>/<path>.png` is `masks/<defect>/<path>.*` (or `..._mask.*`, or a folder of
    that name); where there is none, the mask of that name anywhere in `masks/`, if picture and mask are the
    only ones so called.

    Raises:
        DataError: There is nothing usable (the message says what was looked for and found, and what to do), a path leaves
            `root`, or masks cannot be told apart.
        SettingsError: A name is empty, or `normal` is not the name of one folder.
    """
    _check_names(images=images, masks=masks, normal=normal)
    image_folder = root / images
    kinds = _kinds(image_folder, root / masks, kept=normal)
    if normal not in kinds:
        raise DataError(_nothing_usable(root, images=images, masks=masks, normal=normal))
    refuse_hidden_defect(image_folder, kinds, normal)
    listings = {kind: look_through(image_folder / kind, without_results=True) for kind in kinds}
    pictures = {kind: listing.pictures for kind, listing in listings.items()}
    warn_about_others([path for listing in listings.values() for path in listing.others], root=root)
    tell_left_out(image_folder, listings, root=root)
    if not any(pictures.values()):
        raise DataError(f"data.root={root}: no pictures in {image_folder} (its folders: {some(kinds)})")
    mask_of = _find_masks(root, image_folder, root / masks, pictures, normal=normal)
    samples = [
        Sample(
            filename=relative(root, path),
            is_anomalous=kind != normal,
            defect_type=NORMAL_TYPE if kind == normal else kind,
            mask_path=mask_of[path],
        )
        for kind, paths in pictures.items()
        for path in paths
    ]
    refuse_outside(root, _paths(samples), allow_outside_root=allow_outside_root)
    return sorted(samples, key=lambda sample: sample.filename)


def _find_masks(
    root: Path, images: Path, masks: Path, pictures: dict[str, list[Path]], *, normal: str
) -> dict[Path, str | None]:
    """Return the mask of each picture: first all that have its path, so that none of them is matched again by its name."""
    index = MaskIndex(root, masks)
    found = {path: index.find(path, below=images) for paths in pictures.values() for path in paths}
    anomalous = [path for kind, paths in pictures.items() if kind != normal for path in paths]
    owners = defaultdict(list)
    for path in anomalous:
        owners[path.stem].append(relative(root, path))
    for path in anomalous:
        if found[path] is None:
            found[path] = index.find_by_stem(path.stem, owners[path.stem])
    index.warn()
    return found


def _check_names(*, images: str, masks: str, normal: str) -> None:
    if not images:
        raise SettingsError(
            f"`data.images` must not be empty: where {normal or 'good'}/ lies in data.root, give data.images=."
        )
    if not masks:
        raise SettingsError("`data.masks` must not be empty: where there are no masks, leave it out")
    if normal in ("", "..") or Path(normal).name != normal:
        raise SettingsError(
            f"`data.normal` must be the name of a folder in data.images, for example data.normal=good, got {normal!r}"
        )


def _kinds(folder: Path, masks: Path, *, kept: str = "") -> list[str]:
    """Return the folders of pictures in `folder`, where masks and run directories may lie beside them."""
    return [name for name in folders_of_pictures(folder, kept=kept) if folder / name != masks]


def _nothing_usable(root: Path, *, images: str, masks: str, normal: str) -> str:
    found_in = root / images if (root / images).is_dir() else root
    return (
        f"data.root={root}: looked for {Path(images, normal).as_posix()}/ (good pictures) and "
        f"{Path(images, '<defect>').as_posix()}/, but in {found_in} {contents(found_in)}. "
        f"{_way_out(root, found_in, images=images, masks=masks, normal=normal)}"
    )


def _way_out(root: Path, found_in: Path, *, images: str, masks: str, normal: str) -> str:
    """Say which settings fit the folders that there are, or where to move pictures if none do."""
    image_folder, mask_folder = root / images, root / masks
    folders = [name for name in _kinds(root, mask_folder) if os.access(root / name, os.R_OK)]  # lost+found is not ours
    if "train" in folders and found_in != image_folder:
        return "Choose data=mvtec, which reads train/ and test/"
    places = {"": image_folder, "data.images=.": root}
    places |= {f"data.images={name}": root / name for name in folders}
    places |= {f"data.root={root / name}": root / name / images for name in folders}
    for setting, place in places.items():
        for kind in _kinds(place, mask_folder):
            if kind.lower() in (normal.lower(), *NORMAL_TYPES):
                return f"Give {_spaced(setting, '' if kind == normal else f'data.normal={kind}')}"
    nested = [name for name in folders if subfolders(root / name)]
    setting = "" if found_in == image_folder else f"data.images={nested[0] if nested else '.'}"
    kinds = _kinds(places[setting], mask_folder)
    if not kinds or any(is_image(path) for path in found_in.iterdir()):
        way = f"Move the good pictures to {image_folder / normal} and those with a defect to {image_folder}/<defect>"
    elif len(kinds) == 1:
        way = f"If {kinds[0]}/ holds the good pictures, add {_spaced(setting, f'data.normal={kinds[0]}')}"
    else:
        way = f"Add {_spaced(setting, 'data.normal=')} with the name of the folder of good pictures: {some(kinds)}"
    return f"{way}; or choose another layout: data=mvtec, data=csv"


def _spaced(*settings: str) -> str:
    return " ".join(setting for setting in settings if setting)


def _paths(samples: list[Sample]) -> list[str]:
    return [path for sample in samples for path in (sample.filename, sample.mask_path) if path is not None]
