"""States beside the keys of caches: what happens to the keys happens to them, and where they are unknown is said."""

from __future__ import annotations

import copy
import io

import pytest
import torch

import whorl
from tests.contract import ENCODINGS, LENGTH, TOKENS, difference, drawn, traits
from whorl.attaching import seams_of
from whorl.encodings import REGISTRY
from whorl.testing import logits_and_budget, tiny_model

from .content import HERE

GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
EACH = ["grows", "forgets", "turns"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, where in HERE.items():
        monkeypatch.setitem(REGISTRY, name, where)


@pytest.fixture(params=["llama", "gemma2"])
def model(request: pytest.FixtureRequest):
    return whorl.attach(tiny_model(request.param), "forgets+rope")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def filled(model, tokens: torch.Tensor = TOKENS[:, :20]):
    return model(tokens, use_cache=True).past_key_values


def follows(model, cache, tokens: torch.Tensor, new: int = 3) -> None:
    """The last tokens after the cache are as in a full forward."""
    logits, budget = logits_and_budget(model, tokens)
    got = model(tokens[:, -new:], past_key_values=cache, use_cache=True).logits
    assert difference(got, logits[:, -new:]) < budget


def test_reordered_repeated_and_selected_rows(model) -> None:
    cache = filled(model)
    cache.reorder_cache(torch.tensor([1, 0]))
    follows(model, cache, TOKENS[:, :23].flip(0))
    cache = filled(model)
    cache.batch_repeat_interleave(2)
    follows(model, cache, TOKENS[:, :23].repeat_interleave(2, 0))
    cache = filled(model)
    cache.batch_select_indices(torch.tensor([1]))
    follows(model, cache, TOKENS[1:, :23])


@pytest.mark.parametrize("encoding", ["selective-rope", "path-fox", "fox"])
def test_one_prefix_goes_on_in_several_ways(encoding: str) -> None:
    """The states of one row are those of all that it is repeated into."""
    model = whorl.attach(tiny_model("llama"), encoding)
    cache = filled(model, TOKENS[:1, :20])
    cache.batch_repeat_interleave(2)
    follows(model, cache, torch.cat([TOKENS[:1, :20].expand(2, -1), TOKENS[:, 20:25]], 1), new=5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("encoding", ["grows", "fox", "path"])
def test_a_layer_may_attend_twice_in_one_forward(encoding: str, compiled: bool) -> None:
    """DiffLlama's attend with each half of the values."""
    model = whorl.attach(tiny_model("diffllama"), encoding)
    logits, budget = logits_and_budget(model, TOKENS[:, :23], use_cache=False)
    if compiled:
        model.compile(backend="eager")
    cache = filled(model)
    got = model(TOKENS[:, 20:23], past_key_values=cache, use_cache=True).logits
    assert difference(got, logits[:, 20:]) < budget


@pytest.mark.parametrize("encoding", ["selective-rope", "path-fox", "fox"])
def test_padding_inside_a_text_is_passed_over(encoding: str) -> None:
    """As prompts of several lengths leave it that are filled on the right and go on."""
    model = whorl.attach(tiny_model("llama"), encoding)
    mask = torch.ones(1, LENGTH, dtype=torch.long)
    mask[:, 10:16] = 0
    real, positions = mask[0].bool(), (mask.cumsum(1) - 1).clamp(min=0)
    logits, budget = logits_and_budget(model, TOKENS[:1, real])
    cache, steps = None, []
    for first, last in ((0, 16), (16, 17), (17, LENGTH)):
        how = {"attention_mask": mask[:, :last], "position_ids": positions[:, first:last]}
        out = model(TOKENS[:1, first:last], past_key_values=cache, use_cache=True, **how)
        cache = out.past_key_values
        steps.append(out.logits)
    assert difference(torch.cat(steps, 1)[:, real], logits) < budget
    full = model(TOKENS[:1], attention_mask=mask, position_ids=positions, use_cache=False).logits
    assert difference(full[:, real], logits) < budget


def test_cropped_and_reset_caches(model) -> None:
    cache = filled(model)
    cache.crop(-4)
    follows(model, cache, TOKENS[:, :19])
    cache.reset()
    if any(
        layer.keys is not None for layer in cache.layers
    ):  # transformers 5.17 makes a growing cache's keys zeros, which stay and are attended to
        with pytest.raises(ValueError, match="are known|are unknown"):
            model(TOKENS[:, 5:17], past_key_values=cache)
        return
    follows(model, cache, TOKENS[:, 5:17], new=12)


def test_a_copy_of_a_cache_goes_its_own_way(model) -> None:
    cache = filled(model)
    twin = copy.deepcopy(cache)
    follows(model, cache, TOKENS[:, :23])
    other = torch.cat([TOKENS[:, :20], TOKENS[:, 25:29]], 1)
    follows(model, twin, other, new=4)


@pytest.mark.parametrize("static", [False, True])
def test_beam_search_is_that_without_a_cache(model, static: bool) -> None:
    how = {**GREEDY, "num_beams": 3}
    expected = model.generate(TOKENS[:, :12], use_cache=False, **how)
    kind = {"cache_implementation": "static"} if static else {}
    assert torch.equal(model.generate(TOKENS[:, :12], **how, **kind), expected)


def test_assisted_decoding_crops(model) -> None:
    expected = model.generate(TOKENS[:1, :12], **{**GREEDY, "max_new_tokens": 16})
    helper = whorl.attach(tiny_model(model.config.model_type, seed=1), "forgets+rope")
    got = model.generate(TOKENS[:1, :12], assistant_model=helper, **{**GREEDY, "max_new_tokens": 16})
    assert torch.equal(got, expected)


@pytest.mark.parametrize("encoding", EACH)
def test_a_batch_with_left_padding_generates_as_its_rows_do(encoding: str) -> None:
    model = whorl.attach(tiny_model("llama"), encoding)
    short = TOKENS[1:, :9]
    padded = torch.cat([TOKENS[:1, :14], torch.cat([torch.zeros(1, 5, dtype=torch.long), short], 1)])
    mask = (padded != 0).long()
    both = model.generate(padded, attention_mask=mask, **GREEDY)
    assert torch.equal(both[1:, 14:], model.generate(short, **GREEDY)[:, 9:])
    assert torch.equal(both[:1], model.generate(padded[:1], **GREEDY))


UNKNOWN = "keeps a state for each key, and of the 20 keys in this cache"


def test_a_cache_that_another_model_filled(model) -> None:
    stock = tiny_model(model.config.model_type)
    with pytest.raises(ValueError, match="holds 20 keys that were not made with forgets"):
        model(TOKENS[:, 20:21], past_key_values=filled(stock), position_ids=torch.tensor([[20]]))


def test_a_cache_from_a_file(model) -> None:
    file = io.BytesIO()
    torch.save(filled(model), file)
    file.seek(0)
    with pytest.raises(ValueError, match=UNKNOWN):
        model(TOKENS[:, 20:21], past_key_values=torch.load(file, weights_only=False))


def test_keys_that_were_exchanged_by_hand(model) -> None:
    cache = filled(model)
    layer = cache.layers[1]
    layer.keys, layer.values = layer.keys[[1, 0]], layer.values[[1, 0]]
    with pytest.raises(ValueError, match=UNKNOWN):
        model(TOKENS[:, 20:21], past_key_values=cache)


def test_a_window_keeps_the_states_of_its_own_keys_alone() -> None:
    model = whorl.attach(tiny_model("gemma2"), "forgets+rope")
    cache = filled(model, TOKENS)
    for t in range(6):
        model(TOKENS[:, t : t + 1], past_key_values=cache)
    kept = [layer.whorl_states.of_scores[0].shape[1] for layer in cache.layers]
    assert kept == [24, LENGTH + 6, 24]


@pytest.mark.parametrize("window", [2, 12])
@pytest.mark.parametrize("encoding", [e for e in ENCODINGS.values() if "state" in traits(e)])
def test_a_token_of_zeros_and_a_window_of_few_keys(encoding: str, window: int) -> None:
    """A pad token's embedding is zeros in stock models, and it may stand in a text; and a state may go by tokens that a
    window has let go."""
    model = drawn(whorl.attach(tiny_model("mistral", sliding_window=window), encoding))
    tokens, at = TOKENS.clone(), torch.arange(LENGTH)[None]
    tokens[:, [9, 12, 31]] = model.config.pad_token_id
    assert not model.get_input_embeddings()(tokens[:, 9]).any()
    how = {"attention_mask": torch.ones_like(tokens), "position_ids": at}
    expected, budget = logits_and_budget(model, tokens, use_cache=False, **how)
    past = None
    for first, last in ((0, 10), (10, 13), *((i, i + 1) for i in range(13, LENGTH))):
        part = {"attention_mask": how["attention_mask"][:, :last], "position_ids": at[:, first:last]}
        out = model(tokens[:, first:last], past_key_values=past, use_cache=True, **part)
        past = out.past_key_values
        assert difference(out.logits, expected[:, first:last]) < budget


def test_states_are_in_full_precision_in_a_model_of_bfloat16() -> None:
    model = whorl.attach(tiny_model("llama"), "forgets+rope").to(torch.bfloat16)
    cache = filled(model)
    assert {layer.whorl_states.of_scores[0].dtype for layer in cache.layers} == {torch.float32}
    hidden = []
    for seam in seams_of(model):
        gates, ask = seam.scores[0], seam.scores[0].tokens
        gates.tokens = lambda h, *a, ask=ask: hidden.append(h.dtype) or ask(h, *a)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(TOKENS)
    assert set(hidden) == {torch.float32}
    assert out.logits.dtype == torch.bfloat16


@pytest.mark.parametrize("encoding", EACH)
def test_torch_compile_gives_the_same(encoding: str) -> None:
    model = whorl.attach(tiny_model("llama"), encoding)
    logits, budget = logits_and_budget(model, TOKENS)
    compiled = torch.compile(model, backend="eager")
    assert difference(compiled(TOKENS, use_cache=False).logits, logits) < budget
    cache, steps = None, []
    for first, last in ((0, 30), (30, 31), (31, 32), (32, LENGTH)):
        out = compiled(TOKENS[:, first:last], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    assert difference(torch.cat(steps, 1), logits) < budget


def test_checkpointing_gives_the_same_gradients() -> None:
    model = whorl.attach(tiny_model("llama"), "forgets+rope").train()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            first = model(TOKENS, labels=TOKENS, use_cache=False).loss
            (first + model(TOKENS.flip(1), labels=TOKENS, use_cache=False).loss).backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    model.gradient_checkpointing_enable()
    for again, gradient in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(again, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoding", ["grows", "forgets", "turns", "fox", "selective-rope"])
@pytest.mark.parametrize("residual", [3, 100])
def test_a_quantized_cache_keeps_them(encoding: str, residual: int) -> None:
    """Whose layers hold the latest keys alone as a tensor, or none; here nothing is lost in quantizing."""
    from transformers.cache_utils import Cache, QuantizedLayer

    class Exact(QuantizedLayer):
        def _quantize(self, tensor, axis):
            return tensor.clone()

        def _dequantize(self, tensor):
            return tensor

    model = drawn(whorl.attach(tiny_model("llama"), encoding))
    expected, budget = logits_and_budget(model, TOKENS)
    cache = Cache(layers=[Exact(residual_length=residual) for _ in model.model.layers])
    steps = [model(part, past_key_values=cache).logits for part in TOKENS.split([20, *[1] * 10, 4, *[1] * 6], 1)]
    assert difference(torch.cat(steps, 1), expected) < budget
