"""Finished trials of a comparison, read back: `DIR/trials/ID`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whorl.attaching.loading import load_weights
from whorl.checking import check_path
from whorl.encodings import from_dict
from whorl.files import read_json
from whorl.randomness import put_back
from whorl.training.models import build, for_evaluation
from whorl.training.settings import Settings

RESULT = {
    "id",
    "train",
    "evaluations",
    "config",
    "settings",
}  # what every trial's result.json has


def snapshots_of(folder: str | Path) -> dict[int, Path]:
    """The kept weights of a trial by their training step, in order."""
    found = sorted((Path(folder) / "snapshots").glob("step-*.safetensors"))
    return {int(path.stem.removeprefix("step-")): path for path in found}


def load_trial(folder: str | Path, step: int | None = None) -> Any:
    """The trained model of a finished trial (`DIR/trials/ID`), its encoding attached, in evaluation mode.

    step: the training step of a snapshot; None for the end of the training.
    """
    folder = Path(check_path("folder", folder, "the path of a trial, DIR/trials/ID"))
    if not (folder / "result.json").exists():
        raise ValueError(f"no finished trial in {folder}: it has no result.json; whorl compare writes DIR/trials/ID")
    result = read_result(folder / "result.json")
    settings = Settings(**{**result["settings"], "lengths": tuple(result["settings"]["lengths"])})
    encoding = from_dict(result["config"])
    with put_back():
        model = build(settings, encoding, result["seed"], result["vocab_size"], result["eos_token_id"])
    kept = snapshots_of(folder)
    if step is not None and step not in kept:
        raise ValueError(f"{folder} has no snapshot at step {step}: it has {sorted(kept) or 'none'}")
    load_weights(model, folder / "model.safetensors" if step is None else kept[step])
    return for_evaluation(model)


def read_result(path: Path) -> dict[str, Any]:
    """A trial's result.json. Raises ValueError, naming the file, where it is not what the trial of its folder wrote."""
    result = read_json(path)
    if not isinstance(result, dict) or not result.keys() >= RESULT:
        raise ValueError(f"{path} is damaged, it is no trial's result; delete it, and the trial is evaluated again")
    if result["id"] != path.absolute().parent.name:
        raise ValueError(f"{path} is the result of {result['id']!r}, another trial; delete it, or move it back")
    return result
