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
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch

SOURCES = tuple(Path(__file__).with_name(name) for name in ("rotate.c", "attention.c"))
# The first that works: for this very machine, and in threads where the compiler's OpenMP is PyTorch's (gcc's is).
TARGETS = (("-march=native",), ())
THREADS = (("-fopenmp",), ())
FLAGS = ("-O3", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")


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
        return _built(compiler), None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None)
        return None, f"{compiler} could not build whorl's loops: {(said or str(error)).strip()[-500:]}"


def _built(compiler: str) -> Any:
    """The library, loaded: from the cache, or made now and put there in one step."""
    cpu = platform.machine() + "".join(
        line for line in _cpuinfo().splitlines() if line.startswith(("model name", "flags", "Features"))
    )
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    sources = [source.read_text() for source in SOURCES]
    made_from = "\0".join(
        [*sources, compiler, version, cpu.split("processor")[0][:4000], *FLAGS, str((TARGETS, THREADS))]
    )
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = root / "whorl" / f"loops-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so"
    if kept.exists():
        return _load(kept)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder: str | None = str(kept.parent)
    except OSError:
        folder = None  # no home to write to: for this process alone
    failed: OSError | subprocess.CalledProcessError | None = None
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as build:
        for flags in product(THREADS, TARGETS):
            made = Path(build, "loops.so")
            try:
                _make(compiler, made, *chain(*flags))
                loaded = _load(made)
            except (OSError, subprocess.CalledProcessError) as error:
                failed = error
                continue
            if folder is not None:
                os.replace(made, kept)
            return loaded
    assert failed is not None
    raise failed


def _make(compiler: str, library: Path, *flags: str) -> None:
    """Compiles the sources, at the same time, and links them."""
    objects = [str(library.with_name(f"{source.stem}.o")) for source in SOURCES]
    with ThreadPoolExecutor() as pool:
        steps = [
            pool.submit(_run, compiler, *FLAGS, *flags, "-c", str(source), "-o", made)
            for source, made in zip(SOURCES, objects, strict=True)
        ]
    for step in steps:
        step.result()
    # Linked without -fopenmp: the names of its runtime are found in the one that torch has loaded.
    undefined = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
    _run(compiler, "-shared", *undefined, *objects, "-lm", "-o", str(library))


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True)


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
    if getattr(loaded, name)(numbers):
        raise MemoryError(f"{name} found no memory to work in")
