"""biased_attention(): softmax attention with a bias computed from positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from whorl.ops.derivatives import plain, transformed
from whorl.ops.distances import fitting
from whorl.ops.environment import asked_by_environment
from whorl.ops.impl import blocked, cpu_attention, flex, reference
from whorl.ops.visible import DenseVisible, Visible

IMPLS = ("auto", "reference", "cpu", "blocked", "flex")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[nn.Module],
    *,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | Visible | None = None,
    causal: bool = False,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    dropout: float = 0.0,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention whose logits are softcap(scale q.k) + the sum of `biases` (each a module of two position tensors).

    q                [batch, heads, queries, head_dim]; k, v [batch, key heads, keys, head_dim], grouped heads allowed
    query_positions  integers [batch or 1, queries]; key_positions [batch or 1, keys]
    mask             True where a key may be seen: bool, broadcastable to [batch, heads, queries, keys], or a `Visible`
                     that is asked block by block; None for all
    causal           the last query sees all keys, the one before it one fewer, and so on, whatever their positions
    scale, softcap   the host's own logit scale and tanh cap (Gemma 2)
    sinks            [heads], an extra logit per head that takes weight and gives no value (gpt-oss)
    dropout          probability with which a weight is dropped
    impl             "reference": dense. The others take memory that grows with the number of tokens and not its square,
                     and skip what a window hides: "cpu", compiled loops for biases of distance alone; "flex", PyTorch's
                     FlexAttention, for the same on a GPU; "blocked", PyTorch's operations block by block, for any bias,
                     mask and positions. One asked for by name runs or raises. "auto" is the first of "cpu", "flex" and
                     "blocked" that can run; "reference" under torch.compile and torch.func, where a forward-mode
                     derivative is taken, with dropout where "cpu" cannot run, and where the environment says
                     WHORL_IMPL=reference.

    Returns the output [batch, heads, queries, head_dim] in v's dtype, and the weights, or None where they are never
    made. Logits and softmax are float32 (float64 for float64 inputs), also under autocast. A query that sees no key has
    the output 0 and weights of 0, with sinks and without, and no gradient goes from it to anything. Gradients reach q,
    k, v, the sinks and the biases' parameters; second derivatives are the reference's alone, the others refuse them.
    Raises ValueError for arguments that do not fit one another.
    """
    _check(q, k, v, biases, query_positions, key_positions, mask, causal, softcap, sinks, dropout)
    asked, impl = impl, _choose(impl, dropout, biases, q, k, v, mask)
    if impl in ("cpu", "blocked") and not (q.numel() and k.numel() and v.numel()):
        impl = "reference"  # there is next to nothing to do
    queries, keys = q.shape[2], k.shape[2]
    with torch.autocast(q.device.type, enabled=False):
        visible = DenseVisible(mask, queries, keys) if isinstance(mask, torch.Tensor) else mask
        if impl == "cpu":
            plan = cpu_attention.plan(query_positions, key_positions, visible, causal, biases)
            if isinstance(plan, cpu_attention.Plan):
                return cpu_attention.attention(q, k, v, biases, plan, scale, softcap, sinks, dropout).to(v.dtype), None
            if asked == "cpu":
                raise ValueError(f"impl='cpu' cannot run here: {plan}")
            impl = "reference" if dropout else "blocked"
        if impl != "reference":
            arguments = (query_positions, key_positions, visible, causal, scale, softcap, sinks)
            backend = flex if impl == "flex" else blocked
            return backend.attention(q, k, v, biases, *arguments).to(v.dtype), None
        seen = mask.block(0, queries, 0, keys) if isinstance(mask, Visible) else mask
        if causal:
            below = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
            seen = below if seen is None else seen & below
        sizes = {"batch": q.shape[0], "heads": q.shape[1], "queries": queries, "keys": keys}
        bias = [fitting(module, module(query_positions, key_positions), sizes) for module in biases]
        return reference.attention(q, k, v, bias, seen, scale, softcap, sinks, dropout)


def _choose(
    impl: str,
    dropout: float,
    biases: Sequence[nn.Module],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | Visible | None,
) -> str:
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if impl in ("blocked", "flex") and dropout:
        raise ValueError(
            f"impl={impl!r} has no dropout on its weights, and dropout is {dropout}; take impl='reference'"
        )
    following = transformed()
    if following is None and not plain((q, k, v)):
        following = "q, k or v is a tensor with a dispatch of its own"
    if following is not None:
        if impl in ("auto", "reference"):
            return "reference"
        raise ValueError(f"impl={impl!r} cannot run here: {following}; take impl='reference'")
    if impl == "auto":
        asked = asked_by_environment()
        if asked == "reference" or torch.compiler.is_compiling() or q.device.type == "meta":
            return "reference"
        if cpu_attention.missing(q, biases) is None:
            return "cpu"
        if dropout:
            return "reference"
        if q.device.type == "cpu":
            return "blocked"
    if impl == "cpu" and (why := cpu_attention.missing(q, biases)) is not None:
        raise ValueError(f"impl='cpu' cannot run here: {why}")
    if impl not in ("auto", "flex"):
        return impl
    learned = (p for module in biases for p in module.parameters())
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, *learned))
    why = flex.missing(biases, q, k, v, mask, grad)
    if impl == "flex" and why is not None:
        raise ValueError(f"impl='flex' cannot run here: {why}")
    return "flex" if why is None else "blocked"


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[nn.Module],
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | Visible | None,
    causal: bool,
    softcap: float | None,
    sinks: torch.Tensor | None,
    dropout: float,
) -> None:
    """Looks at shapes, dtypes and devices, and never at what a tensor holds: a GPU is not waited for."""
    q_shape, k_shape, v_shape, device = q.shape, k.shape, v.shape, q.device
    for name, shape in (("q", q_shape), ("k", k_shape), ("v", v_shape)):
        if len(shape) != 4:
            raise ValueError(f"{name} must have four dimensions, got the shape {tuple(shape)}")
    if k_shape[:3] != v_shape[:3]:
        raise ValueError(f"k and v must agree in batch, heads and keys, got {tuple(k_shape)} and {tuple(v_shape)}")
    batch, heads, queries, head_dim = q_shape
    keys = k_shape[2]
    if batch != k_shape[0] or head_dim != k_shape[3]:
        raise ValueError(f"q and k must agree in batch and head dim, got {tuple(q_shape)} and {tuple(k_shape)}")
    if heads % k_shape[1] if k_shape[1] else heads:
        raise ValueError(f"q's {heads} heads must be a multiple of k's {k_shape[1]}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dtype not in FLOATS:
            raise ValueError(f"{name} must be float64, float32, bfloat16 or float16, got {_word(x.dtype)}")
    # under autocast the norms of some hosts leave q and k in float32, and v is not
    if not q.dtype == k.dtype == v.dtype and not torch.is_autocast_enabled(device.type):
        raise ValueError(f"q, k and v must be of one dtype, got {', '.join(_word(x.dtype) for x in (q, k, v))}")
    for name, positions, tokens in (
        ("query_positions", query_positions, queries),
        ("key_positions", key_positions, keys),
    ):
        at = positions.shape
        if len(at) != 2 or at[0] not in (1, batch) or at[1] != tokens:
            raise ValueError(
                f"{name} must be [batch or 1, tokens] = [{batch} or 1, {tokens}], got {tuple(positions.shape)}"
            )
        if positions.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} must be int64 or int32, got {_word(positions.dtype)}")
    given = [("k", k), ("v", v), ("query_positions", query_positions), ("key_positions", key_positions)]
    if isinstance(mask, torch.Tensor):
        given.append(("mask", mask))
        full, got = (batch, heads, queries, keys), tuple(mask.shape)
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, True where a key may be seen, got {_word(mask.dtype)}")
        if len(got) != 4 or any(a not in (1, b) for a, b in zip(got, full, strict=True)):
            raise ValueError(
                f"mask must be [batch, heads, queries, keys] = {list(full)}, where each may be 1, got {list(got)}"
            )
    elif mask is not None and (mask.queries, mask.keys) != (queries, keys):
        raise ValueError(
            f"mask must be of {queries} queries and {keys} keys, got a {type(mask).__name__} of {mask.queries} and "
            f"{mask.keys}"
        )
    if sinks is not None:
        given.append(("sinks", sinks))
        if sinks.shape != q_shape[1:2] or not sinks.is_floating_point():
            raise ValueError(
                f"sinks must hold one number for each of {heads} heads, got {tuple(sinks.shape)} {_word(sinks.dtype)}"
            )
    for name, x in given:
        if x.device != device:
            raise ValueError(f"{name} must be on q's device {device}, got {x.device}")
    for module in biases:
        for x in _tensors(module):
            if x.device != device:
                raise ValueError(f"biases must be on q's device {device}, got {type(module).__name__} on {x.device}")
    if causal and queries > keys:
        raise ValueError(f"q must have no more tokens than k where causal is True, got {queries} and {keys}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive or None, got {softcap}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers; of a module without others inside, in a tenth of the time that nn.Module takes."""
    if module._modules:
        return [*module.parameters(), *module.buffers()]
    return [x for x in (*module._parameters.values(), *module._buffers.values()) if x is not None]


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
