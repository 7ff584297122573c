"""How much memory may be taken: what the machine, or the container around the process, has to spare now."""

import os
from pathlib import Path

FALLBACK_BYTES = 4 * 1024**3
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_memory_bytes(*, meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Return the bytes that can be taken without swapping: of the machine, or of the container if less.

    Args:
        meminfo: Linux's table of the machine's memory; where it is missing, half of all pages count as free.
        cgroup: Folder with the limits of the container (version 2).
    """
    return min(_of_machine(meminfo), _of_container(cgroup))


def _of_machine(meminfo: Path) -> int:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return FALLBACK_BYTES


def _of_container(cgroup: Path) -> int:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text()) - _of_old_files(cgroup)
    except (OSError, ValueError):
        return 1 << 62
    return 1 << 62 if limit == "max" else max(int(limit) - max(used, 0), 0)


def _of_old_files(cgroup: Path) -> int:
    """Return the bytes of files that were read once and are kept as long as nobody needs the memory."""
    try:
        rows = (line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return sum(int(size) for name, size in rows if name == "inactive_file")
    except (OSError, ValueError):
        return 0
