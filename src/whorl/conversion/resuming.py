"""What a killed `convert` or `extend --tune` goes on from: a folder beside the output, while the work lasts.

.NAME.work/             beside the output NAME, held by the process that works in it
    .whorl.json         which command, and everything that its training follows from
    STAGE/checkpoint-N  of each training: see `training.checkpoints`
    LOSSES.json         those that convert has measured
    written             the output is whole but for its name

The same command goes on from the newest whole checkpoint of each training. Another one is refused, unless `force` has
it begin anew. The folder goes when the work is done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import whorl
from whorl.attaching.reading import encoding_of
from whorl.files import read_json, write_json
from whorl.locking import LOCK, alone
from whorl.outputs import MARKER, written_by
from whorl.training import checkpoints

WRITTEN = "written"


class Diverged(ValueError):
    """A training whose loss is not finite any more: going on with it would change nothing."""


@contextmanager
def working(
    out: str | Path, by: str, asked: dict[str, Any], say: Callable[[str], None], force: bool = False
) -> Iterator[Path]:
    """The folder in which this work keeps its checkpoints, with what a killed run of the same work left there.

    by: the command; asked: everything that its training follows from, as JSON. Whatever ends the block, the folder
    stays if there is a checkpoint to go on from, and only then. Raises ValueError while another process is at work
    there, where the folder is not whorl's, and for checkpoints of other work, which `force` removes.
    """
    folder = _folder(out)
    asked = _recorded(asked)
    with alone(folder, by):
        if _holds_work(folder):
            _check_ours(folder)
            if differs := _differs(folder, by, asked):
                _refuse_other(folder, differs, force)
                say(f"{folder} was left by other work ({differs} differs): it is removed, and the training begins anew")
                _empty(folder)
            elif _has_checkpoint(folder):
                say(f"going on from the checkpoints that an interrupted run left in {folder}")
        write_json(folder / MARKER, {"written_by": by, "asked": asked})
        (folder / WRITTEN).unlink(missing_ok=True)
        try:
            yield folder
        except Diverged:
            _remove(folder)
            raise
        except BaseException:
            if not _has_checkpoint(folder):
                _remove(folder)
            raise
        _remove(folder)


def check(out: str | Path, by: str, known: dict[str, Any], force: bool = False) -> None:
    """Raises ValueError for checkpoints of other work as `working` does, by what is known of this work already."""
    folder = _folder(out)
    if not folder.exists() or not _holds_work(folder):
        return
    _check_ours(folder)
    known = _recorded(known)
    before = read_json(folder / MARKER).get("asked") or {}
    _refuse_other(folder, _differs(folder, by, {**before, **known}), force)


def written(folder: Path) -> None:
    """Notes that what the work was for is written, all but renamed: see `clear`."""
    (folder / WRITTEN).touch()


def clear(out: str | Path, finished: bool = True) -> None:
    """Removes the folder of earlier work on `out`, where there is one that nobody is at work in.

    finished: only of work that was killed after it had written its output.
    """
    folder = _folder(out)
    if not folder.exists() or written_by(folder) is None:
        return
    if not finished or ((folder / WRITTEN).exists() and Path(out).exists()):
        with alone(folder, "clearing up"):
            _remove(folder)


def digest(model: Any) -> str:
    """SHA-256 of a model's config, encoding and weights, wherever they were read from."""
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    facts = json.dumps([config, str(encoding_of(model))], sort_keys=True, default=str)
    found = hashlib.sha256(facts.encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _folder(out: str | Path) -> Path:
    place = Path(out).resolve()
    return place.with_name(f".{place.name}.work")


def _recorded(asked: dict[str, Any]) -> dict[str, Any]:
    """As a folder's record has it."""
    said: dict[str, Any] = json.loads(json.dumps({"whorl": whorl.__version__, **asked}))
    return said


def _holds_work(folder: Path) -> bool:
    """Whether there is more than the lock, which is all that a run leaves that was killed as it began."""
    return any(path.name != LOCK for path in folder.iterdir())


def _refuse_other(folder: Path, differs: str, force: bool) -> None:
    if differs and _has_checkpoint(folder) and not force:
        raise ValueError(
            f"{folder} holds checkpoints of other work ({differs} differs); the command as it was goes on from them, "
            "and --force (in Python force=True) removes them and begins anew"
        )


def _check_ours(folder: Path) -> None:
    if written_by(folder) is None:
        raise ValueError(f"{folder}, where checkpoints are kept, holds what whorl did not write; move it away")


def _differs(folder: Path, by: str, asked: dict[str, Any]) -> str:
    """What of this work is not as in the folder's record, in words; empty where all is."""
    record = read_json(folder / MARKER)
    before = {"command": record.get("written_by"), **(record.get("asked") or {})}
    now = {"command": by, **asked}
    return ", ".join(sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)))


def _has_checkpoint(folder: Path) -> bool:
    return any(folder.glob(f"*/checkpoint-*/{checkpoints.MARKER}"))


def _empty(folder: Path) -> None:
    """The marker last, by which the folder is known as whorl's."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (MARKER, LOCK):
            path.unlink()
    (folder / MARKER).unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    _empty(folder)
    shutil.rmtree(folder)
