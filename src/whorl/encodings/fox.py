"""FoX, the forgetting transformer. Lin et al., ICLR 2025, arXiv 2503.02130.

logit(i, j) = q_i.k_j / sqrt(d) + sum over l = j + 1 .. i of log f_l, f_l = sigmoid(w.x_l + b)

w and b are per head, x_l is what the layer's attention is given. A gate of 1 keeps what came before and one of 0
forgets it; gates that are all the same are ALiBi. With c the running sum of log f, the sum is c_i - c_j: two numbers
per token and head. They are float32 and subtracted in float32: in bfloat16 a sum past -256 steps by 2, and near keys
would all be alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.biases import constants, in_full
from whorl.encodings.config import choices, require_positive
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.scores import At, ScoreModule, difference, refuse_encoders


class ForgetGates(ScoreModule):
    """The state of a token is the sum of log f up to it, padding left out; the logit of i and j gets c_i - c_j.

    `gate` and `start` (the b of each head) as in `FoX`.
    """

    keeps_state = True

    def __init__(self, shape: Shape, gate: str, start: tuple[float, ...]) -> None:
        super().__init__()
        self.sees_hidden = gate == "full"
        self.start = start  # numbers, which `model.to(bfloat16)` does not round
        if gate == "full":
            self.weight = nn.Parameter(0.02 * torch.randn(shape.heads, shape.width, generator=shape.generator()))
        if gate != "fixed":
            self.bias = nn.Parameter(torch.tensor(start))

    def gates(self, hidden: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
        """log f of each token, [batch or 1, tokens, heads]."""
        bias = in_full(self.bias) if hasattr(self, "bias") else constants(self.start, torch.float32, positions.device)
        if hidden is None:
            return nn.functional.logsigmoid(bias).expand(*positions.shape, -1)
        return nn.functional.logsigmoid(nn.functional.linear(hidden, in_full(self.weight), bias))

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        gates = self.gates(hidden, positions)
        if real is not None:
            gates = gates * real[..., None]
        sums = gates.cumsum(1)[..., None]
        return sums if before is None else before[:, -1:] + sums

    def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        assert at.query_state is not None
        assert at.key_state is not None
        return difference(at.query_state, at.key_state)

    def fading(self, state: torch.Tensor, scale: float) -> torch.Tensor:
        return state[..., 0]


@dataclass(frozen=True)
class FoX(Encoding):
    """Lets each token decide, by a gate per head, how much of everything before it is forgotten. From key to query the
    logarithms of the gates add up, and the logit falls by them; gates that are all alike are ALiBi.
    (arXiv 2503.02130)

    gate            "full", of the hidden state; "bias", learned per head and the same for all tokens; "fixed", not
                    learned
    decay_time_min  tokens; at the start the gates that b alone makes forget over times from this to `decay_time_max`,
                    spread over the heads evenly in their logarithm, f = e^(-1 / time); unset, b is 0 and f is 0.5, as
                    in the paper
    decay_time_max  tokens, as above; give both or neither, and with gate=fixed both
    """

    gate: str = "full"
    decay_time_min: float | None = None
    decay_time_max: float | None = None

    name = "fox"
    title = "the forgetting transformer: gates that tokens decide, summed along the way from key to query"
    paper = "2503.02130"
    kinds = ("score",)
    by_order = True

    def __post_init__(self) -> None:
        choices("gate", self.gate, ("full", "bias", "fixed"))
        times = {"decay_time_min": self.decay_time_min, "decay_time_max": self.decay_time_max}
        given = {name: time for name, time in times.items() if time is not None}
        for name, time in given.items():
            require_positive(name, time, "tokens")
        if len(given) == 1 or (not given and self.gate == "fixed"):
            raise ValueError(
                f"fox with gate={self.gate} needs both decay_time_min and decay_time_max"
                f"{' or neither' if given else ''}; try fox:gate={self.gate},decay_time_min=4,decay_time_max=1024"
            )

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "adds up gates from a key to a query after it")
        return (Score(ForgetGates(shape, self.gate, self.biases(shape.heads))),)

    def biases(self, heads: int) -> tuple[float, ...]:
        """b of each head at the start: -ln(e^(1 / time) - 1), where sigmoid(b) = e^(-1 / time)."""
        if self.decay_time_min is None or self.decay_time_max is None:
            return (0.0,) * heads
        first, last = math.log(self.decay_time_min), math.log(self.decay_time_max)
        times = (math.exp(first + (last - first) * h / max(1, heads - 1)) for h in range(heads))
        return tuple(-math.log(math.expm1(1 / time)) for time in times)
