"""Small texts: a real one that every machine has, source files of the standard library, and one that is counted."""

from __future__ import annotations

import sys
from pathlib import Path

NAMES = ("argparse", "ast", "bdb", "calendar", "cmd", "csv", "difflib", "dis", "enum", "heapq", "pdb", "uuid")


def lay(folder: Path) -> Path:
    """Puts the files into `folder`, which is made, as documents."""
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        source = Path(sys.modules["json"].__file__).parents[1] / f"{name}.py"  # type: ignore[type-var, arg-type]
        (folder / f"{name}.txt").write_text(source.read_text())
    return folder


def count(folder: Path) -> str:
    """Twelve documents of numbers in `folder`, for a tokenizer of a few hundred tokens."""
    for i in range(12):
        (folder / f"{i:02}.txt").write_text("".join(f"{j * (i + 3) % 97} and {j % 7}. " for j in range(200)))
    return str(folder)
