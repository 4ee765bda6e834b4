"""rotate and biased_attention on any sizes, strides, layouts and masks agree with the same arithmetic in float64."""

from __future__ import annotations

from typing import Any

import torch
from fuzz_amount import TIMES
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.encodings import Shape, Spectrum, parse
from whorl.ops import biased_attention, rotate, rotation_tables
from whorl.testing import max_error

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@st.composite
def strided(draw: Any, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Numbers of this shape that lie in memory in any order, with gaps, or shared along an axis of one value."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    order = draw(st.permutations(range(len(shape))))
    gaps = [draw(st.sampled_from([1, 1, 2, 3])) for _ in shape]
    stored = torch.randn([shape[i] * gaps[i] for i in order], generator=generator).to(dtype)
    x = stored.permute([order.index(i) for i in range(len(shape))])
    return x[tuple(slice(None, None, gap) for gap in gaps)]


@settings(max_examples=150 * TIMES, deadline=None)
@given(st.data())
def test_rotate(data: st.DataObject) -> None:
    draw = data.draw
    dtype, layout = draw(DTYPES), draw(st.sampled_from(["half", "interleaved"]))
    batch, heads, tokens, pairs = (draw(st.integers(1, n)) for n in (3, 4, 9, 40))
    rest = draw(st.integers(0, 9))
    heads_dim = draw(st.sampled_from([1, 2]))
    frequencies = draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.3, 1e-3]), min_size=pairs, max_size=pairs))
    spectrum = Spectrum(tuple(frequencies), 2 * pairs + rest + rest % 2, draw(st.sampled_from([1.0, 1.25])))
    shape = (batch, heads, tokens, spectrum.head_dim)
    if heads_dim == 2:
        shape = (batch, tokens, heads, spectrum.head_dim)
    q = draw(strided(shape, dtype))
    positions = torch.randint(0, 1 << draw(st.integers(1, 31)), (draw(st.sampled_from([1, batch])), tokens))
    turned = rotate(
        q, None, rotation_tables(spectrum, positions, dtype), layout=layout, heads_dim=heads_dim
    )[0]  # fmt: skip
    exact = rotation_tables(spectrum, positions, torch.float64)
    truth = rotate(q.double(), None, exact, layout=layout, heads_dim=heads_dim, impl="reference")[0]
    # One rounding of float32 tables and sums, and one of the result.
    allowed = (4 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps) * float(truth.abs().max() + q.abs().max())
    assert max_error(turned, truth) <= allowed
    assert turned.dtype == dtype


@settings(max_examples=150 * TIMES, deadline=None)
@given(st.data())
def test_attention(data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(DTYPES)
    batch, groups, per_group, queries, more, width = (draw(st.integers(1, n)) for n in (2, 2, 3, 12, 20, 24))
    heads, keys = groups * per_group, queries + more - 1
    q = draw(strided((batch, heads, queries, width), dtype))
    k, v = (draw(strided((batch, groups, keys, width), dtype)) for _ in range(2))
    notation = draw(st.sampled_from(["alibi", "t5", "kerple", "window:size=3", "alibi+window:size=5"]))
    shape = Shape(head_dim=width, heads=heads, width=heads * width)
    biases = [effect.module for effect in parse(notation).effects(shape)]
    for bias in biases:
        for parameter in bias.parameters():
            parameter.data.uniform_(0.1, 1.0)
    first = draw(st.integers(0, 1 << draw(st.integers(0, 20))))
    at = torch.arange(first, first + keys)[None]
    mask = None
    if draw(st.booleans()):  # left padding, by rows; a query sees itself
        left = [draw(st.integers(0, keys - queries)) for _ in range(batch)]
        mask = (torch.arange(keys)[None] >= torch.tensor(left)[:, None])[:, None, None]
    sinks = torch.randn(heads) if draw(st.booleans()) else None
    softcap = draw(st.sampled_from([None, 5.0]))

    def attended(kind: torch.dtype, impl: str, v: torch.Tensor = v) -> torch.Tensor:
        return biased_attention(
            q.to(kind), k.to(kind), v.to(kind), [b.to(torch.float64) if kind == torch.float64 else b for b in biases],
            query_positions=at[:, keys - queries :], key_positions=at, mask=mask, causal=True, scale=width**-0.5,
            softcap=softcap, sinks=sinks, impl=impl,
        )[0]  # fmt: skip

    with torch.no_grad():
        found, same = attended(dtype, "auto"), attended(dtype, "reference")
        truth = attended(torch.float64, "reference")
        summed = attended(torch.float64, "reference", v.abs())
    # A logit of float32 is off by its own rounding, which moves its weight, and what the weight adds, as much; what is
    # added may cancel. And the result is rounded once.
    logits = (q.double() @ k.double().repeat_interleave(per_group, 1).mT * width**-0.5).abs().max() + 1
    rounding = torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * float(logits)
    assert max_error(found, truth) <= 2 * max_error(same, truth) + rounding * float(summed.max())
