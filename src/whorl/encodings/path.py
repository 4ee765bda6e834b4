"""PaTH, position encoding by accumulated Householder transformations. Yang et al., arXiv 2505.16381.

Every token turns what queries after it see of the keys before it, by H_t = 1 - beta_t w_t w_t^T:

    logit_ij = scale k_j^T H_{j+1} ... H_i q_i          beta in (0, 2), w of length 1

w is a projection of the hidden states through a low rank, a causal convolution over three tokens and a SiLU; beta is 2
sigmoid of another. PaTH-FoX adds a forget gate f, scale (log f_{j+1} + ... + log f_i): inside the scale, as the code of
its authors has it, where the forgetting transformer's own (2503.02130) stands after it.

Cached keys stay as they are: the state beside a key is its token's w and beta, and queries are turned. A chunk of C
tokens at once (section 3.3): with T = (1 + strictly lower(diag(beta) W W^T))^-1 diag(beta), a query q after it sees

    q K^T - (q W^T) T strictly lower(W K^T)     of the keys in it, and       q - (q W^T) T W     of what is before it,

from which the next chunk to the left goes on; a query within it, by those tokens of it that it sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.config import require_positive_int
from whorl.encodings.earlier import latest_real, reached
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.householder import solved
from whorl.encodings.scores import At, ScoreModule, TurnsBetween, difference, refuse_encoders

CHUNK = 32  # tokens; at 128 a step takes a fifth less time than with 64, and at 2,048 as much
TAPS = 3  # of the convolution, this token's the first
SMALL = 1e-6  # beside the square of w's length before it is 1


class Householder(ScoreModule):
    """The turns of tokens, and with `forgets` a gate of each.

    The state of a token and head is w [channels], beta, with a gate the sum of log f up to it, and the head's share of
    the low-rank vector that the next tokens' convolution needs.
    """

    sees_hidden = keeps_state = scores_anew = True
    looks_back = TAPS - 1

    def __init__(self, shape: Shape, rank: int, forgets: bool) -> None:
        super().__init__()
        heads, channels, width = shape.heads, shape.channels, shape.width
        self.heads, self.size, self.rank, self.forgets = heads, channels, rank, forgets
        generator = shape.generator()

        def drawn(*size: int) -> nn.Parameter:
            return nn.Parameter(0.02 * torch.randn(size, generator=generator))

        self.down, self.up = drawn(rank, width), drawn(heads * channels, rank)
        self.taps = nn.Parameter((2 * torch.rand(heads * channels, TAPS, generator=generator) - 1) / TAPS**0.5)
        self.beta, self.beta_offset = drawn(heads, width), nn.Parameter(torch.zeros(heads))
        if forgets:
            self.gate, self.gate_offset = drawn(heads, width), nn.Parameter(torch.zeros(heads))

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        assert hidden is not None
        x = in_full(hidden)
        keep = torch.ones_like(positions, dtype=torch.bool) if real is None else real
        low = (x @ in_full(self.down).T) * keep[..., None]
        w = self._directions(low, positions, before, real)
        beta = 2 * (x @ in_full(self.beta).T + in_full(self.beta_offset)).sigmoid() * keep[..., None]
        found = [w, beta[..., None]]
        if self.forgets:
            gate = x @ in_full(self.gate).T + in_full(self.gate_offset)
            forgotten = (nn.functional.logsigmoid(gate) * keep[..., None]).cumsum(1)
            if before is not None:
                forgotten = forgotten + before[:, -1:, :, self.size + 1]
            found.append(forgotten[..., None])
        return torch.cat([*found, self._shared_out(low)], -1)

    def _directions(
        self, low: torch.Tensor, positions: torch.Tensor, before: torch.Tensor | None, real: torch.Tensor | None
    ) -> torch.Tensor:
        """w of each token [B, T, H, D], for the low-rank vectors of these [B, T, rank] and the states of those before.

        A document begins at position 0, and what stands before that is not its. Padding is passed over.
        """
        batch, count, _ = low.shape
        earlier = low.new_zeros(batch, TAPS - 1, self.rank)
        if before is not None:
            if real is not None:  # beta is 0 in padding
                before = latest_real(before, before[:, :, 0, self.size] > 0, TAPS - 1)
            kept = self._joined(before[:, 1 - TAPS :])
            earlier = torch.cat([earlier[:, kept.shape[1] :], kept.expand(batch, -1, -1)], 1)
        u = torch.cat([earlier, low], 1) @ in_full(self.up).T
        taps, total = in_full(self.taps), torch.zeros_like(u[:, TAPS - 1 :])
        for tap, there in enumerate(reached(u, positions, real, TAPS)):
            total = total + taps[:, tap] * there
        w = nn.functional.silu(total).view(batch, count, self.heads, self.size)
        return w * (w.square().sum(-1, keepdim=True) + SMALL).rsqrt()

    def _shared_out(self, low: torch.Tensor) -> torch.Tensor:
        """[B, T, rank] to [B, T, H, rank / H rounded up]: states have heads, and low-rank vectors none."""
        each = -(-self.rank // self.heads)
        return nn.functional.pad(low, (0, each * self.heads - self.rank)).unflatten(-1, (self.heads, each))

    def _joined(self, state: torch.Tensor) -> torch.Tensor:
        """What `_shared_out` shared out."""
        return state[..., self.size + 1 + self.forgets :].flatten(-2)[..., : self.rank]

    def logits(self, s: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        turns = self.turns_between(at)
        made = turned_products(q, k, turns.w.to(q.dtype), turns.beta.to(q.dtype), at.seen)
        if not self.forgets:
            return made
        of_q, of_k = (x.to(q.dtype) for x in self._forgotten(at))
        return made + at.scale * (of_q - of_k.mT)

    def turns_between(self, at: At) -> TurnsBetween:
        assert at.key_state is not None
        w, beta, _ = at.key_state.split([self.size, 1, at.key_state.shape[-1] - self.size - 1], -1)
        channels = None
        if self.forgets:
            channels = difference(*(at.scale * x for x in self._forgotten(at)))
        return TurnsBetween(w, beta[..., 0], channels)

    def _forgotten(self, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        """Of queries and of keys, [B, H, tokens, 1]."""
        assert at.query_state is not None
        assert at.key_state is not None
        there = slice(self.size + 1, self.size + 2)
        return at.query_state[..., there], at.key_state[..., there]

    def fading(self, state: torch.Tensor, scale: float) -> torch.Tensor | None:
        return scale * state[..., self.size + 1] if self.forgets else None


def turned_products(
    q: torch.Tensor, k: torch.Tensor, w: torch.Tensor, beta: torch.Tensor, seen: torch.Tensor | None
) -> torch.Tensor:
    """k_j^T H_{j+1} ... H_i q_i for queries [B, H, Q, D] and keys [B, H, K, D], where query i sees key j.

    w [B, H, K, D] and beta [B, H, K] of the keys' tokens, i's own among them. A query is turned by those that it sees.
    """
    keys = k.shape[2]
    pad = -keys % CHUNK if keys > CHUNK else 0
    size = min(keys, CHUNK)
    w_c, k_c, beta_c = (nn.functional.pad(x, (0, 0, 0, pad)).unflatten(2, (-1, size)) for x in (w, k, beta[..., None]))
    meets, turns = torch.cat([w_c, k_c], -2).mT, solved(w_c, k_c, beta_c)
    parts: list[torch.Tensor] = []
    for chunk in reversed(range(k_c.shape[2])):
        with_w, with_k = (q @ meets[:, :, chunk]).chunk(2, -1)
        if seen is not None:
            here = seen[..., chunk * size : (chunk + 1) * size]
            with_w = with_w * nn.functional.pad(here, (0, size - here.shape[-1]))
        through = with_w @ turns[:, :, chunk]
        q, products = q - through[..., : q.shape[-1]], with_k - through[..., q.shape[-1] :]
        parts.append(products)
    return torch.cat(parts[::-1], -1)[..., :keys]


@dataclass(frozen=True)
class PaTH(Encoding):
    """Turns what a query sees of a key by every token between the two, each by a reflection that its content decides.
    So a token can change what all before it mean, in the place of a rotation. (arXiv 2505.16381)

    rank  of the projection that the turns' directions come from
    """

    rank: int = 32

    name = "path"
    title = "a Householder-like turn by each token between key and query, learned from content"
    paper = "2505.16381"
    kinds = ("rotate", "score")
    by_order = True

    def __post_init__(self) -> None:
        require_positive_int("rank", self.rank)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "rotates queries by the tokens between a key and them")
        return (Score(Householder(shape, self.rank, forgets=False)),)


@dataclass(frozen=True)
class PaTHFoX(PaTH):
    """PaTH with a forget gate: each token also decides how much of all before it fades. The gate stands inside the
    logits' scale, as the code of its authors has it. (arXiv 2505.16381, with the gate of 2503.02130)

    rank  as in `PaTH`
    """

    name = "path-fox"
    title = "PaTH, and a gate by which each token makes all before it fade"

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "rotates queries by the tokens between a key and them")
        return (Score(Householder(shape, self.rank, forgets=True)),)
