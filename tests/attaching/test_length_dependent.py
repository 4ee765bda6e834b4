"""Spectra that depend on the length of the context: every query is scored under its own, cached or not, alone or in a
batch. What holds of every encoding is in tests/contract; the same measurements of stock are in experiments/0006."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM, StaticCache
from transformers.masking_utils import sdpa_mask
from transformers.models.olmo.modeling_olmo import ALL_ATTENTION_FUNCTIONS, apply_rotary_pos_emb

import whorl
from whorl.attaching.joining import CARRIERS
from whorl.attaching.saving import StockForm, stock_form
from whorl.encodings import Scaled
from whorl.encodings.frequencies import Frequencies
from whorl.hosts import ENCODERS, FAMILIES
from whorl.ops.impl import blocked
from whorl.testing import logits_and_budget, tiny_model

LENGTH, ORIGINAL = 40, 16
TOKENS = torch.randint(3, 97, (2, LENGTH), generator=torch.Generator().manual_seed(0))
SHORT, LONG = "1@1@1.05@1.1@1.2@1.3@1.4@1.5", "1.1@1.5@2@2.5@3@4@5@6"

DYNAMIC = f"rope:base=10000~dynamic-ntk:factor=4,original={ORIGINAL}"  # in steps of 4 tokens: 7 spectra within 40
EXACT = f"{DYNAMIC},step=1"  # as stock has it
LONGROPE = f"rope:base=10000~longrope:short_factor={SHORT},long_factor={LONG},factor=4,original={ORIGINAL}"
COMPOSED = (
    f"hope:train_length={ORIGINAL}~dynamic-ntk:factor=8",
    f"p-rope:p=0.5~longrope:short_factor={SHORT},long_factor={LONG},attention_factor=1.25,original={ORIGINAL}",
    f"{DYNAMIC}+window:size=9/nope",
    f"{LONGROPE}+alibi",
    f"{DYNAMIC}~linear:factor=2/rope",
)
FOUR = ("llama", "qwen3", "gpt_neox", "phi3")
PAIRS = [(f, e) for f in FOUR for e in (DYNAMIC, LONGROPE)]
EVERY = [*PAIRS, *((f, e) for f, e in zip(FOUR * 2, COMPOSED, strict=False))]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max())


def four_layers(family: str, **overrides: Any) -> Any:
    return tiny_model(family, num_hidden_layers=4, **overrides)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Any:
    family, encoding = request.param
    whole = "rope:fraction=1,base" if family == "gpt_neox" else "rope:base"  # its own encoding turns a quarter
    return whorl.attach(four_layers(family), encoding.replace("rope:base", whole))


def pairs(which: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", which, ids=[f"{f}-{e[:28]}" for f, e in which], indirect=True)


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
@pairs(PAIRS)
def test_the_direct_computation_sees_a_fault(model) -> None:
    """One query in a hundred under its neighbour's spectrum is far more than the tolerance above."""
    logits = oracle(model)(TOKENS).logits
    encoding = whorl.encoding_of(model)
    for other in (f"original={ORIGINAL + 1}", f"original={ORIGINAL - 1}"):
        wrong = whorl.attach(copy.deepcopy(model), str(encoding).replace(f"original={ORIGINAL}", other))
        assert difference(oracle(wrong)(TOKENS).logits, logits) > 1e-4


# --- the contract -----------------------------------------------------------------------------------------------------


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
    whorl.attach(model, Frequencies(*_of(encoding.spectrum(16))))
    logits, budget = logits_and_budget(model, TOKENS[:, :ORIGINAL])
    assert difference(found, logits) < budget
    longer = model(TOKENS[:, : ORIGINAL + 1]).logits
    assert difference(past[:, :ORIGINAL], longer[:, :ORIGINAL]) < budget
    assert difference(past[:, ORIGINAL:], longer[:, ORIGINAL:]) > 100 * budget, "and one token on it is not"
    if "dynamic" in str(encoding):
        whorl.attach(model, "rope:fraction=1")
        assert difference(model(TOKENS[:, :ORIGINAL]).logits, found) < budget


def _of(spectrum: Any) -> tuple[Any, ...]:
    return spectrum.frequencies, spectrum.amplitude


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
    whorl.attach(model, Frequencies(*_of(encoding.spectrum_at(16, 10_051))))
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
    late = [m.whorl_seam.scaled is not None for m in model.modules() if "whorl_seam" in m.__dict__]
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


@torch.no_grad()
@pytest.mark.parametrize("notation", ["rope~ntk:factor=4", "alibi"])
def test_what_is_the_same_at_every_length_is_exported_for_every_length(notation: str) -> None:
    module = LogitsOf(whorl.attach(tiny_model("llama"), notation))
    tokens = torch.export.Dim("tokens", min=2, max=40)
    exported = torch.export.export(module, (torch.arange(12)[None],), dynamic_shapes=({1: tokens},)).module()
    ids = torch.arange(30)[None] * 3 % 80
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


# --- families ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "falcon": "must be turned in transformers' attention interface, which FalconForCausalLM does not use",
    "hunyuan_v1_dense": "must be turned last of all, and layer 0 of HunYuanDenseV1ForCausalLM normalises them after",
    **dict.fromkeys(ENCODERS, "goes by the tokens up to a query's own, and .* attends in both directions"),
}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_it_or_says_why_not(family: str) -> None:
    model = tiny_model(family)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name and parameter.dim() == 1:  # weights that are all alike commute with a rotation
            parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5, generator=generator))
    if family in REFUSED:
        stock = model(TOKENS).logits
        with pytest.raises(ValueError, match=REFUSED[family] + r".*try a scaling that is the same at every length"):
            whorl.attach(model, DYNAMIC)
        assert whorl.attached(model) is None
        assert torch.equal(model(TOKENS).logits, stock)
        return
    model.set_attn_implementation("eager")  # sdpa drops soft caps in some versions
    plain, budget = logits_and_budget(whorl.attach(model, "rope"), TOKENS)
    in_range = whorl.attach(model, f"rope~dynamic-ntk:factor=4,original={LENGTH}")(TOKENS).logits
    assert difference(in_range, plain) < budget
    logits, budget = logits_and_budget(whorl.attach(model, DYNAMIC), TOKENS)
    assert difference(logits, plain) > 100 * budget
    out = model(TOKENS[:, :9], use_cache=True)
    steps, cache = [out.logits], out.past_key_values
    for t in range(9, LENGTH):
        steps.append(model(TOKENS[:, t : t + 1], past_key_values=cache, use_cache=True).logits)
    assert difference(torch.cat(steps, 1), logits) < budget


def test_a_norm_without_weights_takes_an_amplitude_away() -> None:
    """Llama 4 normalises q and k after its rotation: angles survive that, and the factor on cos and sin does not."""
    model = tiny_model("llama4_text")
    whorl.attach(model, DYNAMIC)
    with pytest.raises(ValueError, match="layer 0 of Llama4ForCausalLM normalises them after its own rotation"):
        whorl.attach(model, LONGROPE)
    whorl.attach(tiny_model("gemma4_text", global_head_dim=16), LONGROPE)  # its norm of values is no such norm


@torch.no_grad()
def test_a_family_that_is_not_listed_is_proved_to_turn_late() -> None:
    whorl.attach(tiny_model("mixtral", num_local_experts=2), DYNAMIC)
    model = tiny_model("olmo")

    class Absolute(type(model.model.layers[0].self_attn)):
        """Does something to queries, between its rotation and its attention, that has no name to go by."""

        def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values=None, **kwargs):
            shape = (*hidden_states.shape[:-1], -1, self.head_dim)
            q, k, v = (p(hidden_states).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
            q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
            out, weights = attend(self, q.abs(), k, v, attention_mask, scaling=self.scaling, **kwargs)
            return self.o_proj(out.flatten(2)), weights

    for layer in model.model.layers:
        layer.self_attn.__class__ = Absolute
    stock = model(TOKENS).logits
    whorl.attach(model, "rope")
    whorl.detach(model)
    with pytest.raises(ValueError, match="with its own encoding attached to its attention interface its logits moved"):
        whorl.attach(model, DYNAMIC)
    assert whorl.attached(model) is None
    assert torch.equal(model(TOKENS).logits, stock)


def test_what_is_missing_is_said() -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="has 2 numbers, and this spectrum has 8 pairs"):
        whorl.attach(model, "rope~longrope:short_factor=1@1,long_factor=2@2,factor=2,original=16")
    with pytest.raises(ValueError, match="dynamic-ntk .* needs at least 2 pairs; this spectrum has 1"):
        whorl.attach(tiny_model("llama", head_dim=2), DYNAMIC)  # and not at the first token past the original length
    with pytest.raises(ValueError, match="reuses the keys of layer"):
        whorl.attach(tiny_model("gemma4_text"), f"rope/{DYNAMIC}")
    assert whorl.attached(model) is None


def test_a_layer_that_the_host_does_not_turn_stays_so_unless_it_is_named() -> None:
    def scaled(model: Any) -> list[bool]:
        return [m.whorl_seam.scaled is not None for m in model.modules() if "whorl_seam" in m.__dict__]

    model = tiny_model("smollm3")
    assert scaled(whorl.attach(model, DYNAMIC)) == [True, False, True]
    assert scaled(whorl.attach(model, f"{DYNAMIC}/")) == [True, True, True]
    assert scaled(whorl.attach(model, f"{DYNAMIC}/rope")) == [True, False, True]


# --- steps ------------------------------------------------------------------------------------------------------------


def test_dynamic_ntk_steps_in_stated_lengths() -> None:
    encoding = whorl.parse("rope~dynamic-ntk:factor=4,original=16,step=10")
    exact = whorl.parse("rope~dynamic-ntk:factor=4,original=16,step=1")
    at = {n: encoding.spectrum_at(16, n) for n in range(1, 60)}
    assert at[1] == at[16] == encoding.spectrum(16)
    assert len(set(at.values())) == 6
    assert at[17] == at[26] == exact.spectrum_at(16, 26)
    assert at[27] == exact.spectrum_at(16, 36) != at[26]
    scaling = encoding.scalings[0]
    assert [scaling.same_up_to(n) for n in (1, 16, 17, 26, 27)] == [16, 16, 26, 26, 36]
    assert whorl.parse(DYNAMIC).spectrum_at(16, 17) == exact.spectrum_at(16, 20), "a quarter of the original length"
    assert whorl.parse("rope~dynamic-ntk:factor=4,original=3").spectrum_at(16, 4) == whorl.parse(
        "rope~dynamic-ntk:factor=4,original=3,step=1"
    ).spectrum_at(16, 4)
    assert whorl.parse(str(encoding)) == encoding
    with pytest.raises(ValueError, match="step must be a whole number of at least 1"):
        whorl.parse("rope~dynamic-ntk:factor=4,original=16,step=0")


@torch.no_grad()
def test_keys_are_turned_once_for_each_spectrum_and_tables_made_once_for_all_layers(monkeypatch) -> None:
    from whorl.attaching import joining

    made: list[tuple[Any, int]] = []
    real = joining.rotation_tables

    def counting(spectrum: Any, positions: torch.Tensor, *more: Any) -> Any:
        if spectrum.turning:
            made.append((spectrum, positions.shape[1]))
        return real(spectrum, positions, *more)

    monkeypatch.setattr(joining, "rotation_tables", counting)
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


# --- stock models -----------------------------------------------------------------------------------------------------


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


def numbers(text: str) -> list[float]:
    return [float(x) for x in text.split("@")]


STOCK = {
    EXACT: rope("dynamic", factor=4.0) | {"max_position_embeddings": ORIGINAL},
    LONGROPE: rope("longrope", short_factor=numbers(SHORT), long_factor=numbers(LONG), factor=4.0)
    | {"original_max_position_embeddings": ORIGINAL},
}


def stock_model(family: str, encoding: str) -> Any:
    overrides = copy.deepcopy(STOCK[encoding])
    settings = overrides["rope_parameters"]
    if "longrope" in encoding:
        settings["original_max_position_embeddings"] = ORIGINAL
        if family == "gpt_neox":  # a quarter of each head turns
            settings.update({key: settings[key][:2] for key in ("short_factor", "long_factor")})
    return four_layers(family, **overrides)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding"),
    [(f, e) for f in FOUR for e in (EXACT, LONGROPE) if (f, e) != ("phi3", EXACT)],  # stock phi3 has longrope alone
    ids="-".join,
)
def test_what_a_stock_model_has_is_read_and_in_range_it_is_stocks(family: str, encoding: str, tmp_path) -> None:
    model = stock_model(family, encoding)
    logits, budget = logits_and_budget(model, TOKENS[:, :ORIGINAL])
    read = whorl.encoding_of(model)
    plain = read.parts[0] if hasattr(read, "parts") else read  # phi3 has a window of its own
    assert isinstance(plain, Scaled)
    pairs_of = 2 if family == "gpt_neox" else 8
    (wanted,) = whorl.parse(encoding).scalings
    if "longrope" in encoding:
        lists = {key: getattr(wanted, key)[:pairs_of] for key in ("short_factor", "long_factor")}
        wanted = replace(wanted, **lists)
    assert plain.scalings == (wanted,)
    assert len(plain.spectrum_at(16, 40).turning) == pairs_of
    model(TOKENS)  # stock changes its buffers here
    assert whorl.encoding_of(model) == read
    whorl.attach(model, read)
    assert difference(model(TOKENS[:, :ORIGINAL]).logits, logits) < budget
    ours, budget = logits_and_budget(model, TOKENS)
    steps, cache = [], None
    for t in range(LENGTH):
        out = model(TOKENS[:, t : t + 1], past_key_values=cache, use_cache=True)
        steps.append(out.logits)
        cache = out.past_key_values
    assert difference(torch.cat(steps, 1), ours) < budget
    assert not isinstance(stock_form(model), StockForm)
    model.save_pretrained(tmp_path)
    assert difference(whorl.load(tmp_path).eval()(TOKENS).logits, ours) < budget


@torch.no_grad()
@pytest.mark.parametrize("past", [1, 2, 13])
def test_a_stock_dynamic_model_is_read_with_stocks_frequencies_at_every_length(past: int) -> None:
    """Not those of the next quarter of its length: at 65 of 64 and factor 4 the slowest is 1.9 times too slow."""
    model = stock_model("llama", EXACT)
    read = whorl.encoding_of(model)
    model(torch.arange(3, 3 + ORIGINAL + past)[None])
    stock = model.model.rotary_emb.inv_freq.double()
    ours = torch.tensor(read.spectrum_at(16, ORIGINAL + past).frequencies, dtype=torch.float64)
    torch.testing.assert_close(ours, stock, rtol=2e-6, atol=0)


def test_settings_that_were_changed_are_not_believed() -> None:
    model = stock_model("llama", LONGROPE)
    model.config.rope_parameters["short_factor"] = [2.0] * 8
    with pytest.raises(ValueError, match="its rotary module was built with other frequencies; load the model anew"):
        whorl.encoding_of(model)
    model = stock_model("llama", EXACT)
    model.config.rope_parameters["beta_fast"] = 32
    with pytest.raises(ValueError, match="no scaling says beta_fast under rope_type 'dynamic'"):
        whorl.encoding_of(model)


def test_rounded_buffers_and_types_of_layers() -> None:
    assert str(whorl.encoding_of(stock_model("llama", EXACT).to(torch.bfloat16))) == EXACT
    settings = {
        "full_attention": rope("dynamic", factor=2.0)["rope_parameters"],
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    model = tiny_model("gemma3_text", rope_parameters=settings)
    read = "full_attention=rope:base=10000~dynamic-ntk:factor=2,original=64,step=1"
    read += "/sliding_attention=rope:base=10000+window:size=24"
    assert str(whorl.encoding_of(model)) == read
    whorl.attach(model, read)
    scaled = [m.whorl_seam.scaled is not None for m in model.modules() if "whorl_seam" in m.__dict__]
    assert scaled == [False, True, False]
    with torch.device("meta"):
        assert str(whorl.encoding_of(stock_model("llama", EXACT))) == EXACT


@pytest.mark.parametrize("encoding", [EXACT, LONGROPE], ids=["dynamic", "longrope"])
def test_a_fixed_spectrum_is_not_saved_as_one_that_depends_on_the_length(encoding: str, tmp_path) -> None:
    """The stock module's first frequencies are the wanted ones, and it would change them past the original length."""
    model = stock_model("llama", encoding)
    model.config.max_position_embeddings = 64  # no other spectrum: stock reads the length at building
    whorl.attach(model, Frequencies(*_of(whorl.encoding_of(model).spectrum(16))))
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert difference(stock(TOKENS).logits, logits) < budget
    saved = stock.config.rope_parameters
    assert saved["rope_type"] == "default" or saved["short_factor"] == saved["long_factor"]


def test_a_record_is_not_believed_when_the_settings_depend_on_the_length(tmp_path) -> None:
    """Up to the original length the two turn alike."""
    whorl.attach(four_layers("llama"), "rope").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert str(whorl.encoding_of(model)) == "rope:base=10000~dynamic-ntk:factor=4,original=64,step=1"
    with pytest.raises(ValueError, match="somebody changed one of them"):
        whorl.load(tmp_path)


# --- what reads it ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_inspection_reads_windows_of_one_spectrum_and_says_so_of_others() -> None:
    from whorl.inspection.watching import forward, layers_of

    model = whorl.attach(four_layers("llama"), LONGROPE)
    layers = layers_of(model)
    assert layers[0].frequencies == whorl.parse(LONGROPE).spectrum(16).frequencies
    found: list[Any] = []
    forward(model, TOKENS[:, :ORIGINAL], found.append)
    static = whorl.attach(four_layers("llama"), Frequencies(*_of(whorl.parse(LONGROPE).spectrum(16))))
    expected: list[Any] = []
    forward(static, TOKENS[:, :ORIGINAL], expected.append)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.q, b.q, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.k, b.k, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"turns these keys by 2 spectra.*give windows of at most 16 tokens"):
        forward(model, TOKENS, found.append)


def test_comparisons_read_the_first_spectrum() -> None:
    from whorl.comparison.running import _turning
    from whorl.hosts import open_host

    host = open_host(four_layers("llama"))
    for encoding in (DYNAMIC, LONGROPE, COMPOSED[2]):
        assert _turning(whorl.parse(encoding), host)["pairs"] == 8
