"""attach and detach where families or circumstances differ. What holds of every pair is in tests/contract."""

from __future__ import annotations

import copy

import pytest
import torch

import whorl
from tests.contract import TOKENS, difference, drawn
from whorl.testing import logits_and_budget, tiny_model

FAR = torch.arange(40)[None] + 1_000_003


@torch.no_grad()
@pytest.mark.parametrize("inner_family", ["llama", "qwen3"])
def test_a_model_inside_another_is_not_the_other(inner_family: str) -> None:
    """A stock model that holds another as a part (a draft model, a tower): each has its own encoding, or none."""
    outer, inner = tiny_model("llama"), tiny_model(inner_family, seed=1)
    outer.draft = inner
    stock, part = outer(TOKENS).logits, inner(TOKENS).logits
    how = inner.config._attn_implementation
    whorl.attach(outer, "alibi")
    assert whorl.attached(inner) is None
    assert inner.config._attn_implementation == how
    assert torch.equal(inner(TOKENS).logits, part)
    whorl.detach(outer)

    alone = whorl.attach(tiny_model("llama"), "hope:train_length=16")(TOKENS).logits
    whorl.attach(inner, "alibi")
    biased = inner(TOKENS).logits
    assert str(whorl.encoding_of(outer)) == "rope:base=10000", "the inner's is not its own"
    assert whorl.attached(outer) is None
    with pytest.raises(ValueError, match="nothing is attached"):
        whorl.detach(outer)
    for encoding in ("hope:train_length=16", "t5"):
        whorl.attach(outer, encoding)
        assert torch.equal(inner(TOKENS).logits, biased)
        assert str(whorl.encoding_of(inner)) == "alibi"
        if encoding != "t5":
            assert torch.equal(outer(TOKENS).logits, alone)
    assert torch.equal(whorl.detach(outer)(TOKENS).logits, stock)
    assert torch.equal(inner(TOKENS).logits, biased)


@pytest.mark.parametrize(("family", "reached"), [("llama", [*range(23)]), ("bert", [*range(13), *range(17, 29)])])
def test_an_encoder_gives_later_keys_buckets_of_their_own(family: str, reached: list[int]) -> None:
    """T5 has 32 buckets up to a distance of 128; 40 tokens reach 23 of them, or 13 before and 12 after each token."""
    model = whorl.attach(tiny_model(family), "t5")
    model(TOKENS).logits.square().mean().backward()
    table = next(whorl.attached(model).parameters()).grad
    assert table.abs().sum(1).nonzero().flatten().tolist() == reached


@torch.no_grad()
def test_a_copy_has_learned_parameters_of_its_own() -> None:
    model = whorl.attach(tiny_model("llama"), "t5")
    logits = model(TOKENS).logits
    twin = copy.deepcopy(model)
    next(whorl.attached(twin).parameters()).normal_()
    assert torch.equal(model(TOKENS).logits, logits)
    assert difference(twin(TOKENS).logits, logits) > 1e-2


def learned(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in whorl.attached(model).named_parameters()}


@torch.no_grad()
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("rope+fox", "hope:train_length=16+fox"),
        ("rope+t5", "t5"),
        ("rope+kerple", "rope~linear:factor=2+kerple+window:size=8"),
        ("learned:max_positions=64", "learned:max_positions=64+alibi"),
    ],
)
def test_what_a_part_has_learned_stays_where_the_part_does(before: str, after: str) -> None:
    family = "gpt2" if "positions" in before else "llama"
    model = drawn(whorl.attach(tiny_model(family), before))
    held, logits = learned(model), model(TOKENS).logits
    whorl.attach(model, after)
    assert sorted(float(x.sum()) for x in learned(model).values()) == sorted(float(x.sum()) for x in held.values())
    whorl.attach(model, before)
    assert torch.equal(model(TOKENS).logits, logits)
    whorl.attach(whorl.detach(model), before)
    fresh = learned(whorl.attach(tiny_model(family), before))
    assert all(torch.equal(x, fresh[k]) for k, x in learned(model).items()), "detach forgets it"


@torch.no_grad()
def test_what_a_layer_has_learned_stays_in_that_layer() -> None:
    model = drawn(whorl.attach(tiny_model("llama", num_hidden_layers=3), "fox"))
    gates = [seam.scores[0].weight.clone() for seam in whorl.attaching.seams_of(model)]
    fresh = whorl.attaching.seams_of(whorl.attach(tiny_model("llama", num_hidden_layers=3), "fox"))
    whorl.attach(model, "nope/fox")
    whorl.attach(model, "fox")
    now = [seam.scores[0].weight for seam in whorl.attaching.seams_of(model)]
    assert torch.equal(now[1], gates[1])
    assert torch.equal(now[0], fresh[0].scores[0].weight), "which had none in between"


@torch.no_grad()
def test_bfloat16_models_keep_exact_positions() -> None:
    """At position 1,000,003 a bfloat16 table would be noise: the shift must cost no more than bfloat16 itself."""
    model = tiny_model("llama").to(torch.bfloat16)
    whorl.attach(model, "rope")
    near = model(TOKENS).logits.float()
    far = model(TOKENS, position_ids=FAR).logits.float()
    whorl.detach(model)
    exact = tiny_model("llama")(TOKENS).logits
    assert difference(far, near) <= 2 * difference(near, exact)


def test_attaching_needs_no_weights() -> None:
    with torch.device("meta"):
        model = tiny_model("llama")
    whorl.attach(model, "t5")
    assert next(whorl.attached(model).parameters()).device.type == "meta"


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["hope:train_length=16", "alibi"])
def test_impl_says_what_runs(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from whorl.ops.impl import native

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the compiled loops")

    model = whorl.attach(tiny_model("llama"), encoding)
    logits, budget = logits_and_budget(model, TOKENS)
    monkeypatch.setattr(native, "call", broken)
    with pytest.raises(RuntimeError, match="the compiled loops"):
        model(TOKENS)
    whorl.attach(model, encoding, impl="reference")
    assert difference(model(TOKENS).logits, logits) < budget
    whorl.attach(model, encoding)
    monkeypatch.setenv("WHORL_IMPL", "reference")
    assert difference(model(TOKENS).logits, logits) < budget
    with pytest.raises(ValueError, match="impl must be one of auto, reference, cpu, triton, got 'fast'"):
        whorl.attach(model, encoding, impl="fast")


def test_pickling_says_that_the_encoding_would_be_lost(tmp_path) -> None:
    for family, encoding in (("llama", "hope:train_length=16"), ("gpt2", "alibi")):
        model = whorl.attach(tiny_model(family), encoding)
        with pytest.raises(TypeError, match=r"torch.save\(model\) would lose.*save_pretrained.*whorl.load"):
            torch.save(model, tmp_path / "model.pt")
        copy.deepcopy(model)
        torch.save(whorl.detach(model), tmp_path / "model.pt")


def test_a_model_without_a_known_seam_is_refused() -> None:
    with pytest.raises(ValueError, match="got a Linear without a config.model_type"):
        whorl.attach(torch.nn.Linear(2, 2), "rope")
    from transformers import BloomConfig, BloomForCausalLM

    bloom = BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(
        ValueError,
        match=r"no known seam in model type 'bloom'.*looked for a module 'rotary_emb'.*calls apply_rotary_pos_emb.*"
        "found only word_embeddings, .*whorl list.*add a host",
    ):
        whorl.attach(bloom, "rope")


@pytest.mark.parametrize(
    ("encoding", "unused"),
    [
        ("full_attention=nope/sliding_attention=alibi", "sliding_attention=alibi: it has 3, of type full_attention"),
        ("rope/nope/rope/alibi", "goes by alibi: it has 3, of type full_attention"),
        ("full_attention=nope", None),
        ("rope/nope", None),
    ],
)
def test_a_rule_that_no_layer_goes_by_is_said(
    encoding: str, unused: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="whorl"):
        whorl.attach(tiny_model("llama"), encoding)
    said = [record.getMessage() for record in caplog.records if "goes by" in record.getMessage()]
    assert len(said) == (unused is not None)
    if unused is not None:
        assert unused in said[0]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("encoding", ["nope", "log-n", "nope/rope", "hope", "alibi", "window:size=4", "sinusoidal"])
def test_an_encoder_that_is_told_no_order_is_said_to_take_a_text_for_a_bag(
    encoding: str, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And it does: the same tokens in another order have the same states, in that order."""
    model = tiny_model(family)
    with caplog.at_level("WARNING", logger="whorl"):
        whorl.attach(model, encoding)
    orderless = encoding in ("nope", "log-n")
    assert ("it takes a text for a bag of words; try rope" in caplog.text) == orderless
    ids, order = torch.arange(5, 21)[None], torch.randperm(16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, moved = model(ids).logits[:, order], model(ids[:, order]).logits
    assert torch.allclose(logits, moved, atol=1e-5) == orderless


def test_a_causal_mask_tells_an_order(caplog: pytest.LogCaptureFixture) -> None:
    whorl.attach(tiny_model("llama"), "nope")
    assert "bag of words" not in caplog.text
