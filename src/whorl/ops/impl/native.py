"""The C loops: those that the wheel brought, or else compiled the first time that they are needed.

A wheel has them for several kinds of machine, and the processor is asked which it is. From a source tree they are
compiled for this very machine: a second or two, once, since the library is kept in the user's cache (see `libraries`),
under a name that says what it was made from. Where there is no C compiler either, `missing()` says so. The loops run in
the threads that PyTorch has already (its own OpenMP runtime), as many as torch.get_num_threads() allows.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from whorl.ops.impl import building, libraries

log = logging.getLogger(__name__)

BROUGHT = Path(__file__).with_name("built")  # where a wheel has its libraries


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
    loaded, against = _brought()
    if loaded is not None:
        return loaded, None
    compiler = building.compiler()
    if compiler is None:
        return None, "; ".join([*against, "no C compiler (cc, gcc or clang) is on the PATH"])
    try:
        return _built(compiler, against), None
    except building.FAILURES as error:
        return None, f"{compiler} could not build whorl's loops: {building.said(error)}"


def _brought() -> tuple[Any, list[str]]:
    """The library that the wheel has for this processor, loaded; or None, and what speaks against one that is there.

    Whoever can write there can write this very file, so no owner is asked for: only whether the library is made from
    these sources (its name says so) and whole. A source tree has none, or one of other sources: that is no fault.
    """
    path = BROUGHT / building.asking_name()
    if not path.exists():
        return None, []
    try:
        if building.intact(path):
            path = BROUGHT / building.flavour_name(_flavour(path))
            if building.intact(path):
                return _load(path), []
        return None, [f"{path} is not what the wheel brought"]
    except OSError as error:
        return None, [f"{path} does not load: {error}"]


def _flavour(asking: Path) -> str:
    """The kind of machine that this is, of building.FLAVOURS, by the library made of cpu.c."""
    ask = ctypes.CDLL(str(asking)).whorl_flavour
    ask.restype = ctypes.c_char_p
    return ask().decode()


def _built(compiler: str, against: list[str]) -> Any:
    """The library, loaded: from the first place that keeps it, or made now and kept in the first that can.

    Where that is not the user's cache, or for this process alone, one warning says why. So it says what was `against` a
    library that the wheel brought.
    """
    name = f"loops-{_made_from(compiler)}.so"
    good, against = [], list(against)
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
        loaded = building.build_first(compiler, made, building.TARGETS, _load)
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
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, **building.TEXT).stdout
    sources = [source.read_text() for source in (*building.SOURCES, *building.HEADERS)]
    tried = str((building.TARGETS, building.THREADS))
    made_from = "\0".join([*sources, compiler, version, cpu[:4000], *building.FLAGS, tried])
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


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
