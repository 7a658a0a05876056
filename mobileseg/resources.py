"""How much of this machine there is to work with, and how much of it PyTorch takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits (version 2)."""


def cores() -> int:
    """CPU cores that this process may use, a container's quota counted."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        allowed = min(allowed, -(-int(quota) // int(period)))
    return max(1, allowed)


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, a container's limit counted; None where the system does not say."""
    lines = _read(Path("/proc/meminfo")).splitlines()
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        left = max(0, int(limit) - int(used))
        return left if free is None else min(free, left)
    return free


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch's threads, while the context lasts. With another number the last bits of its sums are others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
