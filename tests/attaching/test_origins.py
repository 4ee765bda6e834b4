"""A cache goes on under the encoding that its keys were made under, and under no other."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

import whorl
from tests.contract import TOKENS, difference
from whorl.testing import logits_and_budget, tiny_model

CACHES: dict[str, Callable[[Any], Any]] = {
    "dynamic": lambda config: DynamicCache(config=config),
    "static": lambda config: StaticCache(config=config, max_cache_len=40),
}
DYNAMIC_NTK = "rope~dynamic-ntk:factor=4,original=16"
ENCODINGS = ["hope:train_length=16", "nope", "alibi", DYNAMIC_NTK, "fox", "sinusoidal"]
TAKEN_OFF = r"filled with .* attached, which has been taken off since.* Begin with a new cache"


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=CACHES)
def kind(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return CACHES[request.param]


def filled(model: Any, kind: Callable[[Any], Any] = CACHES["dynamic"]) -> Any:
    cache = kind(model.config)
    model(TOKENS[:, :12], past_key_values=cache)
    return cache


def goes_on(model: Any, cache: Any) -> bool:
    """Whether the next tokens are those of a full forward."""
    logits, budget = logits_and_budget(model, TOKENS[:, :15], use_cache=False)
    return difference(model(TOKENS[:, 12:15], past_key_values=cache).logits, logits[:, 12:]) < budget


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cache_of_before_attach_is_refused(encoding: str, kind: Callable[[Any], Any]) -> None:
    model = tiny_model("llama")
    cache = filled(model, kind)
    whorl.attach(model, encoding)
    with pytest.raises(ValueError, match=f"holds 12 keys that were not made with {encoding[:4]}"):
        goes_on(model, cache)
    assert int(cache.get_seq_length()) == 12
    whorl.detach(model)
    assert goes_on(model, cache), "it is the stock model's as before"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cache_of_before_detach_is_refused(encoding: str, kind: Callable[[Any], Any]) -> None:
    model = whorl.attach(tiny_model("llama"), encoding)
    cache = filled(model, kind)
    copied = copy.deepcopy(cache)
    whorl.detach(model)
    with pytest.raises(ValueError, match=TAKEN_OFF):
        goes_on(model, cache)
    assert int(cache.get_seq_length()) == 12
    whorl.attach(model, encoding)
    assert goes_on(model, cache), "it is this encoding's as before"
    assert goes_on(model, copied)


def test_families_without_a_rotary_module_ask_too() -> None:
    model = tiny_model("gpt2")
    stock = filled(model)
    whorl.attach(model, "alibi")
    with pytest.raises(ValueError, match="12 keys that were not made with alibi"):
        goes_on(model, stock)
    own = filled(model)
    whorl.detach(model)
    with pytest.raises(ValueError, match=TAKEN_OFF):
        goes_on(model, own)


def test_a_cache_inside_that_of_a_decoder_with_cross_attention_is_marked() -> None:
    model = whorl.attach(tiny_model("gpt2"), "alibi")
    both = EncoderDecoderCache(filled(model), DynamicCache())
    assert goes_on(model, both)
    whorl.detach(model)
    with pytest.raises(ValueError, match=TAKEN_OFF):
        goes_on(model, both)


def test_generate_goes_on_with_its_own_static_cache() -> None:
    """It keeps one on the model, and empties it."""
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    model, fixed = tiny_model("llama"), {"cache_implementation": "static"}
    stock = model.generate(TOKENS[:, :9], **how, **fixed)
    for encoding in ("hope:train_length=16", "alibi"):
        whorl.attach(model, encoding)
        assert torch.equal(model.generate(TOKENS[:, :9], **how, **fixed), model.generate(TOKENS[:, :9], **how))
    whorl.detach(model)
    assert torch.equal(model.generate(TOKENS[:, :9], **how, **fixed), stock)


def test_a_cache_of_another_encoding_is_refused_until_it_is_emptied() -> None:
    model = whorl.attach(tiny_model("llama"), "hope:train_length=16")
    cache = filled(model)
    whorl.attach(model, "alibi")
    with pytest.raises(ValueError, match="filled with hope:train_length=16,base=10000 attached, and now alibi is"):
        goes_on(model, cache)
    cache.crop(-12)
    model(TOKENS[:, :12], past_key_values=cache)
    assert goes_on(model, cache)
    other_words = whorl.attach(tiny_model("llama"), "rope:base=10000")
    cache = filled(other_words)
    whorl.attach(other_words, "p-rope:p=1.0")
    assert goes_on(other_words, cache), "the same turns in other words"


def test_an_emptied_cache_is_the_stock_models_again() -> None:
    model = whorl.attach(tiny_model("llama"), "hope:train_length=16")
    cache = filled(model)
    whorl.detach(model)
    cache.crop(-12)
    model(TOKENS[:, :12], past_key_values=cache)
    assert goes_on(model, cache)
    whorl.attach(model, "hope:train_length=16")
    with pytest.raises(ValueError, match="15 keys that were not made with hope"):
        goes_on(model, cache)


def test_the_mark_goes_with_copies_and_files() -> None:
    model = whorl.attach(tiny_model("llama"), "hope:train_length=16")
    cache = filled(model)
    assert goes_on(model, copy.deepcopy(cache))
    assert goes_on(copy.deepcopy(model), pickle.loads(pickle.dumps(cache)))
    whorl.detach(model)
    pickle.dumps(cache)
    whorl.attach(model, "nope")
    for other in (cache, copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        with pytest.raises(ValueError, match="filled with hope"):
            goes_on(model, other)


@pytest.mark.parametrize("encoding", ["hope:train_length=16", "alibi"])
def test_a_compiled_call_marks_what_it_fills(encoding: str) -> None:
    model = whorl.attach(tiny_model("llama"), encoding)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    cache = compiled(TOKENS[:, :12], use_cache=True).past_key_values
    assert goes_on(model, cache)
    whorl.attach(model, "nope")
    with pytest.raises(ValueError, match=f"filled with {encoding.partition(':')[0]}"):
        goes_on(model, cache)


def test_learned_keys_go_on_under_any_encoding() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model = peft.get_peft_model(whorl.attach(tiny_model("llama"), "hope:train_length=16"), config).eval()
    logits = model(TOKENS[:, :8]).logits
    whorl.attach(model, "nope")
    assert difference(model(TOKENS[:, :8]).logits, logits) > 1e-3
    assert model.generate(input_ids=TOKENS[:, :8], max_new_tokens=4, do_sample=False, pad_token_id=0).shape == (2, 12)
