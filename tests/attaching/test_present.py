"""Layers taken out, moved, copied or added after an encoding was attached: what is said of them, and what is kept."""

from __future__ import annotations

import copy

import pytest
import torch

import whorl
from tests.contract import TOKENS, difference, drawn
from whorl.attaching.seams import attached
from whorl.testing import tiny_image_model, tiny_model


def arranged(model, order) -> None:
    """Puts layers in this order; one that is named twice is copied."""
    layers = model.model.layers
    seen = [copy.deepcopy(layers[i]) if i in order[:place] else layers[i] for place, i in enumerate(order)]
    model.model.layers = torch.nn.ModuleList(seen)
    model.config.num_hidden_layers = len(order)
    if (types := getattr(model.config, "layer_types", None)) is not None:
        model.config.layer_types = [types[i] for i in order]
    for index, layer in enumerate(seen):
        layer.self_attn.layer_idx = index


def pruned(encoding: str, order, family: str = "llama", layers: int = 4):
    model = drawn(whorl.attach(tiny_model(family, num_hidden_layers=layers), encoding))
    arranged(model, order)
    return model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("order", [(0, 2, 3), (1, 2, 3), (0, 1, 2), (1, 0, 2, 3), (3, 1)])
@pytest.mark.parametrize(
    "encoding", ["hope", "hope:train_length=16/nope", "t5", "fox", "fox/alibi", "rope+window:size=4/nope"]
)
def test_what_is_kept_of_layers_that_were_moved_is_what_they_do(tmp_path, encoding: str, order) -> None:
    model = pruned(encoding, order)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path)
    assert difference(logits(loaded), expected) < 1e-6
    assert whorl.encoding_of(loaded) == whorl.encoding_of(model)
    assert torch.equal(logits(model), expected), "a save changes nothing"
    effects = attached(model).effects
    model.save_pretrained(tmp_path)
    assert attached(model).effects is effects, "which are in line since the first"


def test_the_encoding_of_pruned_layers_is_said_layer_by_layer() -> None:
    assert str(whorl.encoding_of(pruned("alibi/nope", (0, 2, 3)))) == "alibi/alibi/nope"
    assert str(whorl.encoding_of(pruned("alibi/nope", (0, 2)))) == "alibi"
    typed = pruned("full_attention=nope/sliding_attention=alibi", (1, 2), "gemma3_text", layers=3)
    assert str(whorl.encoding_of(typed)) == "full_attention=nope/sliding_attention=alibi", "its types moved with them"


def test_a_state_dict_is_that_of_the_layers_there_are() -> None:
    model = pruned("fox/nope", (2, 1))
    other = whorl.attach(tiny_model("llama", num_hidden_layers=2), "fox/nope")
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("encoding", ["fox", "t5"])
def test_a_copied_layer_that_learned_is_not_saved_as_another(tmp_path, encoding: str) -> None:
    model = pruned(encoding, (0, 1, 1, 2))
    before = sorted(attached(model).state_dict())
    with pytest.raises(ValueError, match="a layer was copied or added. whorl.detach"):
        model.save_pretrained(tmp_path)
    assert sorted(attached(model).state_dict()) == before
    assert not list(tmp_path.iterdir())


def test_a_copied_layer_without_anything_learned_is_kept(tmp_path) -> None:
    model = pruned("hope:train_length=16/alibi", (0, 1, 1, 2))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(whorl.load(tmp_path)), logits(model))


def test_a_layer_that_came_later_has_none_of_an_encoding_by_layer(tmp_path) -> None:
    model = pruned("hope:train_length=16/nope", (0, 1))
    model.model.layers.append(type(model.model.layers[0])(model.config, 2))
    model.config.num_hidden_layers = 3
    with pytest.raises(ValueError, match=r"layers \[2\] of this LlamaForCausalLM came after hope:\S+ was attached"):
        whorl.encoding_of(model)
    with pytest.raises(ValueError, match="came after"):
        model.save_pretrained(tmp_path)


def test_what_goes_by_the_number_of_a_layer_is_not_saved_under_another(tmp_path) -> None:
    """lookhere's slopes fall from the first layer to the last."""
    model = whorl.attach(tiny_image_model("vit"), "lookhere")
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    layers.pop(0)
    model.config.num_hidden_layers = len(layers)
    with pytest.raises(ValueError, match="lookhere.* goes by the number of a layer, and layers of this ViTModel were"):
        model.save_pretrained(tmp_path)
    whorl.detach(model)
    whorl.attach(model, "lookhere").save_pretrained(tmp_path)
    assert str(whorl.encoding_of(whorl.load(tmp_path))) == f"lookhere:layers={len(layers)}"
