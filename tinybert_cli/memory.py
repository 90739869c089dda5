"""The memory that this process may still use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path


def free_memory() -> int:
    """Bytes that this process may still use: of the machine, its container and its own limit."""
    return min(_available_memory(), *_limits())


def _available_memory() -> int:
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        import psutil

        return int(psutil.virtual_memory().available)


def _limits() -> Iterator[int]:
    if sys.platform == "win32":
        return
    import resource

    for name in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(name)
        if soft != resource.RLIM_INFINITY:
            yield soft
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except OSError:  # no container, or the other version of cgroups
            continue
        if text.isdigit():
            yield int(text)
