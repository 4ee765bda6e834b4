"""transformers' attention interface: functions are registered there by name, and the mask comes as a description.

A mask is asked block by block: no matrix of queries by keys is made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask as FlexBlockMask

from whorl.hosts.transformers import compat
from whorl.ops import Runs, Visible

KEPT = 1 << 22  # entries of a mask's blocks that are kept for the layers that share them


class HostMask(Visible, FlexBlockMask):
    """The host's own mask, made block by block from the function that says it. (Of FlexAttention's class, since that is
    what transformers takes for a mask that is finished.)"""

    of_one_forward = True

    def __init__(self, make: Callable[..., torch.Tensor], how: dict[str, Any]) -> None:
        Visible.__init__(self, how["q_length"], how["kv_length"])
        self.make, self.how = make, _as_it_stands(how)
        self.made: dict[tuple[int, ...], torch.Tensor] = {}
        self.parts: dict[tuple[int, int, int], Part] = {}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.how["batch_size"], 1, self.how["q_length"], self.how["kv_length"]

    ndim = 4

    def block(self, *block: int) -> torch.Tensor:
        if block not in self.made:
            made = self._make(*block)
            if sum(m.numel() for m in self.made.values()) + made.numel() > KEPT:
                return made
            self.made[block] = made
        return self.made[block]

    @cached_property
    def known(self) -> str | None:
        return compat.known_mask(**self.how)

    @cached_property
    def shows_later(self) -> bool:
        """Whether some query sees the key after its own, as those of one image do in Gemma 3."""
        if self.queries == 1 or compat.is_causal(self.how["mask_function"]):
            return False
        ahead = 1 + int(self.how.get("q_offset", 0)) - int(self.how.get("kv_offset", 0))
        queries = torch.arange(min(self.queries, max(0, self.keys - ahead)))[None]
        rows = torch.arange(self.how["batch_size"])[:, None]
        return bool(self.mod()(rows, 0, queries, queries + ahead).any())

    def _find_runs(self) -> Runs | None:
        if self.queries == 1 and self.known == "all":  # nearly always, in decoding
            return Runs(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), self.keys))
        return super()._find_runs()

    def _make(self, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor:
        how = {**self.how, "q_length": q1 - q0, "kv_length": k1 - k0}
        for name, first in (("q_offset", q0), ("kv_offset", k0)):
            how[name] = how.get(name, 0) + first
        return self.make(**how)

    def mod(self) -> Callable[..., torch.Tensor]:
        how = self.how
        queries, keys = how.get("q_offset", 0), how.get("kv_offset", 0)
        function, padding = how["mask_function"], how.get("attention_mask")
        if padding is not None:  # a static cache has slots past the end of the mask
            beyond = int(keys) + how["kv_length"] - padding.shape[-1]
            padding = nn.functional.pad(padding, (0, max(0, beyond)))

        def seen(b: Any, h: Any, i: Any, j: Any) -> Any:
            ok = function(b, h, i + queries, j + keys)
            return ok if padding is None else ok & padding[b, j + keys]

        return seen

    def __getitem__(self, index: Any) -> HostMask:
        """Of some of the queries: what hosts do that need the last ones alone."""
        start, stop, _ = index[2].indices(self.how["q_length"])
        how = {**self.how, "q_length": stop - start, "q_offset": self.how.get("q_offset", 0) + start}
        return HostMask(self.make, how)

    def part(self, first: int, last: int, keys: int) -> Part:
        """Of the queries first .. last - 1 and the first `keys` keys."""
        return self.parts.setdefault((first, last, keys), Part(self, first, last, keys))

    def to(self, *_: Any, **__: Any) -> HostMask:
        return self

    def contiguous(self) -> HostMask:
        return self

    def __repr__(self) -> str:
        return f"HostMask{self.shape}"


class Part(Visible):
    """A mask of some of the queries and the first keys, whose blocks are the whole's."""

    of_one_forward = True

    def __init__(self, whole: HostMask, first: int, last: int, keys: int) -> None:
        super().__init__(last - first, keys)
        self.whole, self.first = whole, first

    def block(self, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor:
        return self.whole.block(self.first + q0, self.first + q1, k0, k1)

    def runs(self) -> Runs | None:
        whole = self.whole.runs()
        if whole is None:
            return None
        mine = slice(self.first, self.first + self.queries)
        return Runs(whole.first[:, mine], whole.end[:, mine].clamp(max=self.keys))

    def mod(self) -> Callable[..., torch.Tensor]:
        seen, first = self.whole.mod(), self.first
        return lambda b, h, i, j: seen(b, h, i + first, j)


def mask(**how: Any) -> torch.Tensor | HostMask:
    """The mask of one forward, block by block; whole in compiled calls, which cannot go by what is found in one."""
    if torch.compiler.is_compiling():
        whole = compat.whole_mask(**how)
        compat.note_on(whole, _as_it_stands(how))
        return whole
    return HostMask(compat.whole_mask, how)


def how_made(mask: torch.Tensor | HostMask) -> dict[str, Any] | None:
    """What `mask` was asked for: `q_length`, `kv_length`, their offsets, the `attention_mask` of padding, ... None of a
    mask that was made elsewhere, or cut since."""
    how: dict[str, Any] | None = mask.how if isinstance(mask, HostMask) else compat.noted_on(mask)
    return how


def _as_it_stands(how: dict[str, Any]) -> dict[str, Any]:
    """The same before the keys of this forward: a static cache counts on in the very tensor that it hands out."""
    return how | {n: how[n].clone() for n in ("q_offset", "kv_offset") if isinstance(how.get(n), torch.Tensor)}


def register(name: str, attention: Callable[..., Any], mask: Callable[..., Any] = mask) -> None:
    """Registers an attention function *and* its mask function: without that causality is lost in silence.

    Holds for the whole process, and changes no model that does not ask for it by name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
