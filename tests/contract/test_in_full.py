"""The rest of the contract, on fourteen families that show every kind of seam."""

from __future__ import annotations

import copy
from functools import cache, lru_cache

import pytest
import torch

import whorl
from whorl.testing import logits_and_budget, tiny_model

from . import IN_FULL, LENGTH, TOKENS, difference, drawn, held, packs

tiny = lru_cache(maxsize=1)(tiny_model)
FAR = torch.arange(LENGTH)[None] + 1_000_003
EVERYWHERE = held(IN_FULL, 4)
SOME = [(f, e) for f, e in EVERYWHERE if e.startswith(("hope", "alibi", "learned", "rope+window"))]


@pytest.fixture
def model(request: pytest.FixtureRequest):
    family, encoding = request.param
    model = drawn(whorl.attach(tiny(family), encoding))
    yield model
    model.eval()
    model.zero_grad(set_to_none=True)
    whorl.detach(model)


def pairs(which: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", which, ids="-".join, indirect=True)


def name(model) -> tuple[str, str]:
    return model.config.model_type, str(whorl.encoding_of(model))


@pytest.mark.matrix
@torch.no_grad()
@pairs(EVERYWHERE)
def test_positions(model) -> None:
    """Relative positions only, left padding and packing; and a test of the test."""
    family, encoding = model.config.model_type, whorl.encoding_of(model)
    logits, budget = logits_and_budget(model, TOKENS)

    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), TOKENS], 1)
    mask = (padded != 0).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(padded, attention_mask=mask, position_ids=positions)
    assert difference(out.logits[:, 5:], logits) < budget, "left padding"

    if packs(family):
        packed = model(TOKENS.view(1, -1), position_ids=torch.arange(LENGTH).repeat(2)[None], use_cache=False)
        assert difference(packed.logits.view(2, LENGTH, -1), logits) < budget, "packing"

    if not encoding.not_relative:
        assert difference(model(TOKENS, position_ids=FAR).logits, logits) < budget, "relative positions only"
    if encoding.by_order:
        hidden = torch.ones_like(TOKENS)
        hidden[:, -3] = 0  # a key that is not seen
        wrong = model(TOKENS, attention_mask=hidden).logits
    else:
        # A position off by one in half of the tokens; by more where what counts is its logarithm. The mask is given, or
        # the gap would look like a packed document.
        gap = LENGTH // 2 if encoding.not_relative else 1
        off = torch.arange(LENGTH)[None] + gap * (torch.arange(LENGTH) >= LENGTH // 2)
        wrong = model(TOKENS, position_ids=off, attention_mask=torch.ones_like(TOKENS)).logits
    assert difference(wrong, logits) > 100 * budget, "a planted fault is seen"

    alone = model(TOKENS[1:]).logits
    assert difference(alone, logits[1:]) < budget, "rows of a batch are independent"


@pytest.mark.matrix
@pairs(SOME)
def test_gradient_checkpointing_gives_the_same_gradients(model) -> None:
    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        # Two forwards before one backward: positions kept on the model would be stale in the recomputation.
        loss = model(TOKENS, labels=TOKENS, use_cache=False).loss
        far = model(TOKENS, labels=TOKENS, use_cache=False, position_ids=torch.arange(LENGTH)[None].flip(1)).loss
        (loss + 0.1 * far).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.train()
    plain = gradients()
    scale = max(float(g.abs().max()) for g in plain.values())
    model.gradient_checkpointing_enable()
    try:
        again = gradients()
    finally:
        model.gradient_checkpointing_disable()
    assert again.keys() == plain.keys()
    for key, gradient in plain.items():
        torch.testing.assert_close(again[key], gradient, rtol=1e-5, atol=1e-6 * scale, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.matrix
@torch.no_grad()
@pairs(EVERYWHERE)
def test_a_copy_keeps_its_encoding_and_leaves_the_original_alone(model) -> None:
    logits = model(TOKENS).logits
    encoding = whorl.encoding_of(model)
    twin = copy.deepcopy(model)
    whorl.detach(model)
    stock = model(TOKENS).logits
    assert torch.equal(twin(TOKENS).logits, logits)
    assert whorl.encoding_of(twin) == encoding
    whorl.detach(twin)
    assert torch.equal(twin(TOKENS).logits, stock)
    whorl.attach(twin, "rope:base=77")
    assert torch.equal(model(TOKENS).logits, stock), "two models of one class do not affect each other"
    whorl.attach(model, encoding)


@cache
def static_cache_works(family: str) -> bool:
    """Whether this version's stock model generates with a static cache (transformers 5.17's Llama 4 does not)."""
    try:
        tiny_model(family).generate(TOKENS[:, :30], max_new_tokens=2, pad_token_id=0, cache_implementation="static")
    except TypeError:
        return False
    return True


@pytest.mark.matrix
@pairs(SOME)
def test_generate_with_dynamic_and_static_caches(model) -> None:
    arguments = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    prompt = TOKENS[:, :30]  # windows are of 24
    slow = prompt
    with torch.no_grad():
        for _ in range(8):
            slow = torch.cat([slow, model(slow).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(prompt, **arguments), slow)
    if static_cache_works(model.config.model_type):
        assert torch.equal(model.generate(prompt, cache_implementation="static", **arguments), slow)


@pytest.mark.matrix
@torch.no_grad()
@pairs(EVERYWHERE)
def test_save_and_load(model, tmp_path) -> None:
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    again = whorl.load(tmp_path).eval()
    assert type(again) is type(model)
    assert whorl.encoding_of(again) == whorl.encoding_of(model)
    assert difference(again(TOKENS).logits, logits) < budget
    for key, value in whorl.attached(model).state_dict().items():
        assert torch.equal(value, whorl.attached(again).state_dict()[key])


# What a host declares itself must go on holding with whorl's attention in place of its own: nothing but the mask orders
# the tokens under NoPE, and `alibi` with all slopes at zero is NoPE through whorl's attention.

DECLARED = [
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gpt_oss", "sinks"),
    ("mistral", {"sliding_window": None}),
    ("gemma3_text", {"query_pre_attn_scalar": 31}),
    ("granite", {"attention_multiplier": 0.01}),
    ("llama", {"num_key_value_heads": 4}),
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "without"), DECLARED, ids=[f for f, _ in DECLARED])
def test_soft_caps_sinks_windows_scales_and_grouped_heads_are_honoured(family: str, without) -> None:
    model = tiny_model(family)
    model.set_attn_implementation("eager")  # sdpa drops soft caps in some versions
    whorl.attach(model, "nope")
    logits, budget = logits_and_budget(model, TOKENS)
    whorl.attach(model, "alibi")
    for effect in whorl.attached(model).effects:
        effect.slopes = (0.0,) * len(effect.slopes)
    assert model.config._attn_implementation == "whorl"
    assert difference(model(TOKENS).logits, logits) < budget

    # and the model does differ without what is honoured here, so that the line above can fail
    if without == "sinks":
        for layer in model.model.layers:
            layer.self_attn.sinks.fill_(-1e9)
        whorl.attach(model, "nope")
        changed = model
    else:
        changed = whorl.attach(tiny_model(family, **without), "nope")
        changed.set_attn_implementation("eager")
    assert difference(changed(TOKENS).logits, logits) > 100 * budget


@torch.no_grad()
@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "exaone4", "modernbert-decoder", "modernbert"])
def test_windows_are_read_as_the_host_means_them(family: str) -> None:
    """The same weights without the host's windows, but with those that were read from it, give the same logits."""
    model = tiny_model(family)
    logits, budget = logits_and_budget(model, TOKENS)
    own = whorl.encoding_of(model)
    wide = tiny_model(family, sliding_window=None if family == "mistral" else 4096)
    wide.load_state_dict(model.state_dict())
    assert difference(wide(TOKENS).logits, logits) > 100 * budget
    whorl.attach(wide, own)
    assert difference(wide(TOKENS).logits, logits) < budget
