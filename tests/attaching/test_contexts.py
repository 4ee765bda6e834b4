"""Spectra that depend on the length of the context: every query is scored under its own, cached or not, alone or in a
batch. What holds of every encoding is in tests/contract; the same measurements of stock are in experiments/0006."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, StaticCache
from transformers.masking_utils import sdpa_mask

import whorl
from tests.contract import TOKENS, difference
from whorl.attaching import contexts, interface, seams_of
from whorl.attaching.interface import CARRIERS
from whorl.attaching.stock import stock_form
from whorl.ops.impl import blocked
from whorl.testing import logits_and_budget, tiny_model

from .by_length import DYNAMIC, EVERY, LENGTH, LONGROPE, ORIGINAL, PAIRS, fixed, four_layers, pairs

# --- a direct computation ---------------------------------------------------------------------------------------------


def turned(x: torch.Tensor, positions: torch.Tensor, spectrum: Any) -> torch.Tensor:
    """x [heads, tokens, head_dim] in halves, by the definition."""
    n = len(spectrum.frequencies)
    angles = positions[:, None].double() * torch.tensor(spectrum.frequencies, dtype=torch.float64)
    cos, sin = (spectrum.amplitude * t for t in (angles.cos(), angles.sin()))
    a, b = x[..., :n], x[..., n : 2 * n]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * n :]], -1)


def directly(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **kwargs: Any) -> tuple[Any, None]:
    """Query by query: all keys turned by the spectrum of this query's context, and a softmax."""
    seam = module.whorl_seam
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    rows = []
    for row, at in enumerate(kwargs["whorl_positions"].expand(len(q), -1)):
        outputs = []
        for i, position in enumerate(at.tolist()):
            q_i, keys = q[row, :, i : i + 1], k[row]
            if seam.scaled is not None:
                spectrum = seam.scaled.spectrum_at(q.shape[3], position + 1)
                q_i, keys = turned(q_i, at[i : i + 1], spectrum), turned(keys, at, spectrum)
            logits = (q_i * keys).sum(-1) * scaling
            for bias in seam.biases:
                logits = logits + bias(at[None, i : i + 1], at[None])[0, :, 0]
            seen = mask[row, 0, i]
            weights = (
                logits.masked_fill(~seen, -torch.inf).softmax(-1) if bool(seen.any()) else torch.zeros_like(logits)
            )
            outputs.append((weights[..., None] * v[row]).sum(1))
        rows.append(torch.stack(outputs))
    return torch.stack(rows), None


def oracle(model: Any) -> Any:
    """A copy of a model with something attached, in float64, that attends directly."""
    CARRIERS.add("directly")
    AttentionInterface.register("directly", directly)
    AttentionMaskInterface.register(
        "directly",
        lambda **how: sdpa_mask(**{**how, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}),
    )
    twin = copy.deepcopy(model).double()
    twin.set_attn_implementation("directly")
    return twin


PADDED = (torch.arange(LENGTH) >= torch.tensor([[13], [0]])).long()
INPUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shifted": {"position_ids": torch.arange(LENGTH)[None] + 7},
    "left-padded": {"attention_mask": PADDED, "position_ids": (PADDED.cumsum(-1) - 1).clamp(min=1)},
    "packed": {"position_ids": torch.cat([torch.arange(22), torch.arange(18)])[None].expand(2, -1)},
    "rows of their own": {"position_ids": torch.arange(LENGTH) + torch.tensor([[0], [23]])},
    "scattered": {
        "position_ids": torch.randperm(LENGTH, generator=torch.Generator().manual_seed(1))[None],
        "attention_mask": torch.ones(2, LENGTH, dtype=torch.long),
    },
}


@pytest.mark.matrix
@pairs(EVERY)
def test_logits_and_gradients_are_those_of_a_direct_computation(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, over every way that positions come; in blocks of 16 keys too."""
    model = model.double()
    truth = oracle(model)
    weight = torch.randn(2, LENGTH, 97, generator=torch.Generator().manual_seed(0)).double()

    def gradients(one: Any, given: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        one.zero_grad(set_to_none=True)
        logits = one(TOKENS, use_cache=False, **given).logits
        seen = given.get("attention_mask", torch.ones(2, LENGTH))[..., None].bool()
        logits = torch.where(seen, logits, 0.0)  # what padding sees is nobody's business
        (weight * logits.log_softmax(-1)).mean().backward()
        return logits.detach(), {n: p.grad for n, p in one.named_parameters()}

    for name, given in INPUTS.items():
        logits, expected = gradients(truth, given)
        scale = max(float(g.abs().max()) for g in expected.values())
        for small in (False, True):
            with monkeypatch.context() as patch:
                for what, size in (("KEYS", 16), ("FEWEST", 8), ("BLOCK_BYTES", 1)) if small else ():
                    patch.setattr(blocked, what, size)
                ours, found = gradients(model, given)
            assert difference(ours, logits) < 1e-12 * float(logits.abs().max()), name
            for key, gradient in expected.items():
                assert difference(found[key], gradient) < 1e-11 * scale, (name, key)


@torch.no_grad()
@pytest.mark.parametrize("notation", [DYNAMIC, LONGROPE])
def test_keys_after_a_query_are_seen_where_the_mask_shows_them(notation: str) -> None:
    """Of a decoder that is asked for a mask in both directions, as transformers' configs may."""
    model = whorl.attach(tiny_model("llama", is_causal=False), notation).double()
    logits = oracle(model)(TOKENS, use_cache=False).logits
    assert difference(model(TOKENS, use_cache=False).logits, logits) < 1e-12 * float(logits.abs().max())
    later = torch.cat([TOKENS[:, :-1], TOKENS[:, -1:] % 90 + 5], 1)
    assert difference(model(later, use_cache=False).logits[:, 0], logits[:, 0]) > 1e-6, "the first sees the last"


@torch.no_grad()
@pairs(PAIRS)
def test_the_direct_computation_sees_a_fault(model) -> None:
    """One query in a hundred under its neighbour's spectrum is far more than the tolerance above."""
    logits = oracle(model)(TOKENS).logits
    encoding = whorl.encoding_of(model)
    for other in (f"original={ORIGINAL + 1}", f"original={ORIGINAL - 1}"):
        wrong = whorl.attach(copy.deepcopy(model), str(encoding).replace(f"original={ORIGINAL}", other))
        assert difference(oracle(wrong)(TOKENS).logits, logits) > 1e-4


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.matrix
@torch.no_grad()
@pairs(EVERY)
def test_cached_decoding_is_a_full_forward(model) -> None:
    """Token by token and in chunks that cross the original length, with a growing cache and a static one."""
    logits, budget = logits_and_budget(model, TOKENS)

    def decoded(cuts: list[int], cache: Any) -> torch.Tensor:
        steps = []
        for a, b in zip([0, *cuts], [*cuts, LENGTH], strict=True):
            out = model(TOKENS[:, a:b], past_key_values=cache, use_cache=True)
            steps.append(out.logits)
            cache = out.past_key_values
        return torch.cat(steps, 1)

    one_by_one = list(range(1, LENGTH))
    for cuts in (one_by_one, [ORIGINAL - 3, ORIGINAL, ORIGINAL + 11], list(range(ORIGINAL, LENGTH))):
        assert difference(decoded(cuts, None), logits) < budget, cuts
    for cuts in (one_by_one, [ORIGINAL - 3, ORIGINAL + 11]):
        static = StaticCache(config=model.config, max_cache_len=LENGTH + 6)
        assert difference(decoded(cuts, static), logits) < budget, "static"


@pytest.mark.matrix
@torch.no_grad()
@pairs(EVERY)
def test_a_row_does_not_depend_on_a_longer_one(model) -> None:
    short = ORIGINAL + 3
    for length in (ORIGINAL - 6, short):
        alone, budget = logits_and_budget(model, TOKENS[:1, :length])
        filler = torch.zeros(1, LENGTH - length, dtype=torch.long)
        right = torch.cat([torch.cat([TOKENS[:1, :length], filler], 1), TOKENS[1:]])
        left = torch.cat([torch.cat([filler, TOKENS[:1, :length]], 1), TOKENS[1:]])
        mask = (right != 0).long()
        assert difference(model(right, attention_mask=mask).logits[:1, :length], alone) < budget, "right padding"
        mask = (left != 0).long()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(left, attention_mask=mask, position_ids=positions).logits
        assert difference(logits[:1, -length:], alone) < budget, "left padding"
        whole, budget = logits_and_budget(model, TOKENS[1:])
        assert difference(logits[1:], whole) < budget, "and the longer one does not depend on the shorter"


@pytest.mark.matrix
@pairs(EVERY)
def test_generate_is_the_argmax_of_full_forwards(model) -> None:
    arguments = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    prompt = TOKENS[:, : ORIGINAL - 5]
    slow = prompt
    with torch.no_grad():
        for _ in range(14):
            slow = torch.cat([slow, model(slow).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(prompt, **arguments), slow)
    assert torch.equal(model.generate(prompt, cache_implementation="static", **arguments), slow)
    beams = model.generate(prompt, num_beams=3, **arguments)
    assert torch.equal(model.generate(prompt, num_beams=3, use_cache=False, **arguments), beams)
    padded = torch.cat([torch.cat([torch.zeros(1, 4, dtype=torch.long), prompt[:1, 4:]], 1), prompt[1:]])
    both = model.generate(padded, attention_mask=(padded != 0).long(), **arguments)
    assert torch.equal(both[1:], slow[1:]), "rows of different contexts"
    assert torch.equal(both[:1, 4:], model.generate(prompt[:1, 4:], **arguments))


@torch.no_grad()
@pairs(PAIRS)
def test_within_the_original_length_it_is_the_first_spectrum(model) -> None:
    encoding = whorl.encoding_of(model)
    found = model(TOKENS[:, :ORIGINAL]).logits
    past = model(TOKENS[:, : ORIGINAL + 1]).logits
    whorl.attach(model, fixed(encoding.spectrum(16)))
    logits, budget = logits_and_budget(model, TOKENS[:, :ORIGINAL])
    assert difference(found, logits) < budget
    longer = model(TOKENS[:, : ORIGINAL + 1]).logits
    assert difference(past[:, :ORIGINAL], longer[:, :ORIGINAL]) < budget
    assert difference(past[:, ORIGINAL:], longer[:, ORIGINAL:]) > 100 * budget, "and one token on it is not"
    if "dynamic" in str(encoding):
        whorl.attach(model, "rope:fraction=1")
        assert difference(model(TOKENS[:, :ORIGINAL]).logits, found) < budget


@torch.no_grad()
@pairs(PAIRS)
def test_far_away_one_spectrum_serves_all_and_distances_alone_count(model) -> None:
    """These positions are past the original length, and for the dynamic one between two steps."""
    encoding = whorl.encoding_of(model)
    if "dynamic" in str(encoding):
        encoding = whorl.encoding_of(whorl.attach(model, f"{DYNAMIC},step=1000"))
    far, farther = (torch.arange(LENGTH)[None] + start for start in (10_050, 10_950))
    logits, budget = logits_and_budget(model, TOKENS, position_ids=far)
    assert difference(model(TOKENS, position_ids=farther).logits, logits) < budget
    assert difference(model(TOKENS).logits, logits) > 100 * budget
    whorl.attach(model, fixed(encoding.spectrum_at(16, 10_051)))
    assert difference(model(TOKENS).logits, logits) < budget


@torch.no_grad()
@pairs(EVERY)
def test_detach_copies_and_saving(model, tmp_path) -> None:
    family, encoding = model.config.model_type, whorl.encoding_of(model)
    logits = model(TOKENS).logits
    twin = copy.deepcopy(model)
    stock = four_layers(family)
    whorl.detach(model)
    assert torch.equal(model(TOKENS).logits, stock(TOKENS).logits)
    assert model.config._attn_implementation == stock.config._attn_implementation
    assert [sorted(m.__dict__) for m in model.modules()] == [sorted(m.__dict__) for m in stock.modules()]
    assert torch.equal(twin(TOKENS).logits, logits), "a copy keeps it"

    assert "each query's own context" in stock_form(twin)
    twin.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["whorl"]["stock"] is False
    with pytest.raises(ValueError, match="whorl.load"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    again = whorl.load(tmp_path).eval()
    assert whorl.encoding_of(again) == encoding
    assert torch.equal(again(TOKENS).logits, logits)


@pytest.mark.matrix
@pairs(EVERY)
def test_gradient_checkpointing_gives_the_same_gradients(model) -> None:
    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        loss = model(TOKENS, labels=TOKENS, use_cache=False).loss
        far = model(TOKENS, labels=TOKENS, use_cache=False, position_ids=torch.arange(LENGTH)[None] + 9).loss
        (loss + 0.1 * far).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters()}

    model.train()
    plain = gradients()
    model.gradient_checkpointing_enable()
    for key, gradient in gradients().items():
        assert torch.equal(gradient, plain[key]), key


@torch.no_grad()
@pairs(EVERY)
def test_other_ways_to_compute_it_give_the_same(model) -> None:
    logits, budget = logits_and_budget(model, TOKENS)
    attentions = model(TOKENS, output_attentions=True).attentions
    assert len(attentions) == 4
    late = [seam.scaled is not None for seam in seams_of(model)]
    assert any(late)
    for weights in attentions:
        assert weights.shape == (2, 4, LENGTH, LENGTH)
        assert difference(weights.sum(-1), torch.ones(2, 4, LENGTH)) < 1e-5
        assert float(weights.triu(1).abs().max()) == 0
    if model.config.model_type != "phi3":  # its own window of 24 is not in this mask
        additive = torch.zeros(LENGTH, LENGTH).masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -1e38)
        given = model(TOKENS, attention_mask=additive.expand(2, 1, -1, -1), use_cache=False).logits
        assert difference(given, logits) < budget, "an additive mask of the caller's own"
        given = model(TOKENS, attention_mask=(additive == 0).expand(2, 1, -1, -1), use_cache=False).logits
        assert difference(given, logits) < budget, "and one of bools"
    whorl.attach(model, whorl.encoding_of(model), impl="reference")
    assert difference(model(TOKENS).logits, logits) < budget


@pytest.mark.full
@pairs([EVERY[0], ("gpt_neox", f"{LONGROPE}+alibi")])
def test_compiles_all_but_the_attention(model) -> None:
    """How many spectra there are depends on the positions: there the graph breaks, and fullgraph=True would fail."""
    logits, budget = logits_and_budget(model, TOKENS)
    compiled = torch.compile(model, backend="aot_eager")
    found = compiled(TOKENS, use_cache=False).logits
    assert difference(found, logits) < budget
    model(TOKENS, use_cache=False).logits.square().sum().backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    found.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert difference(parameter.grad, expected[name]) <= 1e-4 * float(expected[name].abs().max()), name


class LogitsOf(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids, use_cache=False).logits


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["export", "strict export", "trace", "fullgraph"])
@pytest.mark.parametrize("notation", [DYNAMIC, LONGROPE])
def test_one_graph_is_refused_and_the_reason_said(notation: str, how: str) -> None:
    """How many spectra it would hold depends on the input: a graph for one would be wrong for another."""
    ids = torch.arange(12)[None]
    module = LogitsOf(whorl.attach(tiny_model("llama"), notation))
    make = {
        "export": lambda: torch.export.export(module, (ids,)),
        "strict export": lambda: torch.export.export(module, (ids,), strict=True),
        "trace": lambda: torch.jit.trace(module, (ids,)),
        "fullgraph": lambda: torch.compile(module, backend="eager", fullgraph=True)(ids),
    }
    with pytest.raises(Exception, match="how many there are depends on the values of the positions") as refused:
        make[how]()
    if how in ("export", "trace"):
        assert isinstance(refused.value, ValueError)
        assert "~ntk:factor=4" in str(refused.value)


@pytest.mark.full
@torch.no_grad()
@pytest.mark.parametrize("notation", ["rope~ntk:factor=4", "alibi"])
def test_what_is_the_same_at_every_length_is_exported_for_every_length(notation: str) -> None:
    module = LogitsOf(whorl.attach(tiny_model("llama"), notation))
    tokens = torch.export.Dim.AUTO  # with a range of its own, torch 2.11 refuses stock's grouped heads too
    exported = torch.export.export(module, (torch.arange(12)[None],), dynamic_shapes=({1: tokens},)).module()
    for length in (2, 30):
        ids = torch.arange(length)[None] * 3 % 80
        truth, budget = logits_and_budget(module.model, ids, use_cache=False)
        assert difference(exported(ids), truth) <= budget


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_and_bfloat16() -> None:
    model = four_layers("llama")
    for encoding in (DYNAMIC, f"{LONGROPE}+alibi"):
        logits, budget = logits_and_budget(whorl.attach(model, encoding), TOKENS)
        whorl.attach(model, encoding, impl="flex")
        assert difference(model(TOKENS).logits, logits) < 10 * budget
    exact = whorl.attach(model, LONGROPE)(TOKENS).logits
    half = whorl.attach(four_layers("llama").to(torch.bfloat16), LONGROPE)
    near = half(TOKENS).logits
    far = half(TOKENS, position_ids=torch.arange(LENGTH)[None] + 10**6).logits
    far_exact = model(TOKENS, position_ids=torch.arange(LENGTH)[None] + 10**6).logits
    assert difference(far, far_exact) < 2 * difference(near, exact), "exact positions"


@torch.no_grad()
def test_keys_are_turned_once_for_each_spectrum_and_tables_made_once_for_all_layers(monkeypatch) -> None:
    made: list[tuple[Any, int]] = []
    real = contexts.rotation_tables

    def counting(spectrum: Any, positions: torch.Tensor, *more: Any) -> Any:
        if spectrum.turning:
            made.append((spectrum, positions.shape[1]))
        return real(spectrum, positions, *more)

    for module in (contexts, interface):
        monkeypatch.setattr(module, "rotation_tables", counting)
    model = whorl.attach(four_layers("llama"), DYNAMIC)
    out = model(TOKENS[:, :30], use_cache=True)
    # of q and k; the first 16 queries see as many keys, the next four 20, ...
    assert [n for _, n in made] == [16, 4, 20, 4, 24, 4, 28, 2, 30]
    assert len({s for s, _ in made}) == 5
    made.clear()
    model(TOKENS[:, 30:31], past_key_values=out.past_key_values)
    assert [n for _, n in made] == [1, 31]
    made.clear()
    whorl.attach(model, LONGROPE)
    model(TOKENS)
    assert [n for _, n in made] == [16, 24, 40]
