"""rotate(): turns pairs of q and k channels by tables made from positions and a spectrum."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import increment_version

from whorl.checking import shown
from whorl.encodings.spectrum import Spectrum
from whorl.encodings.turns import cos_sin
from whorl.ops.derivatives import PLAIN, batch_of_gradients, plain, transformed
from whorl.ops.environment import asked_by_environment
from whorl.ops.impl import cpu, reference
from whorl.ops.overlap import overlap, overlaps_itself, reach

LAYOUTS = ("half", "interleaved")
IMPLS = ("auto", "reference", "cpu", "triton")
SHARED = "q and k share memory, which would turn twice in place; use inplace=False"


class Tables(NamedTuple):
    """What a rotation needs: cos and sin of the pairs that turn, and which pairs those are.

    cos, sin   float32 (float64 for float64 inputs), [batch or 1, tokens, pairs that turn], amplitude included; or, for
               spectra of their own per head, four dimensions in the order of q's
    first      index of the first pair that turns; the turning pairs are first .. first + cos.shape[-1] - 1
    width      channels that are in pairs; channels from `width` on pass through
    """

    cos: torch.Tensor
    sin: torch.Tensor
    first: int
    width: int

    def to(self, device: torch.device | str) -> Tables:
        """The same tables on another device."""
        return self._replace(cos=self.cos.to(device), sin=self.sin.to(device))


def rotation_tables(spectrum: Spectrum, positions: torch.Tensor, dtype: torch.dtype = torch.float32) -> Tables:
    """Tables for integer positions [batch, tokens] or [tokens]. Angles are exact at every position (see `turns`).

    With an amplitude (YaRN scales the whole head), pairs that stand still are in the tables too.
    """
    if not isinstance(spectrum, Spectrum) or not isinstance(positions, torch.Tensor):
        given = spectrum if not isinstance(spectrum, Spectrum) else positions
        wanted = "a Spectrum, as encoding.spectrum(head_dim)" if given is spectrum else "a tensor of positions"
        raise ValueError(f"{wanted} is wanted, got {shown(given)}")
    if positions.dim() == 1:
        positions = positions[None]
    turning = spectrum.turning
    first, last = (turning[0], turning[-1] + 1) if turning else (0, 0)
    if spectrum.amplitude != 1.0:
        first, last = 0, len(spectrum.frequencies)
    cos, sin = cos_sin(positions, spectrum.frequencies[first:last], _math(dtype))
    if spectrum.amplitude != 1.0:
        cos, sin = cos * spectrum.amplitude, sin * spectrum.amplitude
    return Tables(cos, sin, first, spectrum.width)


def _math(dtype: torch.dtype) -> torch.dtype:
    """What tables and arithmetic are in, for tensors of a dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rotate(
    q: torch.Tensor,
    k: torch.Tensor | None,
    tables: Tables,
    *,
    layout: str = "half",
    heads_dim: int = 1,
    inplace: bool = False,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """q and k with their turning pairs turned; the others are passed on untouched (RoFormer, 2104.09864, Eq. 34).

    q, k       [batch, heads, tokens, head_dim] (heads_dim=1) or [batch, tokens, heads, head_dim] (heads_dim=2), of any
               strides; float64, float32, bfloat16 or float16; k may have its own head count, or be None
    layout     "half": pair i is channels (i, i + width/2), as in Llama and GPT-NeoX;
               "interleaved": channels (2i, 2i + 1), as in RoFormer and GPT-J
    inplace    q and k themselves are turned and returned; the pairs that stand still are neither read nor written. They
               may share no memory, or it would turn twice. The backward pass is out of place: gradients may be shared.
    impl       "reference", "cpu" (a C loop) or "triton"; one asked for by name runs or raises. "auto" takes the
               environment's WHORL_IMPL, or else the fastest that the inputs' device has; "reference" under torch.func
               and where a forward-mode derivative is taken, which the others cannot follow.

    The arithmetic is float32 (float64 for float64 inputs), cast back once. Gradients of any order reach q, k and, out
    of place, the tables (and so learned frequencies). Raises ValueError for arguments that do not fit one another.
    """
    cos, sin, first, width = tables
    tensors = [q] if k is None else [q, k]
    compiling = torch.compiler.is_compiling()
    eager = not compiling and (
        # what `plain` says, in a third of the time for tensors as they are made
        (type(q) in PLAIN and (k is None or type(k) in PLAIN) and type(cos) in PLAIN and type(sin) in PLAIN)
        or plain((*tensors, cos, sin))
    )
    seen = (_seen(q), None if k is None else _seen(k), _seen(cos), _seen(sin))
    asked = _Asked(*seen, first, width, layout, heads_dim, inplace)
    loops = spans = None
    if eager:
        loops, spans = _checked(asked)
    else:
        _check(asked)
    if not compiling or transformed() is not None:  # else the operator chooses when it runs
        impl = choose(impl, q.device)
    if inplace and k is not None:
        followed = impl == "reference" and transformed() is not None  # such tensors may have no memory
        if k is q or (spans is not None and not followed and _share(q, k, spans)):
            raise ValueError(SHARED)
    if cos.shape[-1] == 0 or q.numel() == 0:
        if k is not None and cos.shape[-1] and k.numel():
            k = rotate(k, None, tables, layout=layout, heads_dim=heads_dim, inplace=inplace, impl=impl)[0]
        return q, k
    learned = cos.requires_grad or sin.requires_grad
    differentiable = torch.is_grad_enabled() and (learned or q.requires_grad or (k is not None and k.requires_grad))
    if inplace and differentiable and learned:
        raise ValueError("learned tables need what was turned in their backward pass; use inplace=False")
    if impl != "cpu" or differentiable:
        loops = None
    # a view may say minus: what lies in memory is not its numbers
    if loops and not (q.is_neg() or cos.is_neg() or sin.is_neg() or (k is not None and k.is_neg())):
        turned = tensors if inplace else [torch.empty_like(x) for x in tensors]
        cpu.run(loops, tensors, turned, cos, sin)
        if inplace:
            increment_version(tensors)
    elif impl == "reference":
        turned = [reference.rotate_one(x, *tables, layout=layout, heads_dim=heads_dim) for x in tensors]
        if inplace:
            turned = [x.copy_(y) for x, y in zip(tensors, turned, strict=True)]
    else:
        how = _How(first, width, layout, heads_dim, 1, impl)
        if inplace and differentiable:
            turned = list(_RotateInPlace.apply(cos, sin, how, *tensors))
        elif inplace:
            turned = _turn_in_place(tensors, cos, sin, how)
        elif differentiable and eager:
            turned = list(_Rotate.apply(cos, sin, how, *tensors))
        else:
            turned = _turn(tensors, cos, sin, how)
    return turned[0], turned[1] if k is not None else None


def choose(impl: str, device: torch.device) -> str:
    """The implementation that will run. Raises ValueError for a name that is not one, or that cannot run here."""
    asked = impl
    if impl == "auto":
        asked = asked_by_environment() or "auto"
    if asked not in IMPLS:
        where = "" if impl != "auto" else " (from the environment's WHORL_IMPL)"
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {asked!r}{where}")
    following = transformed()
    if asked == "auto" and following is not None:
        return "reference"
    if asked == "auto":
        if device.type == "cpu":
            return "reference" if cpu.available() else "cpu"
        return "triton" if device.type == "cuda" and _triton_missing(device) is None else "reference"
    why = None if asked == "reference" else following
    if why is not None:
        pass
    elif asked == "cpu":
        why = cpu.available() if device.type == "cpu" else f"the inputs are on {device}"
    elif asked == "triton":
        why = _triton_missing(device)
    if why is not None:
        raise ValueError(f"impl={asked!r} cannot run here: {why}")
    return asked


def _triton_missing(device: torch.device) -> str | None:
    """None where the Triton kernel can run: on CUDA, or anywhere in Triton's interpreter."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the inputs are on {device}, and TRITON_INTERPRET=1 is not set"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "the package triton is not installed"
    return None


class _How(NamedTuple):
    """What an operator needs besides tensors."""

    first: int
    width: int
    layout: str
    heads_dim: int
    sign: int  # -1 turns back
    impl: str

    def back(self) -> _How:
        return self._replace(sign=-self.sign)


_Seen = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


def _seen(x: torch.Tensor) -> _Seen:
    """What there is to know of a tensor before its numbers: a plain tuple, since it is made at every call."""
    return x.shape, x.stride(), x.dtype, x.device


class _Asked(NamedTuple):
    """All of a call that the checks look at."""

    q: _Seen
    k: _Seen | None
    cos: _Seen
    sin: _Seen
    first: int
    width: int
    layout: str
    heads_dim: int
    inplace: bool


def _check(asked: _Asked) -> None:
    q, k, cos, sin, first, width, layout, heads_dim, inplace = asked
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if heads_dim not in (1, 2):
        raise ValueError(f"heads_dim must be 1 or 2, got {heads_dim}")
    table, device, tokens_dim = cos[0], cos[3], 3 - heads_dim
    if width % 2 or not 0 <= first <= width // 2 - table[-1]:
        raise ValueError(
            f"tables must hold pairs within their width: width {width}, first pair {first}, {table[-1]} pairs"
        )
    per_head = len(table) == 4
    if table != sin[0] or not (per_head or len(table) == 3):
        raise ValueError(
            f"tables.cos and tables.sin must be [batch or 1, tokens, pairs] alike, got {tuple(table)} and "
            f"{tuple(sin[0])}"
        )
    if sin[3] != device:
        raise ValueError(f"tables.cos is on {device} and tables.sin on {sin[3]}; move one of them")
    table_tokens = table[tokens_dim if per_head else 1]
    for name, x in (("q", q), ("k", k)):
        if x is None:
            continue
        shape, strides, dtype, where = x
        if len(shape) != 4:
            raise ValueError(f"{name} must have four dimensions, got the shape {tuple(shape)}")
        if dtype not in cpu.DTYPES:
            raise ValueError(f"{name} must be float64, float32, bfloat16 or float16, got {dtype}")
        if shape[3] < width:
            raise ValueError(f"the tables turn {width} channels and {name}'s heads have {shape[3]}")
        if where != device:
            raise ValueError(f"{name} is on {where} and the tables are on {device}; move one of them")
        if shape[tokens_dim] != table_tokens:
            raise ValueError(
                f"the tables hold {table_tokens} tokens and {name} has {shape[tokens_dim]} (in dimension {tokens_dim} "
                f"of {tuple(shape)}; heads_dim={heads_dim})"
            )
        if table[0] not in (1, shape[0]):
            raise ValueError(f"the tables are for a batch of {table[0]} and {name} has one of {shape[0]}")
        if per_head and table[heads_dim] not in (1, shape[heads_dim]):
            raise ValueError(f"the tables are for {table[heads_dim]} heads and {name} has {shape[heads_dim]}")
        if inplace and any(s == 0 and n > 1 for s, n in zip(strides, shape, strict=True)):
            raise ValueError(f"{name} is expanded, so that several elements are one: it cannot be turned in place")
    if k is not None and (k[2] != q[2] or k[0][0] != q[0][0] or k[0][3] != q[0][3]):
        raise ValueError(
            f"q and k must agree in batch, head dim and dtype, got {tuple(q[0])} {q[2]} and {tuple(k[0])} {k[2]}"
        )


class _Known(NamedTuple):
    """What is remembered of calls that look alike."""

    loops: cpu.Call | None  # how those on a CPU are called; None where tensors must be copied or cast first
    spans: tuple[int, int] | None  # bytes from the first to the last element of q and of k; None with one tensor


@lru_cache(maxsize=1024)
def _checked(asked: _Asked) -> _Known:
    """Checks a call, and works out what it needs. Remembered, since a small rotation takes less time than this."""
    _check(asked)
    q, k = asked.q, asked.k
    for name, x in (("q", q), ("k", k)):
        if asked.inplace and x is not None and overlaps_itself(*x[:2]):
            raise ValueError(
                f"{name} overlaps itself (its shape is {tuple(x[0])} and its strides are {x[1]}), so that several "
                "elements are one: it cannot be turned in place"
            )
    spans = None if k is None or q[3].type == "meta" else (reach(*q[:2]) * q[2].itemsize, reach(*k[:2]) * k[2].itemsize)
    return _Known(_described(asked), spans)


def _described(asked: _Asked) -> cpu.Call | None:
    q, k, cos, sin, first, width, layout, heads_dim, inplace = asked
    dtype, device = q[2:]
    tables_fit = all(_laid_out(t).is_contiguous() and t[2] == _math(dtype) for t in (cos, sin))
    tensors = [x for x in (q, k) if x is not None]
    if device.type != "cpu" or not tables_fit or any(x[1][-1] != 1 for x in tensors):
        return None
    seen = tuple((x[0], x[1], x[1] if inplace else torch.empty_like(_laid_out(x)).stride()) for x in tensors)
    return cpu.described(dtype, seen, cos[0], first, width, layout, heads_dim, 1)


def _laid_out(x: _Seen) -> torch.Tensor:
    """A tensor without memory that lies as x does."""
    return torch.empty_strided(x[0], x[1], dtype=x[2], device="meta")


def _share(q: torch.Tensor, k: torch.Tensor, spans: tuple[int, int]) -> bool:
    """Whether an element of q is one of k's. Parts of one projection lie between one another, and share none."""
    apart = k.data_ptr() - q.data_ptr()
    if not -spans[1] < apart < spans[0]:
        return False
    size = q.element_size()
    return bool(apart % size) or overlap(tuple(q.shape), q.stride(), tuple(k.shape), k.stride(), apart // size)


# Each implementation writes into `out`, which may be the inputs. In eager mode on plain tensors it is called at once;
# under torch.compile, and for fake and wrapped tensors, through an operator that torch knows.


def _run(tensors: list[torch.Tensor], out: list[torch.Tensor], cos: Any, sin: Any, how: _How) -> None:
    math = _math(tensors[0].dtype)
    if cos.dtype != math:
        cos, sin = cos.to(math), sin.to(math)
    if cos.is_neg() or sin.is_neg():
        cos, sin = cos.resolve_neg(), sin.resolve_neg()
    impl = choose(how.impl, tensors[0].device) if how.impl == "auto" else how.impl
    if impl == "reference":
        for x, y in zip(tensors, out, strict=True):
            y.copy_(_by_reference(x, cos, sin, how))
        return
    backend: Any = cpu
    if impl == "triton":
        from whorl.ops.impl import triton as backend
    backend.rotate(
        tensors, out, cos, sin, how.first, how.width, layout=how.layout, heads_dim=how.heads_dim, sign=how.sign
    )


def _by_reference(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, how: _How) -> torch.Tensor:
    tables = (cos, how.sign * sin, how.first, how.width)
    return reference.rotate_one(x, *tables, layout=how.layout, heads_dim=how.heads_dim)


def _turn(tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: _How) -> list[torch.Tensor]:
    if torch.compiler.is_compiling() or not plain((*tensors, cos, sin)):
        return _through_torch(tensors, cos, sin, how)
    return _turn_now(tensors, cos, sin, how)


def _through_torch(tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: _How) -> list[torch.Tensor]:
    """By the operator, which torch takes apart for whatever the tensors are."""
    k = tensors[1] if len(tensors) > 1 else None
    return list(torch.ops.whorl.rotate(tensors[0], k, cos, sin, *how))[: len(tensors)]


def _turn_now(tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: _How) -> list[torch.Tensor]:
    if transformed() is not None:  # of a derivative or gradients, which the forward pass did not know of
        return [_by_reference(x, cos, sin, how) for x in tensors]
    tensors = [x if x.stride(-1) == 1 and not x.is_neg() else x.resolve_neg().contiguous() for x in tensors]
    out = [torch.empty_like(x) for x in tensors]
    _run(tensors, out, cos, sin, how)
    return out


def _turn_in_place(tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: _How) -> list[torch.Tensor]:
    if torch.compiler.is_compiling() or not plain((*tensors, cos, sin)):
        torch.ops.whorl.rotate_(tensors[0], tensors[1] if len(tensors) > 1 else None, cos, sin, *how)
        return tensors
    return _turn_in_place_now(tensors, cos, sin, how)


def _turn_in_place_now(
    tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: _How
) -> list[torch.Tensor]:
    if all(x.stride(-1) == 1 and not x.is_neg() for x in tensors):
        _run(tensors, tensors, cos, sin, how)
        increment_version(tensors)  # or a backward pass that has kept what was there would not notice
        return tensors
    return [x.copy_(y) for x, y in zip(tensors, _turn_now(tensors, cos, sin, how), strict=True)]


def _table_gradients(
    tensors: list[torch.Tensor], grads: list[torch.Tensor], cos: torch.Tensor, how: _How
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients to cos and sin: sums over whatever shares a table."""
    to_cos, to_sin = torch.zeros_like(cos), torch.zeros_like(cos)
    for x, grad in zip(tensors, grads, strict=True):
        (a, b), (ga, gb) = (
            reference.turning_pairs(y.to(cos.dtype), how.first, cos.shape[-1], how.width, how.layout) for y in (x, grad)
        )
        to_cos = to_cos + _like(ga * a + gb * b, cos, how)
        to_sin = to_sin + _like(how.sign * (gb * a - ga * b), cos, how)
    return to_cos, to_sin


def _like(gradient: torch.Tensor, table: torch.Tensor, how: _How) -> torch.Tensor:
    if table.dim() == 3:
        gradient = gradient.sum(how.heads_dim)
    return gradient.sum_to_size(table.shape)


class _Rotate(torch.autograd.Function):
    """Out of place. The backward pass turns the gradients back by the same tables."""

    @staticmethod
    def forward(ctx: Any, cos: torch.Tensor, sin: torch.Tensor, how: _How, *tensors: torch.Tensor) -> Any:
        learned = cos.requires_grad or sin.requires_grad
        ctx.how = how
        ctx.save_for_backward(cos, sin, *(tensors if learned else ()))
        return tuple(_turn(list(tensors), cos, sin, how))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin, *tensors = ctx.saved_tensors
        turned = rotate_back(list(grads), cos, sin, ctx.how)
        to_cos, to_sin = _table_gradients(tensors, list(grads), cos, ctx.how) if tensors else (None, None)
        return to_cos, to_sin, None, *turned


class _RotateInPlace(torch.autograd.Function):
    """In place. The backward pass is not: autograd hands one gradient to every branch that adds up to it."""

    @staticmethod
    def forward(ctx: Any, cos: torch.Tensor, sin: torch.Tensor, how: _How, *tensors: torch.Tensor) -> Any:
        ctx.how = how
        ctx.save_for_backward(cos, sin)
        ctx.mark_dirty(*tensors)
        return tuple(_turn_in_place(list(tensors), cos, sin, how))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return None, None, None, *rotate_back(list(grads), cos, sin, ctx.how)


def rotate_back(grads: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: _How) -> list[torch.Tensor]:
    """Gradients turned by the opposite angle, differentiably where another derivative is asked for."""
    back = how.back()
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*grads, cos, sin)):
        return list(_Rotate.apply(cos, sin, back, *grads))
    if not torch.compiler.is_compiling() and any(map(batch_of_gradients, grads)):
        return _through_torch(grads, cos, sin, back)
    return _turn(grads, cos, sin, back)


_SIGNATURE = "Tensor cos, Tensor sin, int first, int width, str layout, int heads_dim, int sign, str impl"
_LIBRARY = torch.library.Library("whorl", "DEF")
_LIBRARY.define(f"rotate(Tensor q, Tensor? k, {_SIGNATURE}) -> (Tensor, Tensor)")
_LIBRARY.define(f"rotate_(Tensor(a!) q, Tensor(b!)? k, {_SIGNATURE}) -> ()")


@torch.library.impl(_LIBRARY, "rotate", "CompositeExplicitAutograd")
def _rotate_op(q: Any, k: Any, cos: Any, sin: Any, *how: Any) -> Any:
    turned = _turn_now([q] if k is None else [q, k], cos, sin, _How(*how))
    return turned[0], turned[1] if k is not None else q.new_empty(0)


@torch.library.impl(_LIBRARY, "rotate_", "CompositeExplicitAutograd")
def _rotate_in_place_op(q: Any, k: Any, cos: Any, sin: Any, *how: Any) -> None:
    _turn_in_place_now([q] if k is None else [q, k], cos, sin, _How(*how))


@torch.library.register_fake("whorl::rotate", lib=_LIBRARY)
def _rotate_fake(q: Any, k: Any, cos: Any, sin: Any, *how: Any) -> Any:
    def like(x: Any) -> Any:
        return torch.empty_like(x if x.stride(-1) == 1 else x.contiguous())

    return like(q), like(k) if k is not None else q.new_empty(0)


@torch.library.register_fake("whorl::rotate_", lib=_LIBRARY)
def _rotate_in_place_fake(q: Any, k: Any, cos: Any, sin: Any, *how: Any) -> None:
    if k is not None and q.untyped_storage()._cdata == k.untyped_storage()._cdata:
        lying = [tuple(map(int, of)) for x in (q, k) for of in (x.shape, x.stride())]
        if overlap(*lying, int(k.storage_offset()) - int(q.storage_offset())):
            raise ValueError(SHARED)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, cos, sin, *how = inputs
    ctx.how, ctx.pair = _How(*how), k is not None
    ctx.learned = cos.requires_grad or sin.requires_grad
    kept = ([q] if k is None else [q, k]) if ctx.learned else []
    ctx.save_for_backward(cos, sin, *kept)


def _backward(ctx: Any, to_q: Any, to_k: Any) -> Any:
    cos, sin, *tensors = ctx.saved_tensors
    grads = [to_q, to_k] if ctx.pair else [to_q]
    back = ctx.how.back()
    turned = list(torch.ops.whorl.rotate(to_q, to_k if ctx.pair else None, cos, sin, *back))
    to_cos, to_sin = _table_gradients(tensors, grads, cos, ctx.how) if ctx.learned else (None, None)
    return turned[0], turned[1] if ctx.pair else None, to_cos, to_sin, *[None] * len(back)


torch.library.register_autograd("whorl::rotate", _backward, setup_context=_setup_context, lib=_LIBRARY)
