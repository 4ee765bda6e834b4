"""What an encoding that depends on content is made of: the module of a `Score` effect.

Two steps. `tokens` is asked once per token, before the cache, and what it gives (its state) is kept beside the token's
key for as long as that is. Then, in the attention, a score does one or more of these, in this order:

inputs     gives other q and k, whose product is taken (rotations by angles that a token chose)
logits     changes the logits of some queries and all the keys that they may see
channels   gives q and k a few channels, whose product is added to the logits unscaled. Any kernel serves it
weights    takes the place of the softmax
values     adds to the output, by the weights
features   says of `logits` and `weights` that they are a quotient of features, of which sums go on from token to token
turning    says of `inputs` that they are q and k whose pairs turn by these cos and sin
along      says of `turning` that its angles are positions times these frequencies
turns_between  says of `logits` that the tokens between query and key turn their product

Only what a class overrides is asked for. `logits`, `weights` and `values` are asked for a block of queries at a time,
with all their keys, in plain differentiable PyTorch: the backward pass runs them again, and no matrix of all queries
and keys is kept. Shapes: B batch, H heads, T tokens, Q queries, K keys, D head dim, S size of the state, P past tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.effects import Shape

T = TypeVar("T")


class At(NamedTuple):
    """What a score knows of some queries and of keys, beside q and k."""

    query_positions: torch.Tensor  # integers [B or 1, Q]; real or whole [B or 1, Q, axes] for `axis` "all"
    key_positions: torch.Tensor  # [B or 1, K], or [B or 1, K, axes]
    query_state: torch.Tensor | None  # what `tokens` gave, float32 (float64 for float64) [B, H or 1, Q, S]
    key_state: torch.Tensor | None  # [B, H or 1, K, S]
    seen: torch.Tensor | None = None  # True where a key is seen, bool [B or 1, H or 1, Q, K]; for rows of all keys
    scale: float = 1.0  # the host's own logit scale, by which q was multiplied where `logits` is handed it
    kept: dict[str, Any] | None = None  # what one step leaves for a later one of the same queries and keys

    @property
    def same_tokens(self) -> bool:
        """Queries and keys are known to be the same tokens: what is made of positions and states is so for both."""
        return self.query_positions is self.key_positions and self.query_state is self.key_state

    def once(self, name: str, make: Callable[[], T]) -> T:
        """`make()`, which is kept by this name, so that a later step has the same again; anew where nothing is kept."""
        if self.kept is None:
            return make()
        if name not in self.kept:
            self.kept[name] = make()
        made: T = self.kept[name]
        return made


class Features(NamedTuple):
    """Of which the weights are a quotient: weight_ij = of_q_i . of_k_j / sum over j of under_q_i . under_k_j.

    Each [B, H, Q or K, F], in float32 (float64 for float64).
    """

    of_q: torch.Tensor
    of_k: torch.Tensor
    under_q: torch.Tensor
    under_k: torch.Tensor


class TurnsBetween(NamedTuple):
    """Of which the logits are made: scale k_j^T H_{j + 1} ... H_i q_i and the product of the channels, where
    H_t = 1 - beta_t w_t w_t^T, and beta_t is 0 for padding. All in float32 (float64 for float64)."""

    w: torch.Tensor  # of the keys' tokens [B or 1, H or 1, K, D]
    beta: torch.Tensor  # [B or 1, H or 1, K]
    channels: tuple[torch.Tensor, torch.Tensor] | None = None  # of q [B or 1, H or 1, Q, E] and of k [.., K, E]


class ScoreModule(nn.Module):
    """Base of the modules that a `Score` holds. State and arithmetic are float32 (float64 for float64 inputs), whatever
    the model's dtype; its parameters are read by `whorl.encodings.biases.in_full`."""

    sees_hidden: bool = False  # `tokens` goes by hidden states
    keeps_state: bool = False  # `tokens` is asked
    looks_back: int = 1  # how many of the states `before` it goes by, at most: a window may hold fewer keys
    scores_anew: bool = False  # `logits` makes them itself, of q and k, before the soft cap, and is handed None
    causal: bool = True  # a query may see no key after it
    distribution: bool = True  # its `weights` are never negative, and sum to 1 at most
    layout: str = "half"  # which two channels are a pair, of one that is `turning`: see `whorl.ops.rotate`
    axis: int | str | None = None  # of positions that have several, those it goes by: see `whorl.ops.axes`
    axes: int = 0  # how many a position must have, where it goes by all of them; 0: any number
    sees_prefix: bool = False  # it has something of its own for tokens before an image's patches (`encodings.grid`)
    held: int = 0  # numbers that `logits` or `values` make for each query and key, beside those of each head
    runs: int = 0  # where `logits` and `values` go by runs of distance, as `whorl.encodings.by_run` has it: how many
    as_trained: bool = False  # it stands for the rotation that a model was trained with, and turns as late as that did

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        """The state of each token: [B, T, H or 1, S].

        hidden [B, T, width], float32 (float64 for float64), or None without `sees_hidden`; positions [B or 1, T],
        or [B or 1, T, axes] for `axis` "all"; real: bool [B or 1, T], False for padding, which must add nothing to a
        sum (None: all are real); before: the state of the tokens before these, [B, P, H or 1, S], the latest at least,
        or None.
        """
        raise NotImplementedError

    def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        """Other q [B, H, Q, D'] and k [B, key heads or H, K, D'] in the place of these, which were not rotated.

        In float32; they are rounded to the model's dtype afterwards, as those that a rotation turned are.
        """
        raise NotImplementedError

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of the pairs, in `dtype`, [B or 1, H or 1, T, pairs], for positions [B or 1, T] and the states of
        the same tokens [B, H or 1, T, S]. They need not be of one angle; channels past the pairs pass through.

        What `inputs` does must be the same turn.
        """
        raise NotImplementedError

    def along(self) -> torch.Tensor:
        """Frequencies [2, H, pairs] in float64, radians per row and radians per column of a grid.

        The angles of `turning`, of which it gives cos and sin, must be the positions times these, added up.
        """
        raise NotImplementedError

    def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        """Channels of q [B, H, Q, E] and of k [B, H or key heads or 1, K, E]; their product is added to the logits.

        In float32, whatever the kernel: one product after the other is added up, and then the sum to the logits, so
        that sums of gates in the thousands may cancel (c_i x 1 + 1 x -c_j). A few channels cost little.
        """
        raise NotImplementedError

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        """Logits [B, H, Q, K] in the place of `s`, which are scaled and capped, without biases and channels, and with
        keys that are hidden not yet at -inf.

        q [B, H, Q, D] with the scale in it, k [B, H, K, D]; in float32, or float64.
        """
        raise NotImplementedError

    def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
        """Weights [B, H, Q, K] of logits in which hidden keys are at -inf."""
        raise NotImplementedError

    def values(self, weights: torch.Tensor, v: torch.Tensor, at: At) -> torch.Tensor:
        """What is added to the output, [B, H, Q, D], for weights [B, H, Q, K]; v [B, H, K, D]."""
        raise NotImplementedError

    def features(self, q: torch.Tensor, k: torch.Tensor, at: At) -> Features:
        """The features of q [B, H, Q, D], without the scale in it, and of k [B, H, K, D], each token by itself.

        What `logits` and `weights` do with all keys of a query must be the same quotient.
        """
        raise NotImplementedError

    def turns_between(self, at: At) -> TurnsBetween:
        """The turns; what `logits` does with all keys of a query must be the same product."""
        raise NotImplementedError

    def fading(self, state: torch.Tensor, scale: float) -> torch.Tensor | None:
        """The sum, up to each token, of what its gates take from the logits of all keys before it: [B, T, H or 1].

        For state [B, T, H or 1, S], and the host's own logit scale. None for what has no such gates.
        """
        return None

    def does(self, step: str) -> bool:
        """Whether a class overrides one of these steps."""
        return getattr(type(self), step) is not getattr(ScoreModule, step)


def of_heads(k: torch.Tensor, heads: int) -> torch.Tensor:
    """k [B, key heads, K, D] with a head for each of `heads` (1: as it is), where those have something of their own."""
    return k.repeat_interleave(heads // k.shape[1], 1) if heads > k.shape[1] else k


def difference(of_q: torch.Tensor, of_k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels whose product is of_q - of_k, for a number of each query and key [B, H, tokens, 1]."""
    if of_q.shape[2] == 1:  # decoding: half of the channels, made in one pass over the keys
        return torch.ones_like(of_q), of_q - of_k
    return torch.cat([of_q, torch.ones_like(of_q)], -1), torch.cat([torch.ones_like(of_k), -of_k], -1)


def refuse_encoders(encoding: Encoding, shape: Shape, why: str) -> None:
    """Raises ValueError where queries also see later keys; `why` says what the encoding does, of which they are no
    part."""
    if shape.bidirectional:
        others = "axial-rope, alibi-2d or hope-2d" if shape.axes == 2 else "rope, t5 or alibi"
        raise ValueError(
            f"{encoding} {why}, and has no meaning in an encoder, whose queries see the keys after them too; try "
            f"{others}"
        )
