"""biased_attention(): softmax attention with a bias computed from positions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import nn

from whorl.encodings.scores import of_heads
from whorl.numerics import without_autocast
from whorl.ops.axes import bias_at, simplest, told
from whorl.ops.by_token import token_by_token
from whorl.ops.derivatives import plain, transformed
from whorl.ops.distances import fitting
from whorl.ops.environment import asked_by_environment
from whorl.ops.impl import reference
from whorl.ops.implementations import ATTENTIONS
from whorl.ops.problem import FLOATS, AttentionProblem, seen
from whorl.ops.scores import BoundScore, check_device, check_states
from whorl.ops.shapes import stretches
from whorl.ops.sharing import of_mask
from whorl.ops.visible import DenseVisible, Visible


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
    factor: torch.Tensor | None = None,
    scores: Sequence[BoundScore] = (),
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention whose logits are softcap(scale q.k) + the sum of `biases` (each a module of two position tensors).

    q                [batch, heads, queries, head_dim]; k, v [batch, key heads, keys, head_dim], grouped heads allowed
    query_positions  integers [batch or 1, queries]; key_positions [batch or 1, keys]. With axes, [batch or 1, tokens,
                     axes], integers (of a grid), float32 or float64 (of points): `whorl.ops.axes` says what biases see
    mask             True where a key may be seen: bool, broadcastable to [batch, heads, queries, keys], or a `Visible`
                     that is asked block by block; None for all
    causal           the last query sees all keys, the one before it one fewer, and so on, whatever their positions
    scale, softcap   the host's own logit scale and tanh cap (Gemma 2)
    sinks            [heads], an extra logit per head that takes weight and gives no value (gpt-oss)
    dropout          probability with which a weight is dropped
    factor           [batch or 1, heads or 1, queries], by which q.k is multiplied (a `Scale`), before cap, biases and
                     what scores add
    scores           what changes attention by content, with the states of these tokens: see `whorl.encodings.scores`
    impl             "reference": dense. The others take memory that grows with the number of tokens and not its square,
                     and skip what a window hides: "cpu", compiled loops for biases of distance alone, and one bias or
                     score by runs of distance (`whorl.encodings.by_run`); "fused", PyTorch's own kernels, for
                     scores that add products, and "flex", its FlexAttention, for biases of distance alone and scores
                     that add products, on a GPU;
                     "decode", one query, for any bias and mask; "blocked", PyTorch's operations block by block, for the
                     same and any positions; "linear", chunks of tokens and sums over all before them, for weights that
                     are a quotient of features; "householder", on the compiled loops too, for products that the tokens
                     between query and key turn; "rows", a block of queries at a time with all their keys, for other
                     scores that need these. One asked for by name runs or raises. "auto" is the first in this order
                     that can run; "reference" under torch.compile and torch.func, where a forward-mode derivative is
                     taken, with dropout where neither "cpu" nor "fused" can run, and where the environment says
                     WHORL_IMPL=reference.

    Returns the output [batch, heads, queries, head_dim] in v's dtype, and the weights, or None where they are never
    made. Logits and softmax are float32 (float64 for float64 inputs), also under autocast. A query that sees no key has
    the output 0 and weights of 0, with sinks and without, and no gradient goes from it to anything. Gradients reach q,
    k, v, the sinks, the factor, states, and the parameters of biases and scores, and positions that are real numbers by
    "reference" alone, which "auto" then is; second derivatives are those of
    "reference" and "decode" alone, the others refuse them. Raises ValueError for arguments that do not fit one another.
    """
    key = None
    if not scores and factor is None and sinks is None and not dropout and impl == "auto":
        key = _alike(q, k, v, biases, query_positions, key_positions, mask, causal, scale, softcap)
    if key is not None and isinstance(mask, Visible) and (kept := mask.again.get(key)) is not None:
        return kept[0](q, k, v).to(v.dtype), None
    _check(q, k, v, biases, query_positions, key_positions, mask, causal, softcap, sinks, dropout, factor)
    visible = _visible(mask, q.shape[2], k.shape[2]) if isinstance(mask, torch.Tensor) else mask
    device, at = q.device.type, (query_positions, key_positions)
    problem = AttentionProblem(
        q, k, v, tuple(biases), *at, visible, causal, scale, softcap, sinks, dropout, device, factor=factor
    )
    if told(query_positions, biases):
        problem = simplest(problem, [score.module for score in scores])
    with without_autocast(device):
        if not (q.shape[2] and k.shape[2]):  # nothing of which modules would have to make sense
            return _by_reference(problem._replace(biases=()))
        if scores:
            check_states(scores, q, k)
            if softcap is not None and any(score.module.does("features") for score in scores):
                raise ValueError(f"softcap must be None where weights are a quotient of features, got {softcap}")
            problem = _by_token(problem, scores, impl == "reference")
            if len(problem.query_positions.shape) == 3:  # that what is left may go by fewer axes, or by none
                problem = simplest(problem, [score.module for score in problem.scores])
        chosen = _choose(impl, problem)
        if chosen == "reference" or problem.empty:  # of which there is next to nothing to do
            return _by_reference(problem.multiplied)
        module = ATTENTIONS[chosen]
        if not getattr(module, "takes_factor", False):
            problem = problem.multiplied
        if key is not None and isinstance(mask, Visible) and (again := getattr(module, "again", None)) is not None:
            repeated = again(problem)
            if repeated is not None:
                mask.again[key] = repeated, at  # while these positions are held, no others have their ids
                return repeated(q, k, v).to(v.dtype), None
        return module.run(problem).to(v.dtype), None


def _alike(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[nn.Module],
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    mask: torch.Tensor | Visible | None,
    causal: bool,
    scale: float,
    softcap: float | None,
) -> Hashable | None:
    """All that decides what is done to q, k and v in a step of decoding, in which layers share a mask and positions;
    None elsewhere, and where tensors are more than numbers that lie somewhere."""
    if not isinstance(mask, Visible) or not mask.of_one_forward or mask.queries != 1 or torch.is_grad_enabled():
        return None
    if torch.compiler.is_compiling() or transformed() is not None or not plain((q, k, v)):
        return None
    if q.is_neg() or k.is_neg() or v.is_neg():
        return None
    return seen(q), seen(k), seen(v), *biases, id(query_positions), id(key_positions), causal, scale, softcap


def _by_token(problem: AttentionProblem, scores: Sequence[BoundScore], plain: bool) -> AttentionProblem:
    """With done what is done to each query and key by itself."""
    at = problem.query_positions, problem.key_positions
    q, k, channels = token_by_token(scores, *at, problem.q, problem.k, problem.scale, problem.factor, plain)
    v = of_heads(problem.v, k.shape[1])  # where scores gave each head keys of its own
    left = tuple(score for score in scores if score.by_rows)
    return problem._replace(q=q, k=k, v=v, channels=channels, scores=left, factor=None)


def _visible(mask: torch.Tensor, queries: int, keys: int) -> Visible:
    """The mask as implementations ask it; of one query, as in decoding, one for all layers that are handed it."""
    one = queries == 1 and mask.is_cpu and type(mask) is torch.Tensor
    if one and not torch.compiler.is_compiling() and transformed() is None:
        return of_mask(DenseVisible, mask, queries, keys)
    return DenseVisible(mask, queries, keys)


def _differentiated(*positions: torch.Tensor) -> bool:
    """Whether gradients of positions are asked for: coordinates of points may be learned, or come from a model."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in positions)


def _choose(impl: str, problem: AttentionProblem) -> str:
    """The implementation that will run. Raises ValueError for a name that is not one, or that cannot run here."""
    if impl == "auto" and (torch.compiler.is_compiling() or asked_by_environment() == "reference"):
        return "reference"
    followed = transformed()
    if _differentiated(problem.query_positions, problem.key_positions):
        followed = "a gradient of positions is asked for, which are constants to it"
    given = problem[:3] if problem.factor is None else (*problem[:3], problem.factor)
    if followed is None and not plain(given):
        followed = "q, k, v or the factor is a tensor with a dispatch of its own"
    return ATTENTIONS.chosen(impl, problem, followed)


def _by_reference(problem: AttentionProblem) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v, biases, query_positions, key_positions, mask, causal, scale, softcap, sinks, dropout, *_ = problem
    queries, keys, positions = q.shape[2], k.shape[2], (query_positions, key_positions)
    seen = None if mask is None else mask.dense()
    if causal:
        below = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        seen = below if seen is None else seen & below
    sizes = {"batch": q.shape[0], "heads": q.shape[1], "queries": queries, "keys": keys}
    bias = [fitting(module, bias_at(module, *positions), sizes) for module in biases]
    scores = [(score.module, score.at(*positions, seen, scale)) for score in problem.scores]
    return reference.attention(q, k, v, bias, seen, scale, softcap, sinks, dropout, problem.channels, scores)


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
    factor: torch.Tensor | None,
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
        if len(at) not in (2, 3) or not stretches(at[0], batch) or at[1] != tokens:
            raise ValueError(
                f"{name} must be [batch or 1, tokens] = [{batch} or 1, {tokens}], got {tuple(at)} (a third dimension "
                "is of axes)"
            )
        if positions.dtype not in (torch.int64, torch.int32):
            _check_real(name, positions)
    if (len(at) == 3 or query_positions.dim() == 3) and query_positions.shape[2:] != key_positions.shape[2:]:
        raise ValueError(
            f"query_positions and key_positions must have the same axes, got {tuple(query_positions.shape)} and "
            f"{tuple(key_positions.shape)}"
        )
    given = [("k", k), ("v", v), ("query_positions", query_positions), ("key_positions", key_positions)]
    if isinstance(mask, torch.Tensor):
        given.append(("mask", mask))
        full, got = (batch, heads, queries, keys), tuple(mask.shape)
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, True where a key may be seen, got {_word(mask.dtype)}")
        if len(got) != 4 or any(not stretches(a, b) for a, b in zip(got, full, strict=True)):
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
    if factor is not None:
        given.append(("factor", factor))
        of = factor.shape
        fits = len(of) == 3 and stretches(of[0], batch) and stretches(of[1], heads) and of[2] == queries
        if not fits or not factor.is_floating_point():
            raise ValueError(
                f"factor must hold real numbers [batch or 1, heads or 1, queries], of {[batch, heads, queries]}, got "
                f"{list(of)} {_word(factor.dtype)}"
            )
    for name, x in given:
        if x.device != device:
            raise ValueError(f"{name} must be on q's device {device}, got {x.device}")
    for module in biases:
        check_device(module, device)
    if causal and queries > keys:
        raise ValueError(f"q must have no more tokens than k where causal is True, got {queries} and {keys}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive or None, got {softcap}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")


def _check_real(name: str, positions: torch.Tensor) -> None:
    """Raises ValueError for positions that are no integers, but for coordinates of points, along axes."""
    if positions.dim() == 2:
        raise ValueError(f"{name} must be int64 or int32, got {_word(positions.dtype)}")
    if positions.dtype not in (torch.float64, torch.float32):
        raise ValueError(f"{name} with axes must be int64, int32, float64 or float32, got {_word(positions.dtype)}")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
