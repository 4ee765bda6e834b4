"""Times and peaks of memory of one case's providers, paired within rounds."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy
import rows
import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # the time of all cores, on a machine that others use


class Provider(NamedTuple):
    """Two parts of one call, timed apart. What the first returns is given to the second; some have no second."""

    forward: Callable[[], Any]
    backward: Callable[[Any], Any] | None = None

    def __call__(self) -> None:
        state = self.forward()
        if self.backward is not None:
            self.backward(state)


def seconds(
    provider: Provider, device: torch.device, budget: float = 0.15, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Times of single calls by mode, for about `budget` seconds: five or more, unless one alone takes a second."""
    forward, backward = provider
    first: list[float] = []
    whole: list[float] = []
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    while not whole or (whole[0] < 1 and (len(whole) < 5 or (sum(whole) < budget and len(whole) < 200))):
        wait()
        start = clock()
        state = forward()
        wait()
        middle = clock()
        if backward is not None:
            backward(state)
        del state  # giving memory back is part of what it costs
        wait()
        end = clock()
        first.append(middle - start)
        whole.append(end - start)
    if backward is None:
        return {"forward": whole}
    return {"forward": first, "backward": [b - a for a, b in zip(first, whole, strict=True)], "both": whole}


def measured(
    label: str,
    providers: dict[str, Provider],
    yardstick: str,
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """A row per provider and mode; ratios are over the yardstick's time of the same mode in the same round."""
    for provider in providers.values():
        provider()
    times: dict[str, list[dict[str, list[float]]]] = {name: [] for name in providers}
    for _ in range(rounds):
        for name, provider in providers.items():
            times[name].append(seconds(provider, device, clock=clock))
    found = []
    print(f"\n{label}: ms and ratio over {yardstick}", flush=True)
    for name in providers:
        line = f"  {name:44}"
        for mode in times[name][0]:
            ours, theirs = ([median(turn[mode]) for turn in times[which]] for which in (name, yardstick))
            ratio = rows.ratios(ours, theirs)
            low, middle, high = numpy.percentile([t * 1e3 for turn in times[name] for t in turn[mode]], (20, 50, 80))
            found.append(
                {
                    "case": label,
                    "provider": name,
                    "mode": mode,
                    "ms_50": round(float(middle), 4),
                    "ms_20": round(float(low), 4),
                    "ms_80": round(float(high), 4),
                    "over": yardstick,
                    **ratio,
                }
            )
            line += f"  {mode} {middle:9.3f} {ratio['ratio_50']:6.2f}"
        print(f"{line} ({ratio['ratio_least']:.2f} to {ratio['ratio_most']:.2f})", flush=True)
    return found


def peak(run: Callable[[], Any], device: torch.device) -> float:
    """MiB that a call takes above what is there before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024


def resident(what: str) -> int:
    """KiB of this process in memory: VmRSS now, VmHWM at the most. (getrusage's peak is inherited from the parent.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def peak_row(case: str, script: str, name: str, *arguments: str) -> dict[str, Any]:
    """What `script --peak name arguments` prints, in a process of its own."""
    command = [sys.executable, script, "--peak", name, *arguments]
    mib = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
    print(f"  {case:32} {name:44} {mib:8.0f} MiB", flush=True)
    return {"case": case, "provider": name, "mode": "both", "peak_mib": round(mib)}
