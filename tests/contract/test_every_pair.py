"""The first points of the contract, on every (family, encoding): what a family has is read and kept, detaching gives
back the bits, cached decoding equals a full forward, gradients flow."""

from __future__ import annotations

import re
from functools import lru_cache

import pytest
import torch
import transformers

import whorl
from whorl.hosts import ENCODERS, FAMILIES, open_host
from whorl.testing import logits_and_budget, tiny_model

from . import (
    CONTENT,
    DECODERS,
    ENCODINGS,
    EVERY,
    LENGTH,
    OF_POINTS,
    ON_GRIDS,
    PAIRS,
    TOKENS,
    difference,
    drawn,
    refused,
)

tiny = lru_cache(maxsize=1)(tiny_model)  # the pairs come family by family


@pytest.fixture(params=PAIRS, ids="-".join)
def open_pair(request: pytest.FixtureRequest):
    family, encoding = request.param
    model = tiny(family)
    stock = model(TOKENS).logits.detach()
    drawn(whorl.attach(model, encoding))
    yield family, model
    model.eval()
    model.zero_grad(set_to_none=True)
    whorl.detach(model)
    assert torch.equal(model(TOKENS).logits, stock), "detach restores the bits"


@pytest.mark.matrix(times=2)
def test_cached_decoding_and_gradients(open_pair) -> None:
    family, model = open_pair
    logits, budget = logits_and_budget(model, TOKENS)
    if family not in ENCODERS:
        with torch.no_grad():
            out = model(TOKENS[:, :23], use_cache=True)
            steps, cache = [out.logits], out.past_key_values
            for t in range(23, LENGTH):
                steps.append(model(TOKENS[:, t : t + 1], past_key_values=cache, use_cache=True).logits)
        assert difference(torch.cat(steps, 1), logits) < budget, "cached decoding equals a full forward"

    model.train()
    model(TOKENS).logits.square().mean().backward()
    table = open_host(model).position_table
    silent = [] if table is None else [id(p) for p in table.parameters()]
    for name, parameter in model.named_parameters():
        if id(parameter) in silent:
            assert parameter.grad is None, f"{name} is silent and has a gradient"
        elif parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient to {name}"
    for name, parameter in whorl.attached(model).named_parameters():
        assert not parameter.requires_grad or (parameter.grad != 0).any(), f"only zeros to {name}"


@pytest.mark.matrix
@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoding_that_goes_by_content_decodes_as_it_runs(family: str) -> None:
    """Few tokens, but each of the pairs: what `PAIRS` leaves out is seen here."""
    model = tiny(family)
    for encoding in (ENCODINGS[name] for name in CONTENT):
        if refused(family, encoding) is not None:
            continue
        drawn(whorl.attach(model, encoding))
        logits, budget = logits_and_budget(model, TOKENS)
        if family in ENCODERS:
            assert difference(model(TOKENS[1:]).logits, logits[1:]) < budget, encoding
            continue
        out = model(TOKENS[:, :6], use_cache=True)
        steps, cache = [out.logits], out.past_key_values
        for t in range(6, 9):
            steps.append(model(TOKENS[:, t : t + 1], past_key_values=cache, use_cache=True).logits)
        assert difference(torch.cat(steps, 1), logits[:, :9]) < budget, encoding
    if whorl.attached(model) is not None:
        whorl.detach(model)


CANNOT = [(f, e) for f in FAMILIES for e in EVERY if refused(f, e) is not None]


@pytest.mark.matrix
@pytest.mark.parametrize("pair", CANNOT, ids="-".join)
def test_what_cannot_be_done_says_why_and_changes_nothing(pair: tuple[str, str]) -> None:
    family, encoding = pair
    model = tiny(family)
    with pytest.raises(ValueError, match=refused(family, encoding)):
        whorl.attach(model, encoding)
    assert whorl.attached(model) is None


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_attaching_what_is_there_changes_nothing(family: str) -> None:
    model = tiny_model(family)
    logits, budget = logits_and_budget(model, TOKENS)
    state = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    implementation = model.config._attn_implementation
    own = whorl.encoding_of(model)
    whorl.attach(model, own)
    assert whorl.encoding_of(model) == own
    assert difference(model(TOKENS).logits, logits) < budget
    assert whorl.parse(str(own)) == own, "its notation reads back"
    if open_host(model).rotary is not None:
        assert model.config._attn_implementation == implementation, "windows of the host's own are left to the host"
    whorl.attach(model, "rope:base=30")
    assert difference(model(TOKENS).logits, logits) > 100 * budget, "the comparison can fail"
    whorl.detach(model)
    assert torch.equal(model(TOKENS).logits, logits)
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == state
    assert model.config._attn_implementation == implementation
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert whorl.encoding_of(model) == own


def test_every_encoding_is_in_the_contract() -> None:
    from whorl.encodings import REGISTRY

    text = "+".join((*EVERY, *OF_POINTS, *ON_GRIDS))
    assert all(name in text for name in REGISTRY)


def test_the_table_in_the_docs_is_current() -> None:
    from .table import PATH, page

    pinned = re.search("^transformers==(.*)", (PATH.parents[1] / "constraints.txt").read_text(), flags=re.MULTILINE)
    if transformers.__version__ != pinned[1]:
        pytest.skip(f"the table is of transformers {pinned[1]}: others pack in other families, and open others")
    text = page()
    assert PATH.read_text(encoding="utf-8") == text, "run .venv/bin/python -m tests.contract.table"
    assert len(DECODERS) >= 34
    assert int(text.partition(" decoder families are open")[0].rpartition(" ")[2]) >= 30


def test_the_counts_in_readme_and_changelog_are_the_tables() -> None:
    from .table import PATH

    text = PATH.read_text(encoding="utf-8")
    native = {name: text.partition(f" ({name})")[0].rpartition(" ")[2] for name in ("rope", "hope", "p-rope", "nope")}
    root = PATH.parents[1]
    readme, changes = ((root / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md"))
    assert f"attaches to {len(DECODERS)} decoder families" in readme
    assert set(native.values()) == {native["rope"]}, "README.md gives one number for them"
    assert f"RoPE, HoPE, p-RoPE and NoPE are saved in stock terms on {native['rope']} of these families" in readme
    assert f"for {len(FAMILIES)} families of transformers" in changes
