"""Anomaly maps on disk: float32 TIFF of the size of the image, as the official evaluation reads them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from us_anomaly.data.images import DEFAULT_MAX_PIXELS, read_own
from us_anomaly.errors import ArtifactError
from us_anomaly.run_dir.atomic import write_atomically

FloatMap = npt.NDArray[np.float32]


def write_map(path: Path, anomaly_map: npt.NDArray[np.floating]) -> None:
    """Write a map (H, W) as an uncompressed float32 TIFF, whole or not at all.

    The bytes are not forced to the disk one by one: `predictions.jsonl`, written last, vouches for all of
    them.

    Raises:
        ValueError: It is not two-dimensional.
        ResourceError: It cannot be written.
    """
    if anomaly_map.ndim != 2:
        raise ValueError(f"a map has two dimensions, got shape {anomaly_map.shape}")
    picture = Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32))
    write_atomically(path, lambda file: picture.save(file, format="TIFF"), flush=False)


def read_map(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> FloatMap:
    """Read a map (H, W) of at most `max_pixels`.

    Raises:
        ArtifactError: It is missing, damaged, too large, not float32, or holds a value that is not finite.
    """
    try:
        mode, values = read_own(path, lambda picture: (picture.mode, np.array(picture)), max_pixels=max_pixels)
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error
    if mode != "F":
        raise ArtifactError(f"{path} is a picture of mode {mode}, not a float32 map; run `usad infer overwrite=true`")
    if not np.isfinite(values).all():
        raise ArtifactError(f"{path} holds values that are not finite numbers; run `usad infer overwrite=true`")
    return values


def map_size(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Return height and width of a map without reading its values.

    Raises:
        ArtifactError: It is missing, damaged or too large.
    """
    try:
        return read_own(path, lambda picture: (picture.height, picture.width), max_pixels=max_pixels)
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    reason = "it does not exist" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
    return ArtifactError(f"cannot read the map {path} ({reason}); run `usad infer overwrite=true`")
