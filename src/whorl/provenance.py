"""Where a result comes from: the machine and the versions, as every result file records them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """What this runs on: CPU, cores that this process may use and threads that it does, memory, GPU if there is one."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "cpu": cpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": None if memory is None else round(memory, 1),
        "device": device,
        "platform": platform.platform(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Python's version, and those of the packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
