"""Selective position encoding of points. SPE-Net, Qiu et al., ECCV 2022, arXiv 2211.08250; here as an attention.

logit(i, j)  = q_i.k_j / sqrt(d) + sum over codes c of g_c(x_i) a_c.h_c(i, j)
output(i)   += sum over j of w_ij sum over c of g_c(x_i) U_c h_c(i, j),    h_c(i, j) = silu(W_c code_c(p_i, p_j) + b_c)

The codes are those of `point_codes`: xyz, what turns about z leave as it is, and what every turn leaves as it is. The
gate g_c = sigmoid(v_c.x_i + e_c) lets each head choose, by the query's content, how much of the cloud's orientation it
goes by. In the paper the codes join neighbours' features in a residual network, and the gate follows; the three
neighbours that have most of it are kept there, and all are weighed here.

A query sees the nearest `neighbours` points within the radius, itself among them, or all points, for which the radius
is the unit of length alone. Points are counted from their cloud's mean: the codes of turns hold about the origin.

Nothing of [points, points] is kept: attention goes by blocks of queries, and for neighbours the codes are of these
alone. A token's state has its gates, its place and its medoid.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import silu

from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.config import choices, require_positive, require_positive_int
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.point_codes import CODES, COUNT, codes, mean_of, medoids, nearest, points_at
from whorl.encodings.scores import At, ScoreModule

CHOICES = tuple("@".join(some) for count in (1, 2, 3) for some in itertools.combinations(CODES, count))


class SelectiveCodes(ScoreModule):
    """Gated codes of a query and a key, to the logit and to the value.

    For C codes: gates [heads, C, width] and `even` [heads, C], 0 to start from, so that all gates are one half; for
    each code `into` [units, numbers] and `bias` [units], `to_logit` [heads, units] and `to_value` [heads, units,
    channels], drawn as nn.Linear draws them. A token's state: C gates, its place and its medoid's.
    """

    sees_hidden = True
    keeps_state = True
    causal = False
    axis = "all"
    axes = 3

    def __init__(self, shape: Shape, chosen: tuple[str, ...], settings: SPE) -> None:
        super().__init__()
        self.codes, self.radius, self.neighbours = chosen, settings.radius, settings.neighbours
        self.centred = settings.origin == "mean"
        self.held = 0 if self.neighbours else COUNT + settings.units
        generator = shape.generator()

        def drawn(*sizes: int, inputs: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(*sizes, generator=generator) - 1) / inputs**0.5)

        heads, units = shape.heads, settings.units
        self.gates = nn.Parameter(torch.zeros(heads, len(chosen), shape.width))
        self.even = nn.Parameter(torch.zeros(heads, len(chosen)))
        numbers = [CODES[code].stop - CODES[code].start for code in chosen]
        self.into = nn.ParameterList(drawn(units, count, inputs=count) for count in numbers)
        self.bias = nn.ParameterList(drawn(units, inputs=count) for count in numbers)
        self.to_logit = nn.ParameterList(drawn(heads, units, inputs=units) for _ in chosen)
        self.to_value = nn.ParameterList(drawn(heads, units, shape.channels, inputs=units) for _ in chosen)

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        assert hidden is not None
        if before is not None:
            raise ValueError("spe goes by whole clouds, and has no medoid for points that come after others to a cache")
        gates, even = (in_full(p).to(hidden.dtype) for p in (self.gates, self.even))
        gate = (torch.einsum("btw,hcw->bthc", hidden, gates) + even).sigmoid()
        if not positions.is_floating_point():  # of a grid
            positions = positions.float()
        points = positions - mean_of(positions, real) if self.centred else positions  # in the precision of coordinates
        points = points.to(hidden.dtype)
        of_points = torch.cat([points, medoids(points, real, self.neighbours, self.radius)], -1)
        of_points = of_points[:, :, None].expand(hidden.shape[0], -1, gate.shape[2], -1)
        return torch.cat([gate, of_points], -1)

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        of_pairs, index, within = at.once("pairs", lambda: self._pairs(at, s.dtype))
        if index is None or within is None:
            return s + self._added(of_pairs, at, s.dtype)
        index = index[:, None].expand(-1, s.shape[1], -1, -1)
        near = s.gather(-1, index) + self._added(of_pairs, at, s.dtype)
        return torch.full_like(s, -torch.inf).scatter(-1, index, near.masked_fill(~within[:, None], -torch.inf))

    def values(self, weights: torch.Tensor, v: torch.Tensor, at: At) -> torch.Tensor:
        of_pairs, index, _ = at.once("pairs", lambda: self._pairs(at, weights.dtype))
        if index is not None:
            weights = weights.gather(-1, index[:, None].expand(-1, weights.shape[1], -1, -1))
        total = torch.zeros((), dtype=weights.dtype, device=weights.device)
        for number, hidden in enumerate(of_pairs):
            weighed = torch.einsum("bhqn,bqnu->bhqu", weights, hidden) * self._gate(at, number, weights.dtype)
            total = total + weighed @ in_full(self.to_value[number]).to(weights.dtype)
        return total

    def _added(self, of_pairs: list[torch.Tensor], at: At, dtype: torch.dtype) -> torch.Tensor:
        """To the logits, [B, H, Q, keys or neighbours]."""
        total = torch.zeros((), dtype=dtype, device=of_pairs[0].device)
        for number, hidden in enumerate(of_pairs):
            to_logit = in_full(self.to_logit[number]).to(dtype)
            total = total + self._gate(at, number, dtype) * torch.einsum("bqnu,hu->bhqn", hidden, to_logit)
        return total

    def _gate(self, at: At, number: int, dtype: torch.dtype) -> torch.Tensor:
        """[B, H, Q, 1]"""
        assert at.query_state is not None
        return at.query_state[..., number, None].to(dtype)

    def _pairs(self, at: At, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor | None, torch.Tensor | None]:
        """h of each code, [B, Q, keys or neighbours, units]; which keys the neighbours are, and whether they count."""
        assert at.query_state is not None
        assert at.key_state is not None
        of_queries, of_keys = (x[:, 0, :, len(self.codes) :].to(dtype) for x in (at.query_state, at.key_state))
        p, m, n = of_queries[..., :3], of_queries[..., 3:], of_keys[..., :3]
        near, index, within = n[:, None], None, None
        if self.neighbours:
            seen = None if at.seen is None else at.seen.any(1)
            index, within = nearest(p, n, seen, self.neighbours, self.radius)
            near = points_at(n, index)
        found = codes(p[:, :, None], m[:, :, None], near, self.radius)
        parameters = zip(self.codes, self.into, self.bias, strict=True)
        of_pairs = [
            silu(found[..., CODES[code]] @ in_full(into).to(dtype).T + in_full(bias).to(dtype))
            for code, into, bias in parameters
        ]
        return of_pairs, index, within


@dataclass(frozen=True)
class SPE(Encoding):
    """Adds to logits and to values what small networks make of where a key stands from a query, in codes that turns
    leave as they are. By its content each query chooses how much it goes by which code. (arXiv 2211.08250)

    codes       which: xyz, z, so3, or several, as "xyz@z@so3"
    radius      of a neighbourhood, in the units of the coordinates; all lengths are divided by it
    neighbours  the nearest points within the radius that a query sees, itself among them; 0: all points, however far
    origin      "mean": points are counted from their cloud's mean; "given": from the origin of the coordinates
    units       of the layer between each code and what it adds

    It is for positions of three axes.
    """

    codes: str = "xyz@z@so3"
    radius: float = 1.0
    neighbours: int = 0
    origin: str = "mean"
    units: int = 16

    name = "spe"
    title = "codes of points that turns about z, or all turns, leave as they are, gated by the query's content"
    paper = "2211.08250"
    kinds = ("score",)

    def __post_init__(self) -> None:
        choices("codes", self.codes, CHOICES)
        require_positive("radius", self.radius, "a distance")
        if self.neighbours != 0:
            require_positive_int("neighbours", self.neighbours, "; 0 lets a query see all points")
        choices("origin", self.origin, ("mean", "given"))
        require_positive_int("units", self.units)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        if not shape.bidirectional:
            raise ValueError(
                f"{self} goes by neighbours on all sides, and in a decoder a token sees those before it alone; "
                "try pape-ri or euclidean-alibi"
            )
        return (Score(SelectiveCodes(shape, tuple(self.codes.split("@")), self)),)
