"""Where a compiled library is kept between processes, and which file there is believed.

Loading a library runs it, so one is loaded only from a folder that nobody else can write to, and only if it is what was
put there, byte for byte: its SHA-256 stands beside it. So what a kill or a full disk cut short is not loaded either.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from whorl.ops.impl.building import beside, intact, sha256

ROOM = 4 << 20  # bytes that a build writes at most: two objects and the library take 0.3 MiB
STALE = 3600.0  # seconds after which the folder of a build that was killed is taken away
BUILD = ".build-"


def folders() -> Iterator[Path]:
    """The places to keep a library in, the user's cache first."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache and Path(cache).is_absolute():
        yield Path(cache) / "whorl"
    else:
        home = os.path.expanduser("~")  # "~" where the user has none
        if os.path.isabs(home):
            yield Path(home) / ".cache" / "whorl"
    yield Path(tempfile.gettempdir()) / f"whorl-{os.geteuid()}"


def refused(folder: Path) -> str | None:
    """None where a library in this folder may be loaded, else the reason why not. The folder is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = folder.resolve(strict=True)
        for place in (folder, *folder.parents):
            why = _others_may_write(place)
            if why is not None:
                return why
        if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
            return "its file system is mounted noexec"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _others_may_write(place: Path) -> str | None:
    """None where this user and root alone can put a file here. (In a sticky folder, as /tmp is, files stay their
    owner's.)"""
    facts = place.lstat()
    if facts.st_uid not in (os.geteuid(), 0):
        return f"{place} belongs to another user (uid {facts.st_uid})"
    if facts.st_mode & stat.S_IWOTH and not (place.is_dir() and facts.st_mode & stat.S_ISVTX):
        return f"{place} can be written to by anybody"
    return None


def whole(library: Path) -> bool:
    """Whether this file is what was kept here, to the byte, and is nobody else's."""
    try:
        regular = stat.S_ISREG(library.lstat().st_mode)
        return regular and _others_may_write(library) is None and intact(library)
    except OSError:
        return False


def no_room(folder: Path) -> str | None:
    """None where a build can be written here, else the reason why not. Takes away what killed builds have left."""
    for left in folder.glob(f"{BUILD}*"):
        try:
            if time.time() - left.lstat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return None


def keep(made: Path, library: Path) -> None:
    """Puts a library that was built in the same folder in its place. A reader meets all of it or what was there before:
    between the two steps the digest is another's, and the file is not believed."""
    digest = made.with_name("digest")
    digest.write_text(sha256(made), "ascii")
    os.chmod(made, 0o700)
    os.replace(digest, beside(library))
    os.replace(made, library)
