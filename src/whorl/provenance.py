"""Where a result comes from: the machine and the versions, as every result file records them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import whorl

VECTORS = re.compile(r"(avx|fma|f16c|amx|asimd|sve|sme(?!p)|bf16|i8mm)\w*")  # what the last digits depend on


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """What this runs on: CPU, cores that this process may use and threads that it does, memory, and the device: that of
    a model which was read, or, where none is given, the GPU if there is one, which trains.

    instructions: the CPU's vector instructions, by which its last digits differ from another's of the same name. Empty
    where the system does not say (/proc/cpuinfo).
    """
    cpu = platform.processor() or platform.machine()
    told = _cpuinfo()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    flags = told.get("flags", told.get("Features", "")).split()  # of x86, of ARM
    return {
        "cpu": told.get("model name", cpu),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": None if memory is None else round(memory, 1),
        "device": _named(device),
        "platform": platform.platform(),
        "instructions": sorted(flag for flag in flags if VECTORS.fullmatch(flag)),
    }


def _named(device: torch.device | None) -> str:
    if device is None and torch.cuda.is_available():
        device = torch.device("cuda")
    if device is None or device.type in ("cpu", "meta"):  # meta: layers that wait on disk for their turn on the CPU
        return "cpu"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python, whorl and the packages, and whorl's commit where it is run from a checkout."""
    commit = {} if (found := _commit()) is None else {"commit": found}
    own = {"python": platform.python_version(), "whorl": whorl.__version__}
    return own | commit | {name: _version(name) for name in packages}


def _version(name: str) -> str:
    """As the imported package says it, which of PyTorch names the CUDA that it is for, or as it was installed."""
    said = getattr(sys.modules.get(name), "__version__", None)
    return version(name) if said is None else str(said)


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {}
    lines = (line.partition(":") for line in reversed(info.read_text().splitlines()))
    return {name.strip(): value.strip() for name, _, value in lines}


@cache
def _commit() -> str | None:
    """Of the checkout that whorl's source lies in: `1531471`, or `1531471-dirty` where files have changed since."""
    checkout = Path(whorl.__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
