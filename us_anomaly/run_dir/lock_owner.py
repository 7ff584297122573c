"""Who holds the lock of a run directory: what its file says, and whether that process may still be running."""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_QUOTED = 60
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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
    """When it took the lock, local time with its offset."""
    command: str
    """What it does."""
    job: str | None = None
    """Its job of Slurm, which keeps its number when it is put back into the queue; None outside of Slurm."""
    restarts: int = 0
    """How often that job was put back."""

    def __str__(self) -> str:
        """Say who it is."""
        command = self.command if len(self.command) <= MAX_QUOTED else self.command[:MAX_QUOTED].rstrip() + " ..."
        job = f", Slurm job {self.job}" if self.job else ""
        return f"`{command}` (process {self.pid} on {self.host}{job}, since {self.since})"

    @property
    def is_of_this_host(self) -> bool:
        """Whether it runs, or ran, on a machine of this name."""
        return self.host == socket.gethostname()

    @property
    def is_of_this_kernel(self) -> bool:
        """Whether the kernel of this process knows the locks of that one."""
        return self.is_of_this_host or (self.boot_id is not None and self.boot_id == _boot_id())

    @property
    def was_put_back(self) -> bool:
        """Whether it was of the job of Slurm that runs here now, before that was put back into the queue.

        Slurm ends what a job runs before it puts it back. A job that was merely started with several processes has the same
        number in all of them, and as many restarts.
        """
        job, restarts = _slurm_job()
        return job is not None and self.job == job and self.restarts < restarts

    @property
    def is_alive(self) -> bool:
        """Whether this machine has a process of its number."""
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True


def this_process(command: str) -> Owner:
    """Return this process as an owner."""
    job, restarts = _slurm_job()
    return Owner(
        pid=os.getpid(),
        host=socket.gethostname(),
        boot_id=_boot_id(),
        since=time.strftime("%Y-%m-%d %H:%M:%S%z"),
        command=command,
        job=job,
        restarts=restarts,
    )


def write_owner(descriptor: int, owner: Owner) -> None:
    """Write down who it is, and flush it: other machines are to read it."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, (json.dumps(asdict(owner)) + "\n").encode())
    os.fsync(descriptor)


def read_owner(descriptor: int) -> Owner | None:
    """Return who is written down; None if nobody is, or only half of it."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        owner = Owner(**json.loads(os.read(descriptor, 1 << 16)))
    except (ValueError, TypeError):
        return None
    return owner if isinstance(owner.pid, int) and isinstance(owner.restarts, int) else None


def owner_at(path: Path) -> Owner | None:
    """Return who is written down in the file of a lock now; None where there is no such file, or nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return read_owner(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _slurm_job() -> tuple[str | None, int]:
    """Return the job of Slurm in which this process runs, and how often it was put back.

    Each task of an array has a number of its own in SLURM_JOB_ID. Two clusters that share a disk may use the same numbers.
    """
    number, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "")
    cluster = os.environ.get("SLURM_CLUSTER_NAME")
    job = f"{number} of {cluster}" if number and cluster else number or None
    return job, int(restarts) if restarts.isascii() and restarts.isdecimal() else 0


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
