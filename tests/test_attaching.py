"""attach and detach on Llama, Qwen 3 and GPT-2: the contract of every (encoding, family) pair, and clear refusals."""

from __future__ import annotations

import copy

import pytest
import torch

import whorl
from whorl.attaching import Attachment
from whorl.hosts import FAMILIES
from whorl.testing import tiny_model

ENCODINGS = [
    "rope:base=500",
    "hope:train_length=16",
    "p-rope:p=0.5",
    "partial-rope:fraction=0.5",
    "nope",
    "sinusoidal",
    "learned:max_positions=64",
    "alibi",
    "t5",
    "kerple",
    "rope+window:size=8/nope",
    "hope:train_length=16+alibi",
]
ABSOLUTE = ("sinusoidal", "learned")
TOLERANCE = 2e-6  # float32 logits of size 1 after three layers; a planted fault must exceed it a hundredfold


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request: pytest.FixtureRequest):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=ENCODINGS)
def attached(request: pytest.FixtureRequest, model):
    """The model with an encoding; learned biases are drawn at random, since at their zeros they would hide faults.

    Drawn positive: KERPLE clamps its parameters at 0.01, and has no gradient below.
    """
    whorl.attach(model, request.param)
    generator = torch.Generator().manual_seed(0)
    for parameter in whorl.attached(model).parameters():
        torch.nn.init.uniform_(parameter, 0.2, 1.8, generator=generator)
    yield model, request.param
    if whorl.attached(model) is not None:
        whorl.detach(model)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def test_the_contract(attached, tokens: torch.Tensor) -> None:
    model, encoding = attached
    logits = model(tokens).logits

    cache = model(tokens[:, :23], use_cache=True)
    steps = [cache.logits]
    for t in range(23, 40):
        out = model(tokens[:, t : t + 1], past_key_values=cache.past_key_values, use_cache=True)
        steps.append(out.logits)
    assert difference(torch.cat(steps, 1), logits) < TOLERANCE, "cached decoding"

    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), tokens], 1)
    mask = torch.ones_like(padded)
    mask[:, :5] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(padded, attention_mask=mask, position_ids=positions)
    assert difference(out.logits[:, 5:], logits) < TOLERANCE, "left padding"

    packed = torch.cat([tokens[:1], tokens[1:]], 1)
    positions = torch.arange(40).repeat(2)[None]
    out = model(packed, position_ids=positions, use_cache=False)
    assert difference(out.logits.view(2, 40, -1), logits) < TOLERANCE, "packing"

    if not encoding.startswith(ABSOLUTE):
        far = torch.arange(40)[None] + 1_000_003
        assert difference(model(tokens, position_ids=far).logits, logits) < TOLERANCE, "relative positions only"

    twin = copy.deepcopy(model)
    assert torch.equal(twin(tokens).logits, logits)
    whorl.detach(model)
    assert torch.equal(twin(tokens).logits, logits), "a copy keeps its encoding when the original gives it up"
    whorl.detach(twin)
    assert torch.equal(twin(tokens).logits, model(tokens).logits)


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["rope", "alibi", "sinusoidal"])
def test_the_contract_can_fail(model, tokens: torch.Tensor, encoding: str) -> None:
    """A position off by one in half of the tokens moves the logits by a hundred tolerances or more."""
    whorl.attach(model, encoding)
    positions = torch.arange(40)[None].clone()
    logits = model(tokens, position_ids=positions).logits
    positions[:, 20:] += 1
    mask = torch.ones(2, 40, dtype=torch.long)  # without it transformers takes the gap for a packed document
    moved = model(tokens, position_ids=positions, attention_mask=mask).logits
    whorl.detach(model)
    assert difference(moved, logits) > 100 * TOLERANCE


@torch.no_grad()
def test_detach_restores_the_bits_and_every_attribute(model, tokens: torch.Tensor) -> None:
    def state() -> dict:
        return {name: sorted(module.__dict__) for name, module in model.named_modules()}

    before, attributes = model(tokens).logits, state()
    implementation = model.config._attn_implementation
    for encoding in ENCODINGS:
        whorl.attach(model, encoding)
        assert not torch.equal(model(tokens).logits, before)
    whorl.detach(model)
    assert torch.equal(model(tokens).logits, before)
    assert state() == attributes
    assert model.config._attn_implementation == implementation
    assert not any(m._forward_pre_hooks for m in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name, host in FAMILIES.items() if host.rotary is not None])
def test_attaching_what_is_there_changes_nothing(family: str, tokens: torch.Tensor) -> None:
    model = tiny_model(family)
    before = model(tokens).logits
    whorl.attach(model, "rope")
    assert difference(model(tokens).logits, before) < TOLERANCE
    whorl.attach(model, "rope:base=9000")
    assert difference(model(tokens).logits, before) > 100 * TOLERANCE


@torch.no_grad()
def test_gpt2s_own_table_falls_silent(tokens: torch.Tensor) -> None:
    model = tiny_model("gpt2")
    whorl.attach(model, "nope")
    before = model(tokens).logits
    model.transformer.wpe.weight.normal_(std=10)
    assert torch.equal(model(tokens).logits, before)
    far = torch.arange(40)[None] + 1_000_003  # far past the table of 64
    assert difference(model(tokens, position_ids=far).logits, before) < TOLERANCE
    whorl.attach(model, whorl.Learned(max_positions=64))
    whorl.attached(model).effects[0].weight.copy_(model.transformer.wpe.weight)
    with_table = model(tokens).logits
    whorl.detach(model)
    assert difference(model(tokens).logits, with_table) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["hope:train_length=16", "alibi", "sinusoidal"])
def test_two_models_do_not_affect_each_other(encoding: str, tokens: torch.Tensor) -> None:
    stock, other = tiny_model("llama"), tiny_model("llama")
    before = stock(tokens).logits
    whorl.attach(other, encoding)
    assert torch.equal(stock(tokens).logits, before)
    assert torch.equal(tiny_model("llama")(tokens).logits, before)


def test_gradients_reach_everything_and_checkpointing_changes_none(attached, tokens: torch.Tensor) -> None:
    model, _ = attached

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.train()
    plain = gradients()
    silent = {n for n, _ in model.named_parameters() if "wpe" in n}
    assert {n for n, _ in model.named_parameters()} - plain.keys() <= silent
    for name, _ in whorl.attached(model).named_parameters():
        assert any(n.endswith(name) and (g != 0).any() for n, g in plain.items()), f"no gradient to {name}"
    model.gradient_checkpointing_enable()
    try:
        if model.config.model_type != "gpt2":  # whose dropout differs between the two runs
            for name, gradient in gradients().items():
                torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-6)
    finally:
        model.gradient_checkpointing_disable()
        model.eval()
        model.zero_grad()


@torch.no_grad()
def test_bfloat16_models_keep_exact_positions(tokens: torch.Tensor) -> None:
    """At position 1,000,003 a bfloat16 table would be noise: the shift must cost no more than bfloat16 itself."""
    model = tiny_model("llama").to(torch.bfloat16)
    whorl.attach(model, "rope")
    near = model(tokens).logits.float()
    far = model(tokens, position_ids=torch.arange(40)[None] + 1_000_003).logits.float()
    whorl.detach(model)
    exact = tiny_model("llama")(tokens).logits
    assert difference(far, near) <= 2 * difference(near, exact)


def test_generate_with_dynamic_and_static_caches(model, tokens: torch.Tensor) -> None:
    for encoding in ("hope:train_length=16", "alibi", "rope+window:size=8/nope", "sinusoidal"):
        whorl.attach(model, encoding)
        arguments = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        dynamic = model.generate(tokens[:, :9], **arguments)
        static = model.generate(tokens[:, :9], cache_implementation="static", **arguments)
        slow = tokens[:, :9]
        for _ in range(8):
            slow = torch.cat([slow, model(slow).logits[:, -1:].argmax(-1)], 1)
        whorl.detach(model)
        assert torch.equal(dynamic, slow), encoding
        assert torch.equal(static, slow), encoding


def test_layer_types_get_their_own() -> None:
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    model = tiny_model("qwen3", layer_types=types, use_sliding_window=True, sliding_window=64)
    whorl.attach(model, "full_attention=nope/sliding_attention=rope")
    tables = [layer.self_attn.whorl_seam.table for layer in model.model.layers]
    spectra = model.model.rotary_emb.whorl_spectra
    assert [len(spectra[t].turning) for t in tables] == [8, 0, 8]
    with pytest.raises(ValueError, match="layer 1 is of type 'full_attention'"):
        whorl.attach(model, whorl.Layers({"sliding_attention": whorl.RoPE()}))
    assert str(whorl.attached(model).encoding).startswith("full_attention=nope"), "a refused attach changes nothing"


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["alibi", "rope+window:size=8/nope"])
def test_an_additive_mask_of_the_callers_own_is_honoured(model, tokens: torch.Tensor, encoding: str) -> None:
    whorl.attach(model, encoding)
    logits = model(tokens, use_cache=False).logits
    additive = torch.zeros(40, 40).masked_fill(torch.ones(40, 40).triu(1).bool(), torch.finfo(torch.float32).min)
    given = model(tokens, attention_mask=additive.expand(2, 1, 40, 40), use_cache=False).logits
    whorl.detach(model)
    assert difference(given, logits) < TOLERANCE


@torch.no_grad()
def test_every_layer_turns_by_its_own_spectrum(model, tokens: torch.Tensor) -> None:
    logits = {e: whorl.attach(model, e)(tokens).logits for e in ("rope", "nope", "rope/nope", "nope/rope", "rope/rope")}
    whorl.detach(model)
    assert torch.equal(logits.pop("rope/rope"), logits["rope"])
    for a in logits:
        assert all(difference(logits[a], logits[b]) > 100 * TOLERANCE for b in logits if a != b)


def test_t5_is_one_table_and_kerple_one_per_layer() -> None:
    model = tiny_model("llama")
    count = {"t5": 32 * 4, "kerple": 2 * 4 * 3, "t5/nope": 32 * 4, "rope+t5/t5": 32 * 4}
    for encoding, parameters in count.items():
        attachment = whorl.attached(whorl.attach(model, encoding))
        assert isinstance(attachment, Attachment)
        assert sum(p.numel() for p in attachment.parameters()) == parameters, encoding


def test_compiles_fullgraph_and_re_attaching_is_safe(tokens: torch.Tensor) -> None:
    model = tiny_model("llama")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for encoding in ("hope:train_length=16", "rope", "alibi"):
            whorl.attach(model, encoding)
            assert difference(compiled(tokens, use_cache=False).logits, model(tokens).logits) < TOLERANCE, encoding


def test_detach_without_attach_says_so(model) -> None:
    with pytest.raises(ValueError, match=r"nothing is attached.*whorl.attach\(model, encoding\) comes first"):
        whorl.detach(model)


def test_a_model_without_a_known_seam_is_refused() -> None:
    with pytest.raises(ValueError, match="got a Linear without a config.model_type"):
        whorl.attach(torch.nn.Linear(2, 2), "rope")
    mamba = tiny_model_of_unknown_family()
    with pytest.raises(ValueError, match=r"no known seam in model type 'mamba'.*known families: llama, .*gpt2"):
        whorl.attach(mamba, "rope")


def tiny_model_of_unknown_family():
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, state_size=2))


def test_a_forward_replaced_by_others_is_refused() -> None:
    model = tiny_model("llama")
    attention = model.model.layers[1].self_attn
    attention.forward = lambda *args, **kwargs: None
    with pytest.raises(ValueError, match="replaced already.*attach the encoding first"):
        whorl.attach(model, "rope")
    assert whorl.attached(model) is None


def test_an_odd_head_dim_is_refused_and_nothing_changes() -> None:
    model = tiny_model("gpt2", hidden_size=20)
    with pytest.raises(ValueError, match="even head dim of at least 2, got 5"):
        whorl.attach(model, "rope")
    assert whorl.attached(model) is None
    whorl.attach(model, "alibi")


@torch.no_grad()
def test_the_real_checkpoint(shared) -> None:
    """babyllama's own encoding attached: same loss; another base: another loss; detached: same bits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shared / "fixtures" / "babyllama-tok105"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (shared / "fixtures" / "text" / "tinystories_sample.txt").read_text()[:256]
    ids = torch.tensor([tokenizer.encode(text)])
    stock = model(ids, labels=ids)
    whorl.attach(model, "rope")
    assert float(model(ids, labels=ids).loss) == pytest.approx(float(stock.loss), abs=1e-5)
    whorl.attach(model, "rope:base=100")
    assert float(model(ids, labels=ids).loss) > float(stock.loss) + 0.05
    whorl.detach(model)
    assert torch.equal(model(ids).logits, stock.logits)
