"""What each layer does under an encoding, and which layers cannot have it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from tests.contract import TOKENS, difference
from whorl.attaching import seams_of
from whorl.attaching.plan import layer_plan
from whorl.attaching.seams import Attachment
from whorl.encodings import Encoding, Shape, Spectrum, parse
from whorl.encodings.alibi import LinearBias
from whorl.encodings.effects import Bias, Effect, Rotate
from whorl.hosts import ENCODERS, FAMILIES, open_host
from whorl.testing import logits_and_budget, tiny_model

from .by_length import DYNAMIC, LENGTH, LONGROPE

FAR = torch.arange(40)[None] + 1_000_003


def spectra(model) -> list[int]:
    """How many pairs turn in each layer."""
    return [len(seam.spectrum.turning) for seam in seams_of(model)]


def test_layer_types_get_their_own() -> None:
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    model = tiny_model("qwen3", layer_types=types, use_sliding_window=True, sliding_window=64)
    whorl.attach(model, "full_attention=nope/sliding_attention=rope")
    assert spectra(model) == [8, 0, 8]
    with pytest.raises(ValueError, match="layer 1 is of type 'full_attention'"):
        whorl.attach(model, whorl.Layers({"sliding_attention": whorl.RoPE()}))
    assert str(whorl.attached(model).encoding).startswith("full_attention=nope"), "a refused attach changes nothing"


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "gemma3_text"])
def test_every_layer_turns_by_its_own_spectrum(family: str) -> None:
    model = tiny_model(family)
    _, budget = logits_and_budget(whorl.attach(model, "rope"), TOKENS)
    logits = {e: whorl.attach(model, e)(TOKENS).logits for e in ("rope", "nope", "rope/nope", "nope/rope", "rope/rope")}
    assert torch.equal(logits.pop("rope/rope"), logits["rope"])
    for a in logits:
        assert all(difference(logits[a], logits[b]) > 100 * budget for b in logits if a != b)


@torch.no_grad()
@pytest.mark.parametrize("family", ["smollm3", "llama4_text", "exaone4", "cohere2"])
def test_layers_that_the_host_does_not_turn_stay_so_unless_they_are_named(family: str) -> None:
    model = tiny_model(family)
    whorl.attach(model, "hope:train_length=16")
    assert spectra(model) == [1, 0, 1]
    plain, budget = logits_and_budget(model, TOKENS)
    whorl.attach(model, "hope:train_length=16/")  # `Layers` of one: every layer by name
    assert spectra(model) == [1, 1, 1]
    named, budget = logits_and_budget(model, TOKENS)
    assert difference(named, plain) > 100 * budget
    assert difference(model(TOKENS, position_ids=FAR).logits, named) < budget
    out = model(TOKENS[:, :30], use_cache=True)
    steps = [out.logits]
    for t in range(30, 40):
        steps.append(model(TOKENS[:, t : t + 1], past_key_values=out.past_key_values, use_cache=True).logits)
    assert difference(torch.cat(steps, 1), named) < budget


def test_a_window_wider_than_the_hosts_own_is_refused() -> None:
    model = tiny_model("mistral")
    whorl.attach(model, "rope+window:size=24")
    assert not any(seam.biases for seam in seams_of(model)), "it is the host's own"
    whorl.attach(model, "rope+window:size=23")
    with pytest.raises(ValueError, match=r"layer 0 of MistralForCausalLM hides keys at distances of 24 or more"):
        whorl.attach(model, "rope+window:size=25")


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "olmo2"])
@pytest.mark.parametrize("encoding", ["rope+window:size=24", "hope:train_length=16+window:size=24/nope"])
def test_a_window_in_a_config_that_nothing_reads_is_none(family: str, encoding: str) -> None:
    model = tiny_model(family, sliding_window=24)
    assert "window" not in str(whorl.encoding_of(model))
    whorl.attach(model, encoding)
    logits, budget = logits_and_budget(whorl.attach(tiny_model(family), encoding), TOKENS)
    assert difference(model(TOKENS, use_cache=False).logits, logits) < budget


@torch.no_grad()
@pytest.mark.parametrize(
    ("encoding", "told"),
    [("rope", True), ("alibi", True), ("rope+window:size=24/nope", True), ("rope+window:size=24", False)],
)
def test_a_window_by_which_caches_alone_drop_keys_is_told(
    encoding: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("llama", sliding_window=24)
    logits, budget = logits_and_budget(whorl.attach(model, encoding), TOKENS, use_cache=False)
    assert ("masks nothing by config.sliding_window, 24" in caplog.text) == told
    cache = model(TOKENS[:, :-1], use_cache=True).past_key_values
    cached = model(TOKENS[:, -1:], past_key_values=cache).logits
    assert (difference(cached, logits[:, -1:]) < budget) != told
    caplog.clear()
    whorl.attach(tiny_model("llama", sliding_window=None), encoding)
    whorl.attach(tiny_model("mistral", sliding_window=24), encoding)
    assert "sliding_window" not in caplog.text


def test_layers_that_are_one_module_have_one_encoding() -> None:
    model = tiny_model("llama")
    model.model.layers[2].self_attn = model.model.layers[0].self_attn
    for encoding in ("kerple", "fox", "rope/nope/hope", "alibi/nope/nope"):
        with pytest.raises(ValueError, match="layers 0 and 2 of this LlamaForCausalLM are one attention module"):
            whorl.attach(model, encoding)
    assert whorl.attached(model) is None
    for encoding in ("t5", "alibi", "hope", "rope/nope/rope"):
        logits, budget = logits_and_budget(whorl.attach(model, encoding), TOKENS, use_cache=False)
        alone = tiny_model("llama")
        alone.model.layers[2].self_attn.load_state_dict(alone.model.layers[0].self_attn.state_dict())
        assert difference(whorl.attach(alone, encoding)(TOKENS, use_cache=False).logits, logits) < budget


def test_t5_is_one_table_and_kerple_one_per_layer() -> None:
    model = tiny_model("llama")
    count = {"t5": 32 * 4, "kerple": 3 * 4 * 2, "t5/nope": 32 * 4, "rope+t5/t5": 32 * 4}
    for encoding, parameters in count.items():
        attachment = whorl.attached(whorl.attach(model, encoding))
        assert isinstance(attachment, Attachment)
        assert sum(p.numel() for p in attachment.parameters()) == parameters, encoding
    gemma = whorl.attach(tiny_model("gemma4_text"), "t5")  # layers of two head dims share the one table
    assert sum(p.numel() for p in whorl.attached(gemma).parameters()) == 32 * 4


def test_an_alibi_falcon_is_refused() -> None:
    with pytest.raises(ValueError, match="ALiBi of its own"):
        whorl.attach(tiny_model("falcon", alibi=True), "rope")


def test_an_odd_head_dim_is_refused_and_nothing_changes() -> None:
    model = tiny_model("gpt2", hidden_size=20)
    with pytest.raises(ValueError, match="even head dim of at least 2, got 5"):
        whorl.attach(model, "rope")
    assert whorl.attached(model) is None
    whorl.attach(model, "alibi")


# --- spectra that depend on the length --------------------------------------------------------------------------------


REFUSED = {
    "falcon": "must be turned in transformers' attention interface, which FalconForCausalLM does not use",
    "hunyuan_v1_dense": "must be turned last of all, and layer 0 of HunYuanDenseV1ForCausalLM normalises them after",
    **dict.fromkeys(ENCODERS, "goes by the tokens up to a query's own, and .* attends in both directions"),
}


@pytest.mark.full
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
        return [seam.scaled is not None for seam in seams_of(model)]

    model = tiny_model("smollm3")
    assert scaled(whorl.attach(model, DYNAMIC)) == [True, False, True]
    assert scaled(whorl.attach(model, f"{DYNAMIC}/")) == [True, True, True]
    assert scaled(whorl.attach(model, f"{DYNAMIC}/rope")) == [True, False, True]


# --- effects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["frequencies:values=1@0.5@0.25,axes=0@1@1", "rope/frequencies:values=1,axes=1"])
def test_a_spectrum_of_several_axes_is_refused_where_positions_have_one(encoding: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(
        ValueError, match="turns pairs by 2 axes of a position, and a position in LlamaForCausalLM has 1"
    ):
        whorl.attach(model, encoding)
    assert whorl.attached(model) is None
    tokens = torch.arange(9)[None]
    first = whorl.attach(model, "frequencies:values=1@0.5@0.25,axes=0@0@0")(tokens).logits
    assert torch.equal(whorl.attach(model, "frequencies:values=1@0.5@0.25")(tokens).logits, first)


def test_a_host_whose_positions_have_axes_takes_a_spectrum_of_so_many() -> None:
    host = replace(open_host(tiny_model("llama")), axes=2)
    plan = layer_plan(host, parse("frequencies:values=1@0.5,axes=0@1") + Along(1))
    assert {seam.spectrum.axes for seam in plan.layers} == {(0, 1)}
    assert {bias.axis for seam in plan.layers for bias in seam.biases} == {1}
    assert {seam.spectrum for seam in layer_plan(host, parse("nope")).layers} == {Spectrum((), 16)}


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (
            "frequencies:values=1@0.5,axes=0@2",
            "by 3 axes of a position, and a position in LlamaForCausalLM has 2",
        ),
        ("rope", "turns pairs by positions of one axis, .* has 2; attach an encoding that says which axis each pair"),
        (
            "alibi",
            r"alibi cannot be attached to .*LlamaForCausalLM\): LinearBias goes by positions of one axis, .* have 2",
        ),
        ("window:size=8", "WindowBias goes by positions of one axis"),
        ("sinusoidal", "SinusoidalVectors goes by positions of one axis"),
        ("frequencies:values=1@0.5,axes=0@0~dynamic-ntk:factor=2,original=8", "have 2 axes and count none"),
    ],
)
def test_what_does_not_go_by_a_hosts_axes_is_refused(encoding: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_plan(replace(open_host(tiny_model("llama")), axes=2), parse(encoding))


def test_a_bias_along_an_axis_that_a_host_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LinearBias goes by axis 1 of a position, and these have 1 \(from 0\)"):
        whorl.attach(tiny_model("llama"), Along(1))
    model, tokens = tiny_model("llama"), torch.arange(9)[None]
    wanted = whorl.attach(model, "alibi")(tokens).logits
    assert torch.equal(whorl.attach(model, Along(0))(tokens).logits, wanted), "the only one is axis 0"


@dataclass(frozen=True)
class Along(Encoding):
    """ALiBi along one axis of a position."""

    axis: int

    name, title, paper, kinds = "along", "", "", ("bias",)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        module = LinearBias(shape.heads)
        module.axis = self.axis
        return (Bias(module, shared=True),)


@dataclass(frozen=True)
class Unheard(Effect):
    """An effect that no host has a place for."""


@dataclass(frozen=True)
class Novel(Encoding):
    name, title, paper, kinds = "novel", "", "", ()

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Unheard(),)


def test_an_effect_without_a_place_is_refused_and_not_dropped() -> None:
    with pytest.raises(ValueError, match="novel has the effect Unheard, and LlamaForCausalLM has no place for one"):
        whorl.attach(tiny_model("llama"), Novel())


@pytest.mark.parametrize("family", ["phi", "stablelm", "persimmon"])
def test_layers_that_hand_over_no_channel_are_not_made_to_turn(family: str, tmp_path: Path) -> None:
    still = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.0}
    model = tiny_model(family, rope_parameters=still)
    stock = model(TOKENS).logits
    with pytest.raises(ValueError, match=r"hand over no channel \(partial_rotary_factor is 0\); load the model with"):
        whorl.attach(model, "hope:train_length=64")
    assert not torch.equal(whorl.attach(model, "alibi")(TOKENS).logits, stock)
    assert torch.equal(whorl.detach(model)(TOKENS).logits, stock)
    model.save_pretrained(tmp_path)
    changed = type(model.config).from_pretrained(tmp_path)
    changed.rope_parameters = {**still, "partial_rotary_factor": 0.5}
    as_advised = whorl.attach(whorl.load(tmp_path, config=changed), "hope:train_length=64")
    assert not torch.equal(as_advised(TOKENS).logits, stock)
    unsaid = replace(open_host(model), rotary=torch.nn.Module())
    assert unsaid.refuses(Rotate(Spectrum((1.0,), 2))) is None, "a width that no buffer says is not one of 0"


REFUSE = {"hosts/points.py", "hosts/transformers/host.py", "hosts/transformers/packed.py"}


def test_effects_are_told_apart_in_one_place() -> None:
    source = Path(whorl.__file__).parent
    effects = {kind.__name__ for kind in Effect.__subclasses__()} - {"Unheard"}
    assert effects == {"Rotate", "Add", "Bias", "Scale", "Score", "Reposition"}
    knowing = set()
    for path in source.rglob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {a.name for node in imports if (node.module or "").startswith("whorl.encodings") for a in node.names}
        if names & effects and path.parent.name != "encodings":
            knowing.add(path.relative_to(source).as_posix())
    drawn = {path for path in knowing if path.startswith("pages/")}  # pages of the docs, which place nothing
    assert knowing - drawn == {"attaching/plan.py", *REFUSE}, "hosts may refuse one, and place none"
