"""The results folder of a comparison: whose it is, and that it holds results of one configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from whorl import outputs
from whorl.files import read_json, write_json
from whorl.locking import alone
from whorl.results.schema import damaged
from whorl.training.settings import Settings


@contextmanager
def alone_in(folder: Path, settings: Settings) -> Iterator[None]:
    """The folder is this run's, and says so. Raises ValueError while another run is at work there."""
    if not PartialState().is_main_process:
        yield
        return
    with alone(folder, "compare"):
        refuse_other_settings(folder, settings)  # again: another run may have come and gone
        _mark(folder, settings)
        yield


@contextmanager
def beside_others(folder: Path, settings: Settings) -> Iterator[None]:
    """The folder is a comparison's with these settings; others may be at work there too, at other trials."""
    if PartialState().is_main_process and not (folder / "config.json").exists():
        refuse_other_settings(folder, settings)
        _mark(folder, settings)
    yield


def refuse_other_settings(folder: Path, settings: Settings) -> None:
    """Results of other settings are not mixed with these, and not overwritten: raises ValueError."""
    outputs.check_goes_on(folder, by="compare")
    there = _read(folder / "config.json")
    if there is None:
        return
    if not isinstance(there, dict):
        raise damaged(str(folder / "config.json"), "it holds no settings")
    asked = settings.to_dict()
    differ = [k for k in sorted({*asked, *there}) if asked.get(k) != there.get(k)]
    if differ:
        what = ", ".join(f"{k} {there.get(k)!r} there and {asked.get(k)!r} asked" for k in differ)
        raise ValueError(f"--out {folder} holds results of another configuration ({what}); give another --out")


def _mark(folder: Path, settings: Settings) -> None:
    outputs.mark(folder, by="compare")
    write_json(folder / "config.json", settings.to_dict())


def _read(path: Path) -> Any:
    return read_json(path) if path.exists() else None
