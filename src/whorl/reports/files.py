"""Writing a file so that a reader, or a crash, never meets half of one."""

import os
from pathlib import Path


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
