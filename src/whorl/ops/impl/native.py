"""C loops (rotate.c, attention.c) that are compiled for this machine the first time that they are needed.

A second or two, once: the library is kept in the user's cache, under a name that says what it was made from. Where
there is no C compiler, `missing()` says so. The loops run in the threads that PyTorch has already (its own OpenMP
runtime), as many as torch.get_num_threads() allows.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

SOURCES = tuple(Path(__file__).with_name(name) for name in ("rotate.c", "attention.c"))
TARGETS = (("-march=native", "-DWHORL_HALF"), ("-march=native",), ())  # the first that the compiler takes
NO_HALF = 2  # what a loop returns for float16 where the compiler has none
FLAGS = ("-O3", "-fopenmp", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")


def missing() -> str | None:
    """None when the compiled loops can run here, else the reason why not."""
    return library()[1]


@cache
def library() -> tuple[Any, str | None]:
    """The loaded library, or the reason why there is none."""
    compiler = next(
        (c for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (c := shutil.which(name))), ""
    )
    if not compiler:
        return None, "no C compiler (cc, gcc or clang) is on the PATH"
    try:
        return _load(_built(compiler)), None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None)
        return None, f"{compiler} could not build whorl's loops: {(said or str(error)).strip()[-500:]}"


def _built(compiler: str) -> Path:
    """The shared library, from the cache or made now and put there in one step."""
    cpu = platform.machine() + "".join(
        line for line in _cpuinfo().splitlines() if line.startswith(("model name", "flags", "Features"))
    )
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    sources = [source.read_text() for source in SOURCES]
    made_from = "\0".join([*sources, compiler, version, cpu.split("processor")[0][:4000], *FLAGS, str(TARGETS)])
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = root / "whorl" / f"loops-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so"
    if kept.exists():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder: str | None = str(kept.parent)
    except OSError:
        folder = None  # no home to write to: for this process alone
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as build:
        for target in TARGETS:
            steps = [
                [compiler, *FLAGS, *target, "-c", str(source), "-o", f"{build}/{source.stem}.o"] for source in SOURCES
            ]
            with ThreadPoolExecutor() as pool:
                done = list(pool.map(_run, steps))
            if not any(step.returncode for step in done):
                break
        else:
            next(step for step in done if step.returncode).check_returncode()
        # Linked without -fopenmp: the names of its runtime are found in the one that torch has loaded.
        objects = [f"{build}/{source.stem}.o" for source in SOURCES]
        link = [compiler, "-shared", *objects, "-lm", "-o", f"{build}/loops.so"]
        subprocess.run(link, capture_output=True, text=True, check=True)
        if folder is None:
            kept = Path(tempfile.mkdtemp()) / kept.name
            shutil.copy(f"{build}/loops.so", kept)
        else:
            os.replace(f"{build}/loops.so", kept)
    return kept


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text().split("\n\n")[0] if path.exists() else platform.processor()


def _load(path: Path) -> Any:
    for runtime in sorted(Path(torch.__file__).parent.glob("lib/lib*omp*")):
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def call(name: str, numbers: bytes) -> None:
    """Calls a loop with one array of 8-byte numbers, packed by `struct`: the cheapest call that there is.

    Raises ValueError without a library, and MemoryError where the loop found no memory for itself.
    """
    loaded, why = library()
    if loaded is None:
        raise ValueError(f"the compiled loops cannot run here: {why}")
    code = getattr(loaded, name)(numbers)
    if code == NO_HALF:
        raise ValueError("the C compiler of this machine has no float16; use impl='reference'")
    if code:
        raise MemoryError(f"{name} found no memory to work in")
