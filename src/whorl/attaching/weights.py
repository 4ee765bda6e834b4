"""A model's weights from one file, or the names of those that do not belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from whorl.checking import few

SHOWN = 8  # names in a message


def load_weights(model: Any, path: str | Path) -> None:
    """Fills a model from one safetensors file, as `safetensors.torch.save_model` wrote it.

    Raises ValueError with the names of weights that are missing, not known to the model, or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        missing, unknown = load_model(model, path, strict=False)
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a {type(model).__name__}: {reason}") from error
    refuse_incomplete(path, model, missing, unknown)


def refuse_incomplete(where: Any, model: Any, missing: Iterable[str], unknown: Iterable[str]) -> None:
    """Raises ValueError, naming them, where weights are missing or not known to the model."""
    missing, unknown = sorted(missing), sorted(unknown)
    if missing or unknown:
        raise ValueError(
            f"{where} does not hold the weights of a {type(model).__name__}: missing {_named(missing)}, "
            f"not known to it {_named(unknown)}. transformers would draw the missing ones at random and drop the others"
        )


def refuse_misshapen(where: Any, model: Any, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Raises ValueError, naming them with both shapes, where weights have another shape than the model's."""
    told = [f"{name} is {list(held)} and should be {list(own)}" for name, held, own in sorted(mismatched)]
    if told:
        raise ValueError(
            f"the weights in {where} do not have the shapes of a {type(model).__name__} of its config: "
            f"{few(told)}; take the config that belongs to them"
        )


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{keys[:SHOWN]}{more}" if keys else "none"
