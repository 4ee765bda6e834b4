"""The Trainer's checkpoints of one trial: which are whole, and from which one an interrupted run goes on.

    checkpoint-N/   the Trainer's own files after N steps, and last of all `complete.json`: N, the training seconds up
                    to it, and the size and SHA-256 of every file

A checkpoint is whole if its files are those of its `complete.json`, byte for byte. Times of files say nothing here: a
clock may be set back. The newest whole one is the one of the highest step.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

from whorl.files import read_json, write_json

log = logging.getLogger(__name__)

MARKER = "complete.json"
KEPT = 2  # an older one is there when the newest is damaged


def contents(path: Path) -> dict[str, Any]:
    """The size and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def complete(folder: Path, step: int, seconds: float, kept: int = KEPT) -> None:
    """Says that this checkpoint is whole, and takes away all but the newest `kept` whole ones beside it."""
    files = {str(p.relative_to(folder)): contents(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop(MARKER, None)
    write_json(folder / MARKER, {"step": step, "seconds": seconds, "files": files})
    older = sorted(
        (p for p in folder.parent.glob("checkpoint-*") if (p / MARKER).exists() and _step(p) <= step), key=_step
    )
    for surplus in older[:-kept]:
        (surplus / MARKER).unlink()  # first: a kill may come between
        shutil.rmtree(surplus)


def damage(folder: Path) -> str | None:
    """None for a whole checkpoint, else what is wrong with it."""
    marker = folder / MARKER
    if not marker.exists():
        return "it was being written, or deleted, when a run was killed"
    try:
        facts = read_json(marker)
        step, files = facts["step"], dict(facts["files"])
        float(facts["seconds"])
    except (ValueError, KeyError, TypeError):
        return f"its {MARKER} does not say what it holds"
    if step != _step(folder):
        return f"its {MARKER} speaks of step {step}"
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"its {name} is missing"
        if contents(path) != facts:
            return f"its {name} is not what was written"
    return None


def discard_damaged(checkpoints: Path) -> None:
    """Deletes the checkpoints that are not whole, naming each, so that training goes on from the newest whole one."""
    for folder in sorted(checkpoints.glob("checkpoint-*"), key=_step):
        why = damage(folder)
        if why is not None:
            log.warning("%s is not used, and deleted: %s", folder, why)
            shutil.rmtree(folder)


def resume_point(checkpoints: Path) -> tuple[Path | None, float]:
    """The checkpoint of the highest step and the training seconds up to it; (None, 0) without one."""
    found = sorted(checkpoints.glob(f"checkpoint-*/{MARKER}"), key=lambda marker: _step(marker.parent))
    return (found[-1].parent, float(read_json(found[-1])["seconds"])) if found else (None, 0.0)


def _step(folder: Path) -> int:
    number = folder.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1
