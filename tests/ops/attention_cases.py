"""Inputs and the error budget that the tests of biased attention share (and of rotations, a subclass of tensors)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from whorl.encodings import Shape, parse
from whorl.ops import Visible, biased_attention
from whorl.ops.problem import AttentionProblem
from whorl.ops.scores import BoundScore
from whorl.testing import max_error

NOTATIONS = ("alibi", "t5", "kerple", "kerple:form=power", "alibi+window:size=9", "window:size=9")
HEADS, KEY_HEADS = 4, 2


class Wrapped(torch.Tensor):
    """A subclass that wraps a tensor, as DTensor does, and has no memory of its own."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapped:
        how = {"strides": inner.stride(), "dtype": inner.dtype, "device": inner.device}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **how)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args, kwargs=None):
        args, kwargs = tree_map_only(Wrapped, lambda x: x.inner, (args, kwargs or {}))
        return tree_map_only(torch.Tensor, Wrapped, function(*args, **kwargs))


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


def modules(notation: str, heads: int = HEADS) -> list[torch.nn.Module]:
    found = [e.module for e in parse(notation).effects(Shape(head_dim=8, heads=heads, width=8 * heads))]
    for module in found:
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, 0.2, 1.0)
    return found


def data(queries: int, keys: int, head_dim: int, dtype: torch.dtype, batch: int = 2) -> list[torch.Tensor]:
    shapes = [(batch, HEADS, queries, head_dim), *[(batch, KEY_HEADS, keys, head_dim)] * 2]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def at(*positions: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"query_positions": positions[0], "key_positions": positions[-1]}


def problem(
    biases: list, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Visible | None = None, dropout: float = 0.0
) -> AttentionProblem:
    """What an implementation is asked, at consecutive positions."""
    positions = torch.arange(k.shape[2])[None]
    at = (positions[:, k.shape[2] - q.shape[2] :], positions)
    return AttentionProblem(q, k, v, tuple(biases), *at, mask, False, 1.0, None, None, dropout, q.device.type)


def arriving(out: torch.Tensor, times: int = 4) -> torch.Tensor:
    """Several gradients: the largest error of four sinks' alone, say, tells little of how they are made."""
    return torch.randn(times, *out.shape, generator=torch.Generator().manual_seed(7)).to(out.dtype)


def everything(
    impl: str,
    biases: list,
    tensors: list[torch.Tensor],
    dtype: torch.dtype,
    *,
    scores: Sequence[BoundScore] = (),
    factor: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    times: int = 4,
    **arguments,
) -> list:
    """The output, and every gradient for `times` that arrive; in float64 with the parameters of modules, too."""
    math = torch.float64 if dtype == torch.float64 else torch.float32

    def leaf(x: torch.Tensor) -> torch.Tensor:
        return x.detach().to(math).requires_grad_()

    if math == torch.float64:
        biases = [copy.deepcopy(module).to(math) for module in biases]
        scores = [score._replace(module=copy.deepcopy(score.module).to(math)) for score in scores]
    scores = [BoundScore(module, *(None if x is None else leaf(x) for x in states)) for module, *states in scores]
    leaves = [x.detach().to(dtype).requires_grad_() for x in tensors]
    beside = {name: leaf(x) for name, x in (("sinks", sinks), ("factor", factor)) if x is not None}
    learned = [p for module in (*biases, *(score.module for score in scores)) for p in module.parameters()]
    states = [x for _, *of_tokens in scores for x in of_tokens if x is not None]
    out, _ = biased_attention(*leaves, biases, scale=0.4, impl=impl, scores=scores, **beside, **arguments)
    wanted = [*leaves, *beside.values(), *learned, *states]
    each = [torch.autograd.grad(out, wanted, grad, retain_graph=True) for grad in arriving(out, times)]
    return [out.detach(), *(torch.stack(gradients) for gradients in zip(*each, strict=True))]


def agree(impl: str, biases: list, tensors: list[torch.Tensor], dtype: torch.dtype, **arguments) -> None:
    """Each result of `impl` is off from float64 by at most twice what the dense reference is, and a rounding.

    In float64 itself, by the roundings of one row.
    """
    truth = everything("reference", biases, tensors, torch.float64, **arguments)
    same_precision = everything("reference", biases, tensors, dtype, **arguments)
    results = everything(impl, biases, tensors, dtype, **arguments)
    q, k, v = (x.double() for x in tensors)
    for got, exact, reference in zip(results, truth, same_precision, strict=True):
        roundings = arguments["key_positions"].shape[1] if dtype == torch.float64 else 4  # a product, sum, weight, cast
        size = float(exact.abs().max())
        if q.shape[2] == 1:  # gradients of one token cancel to zero: what is cancelled has a rounding
            size = max(size, float(v.norm(dim=-1).max() * q.shape[-1] ** 0.5 * max(q.abs().max(), k.abs().max())))
        rounding = torch.finfo(got.dtype).eps * size
        assert got.shape == exact.shape
        assert max_error(got, exact) <= 2 * max_error(reference, exact) + roundings * rounding


def kinds(kind: str) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """Positions [batch or 1, keys], a mask (broadcastable as the op takes it) or None, and the number of queries."""
    queries, keys = (20, 37) if kind in ("cached", "static cache") else (37, 37)
    own = torch.arange(keys)
    positions, mask = own[None], own[:, None] >= own
    if kind == "packed":
        positions = torch.cat([own[:20], own[:17]])[None]
        document = own >= 20
        mask = mask & (document[:, None] == document)
    elif kind == "left padded":
        positions = torch.stack([own, (own - 5).clamp(min=0)])
        mask = mask & torch.stack([own >= 0, own >= 5])[:, None, None]
    elif kind == "cached":
        mask = mask[-queries:]
    elif kind == "static cache":  # slots beyond the queries are empty
        positions, mask = own[None], mask[9 : 9 + queries]
    elif kind == "gaps":
        positions = (own * own)[None]
    elif kind == "bidirectional":
        mask = None
    elif kind == "any mask":
        mask = torch.rand(2, HEADS, queries, keys) > 0.5
        mask[..., 0] = True
    if mask is not None and mask.dim() == 2:
        mask = mask[None, None]
    return positions, mask, queries
