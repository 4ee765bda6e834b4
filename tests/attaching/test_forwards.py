"""The forwards in a model: the vectors in the place of a host's table of positions, and caches of another encoding."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch

import whorl
from tests.contract import TOKENS, difference
from whorl.hosts.transformers import compat
from whorl.ops.impl import cpu_attention
from whorl.testing import logits_and_budget, tiny_model

FAR = torch.arange(40)[None] + 1_000_003


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "opt", "bert"])
def test_the_hosts_own_table_falls_silent(family: str) -> None:
    types = {"token_type_ids": torch.zeros_like(TOKENS)} if family == "bert" else {}
    model = tiny_model(family)
    whorl.attach(model, "nope")
    before, budget = logits_and_budget(model, TOKENS)
    table = next(m for n, m in model.named_modules() if n.endswith(("wpe", "embed_positions", "position_embeddings")))
    table.weight.normal_(std=10)
    assert torch.equal(model(TOKENS).logits, before)
    assert difference(model(TOKENS, position_ids=FAR, **types).logits, before) < budget, "far past the table of 64"
    whorl.detach(model)
    assert difference(model(TOKENS).logits, before) > 100 * budget


@torch.no_grad()
def test_a_learned_table_starts_from_the_hosts_own() -> None:
    model = tiny_model("opt")
    own = model.model.decoder.embed_positions.weight[2:]  # OPT's first two rows are for padding
    for rows in (50, 64, 80):
        whorl.attach(model, whorl.Learned(max_positions=rows))
        table = whorl.attached(model).effects[0].weight
        assert torch.equal(table[:64], own[:rows])
        assert table.shape == (rows, 64)
        assert (table[64:] != 0).all()


@torch.no_grad()
def test_opts_left_padding_without_positions() -> None:
    """OPT counts positions from the mask and gives padding the position -1."""
    model = tiny_model("opt")
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), TOKENS], 1)
    for encoding in ("learned:max_positions=64", "rope", "alibi"):
        whorl.attach(model, encoding)
        logits, budget = logits_and_budget(model, TOKENS)
        assert difference(model(padded, attention_mask=(padded != 0).long()).logits[:, 5:], logits) < budget, encoding


def test_a_table_that_is_too_small_says_what_is_needed() -> None:
    model = whorl.attach(tiny_model("llama"), "learned:max_positions=39")
    with pytest.raises(ValueError, match=r"position 39 is past the learned table, which has 39 positions.*=40"):
        model(TOKENS)
    model(TOKENS[:, :39])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_a_cache_that_was_filled_under_another_encoding_is_refused(family: str) -> None:
    model = tiny_model(family)
    for before, after in (("hope:train_length=16", "rope"), ("alibi", "nope"), ("rope", "t5")):
        whorl.attach(model, before)
        cache = model(TOKENS[:, :30], use_cache=True).past_key_values
        step = {"past_key_values": cache, "use_cache": True}
        whorl.attach(model, after)
        with pytest.raises(ValueError, match=f"filled with {before}.* attached, and now {after}.*Begin with a new"):
            model(TOKENS[:, 30:], **step)
        with pytest.raises(ValueError, match="Begin with a new cache"):
            model(TOKENS[:, 30:], **{**step, "past_key_values": copy.deepcopy(cache)})
        whorl.attach(model, before)  # the same again
        logits, budget = logits_and_budget(model, TOKENS)
        assert difference(model(TOKENS[:, 30:], **step).logits, logits[:, 30:]) < budget
        whorl.attach(model, after)
        cache.crop(-40)  # nothing of the other encoding is left
        logits, budget = logits_and_budget(model, TOKENS)
        assert difference(model(TOKENS, **step).logits, logits) < budget


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "before", "after"),
    [
        ("llama", "rope", "rope/rope"),
        ("llama", "hope:train_length=1", "nope"),  # no turn fits in one token
        ("llama", "alibi/", "alibi"),
        ("llama", "rope:base=100", "frequencies:values=1@0.5623413251903491@0.31622776601683794@0.1778279410038923@0.1@"
         "0.05623413251903491@0.03162277660168379@0.01778279410038923"),
        ("mistral", "rope", "rope+window:size=24"),  # its own window
        ("gemma3_text", "rope", "full_attention=rope/sliding_attention=rope"),
    ],
)  # fmt: skip
def test_a_cache_goes_on_under_what_does_the_same_however_it_is_written(family: str, before: str, after: str) -> None:
    model = tiny_model(family)
    cache = whorl.attach(model, before)(TOKENS[:, :30], use_cache=True).past_key_values
    logits, budget = logits_and_budget(whorl.attach(model, after), TOKENS)
    assert difference(model(TOKENS[:, 30:], past_key_values=cache).logits, logits[:, 30:]) < budget


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["alibi", "t5"])
def test_what_layers_share_is_made_once_a_step(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer than that: a table may be written to between two steps."""
    model, made = whorl.attach(tiny_model("llama"), encoding).float(), []

    def counted(original: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(original.__name__)
        return original(*args, **kwargs)

    for room, name in ((cpu_attention, "by_distance"), (cpu_attention, "_plan"), (compat, "whole_mask")):
        monkeypatch.setattr(room, name, partial(counted, getattr(room, name)))
    for parameter in whorl.attached(model).parameters():
        parameter.normal_()
    cache = model(TOKENS[:, :30], use_cache=True).past_key_values
    for at in (30, 31):
        for parameter in whorl.attached(model).parameters():
            parameter.mul_(2)
        with monkeypatch.context() as plain:
            plain.setenv("WHORL_IMPL", "reference")
            expected = model(TOKENS[:, at : at + 1], past_key_values=copy.deepcopy(cache)).logits
        made.clear()
        got = model(TOKENS[:, at : at + 1], past_key_values=cache).logits
        assert sorted(made) == ["_plan", "by_distance"], "and no mask, of which it is known that it shows all"
        assert difference(got, expected) < 1e-4
