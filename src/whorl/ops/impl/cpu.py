"""The rotation on a CPU: a C loop (rotate.c) that is compiled for this machine the first time that it is needed.

Half a second, once: the library is kept in the user's cache, under a name that says what it was made from. Where there
is no C compiler, `available()` says so, and "auto" takes the reference. The loop runs in the threads that PyTorch has
already (its own OpenMP runtime), as many as torch.get_num_threads() allows.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("rotate.c")
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
FLAGS = ("-O3", "-fopenmp", "-fPIC", "-std=gnu11")
BLOCK = 16  # tokens per unit of work: a few of their heads fit in the second-level cache
SMALL = 1 << 16  # bytes below which waking a second thread costs more than it gains


def available() -> str | None:
    """None when the compiled rotation can run here, else the reason why not."""
    return _library()[1]


@cache
def _library() -> tuple[Any, str | None]:
    compiler = next(
        (c for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (c := shutil.which(name))), ""
    )
    if not compiler:
        return None, "no C compiler (cc, gcc or clang) is on the PATH"
    try:
        return _load(_built(compiler)), None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None)
        return None, f"{compiler} could not build {SOURCE.name}: {(said or str(error)).strip()[-500:]}"


def _built(compiler: str) -> Path:
    """The shared library, from the cache or made now and put there in one step."""
    cpu = platform.machine() + "".join(
        line for line in _cpuinfo().splitlines() if line.startswith(("model name", "flags", "Features"))
    )
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    made_from = "\0".join([SOURCE.read_text(), compiler, version, cpu.split("processor")[0][:4000], *FLAGS])
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    library = root / "whorl" / f"rotate-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        folder: str | None = str(library.parent)
    except OSError:
        folder = None  # no home to write to: for this process alone
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as build:
        # Linked without -fopenmp: the names of its runtime are found in the one that torch has loaded.
        steps = [
            [compiler, *FLAGS, *native, "-c", str(SOURCE), "-o", f"{build}/rotate.o"]
            for native in (("-march=native", "-DWHORL_HALF"), ("-march=native",), ())
        ]
        for attempt in steps:
            done = subprocess.run(attempt, capture_output=True, text=True)
            if done.returncode == 0:
                break
        else:
            done.check_returncode()
        link = [compiler, "-shared", f"{build}/rotate.o", "-o", f"{build}/rotate.so"]
        subprocess.run(link, capture_output=True, text=True, check=True)
        if folder is None:
            kept = Path(tempfile.mkdtemp()) / library.name
            shutil.copy(f"{build}/rotate.so", kept)
            return kept
        os.replace(f"{build}/rotate.so", library)
    return library


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text().split("\n\n")[0] if path.exists() else platform.processor()


def _load(path: Path) -> Any:
    for runtime in sorted(Path(torch.__file__).parent.glob("lib/lib*omp*")):
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(path))
    return library.whorl_rotate


def rotate(
    tensors: list[torch.Tensor],
    out: list[torch.Tensor],
    cos: torch.Tensor,
    sin: torch.Tensor,
    first: int,
    width: int,
    *,
    layout: str,
    heads_dim: int,
    sign: int = 1,
) -> None:
    """Writes the turned `tensors` to `out`, which may be the same ones; see `whorl.ops.rotate` for the rest.

    Channels must be adjacent (stride 1) in all of them. cos and sin: [batch or 1, tokens, n] or, per head, four
    dimensions in the order of the tensors' own.
    """
    turn, why = _library()
    if turn is None:
        raise ValueError(f"impl='cpu' cannot run here: {why}")
    cos, sin = cos.contiguous(), sin.contiguous()
    tokens_dim = 3 - heads_dim
    table = [cos.stride(0) if cos.shape[0] > 1 else 0, 0, cos.stride(1)]
    if cos.dim() == 4:
        table[1:] = cos.stride(heads_dim) if cos.shape[heads_dim] > 1 else 0, cos.stride(tokens_dim)
    described: list[int] = []
    size = 0
    for x, y in zip(tensors, out, strict=True):
        shape, strides, out_strides = x.shape, x.stride(), y.stride()
        described += (
            y.data_ptr(), x.data_ptr(), shape[0], shape[heads_dim], shape[tokens_dim],
            strides[0], strides[heads_dim], strides[tokens_dim],
            out_strides[0], out_strides[heads_dim], out_strides[tokens_dim], *table,
        )  # fmt: skip
        size += x.nbytes
    call = (
        DTYPES[tensors[0].dtype], len(tensors), cos.data_ptr(), sin.data_ptr(), sign, tensors[0].shape[-1], first,
        cos.shape[-1], width, layout == "interleaved", BLOCK, torch.get_num_threads() if size > SMALL else 1,
    )  # fmt: skip
    code = turn((ctypes.c_int64 * (len(call) + len(described)))(*call, *described))
    assert code == 0, "a build without float16"
