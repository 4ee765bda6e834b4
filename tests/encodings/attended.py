"""The attention of some tokens under one score, a module of `whorl.encodings.scores`: at once, or with a cache."""

from __future__ import annotations

from typing import Any

import torch

from whorl.encodings.scores import ScoreModule
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore

FUTURE = torch.ones(7, 7, dtype=torch.bool).triu(1)  # what the tokens of `random_qkv` do not see
QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def pinned_qkv() -> QKV:
    """q, k and v of `_inputs` in the pins: five tokens, one head of four channels, to be scaled by 0.5."""
    token, channel = torch.arange(5, dtype=torch.float64)[:, None], torch.arange(4, dtype=torch.float64)
    q = torch.sin(0.7 * token + 1.3 * channel + 0.1)
    k = torch.cos(0.5 * token - 0.9 * channel + 0.2)
    v = torch.sin(0.3 * token * (channel + 1))
    return q[None, None], k[None, None], v[None, None]


def random_qkv(batch: int = 2, heads: int = 2, tokens: int = 7, width: int = 4, dtype: Any = torch.float64) -> QKV:
    """q, k and v of tokens that attend to one another sharply enough to tell them apart."""
    q, k, v = (torch.randn(batch, heads, tokens, width, dtype=torch.float64) for _ in range(3))
    return (1.5 * q).to(dtype), (1.5 * k).to(dtype), v.to(dtype)


def attend(
    module: ScoreModule,
    qkv: QKV,
    *,
    hidden: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    real: torch.Tensor | None = None,
    seen: torch.Tensor | None = None,
    causal: bool = True,
    scale: float = 0.5,
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and weights of all tokens at once; `real` is False for padding, which no query sees; or
    `seen` [.., queries, keys] for what is hidden."""
    q, k, v = qkv
    if positions is None:
        positions = torch.arange(q.shape[2])[None]
    state = module.tokens(hidden, positions, real, None) if module.keeps_state else None
    mask = seen if real is None else real[:, None, None, :].expand(-1, 1, q.shape[2], -1)
    out, weights = biased_attention(
        q, k, v, [], query_positions=positions, key_positions=positions, mask=mask, causal=causal, scale=scale,
        scores=[BoundScore(module, state, state)], impl="reference", **more,
    )  # fmt: skip
    assert weights is not None
    return out, weights


def decoded(
    module: ScoreModule, qkv: QKV, pieces: list[int], *, hidden: torch.Tensor | None = None, scale: float = 0.5
) -> torch.Tensor:
    """The output of the same tokens, some at a time (`pieces`), with keys, values and states of those before kept."""
    q, k, v = qkv
    outputs, state, done = [], None, 0
    for count in pieces:
        end = done + count
        at = torch.arange(done, end)[None]
        new = None
        if module.keeps_state:
            new = module.tokens(None if hidden is None else hidden[:, done:end], at, None, state)
            state = new if state is None else torch.cat([state, new], 1)
        out, _ = biased_attention(
            q[:, :, done:end], k[:, :, :end], v[:, :, :end], [], query_positions=at,
            key_positions=torch.arange(end)[None], causal=True, scale=scale,
            scores=[BoundScore(module, new, state)], impl="reference",
        )  # fmt: skip
        outputs.append(out)
        done = end
    return torch.cat(outputs, 2)


def gradients_agree(module: ScoreModule, qkv: QKV, *, hidden: torch.Tensor | None = None, **more: Any) -> bool:
    """Whether the gradients of the output to q, k, v, hidden states and the module's parameters are its slopes.

    Raises GradcheckError, which says where, if they are not.
    """
    inputs = [x.clone().requires_grad_() for x in (*qkv, *(() if hidden is None else (hidden,)))]
    q, k, v, *told = inputs

    def output(*_: torch.Tensor) -> torch.Tensor:  # gradcheck moves the numbers of these tensors themselves
        return attend(module, (q, k, v), hidden=told[0] if told else None, **more)[0]

    return torch.autograd.gradcheck(output, [*inputs, *module.parameters()])
