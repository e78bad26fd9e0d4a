"""What this machine has for runs side by side: cores, GPUs, memory."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""where the limit of a container stands, and what it uses, by version"""


def count_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_threads(at_once: int) -> int:
    """Compute the threads of each of so many processes: an equal share, or what OMP_NUM_THREADS says."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) else max(1, count_cores() // at_once)


def list_gpus() -> list[str]:
    """List NVIDIA's GPUs that this process may use, by what CUDA_VISIBLE_DEVICES would say, without asking torch."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [gpu.strip() for gpu in said.split(",") if gpu.strip()]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def free_memory() -> int | None:
    """Measure the bytes that new processes may take, in this container too; None where the system does not say."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    for folder, limit, used in CGROUPS:
        try:
            taken = int((folder / used).read_text())
            # what files leave in memory goes when a process wants the place
            facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            free = min(free, int((folder / limit).read_text()) - taken + int(facts.get("inactive_file", 0)))
        except (OSError, ValueError):  # no such version, or `max`: no limit
            continue
    return max(0, free)
