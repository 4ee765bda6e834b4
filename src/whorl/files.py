"""Files that are either whole or not there: a reader, or a crash, never meets half of one."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Writes `content` to a temporary file beside `path`, then puts it in place in one step."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: a reader, or a kill, never sees half a file. NaN and infinities become null."""
    write_atomically(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises ValueError that names the file where it holds no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{path} is damaged, it holds no JSON ({error}); restore it, or delete it") from error
    except RecursionError:
        raise ValueError(f"{path} is damaged, its JSON is nested too deeply; restore it, or delete it") from None


def disk_full(error: BaseException) -> bool:
    """Whether a disk is full, a quota, or what a file may hold, in the words of those who write: Python, safetensors,
    torch, NumPy."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in full:
        return True
    said = (*(rf"\(os error {number}\)" for number in full), "No space left on device",
            "PytorchStreamWriter failed writing file", r"^\d+ requested and \d+ written$")  # fmt: skip
    return any(re.search(words, str(error)) for words in said)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
