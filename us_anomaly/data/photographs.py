"""The photographs that installed packages carry, and the multi-scale crops that are cut out of photographs.

Every picture is an array of height x width x 3 bytes; `rng` decides everything that is random.
"""

import importlib.util
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from us_anomaly.errors import UsadError

log = logging.getLogger(__name__)

Picture = npt.NDArray[np.uint8]

PACKAGED_PHOTOGRAPHS = {
    "skimage": (
        "data",
        [
            "astronaut.png",
            "camera.png",
            "cell.png",
            "chelsea.png",
            "clock_motion.png",
            "coffee.png",
            "coins.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "microaneurysms.png",
            "moon.png",
            "motorcycle_left.png",
            "motorcycle_right.png",
            "page.png",
            "retina.jpg",
            "rocket.jpg",
            "text.png",
        ],
    ),
    "sklearn": ("datasets/images", ["china.jpg", "flower.jpg"]),
}
"""Folder and files inside each package. Logos, chessboards, phantoms and silhouettes are left out, being no
photographs; brick, grass and gravel are left out because `data=demo` is made of them: a teacher that had seen
them would make the demonstration easier than real work."""

SMALLEST_CROP_PX = 24


def load_photographs() -> list[Picture]:
    """Return the photographs inside scikit-image and scikit-learn, in a fixed order.

    Files are found inside the installed packages; nothing is downloaded. The textures brick, grass and
    gravel, of which `data=demo` is made, are not among them.

    Raises:
        UsadError: scikit-image is not installed, or was installed without its pictures.
    """
    photographs = []
    for package, (folder, names) in PACKAGED_PHOTOGRAPHS.items():
        root = _package_folder(package) / folder
        present = [root / name for name in names if (root / name).is_file()]
        if not present:
            raise UsadError(
                f"the built-in pictures (`generic`) need the photographs of {package}; {root} holds none: "
                "pip install --force-reinstall 'us-anomaly[offline]'"
            )
        if len(present) < len(names):
            log.warning("%s holds %d of %d photographs; `generic` goes on with those", root, len(present), len(names))
        for path in present:
            with Image.open(path) as image:
                photographs.append(np.asarray(image.convert("RGB")))
    return photographs


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # found, not imported: importing scikit-image is slow
    if spec is None or spec.origin is None:
        distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        raise UsadError(
            f"the built-in pictures (`generic`) need {distribution}, which is not installed: "
            "pip install 'us-anomaly[offline]'"
        )
    return Path(spec.origin).parent


def to_bytes(values: npt.NDArray[Any]) -> Picture:
    """Clip values to 0..255 and drop their fractions."""
    picture: Picture = np.clip(values, 0, 255).astype(np.uint8)
    return picture


def multi_scale_crop(
    photograph: Image.Image, rng: np.random.Generator, *, side_px: int, smallest_px: int | None = None
) -> Picture:
    """Cut a random square out of a photograph and bring it to `side_px`; sometimes turned by any angle.

    Args:
        photograph: RGB picture of any size.
        rng: Decides side, place, turn and flips.
        side_px: Side of the result.
        smallest_px: Shortest side of the square in the photograph; the side is log-uniform between it and the
            whole picture. None stands for 0.3 `side_px`.

    Returns:
        Shape (side_px, side_px, 3).
    """
    largest = min(photograph.size)
    smallest = min(smallest_px or max(round(0.3 * side_px), SMALLEST_CROP_PX), largest)
    side = min(math.exp(rng.uniform(math.log(smallest), math.log(largest))), largest)  # exp(log(48)) is above 48
    turned = bool(rng.random() < 0.2) and side * math.sqrt(2) <= largest
    margin = math.sqrt(2) if turned else 1.0  # the inner square of a turned square of this size has no empty corner
    outer = side * margin
    left = rng.uniform(0, photograph.width - outer)
    top = rng.uniform(0, photograph.height - outer)
    target = math.ceil(side_px * margin) + (2 if turned else 0)
    enlarging = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.BILINEAR
    crop = photograph.resize(
        (target, target),
        resample=Image.Resampling.BOX if outer > 2 * target else enlarging,
        box=(left, top, left + outer, top + outer),
    )
    if turned:
        crop = crop.rotate(rng.uniform(0, 360), resample=Image.Resampling.BICUBIC)
        start = (target - side_px) // 2
        crop = crop.crop((start, start, start + side_px, start + side_px))
    return flip(np.asarray(crop), rng)


def flip(picture: Picture, rng: np.random.Generator) -> Picture:
    """Turn a square picture by a random multiple of 90 degrees and mirror it or not."""
    turned = np.rot90(picture, int(rng.integers(4)))
    return np.ascontiguousarray(turned[:, ::-1] if rng.random() < 0.5 else turned)
