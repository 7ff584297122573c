"""Faults of the machine around us, told so that somebody can act: full disks, read-only folders, exhausted memory."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from us_anomaly.errors import ResourceError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
_SMALLER_SETTINGS = "students.window_px=128, teacher.batch_size=16, image_size=192, runtime.precision=bfloat16"
MAX_QUOTED = 160
_way_out = "choose another run_dir="


@contextmanager
def with_way_out(advice: str) -> Iterator[None]:
    """Within it, messages of all threads give `advice` where a folder cannot be written, instead of "choose another run_dir="."""
    global _way_out
    before, _way_out = _way_out, advice
    try:
        yield
    finally:
        _way_out = before


def another_folder() -> str:
    """Return how to write into another folder, as a part of a sentence."""
    return _way_out


def cannot_write(path: Path, error: OSError) -> ResourceError:
    """Return what a failed write of `path` means; writes are whole or not at all, so nothing is lost."""
    reason, way_out = _reason(error)
    return ResourceError(f"cannot write {path}: {reason}; {way_out}. What was there before is untouched")


def cannot_read(path: Path, error: OSError) -> ResourceError:
    """Return what a failed read of `path` means."""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return ResourceError(f"cannot read {path}: this user may not; change its permissions")
        case _:
            return ResourceError(f"cannot read {path}: {error.strerror or error}")


def explain(error: BaseException) -> ResourceError | None:
    """Return what an exception of the system or of torch means to a user; None if it is no fault of the machine."""
    if is_out_of_memory(error):
        return _exhausted(error)
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return ResourceError(
            f"a process that draws pictures ended ({in_one_line(error)}), perhaps for want of memory: run the same command with "
            "fewer (runtime.num_drawing_processes=2), or with none (0)"
        )
    if not isinstance(error, OSError) or isinstance(error, BrokenPipeError) or error.errno is None:
        return None
    reason, way_out = _reason(error)
    where = f"{error.filename}: " if error.filename else ""
    return ResourceError(f"{where}{reason}; {way_out}")


@contextmanager
def explained() -> Iterator[None]:
    """Within it, faults of the machine are raised as what they mean to a user.

    Raises:
        ResourceError: In the place of an exception of the system or of torch.
    """
    try:
        yield
    except Exception as error:
        explanation = explain(error)
        if explanation is None:
            raise
        raise explanation from error


def in_one_line(error: BaseException) -> str:
    """Return what an exception says as one line; where the first line ends in a colon, with the one that follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return said if len(said) <= MAX_QUOTED else said[:MAX_QUOTED].rstrip() + "..."


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the machine or of a device is exhausted."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


def _exhausted(error: BaseException) -> ResourceError:
    said = in_one_line(error)
    if "cuda" in said.lower():
        return ResourceError(
            f"the memory of the device is exhausted ({said}); smaller settings help: {_SMALLER_SETTINGS}; "
            "or compute on the processor with runtime.device=cpu"
        )
    return ResourceError(f"the memory is exhausted ({said}); smaller settings help: {_SMALLER_SETTINGS}")


def _reason(error: OSError) -> tuple[str, str]:
    """Return what happened and the way out."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "the disk is full", f"free some space, or {another_folder()}, then run the same command"
        case errno.EFBIG:
            return "files may not grow that large here", f"raise the limit (ulimit -f), or {another_folder()}"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "it cannot be written", f"make it writable, or {another_folder()}"
        case errno.ENOTDIR | errno.EEXIST:
            return "a file stands where a folder should be", f"remove it, or {another_folder()}"
        case errno.ENOENT:
            return "it is gone", "put it back, then run the same command"
        case errno.EMFILE | errno.ENFILE:
            return (
                "too many files are open",
                "raise the limit (ulimit -n), or lower runtime.num_workers and runtime.num_drawing_processes",
            )
        case _:
            return error.strerror or str(error), f"mend that, or {another_folder()}, then run the same command"
