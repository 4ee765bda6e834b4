"""Scales and scores on a host: what they are handed, in full forwards and with a cache."""

from __future__ import annotations

import copy

import pytest
import torch

import whorl
from tests.contract import LENGTH, TOKENS, difference, drawn
from whorl.attaching import seams_of
from whorl.encodings import REGISTRY, biases
from whorl.testing import logits_and_budget, tiny_model

from .content import HERE

EACH = ["grows", "forgets", "turns", "rope+forgets", "rope+grows+forgets", "rope+window:size=8/nope+grows"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, where in HERE.items():
        monkeypatch.setitem(REGISTRY, name, where)


def attached(family: str, encoding: str):
    return whorl.attach(tiny_model(family), encoding)


# --- the counts that a scale is handed --------------------------------------------------------------------------------


def counts_of(model, **how) -> list[torch.Tensor]:
    """What every layer's scale is handed, in a forward of `TOKENS` or other ids."""
    seen: list[torch.Tensor] = []
    hooks = [
        scale.register_forward_hook(lambda m, args, out: seen.append(args[0]))
        for seam in seams_of(model)
        for scale in seam.scales
    ]
    with torch.no_grad():
        out = model(**how)
    for hook in hooks:
        hook.remove()
    counts_of.cache = getattr(out, "past_key_values", None)
    return seen


def test_a_query_counts_itself_and_the_keys_before_it() -> None:
    for counts in counts_of(attached("llama", "rope+grows"), input_ids=TOKENS):
        assert (counts == torch.arange(1, LENGTH + 1)).all()


def test_padding_on_either_side_is_not_counted() -> None:
    mask = torch.ones_like(TOKENS)
    mask[0, :5], mask[1, 33:] = 0, 0
    for positions in ({}, {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}):
        counts, *_ = counts_of(attached("llama", "rope+grows"), input_ids=TOKENS, attention_mask=mask, **positions)
        assert torch.equal(counts[mask.bool()], mask.cumsum(1)[mask.bool()])
        assert (counts >= 1).all(), "a query of padding has a logarithm"


def test_windows_of_the_host_and_of_the_encoding_are_counted() -> None:
    model = attached("gemma2", "rope+window:size=8+grows/nope+grows")
    own = torch.arange(1, LENGTH + 1)[None]
    windows = [8, LENGTH, 8]
    for counts, window in zip(counts_of(model, input_ids=TOKENS), windows, strict=True):
        assert (counts == own.clamp(max=window)).all()
    sliding, full, _ = counts_of(attached("gemma2", "rope+grows"), input_ids=TOKENS)
    assert (sliding == own.clamp(max=24)).all()
    assert (full == own).all()


def test_packed_documents_are_counted_one_by_one() -> None:
    positions = torch.arange(LENGTH).repeat(2)[None]
    counts, *_ = counts_of(
        attached("llama", "rope+grows"), input_ids=TOKENS.view(1, -1), position_ids=positions, use_cache=False
    )
    assert torch.equal(counts, positions + 1)


def test_an_encoder_counts_all_keys_that_are_no_padding() -> None:
    model = attached("bert", "alibi+grows")
    types = {"token_type_ids": torch.zeros_like(TOKENS)}
    counts, *_ = counts_of(model, input_ids=TOKENS, **types)
    assert (counts == LENGTH).all()
    mask = torch.ones_like(TOKENS)
    mask[1, 30:] = 0
    counts, *_ = counts_of(model, input_ids=TOKENS, attention_mask=mask, **types)
    assert (counts[0] == LENGTH).all()
    assert (counts[1] == 30).all()


def test_a_callers_own_mask_is_counted() -> None:
    seen = torch.ones(LENGTH, LENGTH).tril().bool()
    seen[:, 3:7] = False
    for mask in (seen, torch.zeros(LENGTH, LENGTH).masked_fill(~seen, torch.finfo(torch.float32).min)):
        counts, *_ = counts_of(
            attached("llama", "rope+grows"),
            input_ids=TOKENS,
            attention_mask=mask.expand(2, 1, LENGTH, LENGTH),
            use_cache=False,
        )
        assert (counts == seen.sum(-1)).all()


@pytest.mark.parametrize("encoding", ["rope+grows", "rope+window:size=8+grows"])
def test_counts_under_caches_are_those_without(encoding: str) -> None:
    from transformers import StaticCache

    model = attached("gemma2", encoding)
    mask = torch.ones_like(TOKENS)
    mask[0, :5] = 0
    expected = counts_of(model, input_ids=TOKENS, attention_mask=mask)
    for cache in (None, StaticCache(config=model.config, max_cache_len=LENGTH + 3)):
        got = [counts_of(model, input_ids=TOKENS[:, :9], attention_mask=mask[:, :9], past_key_values=cache)]
        cache = counts_of.cache
        for t in range(9, LENGTH):
            how = {"attention_mask": mask[:, : t + 1], "past_key_values": cache}
            got.append(counts_of(model, input_ids=TOKENS[:, t : t + 1], **how))
        for layer, counts in enumerate(expected):
            joined = torch.cat([step[layer].expand(2, -1) for step in got], 1)
            assert torch.equal(joined[mask.bool()], counts.expand(2, -1)[mask.bool()])


@torch.no_grad()
def test_a_scale_multiplies_the_logits() -> None:
    """Of one that gives 2, a model with projections of q of twice the size."""
    model = attached("llama", "rope+grows")
    twin = copy.deepcopy(model)
    for seam in seams_of(model):
        seam.scales[0].forward = lambda counts, positions: torch.full((1, 1, LENGTH), 2.0)
    whorl.attach(twin, "rope")
    for layer in twin.model.layers:
        layer.self_attn.q_proj.weight *= 2
    logits, budget = logits_and_budget(twin, TOKENS)
    assert difference(model(TOKENS).logits, logits) < budget


# --- states ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_gates_forget_as_the_formula_says() -> None:
    """softmax(q.k scale + sum of the gates between), by a bias made by hand from the hidden states of the layer."""
    model = attached("llama", "forgets")
    told = []
    attention = model.model.layers[1].self_attn
    attention.register_forward_hook(lambda m, a, k, out: told.append((k["hidden_states"], out[0])), with_kwargs=True)
    model(TOKENS)
    (hidden, output), gates = told[0], seams_of(model)[1].scores[0]
    sums = torch.nn.functional.logsigmoid(hidden.double() @ gates.weight.double().T + 2).cumsum(1).transpose(1, 2)
    q, k, v = (getattr(attention, f"{x}_proj")(hidden).double().unflatten(-1, (-1, 16)).transpose(1, 2) for x in "qkv")
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    s = q @ k.transpose(-1, -2) / 4 + sums[..., :, None] - sums[..., None, :]
    s = s.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
    expected = attention.o_proj((s.softmax(-1) @ v).transpose(1, 2).flatten(2).float())
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("kind", ["dynamic", "static", "given"])
def test_tokens_are_told_which_of_them_are_real_and_what_came_before(family: str, kind: str) -> None:
    from transformers import StaticCache

    model = attached(family, "forgets")
    mask = torch.ones_like(TOKENS)
    mask[0, :5], mask[0, 20:23], mask[1, 36:] = 0, 0, 0
    cache = StaticCache(config=model.config, max_cache_len=LENGTH + 3) if kind == "static" else None
    told = []
    for seam in seams_of(model):
        gates, ask = seam.scores[0], seam.scores[0].tokens

        def tokens(hidden, positions, real, before, ask=ask):
            state = ask(hidden, positions, real, before)
            told.append((positions, real, before, state))
            return state

        gates.tokens = tokens
    if kind == "given":
        seen = torch.ones(LENGTH, LENGTH).tril().bool() & mask.bool()[:, None, None]
        model(TOKENS, attention_mask=seen, use_cache=False)
        assert torch.equal(told[0][1], mask.bool())
        return
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    latest: list = [None] * 3
    for first, last in ((0, 9), (9, 10), (10, 33), *((t, t + 1) for t in range(33, LENGTH))):
        del told[:]
        at = positions[:, first:last]
        out = model(
            TOKENS[:, first:last], attention_mask=mask[:, :last], position_ids=at, past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        for layer, (place, real, before, state) in enumerate(told):
            assert torch.equal(place, at)
            assert torch.equal(real, mask[:, first:last].bool())
            assert (before is None) == (first == 0)
            if first:
                assert before.shape[1] >= min(first, 23), "all that a window of 24 still sees"
                assert torch.equal(before[:, -1], latest[layer][:, -1])
            latest[layer] = state


@torch.no_grad()
def test_nothing_but_the_chosen_angles_turns_q_and_k() -> None:
    model = attached("llama", "turns")
    for seam in seams_of(model):
        seam.scores[0].weight.zero_()
    logits, budget = logits_and_budget(whorl.attach(tiny_model("llama"), "nope"), TOKENS)
    assert difference(model(TOKENS).logits, logits) < budget
    assert difference(attached("llama", "turns")(TOKENS).logits, logits) > 100 * budget


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox", "smollm3"])
@pytest.mark.parametrize("encoding", EACH)
def test_padding_and_neighbours_change_nothing(family: str, encoding: str) -> None:
    model = attached(family, encoding)
    logits, budget = logits_and_budget(model, TOKENS)
    padded = torch.cat([torch.full((2, 5), 7), TOKENS], 1)
    mask = torch.ones_like(padded)
    mask[:, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    left = model(padded, attention_mask=mask, position_ids=positions).logits[:, 5:]
    assert difference(left, logits) < budget, "left padding"
    right = model(padded.roll(-5, 1), attention_mask=mask.roll(-5, 1)).logits[:, :-5]
    assert difference(right, logits) < budget, "right padding"
    assert difference(model(TOKENS[1:]).logits, logits[1:]) < budget, "rows are independent"


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("encoding", EACH)
@pytest.mark.parametrize("static", [False, True])
def test_cached_decoding_equals_a_full_forward(family: str, encoding: str, static: bool) -> None:
    from transformers import StaticCache

    model = attached(family, encoding)
    mask = torch.ones_like(TOKENS)
    mask[0, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    how = {"attention_mask": mask, "position_ids": positions}
    logits, budget = logits_and_budget(model, TOKENS, **how)
    cache = StaticCache(config=model.config, max_cache_len=LENGTH + 3) if static else None
    steps = []
    for first, last in ((0, 9), (9, 10), (10, 17), *((t, t + 1) for t in range(17, LENGTH))):
        out = model(
            TOKENS[:, first:last],
            past_key_values=cache,
            use_cache=True,
            attention_mask=mask[:, :last],
            position_ids=positions[:, first:last],
        )
        cache = out.past_key_values
        steps.append(out.logits)
    got = torch.cat(steps, 1)
    assert difference(got[mask.bool()], logits[mask.bool()]) < budget


# --- who reads q and k --------------------------------------------------------------------------------


@torch.no_grad()
def test_what_is_watched_has_the_factor_in_q_and_what_scores_add() -> None:
    from whorl.watching import forward, watching

    plain, seen = tiny_model("llama"), []
    model = attached("llama", "rope+grows")
    logits, budget = logits_and_budget(model, TOKENS)
    with watching(model, seen.append):
        assert difference(model(TOKENS, use_cache=False).logits, logits) < budget, "watched, it gives the same"
    exact = model.double()
    logits = exact(TOKENS, use_cache=False).logits
    with watching(exact, lambda _: None):
        assert difference(exact(TOKENS, use_cache=False).logits, logits) < 1e-12, "in float64 too"
    of_stock: list = []
    forward(whorl.attach(plain, "rope"), TOKENS, of_stock.append)
    factor = torch.arange(1.0, LENGTH + 1).log()[:, None]
    torch.testing.assert_close(seen[0].q, of_stock[0].q * factor)
    model, of_score = attached("llama", "rope+forgets+grows"), []
    logits, budget = logits_and_budget(model, TOKENS)
    with watching(model, of_score.append):
        assert difference(model(TOKENS, use_cache=False).logits, logits) < budget
    assert of_score[0].channels is not None
    torch.testing.assert_close(of_score[0].q, of_stock[0].q * factor)


# --- saving ------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["ssmax", "rope+fox", "path"])
def test_it_is_saved_with_its_parameters_stock_loads_fail_and_adapters_find_it(encoding: str, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    peft = pytest.importorskip("peft")
    model = drawn(attached("llama", encoding))
    model.save_pretrained(tmp_path)
    again = whorl.load(tmp_path)
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    with pytest.raises(ValueError, match="use whorl.load"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    settings = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(again, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    read = whorl.load(tmp_path / "adapter")
    assert torch.equal(read(TOKENS).logits, adapted(TOKENS).logits)
    assert whorl.encoding_of(read) == whorl.encoding_of(model)


def test_numbers_that_inference_asked_for_first_serve_training() -> None:
    """They are kept on the device for all layers and calls."""
    biases._kept_constants.cache_clear()
    model = attached("llama", "learned-rope+grape-a")
    with torch.inference_mode():
        model(TOKENS)
    model(TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None for p in whorl.attached(model).parameters())


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["cope", "t5", "fox", "path", "selective-rope"])
def test_parameters_that_were_offloaded_are_called_so(encoding: str) -> None:
    """Of cope, on the meta device, PyTorch multiplied by memory that nobody had written: other logits at every call."""
    from accelerate import cpu_offload

    model = cpu_offload(whorl.attach(tiny_model("llama"), encoding).eval(), execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"must be on q's device cpu, got \w+ on meta; attach after offloading"):
        model(torch.arange(3, 30)[None])
