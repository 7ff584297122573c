"""Whole files or none: every artifact is written to a temporary name, flushed to the disk, then moved into place."""

import errno
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from us_anomaly.errors import ArtifactError, ResourceError

TEMPORARY_PREFIX = ".partial-"


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, flush: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then replace `path` by it.

    Args:
        path: Where the file ends up; missing folders are made.
        write: Receives the open binary file.
        flush: Force the bytes to the disk before the move; leave out only for files that a manifest vouches for.

    Raises:
        ResourceError: The disk is full or the folder cannot be written; `path` is as it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    except OSError as error:
        raise _resource_error(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 (mkstemp makes private files; artifacts follow the umask)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _resource_error(path, error) from error
        raise


def write_bytes(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Write `data` to `path` as a whole or not at all."""
    write_atomically(path, lambda file: file.write(data), flush=flush)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8 as a whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON; not-a-number is refused, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}); delete it and run the command that makes it"
        ) from error


def write_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain types; the same state gives the same bytes."""
    import torch

    buffer = io.BytesIO()  # a buffer, because torch.save writes the file's own name into the archive
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain types; nothing in it is ever executed.

    Raises:
        ArtifactError: The file is damaged or holds anything else.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for many kinds of damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"{path} is not a checkpoint of tensors and plain values, or it is damaged ({reason}); "
            "delete it and run the command that makes it"
        ) from error
    if not isinstance(state, dict):
        raise ArtifactError(f"{path} holds a {type(state).__name__} where a checkpoint is a dictionary")
    return state


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _resource_error(path: Path, error: OSError) -> ResourceError:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            reason, way_out = (
                "the disk is full",
                "free some space, or choose another run_dir=, then run the same command",
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            reason, way_out = "the folder cannot be written", "make it writable, or choose another run_dir="
        case _:
            reason, way_out = error.strerror or str(error), "choose another run_dir="
    return ResourceError(f"cannot write {path}: {reason}; {way_out}. What was there before is untouched")
