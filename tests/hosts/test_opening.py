"""What is read of a host's sizes from the modules themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import whorl
from tests.contract import TOKENS
from whorl.attaching import seams_of
from whorl.encodings.alibi import slopes
from whorl.hosts import open_host
from whorl.hosts.transformers import opening
from whorl.hosts.transformers.families import FAMILIES
from whorl.hosts.transformers.sizes import heads_of
from whorl.testing import tiny_model

IN_TURN = [4, 8, 16]


@pytest.fixture(scope="module")
def laguna():
    return tiny_model("laguna", num_attention_heads_per_layer=IN_TURN)


def test_heads_differ_from_layer_to_layer(laguna) -> None:
    assert [shape.heads for shape in open_host(laguna).shapes] == IN_TURN


@torch.no_grad()
@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("encoding", ["alibi", "t5", "kerple", "alibi+window:size=5"])
def test_every_layer_has_biases_of_its_own_heads(laguna, encoding: str, impl: str) -> None:
    """And as each layer's q are, so are they: with the config's number a layer of more read past it."""
    whorl.attach(laguna, encoding, impl=impl)
    for seam, heads in zip(seams_of(laguna), IN_TURN, strict=True):
        bias = seam.biases[0]
        of_each = bias(torch.tensor([[1]]), torch.tensor([[0]])).flatten()
        assert len(of_each) == heads
        if encoding.startswith("alibi"):
            assert of_each.tolist() == pytest.approx([-slope for slope in slopes(heads)])
    assert torch.isfinite(laguna(TOKENS).logits).all()
    whorl.detach(laguna)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_every_family(family: str) -> None:
    """As its attention module says, whatever its config does."""
    model = tiny_model(family)
    host = open_host(model)
    silent = type("Config", (), {"num_attention_heads": 99, "hidden_size": 64, "head_dim": 16})
    heads = {heads_of(silent, attention) for attention in host.attentions}
    said = {shape.heads for shape in host.shapes}
    assert said == {4}
    # these say it nowhere but in the config (Gemma 4 in the layer that has no keys of its own)
    assert heads == {"gpt_neox": {99}, "phi3": {99}, "modernbert": {99}, "gemma4_text": {4, 99}}.get(family, {4})


def test_a_gate_in_the_projection_of_queries_is_not_heads() -> None:
    """Qwen3-Next's holds one: twice as wide as its heads are."""
    attention = nn.Module()
    attention.q_proj, attention.k_proj = nn.Linear(64, 2 * 4 * 16), nn.Linear(64, 2 * 16)
    attention.head_dim, attention.num_key_value_groups = 16, 2
    assert heads_of(tiny_model("llama").config, attention) == 4


@pytest.mark.parametrize(
    ("family", "turning", "channels", "layout"),
    [("llama", 16, 16, "half"), ("phi", 8, 16, "half"), ("glm", 16, 16, "interleaved"), ("gpt2", 16, 16, "half")],
)
def test_a_shape_says_the_channels_of_a_head_and_how_they_are_paired(
    family: str, turning: int, channels: int, layout: str
) -> None:
    shape = open_host(tiny_model(family)).shapes[0]
    assert (shape.head_dim, shape.channels, shape.layout) == (turning, channels, layout)


@pytest.mark.parametrize("family", ["llama", "llama4_text"])  # halves, complex numbers
def test_how_channels_pair_up_is_seen_where_models_are_made_without_weights(family: str) -> None:
    """As `whorl compare --model DIR` opens one, in a process that has opened none before."""
    opening.rotation_of.cache_clear()
    with torch.device("meta"):
        host = open_host(tiny_model(family))
    assert host.rotation is not None
    assert host.rotation == opening.rotation_of(host.rotation.name, type(host.attentions[0]))
