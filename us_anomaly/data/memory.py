"""How much memory may be taken: what the machine, or the container around the process, has to spare now."""

import os
from pathlib import Path

FALLBACK_BYTES = 4 * 1024**3
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 62
"""Bytes of a container without a limit; version 1 says a number of that size, version 2 `max`."""


def available_memory_bytes(*, meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Return the bytes that can be taken without swapping: of the machine, or of the container if less.

    Args:
        meminfo: Linux's table of the machine's memory; where it is missing, half of all pages count as free.
        cgroup: Folder with the limits of the container, of version 2 or 1.
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
    """Return what the container has to spare, by version 2 or 1 of its limits."""
    version_1 = cgroup / "memory"
    spare = _spare(cgroup / "memory.max", cgroup / "memory.current", cgroup)
    if spare is None:
        spare = _spare(version_1 / "memory.limit_in_bytes", version_1 / "memory.usage_in_bytes", version_1)
    return UNLIMITED if spare is None else spare


def _spare(limit: Path, usage: Path, folder: Path) -> int | None:
    """Return limit less usage; None where these files are not there."""
    try:
        allowed, used = limit.read_text().strip(), int(usage.read_text()) - _of_old_files(folder)
        return UNLIMITED if allowed == "max" else min(max(int(allowed) - max(used, 0), 0), UNLIMITED)
    except (OSError, ValueError):
        return None


def _of_old_files(folder: Path) -> int:
    """Return the bytes of files that were read once and are kept as long as nobody needs the memory."""
    try:
        sizes = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(sizes.get("total_inactive_file") or sizes.get("inactive_file", "0"))  # with all below, in version 1
    except (OSError, ValueError):
        return 0
