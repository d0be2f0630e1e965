"""What a machine, or a container on it, has for a process: cores and memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

UNKNOWN = 2**63
"""Bytes that are said to be free where nothing tells how many are."""


def usable_cores() -> int:
    """Cores that this process may use, as the scheduler or a container allows; elsewhere than on Linux, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
