"""Heads planted in a model: inspect must find those, and none besides."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import whorl
from whorl.inspection import analysis
from whorl.watching import Layer

VOCABULARY, LENGTH, HEADS, DIM, WIDTH = 101, 200, 4, 32, 128
PREVIOUS, FIRST, CONTENT, IDLE = range(HEADS)


@torch.no_grad()
def planted(offset: int = 1, pair: int = 0) -> LlamaForCausalLM:
    """Two layers. In layer 1: a head that looks `offset` back by one pair, a first-token head on the slowest pair, a
    head that goes by content, and one that does nothing. Channel 0 of the embedding is constant, 1 marks bos."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, bos_token_id=0, eos_token_id=0, max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    embedding = model.model.embed_tokens.weight
    embedding.normal_()
    embedding[:, :2] = 0
    embedding /= embedding.norm(dim=1, keepdim=True)  # of one length, so that the constant stays one past the norm
    embedding[:, 0], embedding[0, 1] = 5.0, 5.0
    for layer in model.model.layers:  # attention and MLP leave the residual stream alone
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        layer.self_attn.q_proj.weight.zero_()
        layer.self_attn.k_proj.weight.zero_()
    own = model.model.layers[1].self_attn
    q, k = (p.weight.view(HEADS, DIM, WIDTH) for p in (own.q_proj, own.k_proj))
    slowest, half = DIM // 2 - 1, DIM // 2
    angle, size = offset * 10_000 ** (-2 * pair / DIM), 600 / math.sqrt(WIDTH)
    q[PREVIOUS, pair, 0] = size
    k[PREVIOUS, pair, 0], k[PREVIOUS, half + pair, 0] = size * math.cos(angle), size * math.sin(angle)
    q[FIRST, slowest, 0] = k[FIRST, slowest, 1] = 4.0
    q[CONTENT].normal_(std=2)
    k[CONTENT].normal_(std=2)
    q[CONTENT, :, :2] = k[CONTENT, :, :2] = 0
    return model


def text(windows: int = 4) -> torch.Tensor:
    ids = torch.randint(1, VOCABULARY, (windows, LENGTH))
    ids[:, 0] = 0
    return ids


def test_the_planted_heads_are_found_and_no_others() -> None:
    found = whorl.inspect(planted(), text(), random_windows=4)
    heads = {(h.layer, h.head): h for h in found.summary.heads}
    assert heads.keys() == {(1, PREVIOUS), (1, FIRST)}
    previous, first = heads[1, PREVIOUS], heads[1, FIRST]
    assert (previous.kind, previous.offset, previous.pairs) == ("previous-token", 1, (0,))
    assert previous.text > 0.9
    assert previous.random > 0.9
    assert previous.fast_share == pytest.approx(1, abs=1e-3)
    assert previous.bound == pytest.approx(1, abs=1e-3), "q and k are one vector, turned: the bound is reached"
    assert (first.kind, first.offset, first.pairs) == ("first-token", None, (DIM // 2 - 1,))
    assert first.text > 0.9
    assert first.fast_share == pytest.approx(0, abs=1e-3)
    norms = found.norm_q[1]
    assert norms[PREVIOUS].argmax() == 0
    assert norms[FIRST].argmax() == DIM // 2 - 1
    assert (norms[IDLE] == 0).all()


def test_another_offset_on_another_pair() -> None:
    found = whorl.inspect(planted(offset=3, pair=1), text(), random_windows=4)
    (head,) = (h for h in found.summary.heads if h.head == PREVIOUS)
    assert (head.kind, head.offset, head.pairs) == ("offset", 3, (1,))


def test_a_planted_u_shape_and_the_pair_that_makes_it() -> None:
    """Constant q and k on one pair of wavelength 1.25 L: high, low, high. The last of it is 1.25 L away."""
    model = planted()
    config = model.config
    wavelengths = 2 * math.pi * 10_000 ** (2 * torch.arange(DIM // 2) / DIM)
    pair = int((wavelengths - 1.25 * LENGTH).abs().argmin())
    with torch.no_grad():
        for name in ("q_proj", "k_proj"):
            weight = getattr(model.model.layers[0].self_attn, name).weight.view(HEADS, DIM, WIDTH)
            weight[IDLE, pair, 0] = 1.0
            getattr(model.model.layers[1].self_attn, name).weight.zero_()
    assert config.num_attention_heads == HEADS
    shape = whorl.inspect(model, text(), random_windows=0).summary.u_shape.text
    assert shape.appears
    assert shape.activated.pairs == (pair,)
    assert shape.activated.removed_by_hope == int(wavelengths[pair] > LENGTH)
    (row,) = (r for r in shape.pairs if r.pair == pair)
    assert row.rise_share == pytest.approx(1, abs=1e-4)
    assert row.variance_share == pytest.approx(1, abs=1e-4)
    assert shape.layers[0].rise == pytest.approx(2 * shape.rise, rel=1e-5), "layer 1 has none of it"


def test_what_leaves_its_range_is_the_slow_pair() -> None:
    """A pair of which a sixth of a turn fits in the training length shows new angles past it; the fastest does not."""
    model = planted()
    length = 50
    wavelengths = 2 * math.pi * 10_000 ** (2 * torch.arange(DIM // 2) / DIM)
    slow = int((wavelengths - 6 * length).abs().argmin())
    with torch.no_grad():
        for layer in model.model.layers:
            for name in ("q_proj", "k_proj"):
                getattr(layer.self_attn, name).weight.zero_()
        for name in ("q_proj", "k_proj"):
            weight = getattr(model.model.layers[0].self_attn, name).weight.view(HEADS, DIM, WIDTH)
            weight[:, 0, 0] = weight[:, slow, 0] = 1.0
    found = whorl.inspect(model, text(), train_length=length, random_windows=0)
    first = found.summary.out_of_range.first_pair
    assert (first.layer, first.pair, first.multiple) == (0, slow, 2)
    departures = found.departure_by_pair[0]
    assert departures[slow, 1] > 5 * departures[0, 1]


def test_a_head_must_be_positional_on_random_tokens_too() -> None:
    model = planted()
    model.config.bos_token_id = 7  # random windows then begin with a token that the head does not know as the first
    both = {h.kind for h in whorl.inspect(model, text(), random_windows=4).summary.heads}
    alone = {h.kind for h in whorl.inspect(model, text(), random_windows=0).summary.heads}
    assert (both, alone) == ({"previous-token"}, {"previous-token", "first-token"})


@pytest.mark.parametrize("length", [50, 128, 4096])
def test_hopes_cut_is_hopes(length: int) -> None:
    frequencies = tuple(10_000 ** (-2 * i / DIM) for i in range(DIM // 2))
    layer = Layer(0, frequencies, "half", 1.0, None)
    assert analysis.hope_cut(layer, length) == len(whorl.HoPE(train_length=length).spectrum(DIM).turning)


def test_what_is_alike_at_every_distance_carries_no_head() -> None:
    """A large logit on the slowest pair, the same everywhere, moves no attention: the head is the fastest pair's."""
    model = planted()
    with torch.no_grad():
        for name in ("q_proj", "k_proj"):
            getattr(model.model.layers[1].self_attn, name).weight.view(HEADS, DIM, WIDTH)[PREVIOUS, DIM // 2 - 1, 0] = (
                80.0
            )
    (head,) = (h for h in whorl.inspect(model, text(), random_windows=2).summary.heads if h.head == PREVIOUS)
    assert (head.kind, head.pairs) == ("previous-token", (0,))
    assert head.fast_share > 0.95
