"""How the C sources become a library: for this machine, or for the kinds of machine that a wheel serves.

Only the standard library is imported: setup.py loads this file on its own, where there is no PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

Flags = tuple[str, ...]
T = TypeVar("T")

SOURCES = tuple(Path(__file__).with_name(name) for name in ("rotate.c", "plane_waves.c", "attention.c", "one_query.c"))
HEADERS = tuple(Path(__file__).with_name(name) for name in ("call.h", "runs.h", "tiles.h"))  # what they share
ASKING = (Path(__file__).with_name("cpu.c"),)  # asks the processor which flavour it runs
FLAGS: Flags = ("-O3", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")
# The first that works: for this very machine, and in threads where the compiler's OpenMP is PyTorch's (gcc's is).
TARGETS: tuple[Flags, ...] = (("-march=native",), ())
THREADS: tuple[Flags, ...] = (("-fopenmp",), ())
# The kinds of machine that a wheel has a library for, and the flags that make it; cpu.c gives one of these names.
FLAVOURS: dict[str, Flags] = {"baseline": ()}
if platform.machine() in ("x86_64", "AMD64"):
    FLAVOURS |= {
        "avx2": ("-march=x86-64-v3",),
        "avx512": ("-march=x86-64-v4",),
        "avx512-bf16": ("-march=x86-64-v4", "-mavx512bf16"),
    }
FAILURES = (OSError, subprocess.CalledProcessError)  # what a build may end with
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}  # what compilers print, in whatever language


def compiler() -> str | None:
    """Where the C compiler is: the one that the environment's CC names, or else one of the usual names."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def said(error: OSError | subprocess.CalledProcessError) -> str:
    """The end of what a compiler said, or else what the system did."""
    return (getattr(error, "stderr", None) or str(error)).strip()[-500:]


def build_first(compiler: str, library: Path, targets: tuple[Flags, ...], use: Callable[[Path], T]) -> T:
    """Builds `library` with the first flags that the compiler takes and whose result `use` takes; what `use` gave.

    Raises the last OSError or CalledProcessError of the compiler and of `use` where there are none.
    """
    failed: OSError | subprocess.CalledProcessError | None = None
    for threads, target in product(THREADS, targets):
        try:
            build(compiler, library, *threads, *target)
            return use(library)
        except FAILURES as error:
            failed = error
    assert failed is not None
    raise failed


def build(compiler: str, library: Path, *flags: str, sources: tuple[Path, ...] = SOURCES) -> None:
    """Compiles the sources, at the same time, and links them. Raises OSError or CalledProcessError."""
    objects = [str(library.with_name(f"{source.stem}.o")) for source in sources]
    with ThreadPoolExecutor() as pool:
        steps = [
            pool.submit(_run, compiler, *FLAGS, *flags, "-c", str(source), "-o", made)
            for source, made in zip(sources, objects, strict=True)
        ]
    for step in steps:
        step.result()
    # Linked without -fopenmp: the names of its runtime are found in the one that torch has loaded.
    undefined = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
    _run(compiler, "-shared", *undefined, *objects, "-lm", "-o", str(library))


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=True, **TEXT)


def build_flavours(compiler: str, folder: Path) -> None:
    """Puts what a wheel holds into a new folder: each library, and its SHA-256 beside it.

    Raises OSError or CalledProcessError where one cannot be made.
    """
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as place:
        library = Path(place, "library.so")
        build(compiler, library, sources=ASKING)
        _put(folder / asking_name(), library)
        for flavour, flags in FLAVOURS.items():
            build_first(compiler, library, (flags,), partial(_put, folder / flavour_name(flavour)))


def _put(to: Path, library: Path) -> None:
    shutil.copyfile(library, to)
    beside(to).write_text(sha256(to), "ascii")


def asking_name() -> str:
    """The name of the library made of cpu.c. These names hold a digest of what the library is made from, so that one
    made from other sources or with other flags is not found."""
    return f"cpu-{_made_from(ASKING)}.so"


def flavour_name(flavour: str) -> str:
    """The name of the loops for a kind of machine."""
    return f"loops-{flavour}-{_made_from((*SOURCES, *HEADERS), *FLAVOURS[flavour])}.so"


def _made_from(sources: tuple[Path, ...], *flags: str) -> str:
    parts = [*(source.read_text("utf-8") for source in sources), *FLAGS, *flags, str(THREADS)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def beside(library: Path) -> Path:
    """The file that says what a library holds, to the byte: its SHA-256."""
    return library.with_name(f"{library.name}.sha256")


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def intact(library: Path) -> bool:
    """Whether a library is there, and what the file beside it says."""
    try:
        return sha256(library) == beside(library).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False
