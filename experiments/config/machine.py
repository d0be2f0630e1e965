"""What a machine, or a container on it, has for a process: cores and memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

UNKNOWN = 2**63
"""Bytes that are said to be free where nothing tells how many are."""


def usable_cores() -> int:
    """Cores that this process may use, as the scheduler and a container's quota of processor time allow."""
    from joblib import cpu_count  # a light command does not need it

    return int(cpu_count())


def free_memory() -> int:
    """Bytes that processes may still take without swapping: of the machine, or of the container where that allows less."""
    free = UNKNOWN
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
        free = min(free, int(limit) - int(used))
    return max(0, free)
