"""Scores as an attention is handed them: a module of `whorl.encodings.scores`, with the states of queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from whorl.encodings.scores import At, ScoreModule
from whorl.numerics import math_dtype
from whorl.ops.axes import seen_by
from whorl.ops.shapes import stretches

Channels = tuple[torch.Tensor, torch.Tensor]  # of q [B, H, Q, E] and of k [B, H or 1, K, E]


class BoundScore(NamedTuple):
    """A score and what its `tokens` gave: [B, Q, H or 1, S] and [B, K, H or 1, S], or None for one without a state."""

    module: ScoreModule
    query_state: torch.Tensor | None = None
    key_state: torch.Tensor | None = None

    def at(
        self,
        query_positions: torch.Tensor,
        key_positions: torch.Tensor,
        seen: torch.Tensor | None = None,
        scale: float = 1.0,
    ) -> At:
        """With states as attention has q and k, heads before tokens, and positions as the module asks for them.

        What queries and keys have in common is the same tensor still (`At.same_tokens`)."""
        of_queries = seen_by(self.module, query_positions)
        of_keys = of_queries if key_positions is query_positions else seen_by(self.module, key_positions)
        q_state = None if self.query_state is None else self.query_state.transpose(1, 2)
        if self.key_state is self.query_state:
            k_state = q_state
        else:
            k_state = None if self.key_state is None else self.key_state.transpose(1, 2)
        return At(
            of_queries,
            of_keys,
            q_state,
            k_state,
            seen,
            scale,
            {},
        )

    def part(self, first: int, last: int, keys: int) -> BoundScore:
        """Of the queries first .. last - 1 and the first `keys` keys."""
        q_state, k_state = self.query_state, self.key_state
        return BoundScore(
            self.module,
            None if q_state is None else q_state[:, first:last],
            None if k_state is None else k_state[:, :keys],
        )

    @property
    def by_rows(self) -> bool:
        """Whether it must see all keys of a query at once."""
        return any(self.module.does(step) for step in ("logits", "weights", "values"))


def multiplied(q: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """q [B, H, Q, D] by which a `Scale` multiplies the logits, factor [B or 1, H or 1, Q]: float32 (float64)."""
    dtype = math_dtype(q.dtype)
    return q.to(dtype) * factor[..., None].to(dtype)


def product(of_q: torch.Tensor, of_k: torch.Tensor) -> torch.Tensor:
    """What channels add to the logits: [..., Q, E] and [..., K, E] to [..., Q, K].

    One channel after the other, and not as a matrix product, which a GPU may be told to round to 11 bits: what is left
    of two sums in the thousands would be lost. Nor is it added to other products before it is whole.
    """
    total = of_q[..., :, None, 0] * of_k[..., None, :, 0]
    for e in range(1, of_q.shape[-1]):
        total = torch.addcmul(total, of_q[..., :, None, e], of_k[..., None, :, e])
    return total


def check_device(module: nn.Module, device: torch.device) -> None:
    """Raises ValueError for a bias or a score with numbers on another device: a product with those on meta can be no
    error of PyTorch's, and numbers that nobody wrote."""
    for x in _tensors(module):
        if x.device != device:
            offloaded = "; attach after offloading, as whorl.load(..., device_map=...) does" if x.is_meta else ""
            raise ValueError(
                f"what is learned must be on q's device {device}, got {type(module).__name__} on {x.device}{offloaded}"
            )


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers; of a module without others inside, in a tenth of the time that nn.Module takes."""
    if module._modules:
        return [*module.parameters(), *module.buffers()]
    return [x for x in (*module._parameters.values(), *module._buffers.values()) if x is not None]


def check_states(scores: Sequence[BoundScore], q: torch.Tensor, k: torch.Tensor) -> None:
    """Raises ValueError for states that are not those of these queries and keys, and parameters on another device."""
    batch, heads = q.shape[:2]
    for module, *states in scores:
        check_device(module, q.device)
        for name, x, tokens in (("query_state", states[0], q.shape[2]), ("key_state", states[1], k.shape[2])):
            kind = type(module).__name__
            if x is None:
                if module.keeps_state:
                    raise ValueError(f"{kind} keeps a state of each token, and {name} is None: give what `tokens` gave")
                continue
            fits = len(x.shape) == 4 and x.shape[1] == tokens
            fits = fits and stretches(x.shape[0], batch) and stretches(x.shape[2], heads)
            if not fits or not x.is_floating_point():
                raise ValueError(
                    f"{name} of {kind} must hold real numbers [batch or 1, tokens, heads or 1, size], of "
                    f"[{batch}, {tokens}, {heads}, size], got {list(x.shape)} {str(x.dtype).removeprefix('torch.')}"
                )
            if x.device != q.device:
                raise ValueError(f"{name} of {kind} must be on q's device {q.device}, got {x.device}")
