"""x-transformers' own code for what benchmarks/scores.py measures: the same attention, with whorl's numbers in it.

Its other biases (dynamic position bias, gates of each row's own, a projected distance) have no encoding here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

NAMES = ("alibi", "t5", "fox", "cope")


def found() -> str | None:
    """Its name and version, or None, with a line on how to get it."""
    try:
        return f"x-transformers {version('x-transformers')}"
    except PackageNotFoundError:
        print("not measured: x-transformers (not installed); python -m pip install x-transformers")
        return None


def theirs(
    notation: str, learned: Sequence[torch.Tensor], heads: int, width: int
) -> tuple[Callable[..., torch.Tensor], list[torch.nn.Parameter]]:
    """Causal attention of q, k, v [1, heads, tokens, channels] and hidden states [1, tokens, width]; what it learns,
    with the numbers of `learned`, which is what whorl's encoding of that name learns.

    PyTorch's SDPA runs it (`flash`) where x-transformers allows that: with T5 and CoPE it does not.
    """
    from x_transformers import attend, x_transformers

    if notation == "cope":
        (table,) = learned
        module: Any = x_transformers.CoPE(table.shape[1], heads, table.shape[0])
        run: Any = attend.Attend(causal=True, cope=module)
    else:
        run = attend.Attend(causal=True, flash=notation != "t5")
        if notation == "fox":
            module = x_transformers.DataDependentAlibi(width, heads)
        elif notation == "alibi":
            module = x_transformers.AlibiPositionalBias(heads)
        else:
            module = x_transformers.RelativePositionBias(scale=1, causal=True, heads=heads)

    def called(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        if notation == "cope":
            return run(q, k, v)[0]
        bias = module(hidden) if notation == "fox" else module(q.shape[2], k.shape[2])
        return run(q, k, v, attn_bias=bias)[0]

    parameters = list(module.parameters())
    with torch.no_grad():
        for ours, own in zip(learned, parameters, strict=True):
            own.copy_(ours)
    return called, parameters
