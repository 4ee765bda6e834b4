"""Finished trials of a comparison, read back: `DIR/trials/ID`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whorl.attaching import attach
from whorl.attaching.filling import completed
from whorl.attaching.weights import load_weights
from whorl.checking import check_path, trials_beside
from whorl.encodings import from_dict
from whorl.hosts import host_of
from whorl.randomness import put_back
from whorl.results.schema import damaged
from whorl.results.trial import FinishedTrial
from whorl.training.attention import for_evaluation
from whorl.training.models import build
from whorl.training.settings import Settings


def snapshots_of(folder: str | Path) -> dict[int, Path]:
    """The kept weights of a trial by their training step, in order."""
    found = sorted((Path(folder) / "snapshots").glob("step-*.safetensors"))
    return {int(path.stem.removeprefix("step-")): path for path in found}


def load_trial(folder: str | Path, step: int | None = None) -> Any:
    """The trained model of a finished trial (`DIR/trials/ID`), its encoding attached, in evaluation mode: that which it
    was evaluated with, where this is not the one that it was trained with.

    step: the training step of a snapshot; None for the end of the training.
    """
    folder = Path(check_path("folder", folder, "the path of a trial, DIR/trials/ID"))
    if not (folder / "result.json").exists():
        told = trials_beside(folder) or "whorl compare writes DIR/trials/ID"
        raise ValueError(f"no finished trial in {folder}: it has no result.json; {told}")
    result = read_result(folder / "result.json")
    encoding = from_dict(result.config)
    with put_back():
        sizes = (result.vocab_size, result.eos_token_id)
        own = result.model is None  # a preset; an earlier version kept no more than the path of what is none
        model = build(settings_of(result), encoding, result.seed, *sizes, files=result.model, weights=own)
    kept = snapshots_of(folder)
    if step is not None and step not in kept:
        raise ValueError(f"{folder} has no snapshot at step {step}: it has {sorted(kept) or 'none'}")
    load_weights(model, folder / "model.safetensors" if step is None else kept[step])
    if result.tested is not None:
        attach(model, completed(host_of(model), from_dict(result.tested)))
    return for_evaluation(model)


def read_result(path: Path) -> FinishedTrial:
    """A trial's result.json. Raises ValueError, naming the file, where it is not what the trial of its folder wrote."""
    result = FinishedTrial.read(path)
    if result.id != path.absolute().parent.name:
        raise ValueError(f"{path} is the result of {result.id!r}, another trial; delete it, or move it back")
    try:
        settings_of(result)
    except ValueError as error:
        raise damaged(str(path), f"its settings are none: {error}") from error
    return result


def settings_of(result: FinishedTrial) -> Settings:
    """What the trial was run with."""
    return Settings.from_dict(result.settings)
