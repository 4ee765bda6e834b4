"""C loops (rotate.c, attention.c) that are compiled for this machine the first time that they are needed.

A second or two, once: the library is kept in the user's cache (see `libraries`), under a name that says what it was
made from. Where there is no C compiler, `missing()` says so. The loops run in the threads that PyTorch has already (its
own OpenMP runtime), as many as torch.get_num_threads() allows.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
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

from whorl.ops.impl import libraries

log = logging.getLogger(__name__)

SOURCES = tuple(Path(__file__).with_name(name) for name in ("rotate.c", "attention.c"))
# The first that works: for this very machine, and in threads where the compiler's OpenMP is PyTorch's (gcc's is).
TARGETS = (("-march=native",), ())
THREADS = (("-fopenmp",), ())
FLAGS = ("-O3", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}  # what compilers print, in whatever language


def missing() -> str | None:
    """None when the compiled loops can run here, else the reason why not."""
    return library()[1]


@cache
def library() -> tuple[Any, str | None]:
    """The loaded library, or the reason why there is none, which is also logged: without it whorl is slower."""
    loaded, why = _library()
    if why is not None:
        log.warning("whorl's compiled loops cannot be had, and slower code runs in their place: %s", why)
    return loaded, why


def _library() -> tuple[Any, str | None]:
    if os.name != "posix":
        return None, f"whorl compiles its loops on Linux and macOS, and this is {platform.system()}"
    compiler = next((c for name in _compilers() if (c := shutil.which(name))), "")
    if not compiler:
        return None, "no C compiler (cc, gcc or clang) is on the PATH"
    try:
        return _built(compiler), None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None)
        return None, f"{compiler} could not build whorl's loops: {(said or str(error)).strip()[-500:]}"


def _compilers() -> list[str]:
    return [name for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name]


def _built(compiler: str) -> Any:
    """The library, loaded: from the first place that keeps it, or made now and kept in the first that can.

    Where that is not the user's cache, or for this process alone, one warning says why.
    """
    name = f"loops-{_made_from(compiler)}.so"
    good, against = [], []
    for folder in libraries.folders():
        why = libraries.refused(folder)
        if why is not None:
            against.append(f"{folder} is not used: {why}")
            continue
        good.append(folder)
        kept = folder / name
        if libraries.whole(kept):
            try:
                return _load(kept)
            except OSError as error:
                against.append(f"{kept} does not load: {error}")
        elif kept.exists():
            against.append(f"{kept} is not what whorl put there")
    place: Path | None = None
    for folder in good:
        why = libraries.no_room(folder)
        if why is None:
            place = folder
            break
        against.append(f"{folder} cannot be written to: {why}")
    else:
        against.append("they are compiled again in every process; XDG_CACHE_HOME names another place")
    if against:
        log.warning("whorl's compiled loops: %s", "; ".join(against))
    with tempfile.TemporaryDirectory(dir=place, prefix=libraries.BUILD) as build:
        made = Path(build, "loops.so")
        loaded = _make_what_loads(compiler, made)
        if place is not None:
            try:
                libraries.keep(made, place / name)
            except OSError as error:
                log.warning("whorl's compiled loops could not be kept in %s: %s", place, error)
        return loaded


def _made_from(compiler: str) -> str:
    """A digest of all that a library depends on: the sources, the compiler, its flags and the CPU that it is for."""
    cpu = platform.machine() + "".join(
        line for line in _cpuinfo().splitlines() if line.startswith(("model name", "flags", "Features"))
    )
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, **TEXT).stdout
    sources = [source.read_text() for source in SOURCES]
    made_from = "\0".join([*sources, compiler, version, cpu[:4000], *FLAGS, str((TARGETS, THREADS))])
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


def _make_what_loads(compiler: str, made: Path) -> Any:
    """Builds with the first flags that this compiler takes and whose result loads, and returns it loaded."""
    failed: OSError | subprocess.CalledProcessError | None = None
    for flags in product(THREADS, TARGETS):
        try:
            _make(compiler, made, *chain(*flags))
            return _load(made)
        except (OSError, subprocess.CalledProcessError) as error:
            failed = error
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
    subprocess.run(command, capture_output=True, check=True, **TEXT)


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
