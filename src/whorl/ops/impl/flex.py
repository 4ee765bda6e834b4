"""Biased attention through PyTorch's FlexAttention, which compiles a fused kernel for a GPU.

Every relative bias is one vector per head, read by distance inside the kernel; its gradient is summed there with
atomics. What changes from call to call is captured as tensors: a number is compiled into the kernel, or fails to be. On
a CPU FlexAttention has no backward pass, and this serves to check the forward one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention
from torch.nn.functional import logsigmoid

from whorl.numerics import math_dtype
from whorl.ops.distances import by_distance, needs_rows, not_relative, once, reach_of
from whorl.ops.problem import AttentionProblem
from whorl.ops.visible import Visible

FEW = 128  # queries: one block of FlexAttention's own
WHOLE = 1 << 30  # the size of a block that holds everything: FlexAttention's own for calls without a block mask
# Kernels for rows of 512 bytes take 104 to 144 KiB of shared memory, compiled by PyTorch 2.13 for compute capability
# 7.5, 8.0, 8.6 and 12.0; GeForce cards have 99. Those for smaller rows take no more than there is.
SMALL_ROW, ROOMY = 256, 144 << 10
KERNELS = 64  # compiled for one process at most; PyTorch's own limit is 8, and then it goes on without a kernel


def missing(problem: AttentionProblem) -> str | None:
    """Nothing is read from the device."""
    q, k, v, mask = problem.q, problem.k, problem.v, problem.mask
    if (why := needs_rows(problem)) is not None:
        return why
    if problem.dropout:
        return f"it has no dropout on its weights, and dropout is {problem.dropout}"
    if (why := not_relative(problem)) is not None:
        return why
    if mask is not None and type(mask).mod is Visible.mod:
        return f"a {type(mask).__name__} has no `mod`, its mask as a function of indices"
    if not q.dtype == k.dtype == v.dtype:  # under autocast, where only the norms of q and k are float32
        return f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}"
    if not q.numel() or not k.numel():
        return "there are no queries or no keys"
    if problem.device == "cpu":
        return "FlexAttention has no backward pass on a CPU" if problem.differentiable else None
    if problem.device != "cuda":
        return f"the inputs are on {problem.device}"
    if q.dtype == torch.float64:
        return "its kernels add up in float32, and the inputs are float64"
    narrow, wide = sorted((q.shape[3], v.shape[3]))
    if narrow < 16 or wide > 256:
        return f"its kernels are made for heads of 16 to 256 channels, and these have {narrow} and {wide}"
    row = q.element_size() << (wide - 1).bit_length()  # a power of 2
    if row > SMALL_ROW and _shared_memory(q.device) < ROOMY:
        return f"its kernels for rows of {row} bytes take more shared memory than {q.device} has"
    learned = any(p.requires_grad for module in problem.biases for p in module.parameters())
    learned = learned or any(x.requires_grad for x in problem.channels or ())
    if torch.is_grad_enabled() and learned and torch.are_deterministic_algorithms_enabled():
        return "a bias's or a channel's gradient is summed with atomics, and deterministic algorithms are asked for"
    return _triton_missing()


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a block of threads can have."""
    properties: Any = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", ROOMY)  # said by NVIDIA's alone


@cache
def _triton_missing() -> str | None:
    from torch.utils._triton import has_triton

    return None if has_triton() else "torch.compile finds no Triton for this device"


@cache
def _in_kernels(device: torch.device) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """FlexAttention, and what lists its blocks; compiled on a GPU, so that no matrix of logits or mask is in memory."""
    if device.type == "cpu":
        return flex_attention, create_block_mask
    return _many_kernels(torch.compile(flex_attention)), _many_kernels(torch.compile(create_block_mask))


def _many_kernels(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **how: Any) -> Any:
        config: Any = torch._dynamo.config
        with config.patch(recompile_limit=KERNELS):
            return compiled(*arguments, **how)

    return call


class Shared(NamedTuple):
    """What the layers of one forward share."""

    rows: torch.Tensor  # [batch, queries] and
    columns: torch.Tensor  # [batch, keys]: their difference is the number of a pair's distance
    distances: torch.Tensor  # these, from the least up
    blocks: BlockMask
    vectors: dict[tuple[Any, ...], torch.Tensor]  # of biases that nothing is learned of, by their numbers


def run(problem: AttentionProblem) -> torch.Tensor:
    heads, softcap, sinks = problem.q.shape[1], problem.softcap, problem.sinks
    # a kernel is made for memory that holds its numbers
    q, k, v = problem.q.resolve_neg(), problem.k.resolve_neg(), problem.v.resolve_neg()
    shared = problem.shared(_shared, problem.causal, reach_of(problem.biases), len(q))
    rows, columns, blocks = shared.rows, shared.columns, shared.blocks
    dtype = math_dtype(q.dtype)
    vector = _vector(shared, problem.biases, heads, dtype)
    cap = None if softcap is None else torch.full((), softcap, dtype=dtype, device=q.device)

    # tensors of their own: one that is read twice has no gradient
    apart = [[x.contiguous() for x in one.unbind(-1)] for one in problem.channels or ()]
    channels, alike = list(zip(*apart, strict=True)), bool(apart) and apart[1][0].shape[1] == 1

    def score(logit: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        if cap is not None:
            logit = cap * torch.tanh(logit / cap)
        if channels:
            logit = logit + sum(of_q[b, h, i] * of_k[b, 0 if alike else h, j] for of_q, of_k in channels)
        return logit + vector[h, rows[b, i] - columns[b, j]]

    how: dict[str, Any] = {"score_mod": score, "block_mask": blocks, "scale": problem.scale}
    how["enable_gqa"] = heads != k.shape[1]
    if sinks is None:
        return _attend(q, k, v, **how)
    out, aux = _attend(q, k, v, return_aux=AuxRequest(lse=True), **how)
    # of all keys together, beside the sink; a sigmoid's own gradient has lost 1 - weight where that is small
    weight = logsigmoid(aux.lse - sinks[:, None].to(aux.lse.dtype)).exp()
    return (out * weight[..., None]).to(out.dtype)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> Any:
    """FlexAttention, whose kernels hold several blocks of keys at once where the device has room for these.

    PyTorch chooses how many by dtype and width alone. Triton may then keep the biases of each block there too: 241 KiB
    of an H200's 227 were asked for by a window in bfloat16, with rows of 64.
    """
    attend, kind = _in_kernels(q.device)[0], (q.device, q.dtype, q.shape[3], v.shape[3])
    if kind not in _tight:
        try:
            return attend(q, k, v, **how)
        except RuntimeError as error:
            if "out of resource" not in str(error):
                raise
            _tight.add(kind)
    return attend(q, k, v, kernel_options={"num_stages": 1}, **how)


_tight: set[tuple[torch.device, torch.dtype, int, int]] = set()  # what must hold one block at a time


def _vector(shared: Shared, biases: Sequence[nn.Module], heads: int, dtype: torch.dtype) -> torch.Tensor:
    """The biases' sum at each distance, [heads, distances]."""

    def make() -> torch.Tensor:
        return by_distance(biases, shared.distances, heads, dtype).expand(heads, -1).contiguous()

    return once(shared.vectors, biases, (heads, dtype), make)


def _shared(
    mask: Visible | None,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    causal: bool,
    reach: int | None,
    batch: int,
) -> Shared:
    """Kept by `AttentionProblem.shared`; blocks without a mask also by what they are made of."""
    queries, keys, device = query_positions.shape[1], key_positions.shape[1], query_positions.device
    q, k = query_positions.long(), key_positions.long()  # int32 ends where distances may not
    least, most, even = _extent(q, k)
    if most - least >= 2**31:
        raise ValueError(
            f"impl='flex' reads biases from a vector by distance, and these distances go from {least} to {most}; take "
            "impl='blocked', which has none where positions have gaps"
        )
    if reach is not None and reach >= 2**31:
        reach = None  # wider than all of these
    first = k.amin(1, keepdim=True)  # taken off, positions fit into int32, in which a kernel is faster
    q, k = ((p - first).to(torch.int32).expand(batch, -1) for p in (q, k))
    if mask is None and (reach is None or even):
        start = least + keys - 1 if reach is not None else 0  # of the queries, where the keys' is 0
        blocks = _plain_blocks(queries, keys, causal, reach, start, batch, device)
    else:
        rows, heads = (1, 1) if mask is None else mask.block(0, 1, 0, 1).shape[:2]
        if reach is not None:
            rows = max(rows, len(query_positions), len(key_positions))
        blocks = _blocks(q, k, causal, reach, None if mask is None else mask.mod(), rows, heads)
    distances = torch.arange(least, most + 1, device=device)
    return Shared(q - least, k, distances, blocks, {})


def _extent(query_positions: torch.Tensor, key_positions: torch.Tensor) -> tuple[int, int, bool]:
    """The least and the greatest distance, and whether positions are consecutive and alike in the batch."""
    q, k = query_positions, key_positions
    starts = q[:, 0] - k[:, 0]
    even = (q.diff(dim=1) == 1).all() & (k.diff(dim=1) == 1).all() & (starts == starts[0]).all()
    least, most = (q.amin(1) - k.amax(1)).amin(), (q.amax(1) - k.amin(1)).amax()
    found = torch.stack([least, most, even.to(least.dtype)]).tolist()  # the device is waited for once
    return found[0], found[1], bool(found[2])


@lru_cache(maxsize=32)
def _plain_blocks(
    queries: int, keys: int, causal: bool, reach: int | None, start: int, batch: int, device: torch.device
) -> BlockMask:
    """Without a mask: of consecutive positions, those of the queries from `start` on and those of the keys from 0."""
    with torch.inference_mode(False):  # whatever asks first, training may ask next
        q, k = torch.arange(start, start + queries, device=device), torch.arange(keys, device=device)
        q, k = (p.to(torch.int32).expand(batch, -1) for p in (q, k))
        return _blocks(q, k, causal, reach, None, 1, 1)


def _blocks(
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    causal: bool,
    reach: int | None,
    seen: Callable[..., torch.Tensor] | None,
    rows: int,
    heads: int,
) -> BlockMask:
    """Which blocks hold keys that are seen; rows, heads: of the batch, that differ in this (1 if none does)."""
    queries, keys, device = query_positions.shape[1], key_positions.shape[1], query_positions.device
    own = torch.arange(keys - queries, keys, device=device, dtype=torch.int32)
    window = None if reach is None else torch.full((), reach, dtype=torch.int32, device=device)

    def visible(b: Any, h: Any, i: Any, j: Any) -> Any:
        ok = i >= 0
        if causal:
            ok = ok & (own[i] >= j)
        if window is not None:
            ok = ok & ((query_positions[b, i] - key_positions[b, j]).abs() < window)
        return ok & seen(b, h, i, j) if seen is not None else ok

    if queries >= FEW:
        return _in_kernels(device)[1](visible, rows, heads, queries, keys, device=device)
    # Decoding is shared out by the number of keys only where there is a list of full blocks, too, if an empty one. Each
    # tensor is one of its own: a kernel's code loses the name of one that it is given twice.
    count, index, full_count, full_index = (
        torch.full((1,) * dims, value, dtype=torch.int32, device=device)
        for dims, value in ((3, 1), (4, 0), (3, 0), (4, 0))
    )
    return BlockMask.from_kv_blocks(
        count, index, full_count, full_index, BLOCK_SIZE=WHOLE, mask_mod=visible, seq_lengths=(queries, keys)
    )
