"""Layout *demo*: real textures that scikit-image ships, with drawn defects and exact masks; no download.

Three photographs of 512 x 512 pixels (brick, grass, gravel) are mixed in one category. A strip of 192 columns
of each is kept for testing, so no pixel of a training picture is ever seen in a test picture. The strip of
the brick wall lies in the middle, because its joints lean to different sides left and right. Every picture is
a square of 128 to 160 pixels of the photograph, resized.
"""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from us_anomaly.data.defects import DEFECT_TYPES, Picture, Random, draw_defect
from us_anomaly.data.mvtec import read_mvtec
from us_anomaly.data.sample import Sample
from us_anomaly.errors import DataError, ResourceError
from us_anomaly.run_dir.layout import TEMPORARY_PREFIX

DEMO_VERSION = 3
"""Part of the folder's name: raise it when the drawing changes."""
TEST_COLUMNS = {"brick": (160, 352), "grass": (320, 512), "gravel": (320, 512)}
"""Columns of each photograph that only test pictures show."""
FOREIGN = ("coins", "page")
"""Photographs for foreign patches in turn: materials that no normal picture shows. A patch of brick in gravel would be odd
to a person, but each of its pixels is a normal one of this category."""
_CROP_SIDES_PX = (128, 160)
_SEED = 20200617


def read_demo(
    root: Path, *, image_side_px: int, num_train: int, num_test_normal: int, num_test_anomalous: int
) -> list[Sample]:
    """Return the demo's pictures, sorted by filename, and draw them first if `root` does not hold them.

    Raises:
        DataError: scikit-image is missing, or somebody removed pictures.
        ResourceError: The pictures cannot be written.
    """
    folder = make_demo(
        root,
        image_side_px=image_side_px,
        num_train=num_train,
        num_test_normal=num_test_normal,
        num_test_anomalous=num_test_anomalous,
    )
    samples = read_mvtec(root, category=folder.name)
    num_masks = sum(sample.mask_path is not None for sample in samples)
    if len(samples) != num_train + num_test_normal + num_test_anomalous or num_masks != num_test_anomalous:
        raise DataError(f"pictures or masks are missing in {folder}: delete it, it is drawn again")
    return samples


def make_demo(root: Path, *, image_side_px: int, num_train: int, num_test_normal: int, num_test_anomalous: int) -> Path:
    """Draw the demo in MVTec layout and return its folder; a folder that is there is taken as it is.

    The folder below `root` is named after the parameters. It appears all at once, also when several processes
    draw it: each draws into a folder of its own, and the first to finish gives it the name. The same
    parameters give the same pixels.

    Raises:
        DataError: scikit-image, whose textures are used, is missing.
        ResourceError: The pictures cannot be written.
    """
    name = f"v{DEMO_VERSION}-{image_side_px}px-{num_train}-{num_test_normal}-{num_test_anomalous}"
    folder = root / name
    if folder.is_dir():
        return folder
    photographs = {texture: _photograph(texture) for texture in (*TEST_COLUMNS, *FOREIGN)}
    temporary = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=root))
        artist = _Artist(temporary, photographs, image_side_px)
        artist.draw_normal("train/good", num_train, training=True)
        artist.draw_normal("test/good", num_test_normal, training=False)
        artist.draw_anomalous(num_test_anomalous)
        temporary.chmod(0o755)  # mkdtemp makes private folders
        _move_into_place(temporary, folder)
    except OSError as error:
        raise ResourceError(
            f"cannot write the demo pictures to {root}: {error.strerror or error}; choose another cache_dir="
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _move_into_place(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)  # noqa: PTH104
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same pixels
            raise


def _photograph(texture: str) -> Picture:
    """Return one of the photographs inside scikit-image, found without importing it.

    Raises:
        DataError: scikit-image is not installed, or this version does not have the picture.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the demo is made of photographs inside scikit-image, which is not installed: "
            "pip install 'us-anomaly[offline]'"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / f"{texture}.png"
    if not path.is_file():
        raise DataError(
            f"the demo needs {path}, which this scikit-image lacks: pip install --upgrade 'us-anomaly[offline]'"
        )
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


class _Artist:
    """Draws pictures into a folder, textures in turn."""

    def __init__(self, folder: Path, photographs: dict[str, Picture], side: int) -> None:
        self._folder = folder
        self._photographs = photographs
        self._textures = sorted(TEST_COLUMNS)
        self._side = side
        self._random = Random(_SEED)

    def draw_normal(self, name: str, count: int, *, training: bool) -> None:
        """Draw `count` clean pictures."""
        for number in range(count):
            texture = self._textures[number % len(self._textures)]
            self._save(f"{name}/{number:03d}.png", self._crop(texture, training=training))

    def draw_anomalous(self, count: int) -> None:
        """Draw `count` test pictures with a defect each, kinds in turn, and their masks."""
        for number in range(count):
            kind = DEFECT_TYPES[number % len(DEFECT_TYPES)]
            turn = number // len(DEFECT_TYPES)
            texture = self._textures[turn % len(self._textures)]
            clean = self._crop(texture, training=False)
            foreign = self._square(self._photographs[FOREIGN[turn % len(FOREIGN)]])
            drawn, mask = draw_defect(clean, kind, self._random, foreign=foreign)
            self._save(f"test/{kind}/{turn:03d}.png", drawn)
            self._save(f"ground_truth/{kind}/{turn:03d}_mask.png", mask.astype(np.uint8) * 255)

    def _crop(self, texture: str, *, training: bool) -> Picture:
        """Return a random square of the training or the test part of a photograph, resized; shape (S, S)."""
        first, last = TEST_COLUMNS[texture]
        photograph = self._photographs[texture]
        parts = [photograph[:, :first], photograph[:, last:]] if training else [photograph[:, first:last]]
        parts = [part for part in parts if part.shape[1] >= _CROP_SIDES_PX[1]]
        return self._square(parts[self._random.randint(len(parts))])

    def _square(self, part: Picture) -> Picture:
        """Return a random square of a photograph, resized; shape (S, S)."""
        size = self._random.randint(_CROP_SIDES_PX[0], _CROP_SIDES_PX[1] + 1)
        row = self._random.randint(part.shape[0] - size + 1)
        column = self._random.randint(part.shape[1] - size + 1)
        square = Image.fromarray(np.ascontiguousarray(part[row : row + size, column : column + size]))
        return np.asarray(square.resize((self._side, self._side), Image.Resampling.BICUBIC))

    def _save(self, name: str, pixels: Picture) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
