"""A model of no library that whorl knows answers the host protocol, and gets encodings as any other does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import whorl
from whorl.attaching import seams_of
from whorl.attaching.stock import stock_form
from whorl.encodings import Shape, parse
from whorl.encodings.learned import Learned
from whorl.encodings.rope import RoPE
from whorl.encodings.spectrum import rope_frequencies
from whorl.hosts import LIBRARIES, host_of

from . import plain
from .plain import HEAD_DIM, HEADS, WIDTH, Plain

WORDS = torch.randint(0, plain.WORDS, (2, 24), generator=torch.Generator().manual_seed(0))
STILL = (0.0,) * (HEAD_DIM // 2)
HIDDEN = torch.ones(24, 24, dtype=torch.bool).triu(1)
HOPE = parse("hope:train_length=64,base=10000")


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    attends = dict(plain.ATTENDS)
    monkeypatch.setitem(LIBRARIES, "plain", "tests.hosts.plain")
    yield
    plain.ATTENDS.clear()
    plain.ATTENDS.update(attends)


def with_bias(notation: str) -> torch.Tensor:
    """Of a model that turns nothing, float64 logits [tokens, tokens] of each head, made by hand."""
    (effect,) = parse(notation).effects(Shape(HEAD_DIM, HEADS, WIDTH))
    if notation == "t5":
        torch.nn.init.normal_(effect.module.weight, generator=torch.Generator().manual_seed(1))
    bias = torch.stack([
        torch.stack([effect.module.of_distance(torch.tensor(i - j))[:, None].detach() for j in range(24)], -1)
        for i in range(24)
    ], 1).squeeze(2).double()  # fmt: skip
    return bias.masked_fill(HIDDEN, -torch.inf)[None]


def draw(model: Plain) -> Plain:
    """T5's table as `with_bias` has it."""
    for parameter in model.whorl.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model


def exactly(notation: str, table: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits that a plain model has in float64 and float32 whose own code does what the encoding says."""
    frequencies, seen = STILL, None
    if notation in ("rope", str(HOPE)):
        frequencies = parse(notation).with_defaults().spectrum(HEAD_DIM).frequencies
    elif notation != "nope":
        seen = with_bias(notation)
    model = Plain(frequencies)
    model.load_state_dict({k: v for k, v in Plain(rows=32 if table else 0).state_dict().items() if k != "table.weight"})
    single = model(WORDS, seen=None if seen is None else seen.float())
    return model.double()(WORDS, seen=seen), single


ENCODINGS = ("rope", str(HOPE), "alibi", "t5", "nope")


@pytest.mark.parametrize("notation", ENCODINGS)
@pytest.mark.parametrize("table", [False, True], ids=["biases in the mask", "a table, biases in attention"])
@torch.no_grad()
def test_encodings_go_on_and_come_off_bit_for_bit(table: bool, notation: str) -> None:
    model = Plain(rows=32 if table else 0)
    stock = model(WORDS)
    exact, single = exactly(notation, table)
    draw(whorl.attach(model, notation))
    budget = 4 * float((single - exact).abs().max())
    logits = model(WORDS)
    assert float((logits - exact).abs().max()) <= budget
    changes = notation != "rope" or table  # its own
    assert float((logits - stock).abs().max()) > 100 * budget or not changes
    assert torch.equal(copy.deepcopy(model)(WORDS), logits), "a copy has it too"
    assert whorl.encoding_of(model) == parse(notation).with_defaults()
    assert torch.equal(whorl.detach(model)(WORDS), stock)
    assert whorl.attached(model) is None
    assert not any(name.startswith("whorl") for module in model.modules() for name in vars(module))


@torch.no_grad()
def test_far_positions_are_given_and_offsets_alone_matter() -> None:
    for table in (False, True):
        model = draw(whorl.attach(Plain(rows=32 if table else 0), f"{HOPE}+t5"))
        near, places = model(WORDS), torch.arange(24)[None]
        budget = 4 * float((model.double()(WORDS) - near).abs().max())
        far = model.float()(WORDS, places + 1_000_003)
        assert float((far - near).abs().max()) <= budget
        places[:, 12:] += 1
        assert float((model(WORDS, places) - near).abs().max()) > 100 * budget


def test_a_model_is_read_by_what_its_host_answers() -> None:
    model = Plain()
    assert whorl.encoding_of(model) == RoPE(10000.0)
    assert whorl.encoding_of(Plain(rows=32)) == Learned(32)
    assert whorl.encoding_of(Plain(STILL)) == parse("nope")
    frequencies = (1.0, 0.3, 0.2, 0.0)
    assert whorl.encoding_of(Plain(frequencies)).spectrum(HEAD_DIM).frequencies == frequencies
    assert seams_of(model) == (None, None)
    for one in (model, Plain(rows=32)):
        assert stock_form(one) == "stock Plain has no config to say it in"
    whorl.attach(model, "rope/nope")
    assert [len(seam.spectrum.turning) for seam in seams_of(model)] == [4, 0]
    assert seams_of(host_of(model)) == seams_of(model), "a host is as good as its model"


def test_learned_parameters_train_and_are_in_the_state_dict() -> None:
    for table in (False, True):
        model = whorl.attach(Plain(rows=32 if table else 0), "t5")
        model(WORDS).square().mean().backward()
        assert float(model.whorl.effects[0].weight.grad.abs().sum()) > 0
        assert {"whorl.effects.0.weight", "whorl._extra_state"} <= model.state_dict().keys()


@torch.no_grad()
def test_what_is_added_takes_the_place_of_a_table_or_goes_before_the_first_layer() -> None:
    still, added = Plain(STILL), parse("sinusoidal").effects(Shape(HEAD_DIM, HEADS, WIDTH))[0].module
    whorl.attach(Plain(rows=32), "sinusoidal")
    vectors = added(torch.arange(24)[None])
    for model in (Plain(), Plain(rows=32)):
        own = {k: v for k, v in model.state_dict().items() if k != "table.weight"}
        still.load_state_dict(own)
        hook = still.words.register_forward_hook(lambda _, __, x: x + vectors)
        wanted = still(WORDS)
        hook.remove()
        whorl.attach(model, "sinusoidal")
        torch.testing.assert_close(model(WORDS), wanted, rtol=0, atol=1e-5)
    model = Plain(rows=32)
    stock = model(WORDS)
    assert torch.equal(whorl.attach(model, "learned:max_positions=32")(WORDS), stock), "it starts from the host's own"


def test_a_host_that_is_not_known_is_proved() -> None:
    model = Plain()
    host = replace(host_of(model), known=False)
    whorl.detach(whorl.attach(host, "alibi"))
    wrong = replace(host, rotation=replace(host.rotation, layout="interleaved"))
    with pytest.raises(ValueError, match="no known seam in Plain: Plain looks like .* its logits moved by"):
        whorl.attach(wrong, "alibi")
    assert whorl.attached(model) is None


def test_a_model_of_no_library_is_told_what_is_wanted() -> None:
    with pytest.raises(ValueError, match="attaches to Hugging Face transformers models and got a Linear"):
        whorl.attach(torch.nn.Linear(2, 2), "rope")
    with pytest.raises(ValueError, match="needs a model of transformers, and got Plain"):
        whorl.hosts.open_host(host_of(Plain()))


def test_unknown_lengths_are_the_registrys_and_fill_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="whorl"):
        model = whorl.attach(Plain(), "rope")
    assert "rope: base 10,000 by default, since the model's config states none" in caplog.text
    assert host_of(model).own_spectrum(0).frequencies == rope_frequencies(10000.0, HEAD_DIM)
