"""Whole files or none: every artifact is written to a temporary name, flushed to the disk, then moved into place."""

import errno
import io
import json
import os
import pickle
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from us_anomaly.errors import ArtifactError, TrainingError
from us_anomaly.run_dir.faults import cannot_read, cannot_write, in_one_line, is_out_of_memory
from us_anomaly.run_dir.layout import TEMPORARY_PREFIX

_umask_lock = threading.Lock()


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, flush: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, then replace `path` by it.

    Args:
        path: Where the file ends up; missing folders are made.
        write: Receives the open binary file.
        flush: Force the bytes to the disk before the move; leave out only for files that are flushed later, before
            something vouches for them.

    Raises:
        ResourceError: The disk is full or the folder cannot be written; `path` is as it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 (mkstemp makes private files; artifacts follow the umask)
        os.replace(temporary, path)  # noqa: PTH105
        if flush:
            flush_folder(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def flush_file(path: Path) -> None:
    """Force a file that is already written to the disk."""
    with path.open("r+b" if os.name == "nt" else "rb") as file:  # Windows flushes what may be written only
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, so that no later file outlives an earlier one; Windows does so itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot flush folders
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Write `data` to `path` as a whole or not at all."""
    write_atomically(path, lambda file: file.write(data), flush=flush)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8 as a whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON; not-a-number is refused, because JSON has none."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return `value` as the text of a JSON file.

    Raises:
        ValueError: It holds not-a-number.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: The file is not JSON, or holds not-a-number.
        ResourceError: The file cannot be read.
    """
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}); delete it and run the command that makes it"
        ) from error
    except OSError as error:
        raise cannot_read(path, error) from error


def write_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain types; the same state gives the same bytes.

    Raises:
        TrainingError: A tensor holds a value that is not finite; nothing is written.
        ResourceError: It cannot be written.
    """
    import torch

    if (name := _first_not_finite(state)) is not None:
        raise TrainingError(
            f"{path} is not written, because {name} holds values that are not finite numbers: lower the learning rate, or "
            "use runtime.precision=float32. What was there before is untouched"
        )
    buffer = io.BytesIO()  # a buffer, because torch.save writes the file's own name into the archive
    torch.save(_canonical(state), buffer)
    write_bytes(path, buffer.getvalue())


def _canonical(value: Any) -> Any:
    """Return a state whose pickled form depends on its values alone, not on which equal texts are one object."""
    match value:
        case str():
            return sys.intern(value)
        case dict():
            return {_canonical(key): _canonical(item) for key, item in value.items()}
        case list():
            return [_canonical(item) for item in value]
        case tuple():
            return tuple(_canonical(item) for item in value)
        case _:
            return value


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain types; nothing in it is ever executed.

    Raises:
        ArtifactError: The file is damaged or holds anything else.
        ResourceError: The file cannot be read.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for many kinds of damage; EINVAL where an archive was cut off
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise cannot_read(path, error) from error
        if is_out_of_memory(error):
            raise
        raise ArtifactError(
            f"{path} is not a checkpoint of tensors and plain values, or it is damaged ({why_not_tensors(error)}); "
            "delete it and run the command that makes it"
        ) from error
    if not isinstance(state, dict):
        raise ArtifactError(f"{path} holds a {type(state).__name__} where a checkpoint is a dictionary")
    return state


def why_not_tensors(error: Exception) -> str:
    """Return in one line why torch refused a file; its own text advises to switch the protection off."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds Python objects, which could run code and are never loaded"
    return in_one_line(error)


def _first_not_finite(state: Any, name: str = "") -> str | None:
    """Return the dotted name of the first tensor that holds not-a-number or infinity."""
    import torch

    match state:
        case torch.Tensor():
            return None if bool(torch.isfinite(state).all()) else name
        case dict():
            items = [(str(key), value) for key, value in state.items()]
        case list() | tuple():
            items = [(str(index), value) for index, value in enumerate(state)]
        case _:
            return None
    found = (_first_not_finite(value, f"{name}.{key}" if name else key) for key, value in items)
    return next((first for first in found if first is not None), None)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is no number")


def _umask() -> int:
    with _umask_lock:  # else a second thread could read the 0 of the first, and set it for good
        mask = os.umask(0)
        os.umask(mask)
    return mask
