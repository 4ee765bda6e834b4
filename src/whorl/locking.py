"""One process at a time writes a folder of results.

The lock is `flock` on DIR/.whorl.lock: the kernel takes it off a process that dies, however it dies, so none is ever
stale. The file says who holds it, and goes when the work is done.
"""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".whorl.lock"


class Busy(ValueError):
    """Another process is at work in a folder."""


def abandoned(folder: Path) -> bool:
    """Whether the process that worked in this folder is dead: it has a lock file, and nobody holds it."""
    if fcntl is None or not (folder / LOCK).exists():
        return False
    try:
        held = _take(folder / LOCK, folder)
    except ValueError:
        return False
    if held is None:
        return False
    os.close(held)
    return True


@contextmanager
def alone(folder: str | Path, by: str) -> Iterator[None]:
    """No other process of whorl's writes this folder while the block runs.

    The folder is made where it is not there, and taken away again if nothing was written.

    by: the command, for others to name. Raises `Busy`, a ValueError, saying who it is, where another process is at work
    here. (Where the system or its file system has no locks, the block runs without one.) A lock does not keep others
    from folders below, which may have locks of their own.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"{folder} cannot be written: {error.strerror}; give another folder") from error
    held = _take(folder / LOCK, folder)
    try:
        if held is not None:
            who = f"whorl {by}, process {os.getpid()} on {platform.node()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"
            for left in folder.rglob(".*.tmp"):
                if re.fullmatch(r"\..+\.\d+\.tmp", left.name) and not _anothers(left.parent, folder):
                    left.unlink(missing_ok=True)  # what a killed run was writing
            os.ftruncate(held, 0)
            os.pwrite(held, who.encode(), 0)
        yield
    finally:
        if held is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(held)
        if made and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _anothers(place: Path, folder: Path) -> bool:
    """Whether another process is at work in `place`, or in a folder between it and `folder`."""
    between = [p for p in (place, *place.parents) if p != folder and p.is_relative_to(folder)]
    return any((p / LOCK).exists() and not abandoned(p) for p in between)


def _take(path: Path, folder: Path) -> int | None:
    """The open lock file, locked."""
    if fcntl is None:
        return None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(file, 500, 0).decode("utf-8", "replace") or "another process"
            os.close(file)
            raise Busy(f"{folder} is being written by {who}; wait until it is done, or give another") from None
        except OSError:  # a file system without locks
            os.close(file)
            return None
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)  # its last holder has just finished, and taken this file away
