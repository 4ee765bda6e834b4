"""Random positions in a model: every part of the encoding sees the same ones, in training alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import whorl
from tests.comparison.small_runs import SMALL
from tests.contract import LENGTH, TOKENS, difference
from tests.training.test_checkpoints import interrupted
from whorl.attaching import seams_of
from whorl.testing import logits_and_budget, tiny_model

DRAWS = "randomized:length=256"
EVERY = [
    ("llama", "rope"),
    ("llama", "alibi"),
    ("llama", "rope+alibi"),
    ("llama", "rope+head-scale"),
    ("llama", "pope"),
    ("llama", "learned:max_positions=256"),
    ("gemma3_text", "rope"),
    ("smollm3", "rope"),
    ("falcon", "alibi"),
    ("modernbert", "alibi"),
    ("gpt2", "learned:max_positions=256"),
    ("opt", "sinusoidal"),
    ("bert", "sinusoidal"),
]


def attached(family: str, encoding: str):
    torch.manual_seed(0)
    model = whorl.attach(tiny_model(family), encoding)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        for name in ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob"):
            if hasattr(config, name):
                setattr(config, name, 0.0)
    return model


def drawn_of(model) -> torch.Tensor:
    return whorl.attached(model).reposition.drawn


@pytest.mark.matrix
@torch.no_grad()
@pytest.mark.parametrize("pair", EVERY, ids="-".join)
def test_training_is_the_plain_encoding_at_the_positions_drawn(pair: tuple[str, str]) -> None:
    """Every layer, and every part of the encoding, sees one draw: as if it were given as position_ids."""
    family, encoding = pair
    plain = attached(family, encoding)
    given = torch.ones_like(TOKENS)  # or gaps would look like packed documents
    logits, budget = logits_and_budget(plain.eval(), TOKENS)
    model = attached(family, f"{encoding}+{DRAWS}")
    assert difference(model.eval()(TOKENS).logits, logits) < budget, "evaluation is plain"
    model.train()
    types = {"token_type_ids": torch.zeros_like(TOKENS)} if family == "bert" else {}
    out = model(TOKENS, attention_mask=given, **types).logits
    positions = drawn_of(model)
    wanted = plain(TOKENS, attention_mask=given, position_ids=positions, **types).logits
    assert difference(out, wanted) < 4 * budget
    assert difference(out, logits) > 100 * budget
    assert difference(model(TOKENS, attention_mask=given, **types).logits, out) > 100 * budget, "drawn anew"


@torch.no_grad()
def test_packed_documents_are_kept_apart() -> None:
    """The host finds documents by the positions that it is given, which are not the ones that are drawn."""
    model = attached("llama", f"rope+{DRAWS}").train()
    positions = torch.arange(LENGTH // 2).repeat(2)[None]
    packed = model(TOKENS[:1], position_ids=positions).logits
    other = TOKENS[:1].clone()
    other[:, : LENGTH // 2] = 3
    again = attached("llama", f"rope+{DRAWS}").train()(other, position_ids=positions).logits
    assert torch.equal(again[:, LENGTH // 2 :], packed[:, LENGTH // 2 :])


@pytest.mark.parametrize(("family", "encoding"), [("llama", "rope+alibi"), ("gpt2", "learned:max_positions=256")])
def test_gradient_checkpointing_recomputes_with_the_positions_of_its_forward(family: str, encoding: str) -> None:
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = attached(family, f"{encoding}+{DRAWS}").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        losses = [model(ids, labels=ids).loss for ids in (TOKENS, TOKENS.flip(0))]  # two draws before one backward
        (losses[0] + 0.1 * losses[1]).backward()
        assert whorl.attached(model).reposition.draws == 2
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, again = gradients(False), gradients(True)
    scale = max(float(g.abs().max()) for g in plain)
    assert len(plain) == len(again)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * scale)


def test_training_keeps_no_cache() -> None:
    model = attached("llama", f"rope+{DRAWS}")
    assert model.train()(TOKENS, use_cache=True).past_key_values is None
    cache = model.eval()(TOKENS, use_cache=True).past_key_values
    assert cache.get_seq_length() == LENGTH
    with pytest.raises(ValueError, match=r"a cache needs some that go on; call model.eval\(\)"):
        model.train()(TOKENS[:, :1], past_key_values=cache)


@torch.no_grad()
def test_a_copy_draws_for_itself_and_detaching_leaves_nothing() -> None:
    model = tiny_model("llama")
    state = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    whorl.attach(model, f"rope+{DRAWS}").train()
    model(TOKENS)
    twin = copy.deepcopy(model)
    twin(TOKENS)
    assert [whorl.attached(m).reposition.draws for m in (model, twin)] == [1, 2]
    assert not torch.equal(drawn_of(model), drawn_of(twin))
    whorl.detach(model)
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == state
    assert not any(m._forward_pre_hooks for m in model.modules())


@torch.no_grad()
def test_it_is_saved_with_the_number_of_its_draws(tmp_path: Path) -> None:
    model = attached("llama", f"rope+{DRAWS}").train()
    model(TOKENS)
    model.save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path)
    assert str(whorl.encoding_of(loaded)).endswith(f"+{DRAWS}")
    torch.manual_seed(0)
    assert torch.equal(loaded.train()(TOKENS).logits, model(TOKENS).logits)


@torch.no_grad()
def test_a_compiled_model_draws_too() -> None:
    plain, model = (attached("llama", f"rope+alibi+{DRAWS}").train() for _ in range(2))
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(TOKENS).logits, plain(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "encoding", "why"),
    [
        ("llama", DRAWS, "nothing beside it goes by any; try rope"),
        ("llama", f"nope+{DRAWS}", "nothing beside it goes by any; try rope"),
        ("llama", f"rope+{DRAWS}/rope", "give randomized of one length to all layers"),
        ("llama", f"rope+{DRAWS}/alibi+randomized:length=9", "give randomized of one length to all layers"),
        ("llama", f"rope~dynamic-ntk:factor=2,original=16+{DRAWS}", "which random positions do not count"),
        ("gpt2", f"alibi+{DRAWS}", "each layer would draw its own; try learned"),
        ("opt", f"rope+{DRAWS}", "each layer would draw its own; try learned"),
    ],
)
def test_what_cannot_be_says_why(family: str, encoding: str, why: str) -> None:
    model = tiny_model(family)
    with pytest.raises(ValueError, match=why):
        whorl.attach(model, encoding)
    assert whorl.attached(model) is None


def test_position_free_layers_may_go_without() -> None:
    assert len(seams_of(attached("llama", f"rope+{DRAWS}/nope"))) > 1


def test_a_comparison_goes_on_and_leaves_its_neighbours_as_they_were(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed training draws on where it was, and other trials have the same batches and numbers beside it."""
    encodings = ["rope+randomized:length=128", "alibi"]
    both = whorl.compare(encodings, out=tmp_path / "both", text=str(text), **SMALL).trials
    alone = whorl.compare(["alibi"], out=tmp_path / "alone", text=str(text), **SMALL).trials[0]
    assert both[1].train.loss == alone.train.loss
    interrupted(tmp_path / "out", text, monkeypatch, encodings[0])
    resumed = whorl.compare(encodings[:1], out=tmp_path / "out", text=str(text), **SMALL).trials[0]
    assert resumed.train.loss == both[0].train.loss
    assert resumed.evaluations == both[0].evaluations
    rope = whorl.compare(["rope"], out=tmp_path / "rope", text=str(text), **SMALL).trials[0]
    assert rope.train.loss != resumed.train.loss
