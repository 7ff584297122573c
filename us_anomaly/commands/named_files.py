"""Files of the user's that settings name: weights of the backbone, and teachers that were made before."""

import functools
from pathlib import Path
from typing import Any

from us_anomaly.errors import DataError, WeightsError
from us_anomaly.run_dir.faults import cannot_read
from us_anomaly.run_dir.provenance import content_hash
from us_anomaly.settings import BUILTIN, NAMED_FILES, REDUCED


def hash_of_weights(weights: str) -> str:
    """Return the content hash of the file that `backbone.weights` names.

    Raises:
        WeightsError: There is no such file.
        ResourceError: It cannot be read.
    """
    path = Path(weights)
    if not _is_file(path):
        raise WeightsError(f"`backbone.weights`: there is no file {path}")
    status = path.stat()
    return _hash_of_state(path.resolve(), status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=8)
def _hash_of_state(path: Path, *_: int) -> str:
    """Hash a file once for as long as it stays as it is: every stage asks, and weights can be half a gigabyte."""
    return _hash_of_readable(path)


def hash_of_teacher(key: str, name: str, patch_size: int) -> str:
    """Return the content hash of the file that `named_teacher` finds.

    Raises:
        DataError: There is no such file.
        ResourceError: It cannot be read.
    """
    return _hash_of_readable(named_teacher(key, name, patch_size))


def named_teacher(key: str, name: str, patch_size: int) -> Path:
    """Return the file that `teacher.checkpoint` or `teacher.start_from` means for one patch size.

    `{patch_size}` in a path is replaced. Where there is none for patches that are seen at a reduced resolution, it is the one for
    the smaller patches that their network sees.

    Args:
        key: Which of both settings.
        name: Its value: `builtin` or a path.
        patch_size: Side of the patches in pixels.

    Raises:
        DataError: There is no such file.
        ResourceError: Its folder cannot be read.
    """
    pattern = str(Path(__file__).parents[1] / "teachers" / "p{patch_size}.safetensors") if name == BUILTIN else name
    sizes = [patch_size, REDUCED.get(patch_size, patch_size)]
    candidates = [Path(pattern.replace("{patch_size}", str(size))) for size in sizes]
    for path in candidates:
        if _is_file(path):
            return path
    if name == BUILTIN:
        raise DataError(f"`teacher.{key}`: no teacher of patch size {patch_size} ships with the package")
    raise DataError(f"`teacher.{key}`: there is no file {candidates[0]}")


def _hash_of_readable(path: Path) -> str:
    try:
        return content_hash(path)
    except OSError as error:
        raise cannot_read(path, error) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a folder that this user may not look into
        raise cannot_read(path, error) from error


def without_named_files(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the settings of a group that name a file, whose path must not decide the bytes of what is made from it."""
    return {name: value for name, value in values.items() if f"{group}.{name}" not in NAMED_FILES}
