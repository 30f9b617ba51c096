"""How much memory a dataset may take: of a device, or of a host with limits on its jobs."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import jax


def device_budget(device: jax.Device) -> float:
    """Return how many bytes of a device a dataset may take: half of its free memory.

    Returns 0 for an accelerator that reports no limit (XLA_PYTHON_CLIENT_ALLOCATOR=platform).
    """
    if device.platform == "cpu":
        return available_memory() / 2
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return 0.0
    return (stats["bytes_limit"] - stats["bytes_in_use"]) / 2


def available_memory() -> float:
    """Return the bytes of available host memory, or the total where that is not known.

    It is at most the memory limit of the cluster job or container that this process is in.
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                available = int(line.split()[1]) * 1024
    return min(
        available, cgroup_limit(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    )


def cgroup_limit(membership: Path, mount: Path) -> float:
    """Return the smallest memory limit of a process's control groups, in bytes; inf for none.

    Args:
        membership: the file with the groups of the process, /proc/self/cgroup.
        mount: the folder of all groups, of version 1 or 2.
    """
    limits = [math.inf]
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):
                name = "memory.limit_in_bytes" if controllers else "memory.max"
                root = mount / controllers
                limits += limits_up_to(root, root / group.lstrip("/"), name)
    return min(limits)


def limits_up_to(root: Path, folder: Path, name: str) -> Iterator[float]:
    """Yield the limits in the files `name` of a folder and of its parents up to `root`."""
    for place in (folder, *folder.parents):
        if place.is_relative_to(root):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                yield int((place / name).read_text())
