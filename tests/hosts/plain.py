"""A small decoder in plain PyTorch, of no library, and a library that opens it (see `whorl.hosts.libraries`).

Plain()           rotates q and k by tables that go to its layers; its masks are boolean
Plain(rows=32)    has a table of 32 positions instead, and hands positions to its layers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from whorl.encodings import Shape, Spectrum
from whorl.encodings.spectrum import rope_frequencies
from whorl.hosts import Calls, Host, Rotation

WIDTH, HEADS, LAYERS, WORDS = 32, 4, 2, 50
HEAD_DIM = WIDTH // HEADS


def turn(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels i and i + 4 of each head turn together."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]], -1)

    return turned(q), turned(k)


def plain_attention(_: Any, q: Any, k: Any, v: Any, mask: torch.Tensor, **__: Any) -> tuple[torch.Tensor, None]:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2), None


ATTENDS: dict[str, Callable[..., Any]] = {"plain": plain_attention}


class Rope(nn.Module):
    def __init__(self, frequencies: tuple[float, ...]) -> None:
        super().__init__()
        self.frequencies = frequencies

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = places[..., None].double() * torch.tensor(self.frequencies, dtype=torch.float64)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Attention(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.attends = number, "plain"
        self.to_qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, *, seen: torch.Tensor, **more: Any) -> torch.Tensor:
        return self.attended(x, seen=seen, turn=turn, **more)

    def attended(
        self, x: torch.Tensor, *, seen: torch.Tensor, turn: Callable[..., Any], rope: Any = None, **more: Any
    ) -> torch.Tensor:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = turn(q, k, *rope)
        return self.out(ATTENDS[self.attends](self, q, k, v, seen, **more)[0].flatten(2))


class Layer(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.attention, self.norm = Attention(number), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, **how: Any) -> torch.Tensor:
        return x + self.attention(self.norm(x), **how)


class Plain(nn.Module):
    def __init__(self, frequencies: tuple[float, ...] = rope_frequencies(10000.0, HEAD_DIM), rows: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.layers = nn.ModuleList(Layer(number) for number in range(LAYERS))
        self.rope = None if rows else Rope(frequencies)
        self.table = nn.Embedding(rows, WIDTH) if rows else None
        with torch.no_grad():
            for layer in self.layers:
                layer.attention.to_qkv.weight[: 2 * WIDTH] *= 4  # attention is peaked, so that positions matter

    def forward(
        self, words: torch.Tensor, places: torch.Tensor | None = None, seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        x, tokens = self.words(words), words.shape[1]
        places = torch.arange(tokens)[None] if places is None else places
        seen = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril() if seen is None else seen
        if self.table is not None:
            x = x + self.table(places)
        how = {"places": places} if self.rope is None else {"rope": self.rope(x, places)}
        for layer in self.layers:
            x = layer(x, seen=seen, **how)
        return self.head(x)


# --- the library ------------------------------------------------------------------------------------------------------


def _attends_by(attention: Any) -> str:
    return attention.attends


def _no_cache(_: Mapping[str, Any]) -> None:
    return None


CALLS = Calls(rotation="rope", positions="places", mask="seen", cache=_no_cache, attends_by=_attends_by)


@dataclass(frozen=True, kw_only=True)
class PlainHost(Host):
    def rebound(self, index: int, rotate: Callable[..., Any]) -> Callable[..., Any]:
        return partial(Attention.attended, turn=rotate)

    @property
    def attention(self) -> str:
        return self.attentions[0].attends

    def set_attention(self, implementation: str | None) -> None:
        for attention in self.attentions:
            attention.attends = implementation

    def carry(self, implementation: str, attend: Callable[..., Any]) -> None:
        ATTENDS[implementation] = attend

    def own_spectrum(self, index: int) -> Spectrum | None:
        return None if self.rotary is None else Spectrum(self.rotary.frequencies, HEAD_DIM)

    def probe(self) -> torch.Tensor:
        return self.model(torch.arange(11)[None])


def has(model: Any) -> bool:
    return isinstance(model, Plain)


def open_model(model: Plain) -> PlainHost:
    turns = model.rope is not None
    return PlainHost(
        model=model,
        base=model,
        known=True,
        attentions=tuple(layer.attention for layer in model.layers),
        shapes=(Shape(HEAD_DIM, HEADS, WIDTH),) * LAYERS,
        layer_types=("layer",) * LAYERS,
        windows=(None,) * LAYERS,
        turns=(turns,) * LAYERS,
        calls=CALLS,
        rotary=model.rope,
        rotation=Rotation("turn", "pair", "half", free=True) if turns else None,
        typed=False,
        biases="mask" if turns else "interface",
        position_table=model.table,
        first_layer=model.layers[0],
    )


def bases_of(model: Plain) -> list[Any]:
    return [model]
