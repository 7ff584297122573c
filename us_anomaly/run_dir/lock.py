"""One process at a time in a run directory.

The lock is the kernel's lock on the open file `.lock`, which ends with the process, however it ends: a killed command leaves
the file but not the lock. The file says who holds it. Only where the kernel cannot know, because the file was written on
another machine that shares the disk, the file itself counts.
"""

import errno
import json
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from us_anomaly.errors import RunDirLockedError
from us_anomaly.run_dir.faults import another_folder, cannot_write
from us_anomaly.run_dir.interruption import held_back
from us_anomaly.run_dir.layout import TEMPORARY_PREFIX, RunDir

log = logging.getLogger(__name__)

MAX_QUOTED = 60
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_HELD: set[int] = set()
"""Open files of the locks of this process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The process that holds a lock."""

    pid: int
    """Its number."""
    host: str
    """Name of its machine."""
    boot_id: str | None
    """Identifies the kernel it runs under, which containers of one machine share; None where there is none."""
    since: str
    """When it took the lock, local time."""
    command: str
    """What it does."""

    def __str__(self) -> str:
        """Say who it is."""
        command = self.command if len(self.command) <= MAX_QUOTED else self.command[:MAX_QUOTED].rstrip() + " ..."
        return f"`{command}` (process {self.pid} on {self.host}, since {self.since})"


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
            descriptor = _taken(run_dir)
        _write_owner(descriptor, run_dir, command)
        _remove_leftovers(run_dir)
        yield
    finally:
        if descriptor is not None:
            with held_back():
                _HELD.discard(descriptor)
                _release(descriptor, run_dir.lock)


def _taken(run_dir: RunDir) -> int:
    """Make the directory and take its lock."""
    try:
        run_dir.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(run_dir.root, error) from error
    try:
        descriptor = _take(run_dir)
    except OSError as error:
        raise cannot_write(run_dir.lock, error) from error
    _HELD.add(descriptor)
    return descriptor


def _take(run_dir: RunDir) -> int:
    """Open and lock the file; refuse if somebody else has it."""
    while True:
        descriptor = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_ours = _lock(descriptor)
            owner = _read_owner(descriptor)
            if not is_ours:
                raise _refusal(run_dir, owner)
            if _is_at(descriptor, run_dir.lock):
                _check_previous(run_dir, owner)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed it while we waited: there may be a new one


def _check_previous(run_dir: RunDir, owner: Owner | None) -> None:
    """Take over from a process that was killed; refuse if it ran where this kernel cannot see it.

    Raises:
        RunDirLockedError: It may still be running on another machine.
    """
    if owner is None:
        return
    is_here = owner.host == socket.gethostname() or (owner.boot_id is not None and owner.boot_id == _boot_id())
    if not is_here:
        raise RunDirLockedError(
            f"{run_dir.root} was locked by {owner}, a machine that cannot be looked into from here. If that process is gone, "
            f"remove {run_dir.lock} and run the same command"
        )
    log.info("taking over from %s, which was killed", owner)


def _refusal(run_dir: RunDir, owner: Owner | None) -> RunDirLockedError:
    who = "another process" if owner is None else str(owner)
    return RunDirLockedError(f"{run_dir.root} is in use by {who}: wait until it has finished, or {another_folder()}")


def _write_owner(descriptor: int, run_dir: RunDir, command: str) -> None:
    owner = Owner(
        pid=os.getpid(),
        host=socket.gethostname(),
        boot_id=_boot_id(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        command=command,
    )
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, (json.dumps(asdict(owner)) + "\n").encode())
    except OSError as error:
        raise cannot_write(run_dir.lock, error) from error


def _read_owner(descriptor: int) -> Owner | None:
    """Return who is written down; None if nobody is, or only half of it."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        return Owner(**json.loads(os.read(descriptor, 1 << 16)))
    except (ValueError, TypeError):
        return None


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


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

    def _lock(descriptor: int) -> bool:
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

    def _lock(descriptor: int) -> bool:
        """Lock an open file without waiting; return whether it is ours."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            if error.errno not in _UNSUPPORTED:
                raise
            owner = _read_owner(descriptor)
            return owner is None or owner.host != socket.gethostname() or not _is_alive(owner.pid)
        return True

    def _is_alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _release(descriptor: int, path: Path) -> None:
        """Remove the file while it is ours, then let go."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # the next process takes it over, because the lock itself ends here
            log.warning("cannot remove %s: %s", path, error.strerror)
        os.close(descriptor)
