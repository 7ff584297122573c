"""A labelled data set for choosing between recipes: normal pictures that no training saw, and synthetic defects on them.

It has the layout *folder* (`images/good/`, `images/<kind>/`, `masks/<kind>/`), so that one can look at it, and read it with
`us_anomaly.data.folder.read_folder`. No real defect takes part.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from us_anomaly.data.folder import read_folder
from us_anomaly.data.images import read_image
from us_anomaly.data.sample import NORMAL_TYPE, Sample
from us_anomaly.data.synthetic_defects import KINDS, add_synthetic_defect
from us_anomaly.errors import DataError


def synthetic_set(
    folder: Path,
    normals: Sequence[Path],
    *,
    num_per_picture: int,
    seed: int,
    max_pixels: int,
    white_level: float | None = None,
) -> list[Sample]:
    """Return the samples of the data set in `folder`, which is written as a whole if it is not there yet.

    Args:
        folder: Where it is, or goes.
        normals: Normal pictures that no training saw.
        num_per_picture: Copies of each with one defect; the kinds take turns, so that with half as many as there are kinds every
            second picture has the same ones.
        seed: Decides the defects, together with the number of the picture and of the copy.
        max_pixels: Larger pictures are refused.
        white_level: As for `read_image`.

    Raises:
        DataError: There are no pictures.
        BadImageError: One of them cannot be decoded.
    """
    if not normals:
        raise DataError(
            "there are no normal pictures to put synthetic defects on: give a split with a validation share"
        )
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for number, path in enumerate(normals):
            picture = read_image(path, max_pixels=max_pixels, white_level=white_level)
            _save(partial / "images" / NORMAL_TYPE / f"{number:04}.png", picture)
            for copy in range(num_per_picture):
                _add(partial, picture, number, copy, seed=seed, kind=_kind(number * num_per_picture + copy))
        os.replace(partial, folder)  # noqa: PTH105
    return read_folder(folder, images="images", masks="masks", normal=NORMAL_TYPE)


def _kind(number: int) -> str:
    kinds = sorted(KINDS)
    return kinds[number % len(kinds)]


def _add(folder: Path, picture: np.ndarray, number: int, copy: int, *, seed: int, kind: str) -> None:
    """Write a copy of a picture with one defect, and the mask of it."""
    changed, mask = add_synthetic_defect(picture, np.random.default_rng([seed, number, copy]), kind=kind)
    name = f"{kind}/{number:04}-{copy}.png"
    _save(folder / "images" / name, changed)
    _save(folder / "masks" / name, np.where(mask, np.uint8(255), np.uint8(0)))


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)
