"""Linear attention with rotary positions. Su et al., RoFormer, arXiv 2104.09864, equation 19.

    output_i = sum_j (R_i f(q_i)) . (R_j f(k_j)) v_j / sum_j f(q_i) . f(k_j)          f = elu + 1, above 0

Queries and keys are turned after the feature map f, and in the numerator alone, which may be negative; the denominator
stays above 0. So weights do not sum to 1. There is no scale and no softmax. By itself, `linear` turns nothing
(Katharopoulos et al., arXiv 2006.16236); `rope+linear`, or any encoding that turns by a spectrum, turns the features.

Where a query sees the keys from some first one to its own, sums go on from chunk to chunk of tokens, in O(tokens d^2)
(`whorl.ops.impl.linear`). With a cache, a token attends to the cached keys in O(keys d): a sum over all of them that
replaces them would be no state of any one key, and could not be cropped or reordered as caches are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.effects import Effect, Rotate, Score, Shape
from whorl.encodings.scores import At, Features, ScoreModule
from whorl.encodings.spectrum import Spectrum
from whorl.encodings.turns import cos_sin


class FeatureAttention(ScoreModule):
    """Weights by features, with those of the numerator turned by a spectrum. layout: see `whorl.ops.rotate`."""

    scores_anew = True
    causal = False

    def __init__(self, spectrum: Spectrum | None, layout: str) -> None:
        super().__init__()
        self.spectrum, self.layout = spectrum, layout
        self.distribution = spectrum is None or not spectrum.turning

    def features(self, q: torch.Tensor, k: torch.Tensor, at: At) -> Features:
        of_q, of_k = nn.functional.elu(q) + 1, nn.functional.elu(k) + 1
        return Features(self._turned(of_q, at.query_positions), self._turned(of_k, at.key_positions), of_q, of_k)

    def _turned(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """x [B, H, T, D] with its pairs turned."""
        if self.spectrum is None or not self.spectrum.turning:
            return x
        width = self.spectrum.width
        tables = cos_sin(positions, self.spectrum.frequencies, x.dtype)
        cos, sin = (self.spectrum.amplitude * t[:, None] for t in tables)
        split, axis = ((2, -1), -2) if self.layout == "half" else ((-1, 2), -1)
        a, b = x[..., :width].unflatten(-1, split).unbind(axis)
        both = torch.stack([a * cos - b * sin, b * cos + a * sin], axis).flatten(-2)
        return torch.cat([both, x[..., width:]], -1)

    def logits(self, s: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        """The weights themselves, but for what is hidden."""
        n_q, n_k, d_q, d_k = self.features(q / at.scale, k, at)
        below = d_q @ d_k.mT
        if at.seen is not None:
            below = below * at.seen
        total = below.sum(-1, keepdim=True)
        return n_q @ n_k.mT / total.masked_fill(total == 0, 1)  # of a query that sees nothing

    def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
        return s.masked_fill(s == -torch.inf, 0)


@dataclass(frozen=True)
class Linear(Encoding):
    """Takes the place of the softmax by a quotient of features, elu + 1 of q and of k, whose cost grows with the
    tokens and not with their square. In `rope+linear` the features are turned, in the numerator alone: RoFormer's
    Performer. (arXiv 2104.09864, equation 19)"""

    name = "linear"
    title = "in the place of softmax, a quotient of features (elu + 1), which a rotary encoding turns after the map"
    paper = "2104.09864"
    kinds = ("softmax",)
    alone_but_for = ("rotate",)
    by_order = True

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Score(FeatureAttention(None, shape.layout), shared=True),)

    def turning(self, rotary: Encoding) -> Encoding | None:
        return TurnedFeatures(rotary)


@dataclass(frozen=True)
class TurnedFeatures(Encoding):
    """What a rotary encoding and `linear` are together: features that are turned. It is written as their sum."""

    rotary: Encoding

    name = "linear"
    title = Linear.title
    paper = Linear.paper
    kinds = ("rotate", "softmax")

    def __str__(self) -> str:
        return f"{self.rotary}+linear"

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        """Raises ValueError for a rotary encoding that is not one spectrum of one axis."""
        (effect,) = self.rotary.effects(shape)
        if not isinstance(effect, Rotate) or getattr(self.rotary, "length_dependent", False):
            raise ValueError(f"{self} needs one spectrum for all lengths, which {self.rotary} has not; try rope+linear")
        if effect.spectrum.axes or effect.spectrum.vectors:
            raise ValueError(f"{self} turns features by positions of one axis, and {self.rotary} goes by several")
        return (Score(FeatureAttention(effect.spectrum, shape.layout), shared=True),)
