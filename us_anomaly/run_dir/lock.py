"""One process at a time in a run directory.

The lock is the kernel's lock on the open file `.lock`, which ends with the process, however it ends: a killed command leaves
the file but not the lock. The file says who holds it. Only where the kernel cannot know, because the file was written on
another machine that shares the disk, or because the file system has no locks, the file itself counts. On a cluster it is then
taken over only by the same job of Slurm, after Slurm has put it back into the queue, for which it ends all that it ran before.
"""

import errno
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from us_anomaly.errors import RunDirLockedError
from us_anomaly.run_dir.faults import another_folder, cannot_write
from us_anomaly.run_dir.interruption import held_back
from us_anomaly.run_dir.layout import TEMPORARY_PREFIX, RunDir
from us_anomaly.run_dir.lock_owner import Owner, owner_at, read_owner, this_process, write_owner

log = logging.getLogger(__name__)

SETTLING_SECONDS = 0.5
"""After so long, what another machine has written and flushed can be read here."""
_HELD: set[int] = set()
"""Open files of the locks of this process."""


@contextmanager
def locked(run_dir: RunDir, *, command: str) -> Iterator[None]:
    """Hold the lock of a run directory, and remove what killed processes left half-written in it.

    Args:
        run_dir: The directory; it is made if it does not exist.
        command: What this process does, for the message that a second process gets.

    Raises:
        RunDirLockedError: Another process holds it.
        ResourceError: The directory cannot be written.
    """
    descriptor: int | None = None
    try:
        with held_back():
            descriptor = _taken(run_dir, command)
        _remove_leftovers(run_dir)
        yield
    finally:
        if descriptor is not None:
            with held_back():
                _HELD.discard(descriptor)
                _release(descriptor, run_dir.lock)


def _taken(run_dir: RunDir, command: str) -> int:
    """Make the directory and take its lock."""
    try:
        run_dir.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(run_dir.root, error) from error
    try:
        descriptor = _take(run_dir, command)
    except OSError as error:
        raise cannot_write(run_dir.lock, error) from error
    _HELD.add(descriptor)
    return descriptor


def _take(run_dir: RunDir, command: str) -> int:
    """Open and lock the file and write down that it is ours; refuse if somebody else has it."""
    while True:
        descriptor, is_new = _open(run_dir.lock)
        try:
            is_ours = _lock(descriptor)
            previous = None if is_new else _previous_owner(descriptor)
            if is_ours is False:
                raise _refusal(run_dir, previous)
            if _is_at(descriptor, run_dir.lock):
                is_certain = is_new or _can_be_taken_over(run_dir, previous, are_locks_known=is_ours is not None)
                ours = this_process(command)
                try:
                    write_owner(descriptor, ours)
                except BaseException:  # an empty file would keep others waiting
                    run_dir.lock.unlink(missing_ok=True)
                    raise
                if not is_certain:
                    _require_still_ours(run_dir, ours)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed it while we waited: there may be a new one


def _open(path: Path) -> tuple[int, bool]:
    """Open the file, and tell whether it was made by that, which only one of several processes is told, on any file system."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False


def _previous_owner(descriptor: int) -> Owner | None:
    """Return who is written down in a file that was there; where nobody is, somebody may be about to be."""
    if (owner := read_owner(descriptor)) is None:
        time.sleep(SETTLING_SECONDS)
        owner = read_owner(descriptor)
    return owner


def _can_be_taken_over(run_dir: RunDir, owner: Owner | None, *, are_locks_known: bool) -> bool:
    """Return whether a lock that nobody is known to hold is ours for certain; refuse if its owner may still be running.

    Raises:
        RunDirLockedError: It may still be running, here or on another machine.
    """
    if owner is None:
        return False
    if are_locks_known and owner.is_of_this_kernel:
        log.info("taking over from %s, which was killed", owner)
        return True
    if owner.is_of_this_host and owner.is_alive:
        raise _refusal(run_dir, owner)
    if owner.is_of_this_host:
        log.info("taking over from %s, which was killed", owner)
    elif owner.was_put_back:
        log.info("taking over from %s, whose job was put back into the queue and runs here now", owner)
    else:
        raise RunDirLockedError(
            f"{run_dir.root} was locked by {owner}, a machine that cannot be looked into from here. If that process is gone, "
            f"remove {run_dir.lock} and run the same command"
        )
    return False


def _require_still_ours(run_dir: RunDir, ours: Owner) -> None:
    """Refuse if another machine has taken the lock over at the same moment, where no kernel decides between us.

    Raises:
        RunDirLockedError: The other one wrote last.
    """
    time.sleep(SETTLING_SECONDS)
    if (owner := owner_at(run_dir.lock)) != ours:
        raise _refusal(run_dir, owner)


def _refusal(run_dir: RunDir, owner: Owner | None) -> RunDirLockedError:
    who = "another process" if owner is None else str(owner)
    return RunDirLockedError(f"{run_dir.root} is in use by {who}: wait until it has finished, or {another_folder()}")


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one that `path` names."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_leftovers(run_dir: RunDir) -> None:
    """Remove temporary files and folders of processes that were killed."""
    found = list(run_dir.root.glob(f"{TEMPORARY_PREFIX}*"))
    for folder in run_dir.folders_written_to:
        found += folder.rglob(f"{TEMPORARY_PREFIX}*")
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30
    """The locked byte: far beyond the text, because Windows lets nobody read a locked byte."""

    def _lock(descriptor: int) -> bool | None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _release(descriptor: int, path: Path) -> None:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)  # also ends the lock; Windows removes no open file
        with suppress(OSError):  # the next process has it already
            path.unlink(missing_ok=True)

else:
    import fcntl

    def _leave_locks_to_the_parent() -> None:
        """Close the copies that a forked process has: as long as one is open, a lock outlives the process that took it."""
        for descriptor in _HELD:
            os.close(descriptor)
        _HELD.clear()

    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)

    _TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    _UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

    def _lock(descriptor: int) -> bool | None:
        """Lock an open file without waiting; return whether it is ours, None where the file system knows no locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            if error.errno not in _UNSUPPORTED:
                raise
            return None
        return True

    def _release(descriptor: int, path: Path) -> None:
        """Remove the file while it is ours, then let go."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # the next process takes it over, because the lock itself ends here
            log.warning("cannot remove %s: %s", path, error.strerror)
        os.close(descriptor)
