"""Where a command may write: one rule for all of them, asked before the work begins.

A folder that is not there, or is empty, may be written. What somebody else put somewhere is neither written into nor
removed. A folder of whorl's is known by its marker (`.whorl.json`), or by what earlier versions wrote in its place.

gone on with   compare, inspect, evaluate: a folder of the same command; files are renewed one by one
replaced       extend, convert, export: with `force`, a folder that one of these three wrote, if nothing was added to
               it, and never one that the work reads from. The new folder is made whole beside it and takes its name
               before the old one is removed
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whorl.checking import few
from whorl.files import write_atomically
from whorl.locking import LOCK, abandoned, alone

log = logging.getLogger(__name__)

MARKER = ".whorl.json"
REPLACED = ("extend", "convert", "export")
# What `extend` and `convert` wrote beside extension.json or conversion.json before there was a marker.
EARLIER = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|extension|conversion"
    r"|model\.safetensors\.index)\.json|model(-\d{5}-of-\d{5})?\.safetensors|(vocab|merges)\.txt|\w+\.model"
    r"|chat_template\.jinja|loss\.png"
)


def check_goes_on(out: str | Path, by: str) -> None:
    """Refuses, for what goes on with a folder, an `out` that is a file, cannot be written, or holds something else."""
    out = Path(out)
    _check_writable(out, out)
    if _is_empty(out):
        return
    writer = written_by(out)
    if writer is None:
        raise ValueError(f"{out} is not empty and holds no whorl results; give a new folder")
    if writer != by:
        raise ValueError(f"{out} was written by whorl {writer}, and whorl {by} would mix its files in; give another")


def mark(folder: str | Path, by: str) -> None:
    """Makes the folder, and notes in it which command writes there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_marker(folder, {"written_by": by})


def check_replaces(out: str | Path, force: bool, reads: Iterable[Any] = ()) -> None:
    """Refuses, for extend, convert and export, an `out` that may not be made or replaced.

    reads: what the work reads: the model, a text, a tokenizer. A path that is not there (a hub's name) is passed over.
    """
    out = Path(out)
    _check_writable(out, out.resolve().parent)
    if _is_empty(out):
        return
    writer = written_by(out)
    if not force and writer in REPLACED:
        raise ValueError(f"{out} is there already; give another folder, or --force (force=True) to replace it")
    if not force:
        raise ValueError(f"{out} is there already; give another folder")
    _refuse_read_from(out, reads)
    if writer not in REPLACED:
        what = "it is not known to be whorl's" if writer is None else f"it holds the results of whorl {writer}"
        raise ValueError(f"{out} is not replaced, since {what}; give another folder, or remove it yourself")
    if added := _added(out):
        raise ValueError(
            f"{out} is not replaced, since it holds what whorl did not write: {few(added)}; "
            "give another folder, or move that away"
        )


@contextmanager
def replacing(out: str | Path, by: str, force: bool = False, reads: Iterable[Any] = ()) -> Iterator[Path]:
    """Gives an empty folder beside `out`, which gets its name when the block ends and is removed when it fails.

    `out` is checked as by `check_replaces` at both ends, since the work in between may take long. Raises ValueError
    where the finished folder cannot have its name; it is kept then, and the message says where.
    """
    out, reads = Path(out), list(reads)
    place = out.resolve()
    _clear_up(place)
    check_replaces(out, force, reads)
    made = place.parent / f".{place.name}.{uuid.uuid4().hex[:8]}"
    try:
        made.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"cannot write at {out}: {error}") from error
    with alone(made, by):
        try:
            yield made
            _write_marker(made, {"written_by": by, "files": _files(made)})
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        try:
            check_replaces(out, force, reads)
            _rename(made, place)
        except (ValueError, OSError) as error:
            raise ValueError(f"{out} cannot be written: {error}. What was made is whole, and kept at {made}") from error
        (place / LOCK).unlink(missing_ok=True)  # now: until here it tells others that its maker is alive


def _clear_up(place: Path) -> None:
    """Takes away what killed runs have left beside `place`, and brings back what one had just moved aside."""
    for left in place.parent.glob(f".{glob.escape(place.name)}.*"):
        if not re.fullmatch(r"\.[0-9a-f]{8}(\.old)?", left.name.removeprefix(f".{place.name}")) or not left.is_dir():
            continue
        if left.suffix == ".old":
            maker = left.with_suffix("")
            if place.exists():
                shutil.rmtree(left, ignore_errors=True)
            elif abandoned(maker) or not maker.exists():
                left.rename(place)
        elif abandoned(left):
            shutil.rmtree(left, ignore_errors=True)


def _rename(made: Path, place: Path) -> None:
    old = made.with_name(f"{made.name}.old")
    aside = place.exists()
    if aside:
        place.rename(old)
    try:
        made.rename(place)
    except BaseException:
        if aside:
            old.rename(place)
        raise
    if aside:
        shutil.rmtree(old, ignore_errors=True)
        if old.exists():
            log.warning("the folder that was replaced could not be removed whole: %s", old)


def written_by(folder: Path) -> str | None:
    """Which of whorl's commands wrote a folder, or None."""
    marker = _json(folder / MARKER)
    if marker is not None:
        return str(marker.get("written_by"))
    if (folder / "inspection.json").is_file() and (folder / "inspection.npz").is_file():
        return "inspect"
    settings = _json(folder / "config.json")
    if settings is not None and {"task", "train_length", "lengths", "tail", "windows"} <= settings.keys():
        return "compare"
    for name, by in (("conversion.json", "convert"), ("extension.json", "extend")):
        if _json(folder / name) is not None:
            return by
    return "export" if _is_earlier_gguf(folder) else None


def _is_earlier_gguf(folder: Path) -> bool:
    """`model.gguf` with whorl's own key in its metadata. (Hugging Face's directories do not tell who wrote them.)"""
    try:
        with (folder / "model.gguf").open("rb") as file:
            return b"whorl.encoding" in file.read(1 << 16)
    except OSError:
        return False


def _added(folder: Path) -> list[str]:
    """Files of a folder that whorl did not write there."""
    marker = _json(folder / MARKER)
    if marker is not None:
        ours = {MARKER, *(marker.get("files") or [])}
        return [name for name in _files(folder) if name not in ours]
    return [name for name in _files(folder) if not EARLIER.fullmatch(name) and name != "model.gguf"]


def _files(folder: Path) -> list[str]:
    """Every file and link below a folder, relative to it, with `/` between."""
    found = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(name for name in found if name != LOCK)


def _refuse_read_from(out: Path, reads: Iterable[Any]) -> None:
    """By the identity of folders and not their names, which links, `..` and capitals spell in many ways."""
    for what in reads:
        path = Path(str(what))
        if not what or not path.exists():
            continue
        for file in (path, *(path.iterdir() if path.is_dir() else ())):
            real = file.resolve()
            if any(p.exists() and p.samefile(out) for p in (real, *real.parents)):
                raise ValueError(
                    f"{out} is not replaced, since {path} is read from, which lies there; give another folder"
                )


def _check_writable(out: Path, folder: Path) -> None:
    """`folder` is where files will be made on behalf of `out`; or what there is of the path to it."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give the name of a folder")
    if out.is_symlink() and not out.exists():
        raise ValueError(f"{out} is a link that leads nowhere ({os.readlink(out)}); remove it, or give another folder")
    nearest = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{out} cannot be written: {nearest} is not a folder that this user may write in")


def _is_empty(folder: Path) -> bool:
    return not folder.exists() or all(path.name == LOCK for path in folder.iterdir())


def _write_marker(folder: Path, facts: dict[str, Any]) -> None:
    write_atomically(folder / MARKER, json.dumps(facts, indent=2) + "\n")


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file, or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
