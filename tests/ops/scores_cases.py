"""Scores that do one step each, for tests of what runs them; float32 inside, a parameter in those that learn."""

from __future__ import annotations

import torch
from attention_cases import HEADS

from whorl.encodings.biases import in_full
from whorl.encodings.scores import At, ScoreModule
from whorl.ops.scores import BoundScore


class Learned(ScoreModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.3, 0.9, HEADS))

    @property
    def by_head(self) -> torch.Tensor:
        return in_full(self.weight)[:, None, None]


class Forgets(ScoreModule):
    """c_i - c_j for a running sum c of each head, as in FoX."""

    keeps_state = True

    def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        c_i, c_j = at.query_state, at.key_state
        return torch.cat([c_i, torch.ones_like(c_i)], -1), torch.cat([torch.ones_like(c_j), -c_j], -1)


class Gated(Learned):
    """Channels of q and k themselves, of those of key heads."""

    def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        of_q = torch.nn.functional.softplus(q[..., :3]) * self.by_head
        return of_q, torch.tanh(k[..., :3]) * at.key_positions[:, None, :, None] / 40


class Turns(Learned):
    """Other q and k, of more channels, by a state and by positions."""

    keeps_state = True

    def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        of_q, of_k = at.query_state[..., :1] * self.by_head, at.key_state[:, :1, :, :1]
        of_k = of_k + at.key_positions[:, None, :, None] / 50
        return torch.cat([q * of_q.cos(), q * of_q.sin()], -1), torch.cat([k * of_k.cos(), k * of_k.sin()], -1)


class Counts(Learned):
    """As CoPE: what is added goes by a sum over the keys from the query's own back, by gates that hidden keys lack."""

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        gates = torch.sigmoid(s)
        if at.seen is not None:
            gates = gates.masked_fill(~at.seen, 0)
        return s + self.by_head * torch.sin(gates.flip(-1).cumsum(-1).flip(-1))


class Anew(Learned):
    """Makes the logits itself, of q, k and a state."""

    keeps_state = scores_anew = True

    def logits(self, s: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        assert s is None
        return (q * at.query_state) @ (k * at.key_state).transpose(-1, -2) * self.by_head


class Sticks(ScoreModule):
    """As stick-breaking: weights that are no softmax, and need not sum to 1."""

    def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
        broken = torch.sigmoid(s)
        after = torch.nn.functional.logsigmoid(-s).flip(-1).cumsum(-1).flip(-1)
        return broken * (after - torch.nn.functional.logsigmoid(-s)).exp()


class Remembers(Learned):
    """Adds to the output, by the weights and by how far keys are."""

    def values(self, weights: torch.Tensor, v: torch.Tensor, at: At) -> torch.Tensor:
        far = at.query_positions[:, None, :, None] - at.key_positions[:, None, None]
        return (weights * torch.cos(far * self.by_head)) @ v


BY_TOKEN = {"channels": Forgets, "channels of q and k": Gated, "inputs": Turns}
BY_ROWS = {"logits": Counts, "logits anew": Anew, "weights": Sticks, "values": Remembers}


def bound(name: str, queries: int, keys: int, batch: int = 2) -> BoundScore:
    """One of these, of the last `queries` of the tokens."""
    module = {**BY_TOKEN, **BY_ROWS}[name]()
    if not module.keeps_state:
        return BoundScore(module)
    heads = 1 if name == "inputs" else HEADS
    state = torch.randn(batch, keys, heads, 1).abs().neg().cumsum(1) * (1 if name == "channels" else 0.1)
    return BoundScore(module, state[:, keys - queries :], state)
