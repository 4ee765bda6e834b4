"""The registry, the notation, the JSON form, and what configs refuse."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import whorl
import whorl.encodings
from whorl.encodings import REGISTRY, Known, Layers, Sum, from_dict, get, parse
from whorl.encodings.base import Encoding

NOTATIONS = [
    "rope",
    "rope:base=500000",
    "rope:base=10000000",
    "hope",
    "hope:train_length=512",
    "p-rope:p=0.5,keep=slowest",
    "partial-rope:fraction=0.5",
    "nope",
    "sinusoidal",
    "learned:max_positions=64",
    "alibi",
    "t5:num_buckets=16",
    "kerple:form=power",
    "rope+window:size=32",
    "rope+window:size=32/nope",
    "full_attention=nope/sliding_attention=rope+window:size=32",
    "nope/",
]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_notation_and_json_round_trip(notation: str) -> None:
    encoding = parse(notation)
    assert str(encoding) == notation
    assert parse(str(encoding)) == encoding
    again = from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert again == encoding
    assert hash(again) == hash(encoding)


def test_the_plus_of_an_exponent_is_no_sum() -> None:
    assert parse("rope:base=1e+06") == parse("rope:base=1E+06") == parse("rope:base=1.e+06") == whorl.RoPE(base=1e6)
    assert parse("rope:base=1e+06+window:size=32") == whorl.RoPE(base=1e6) + whorl.Window(32)
    assert parse("frequencies:values=1@1e+00@1e-3+t5+window:size=32") == parse(
        "frequencies:values=1@1@0.001+t5+window:size=32"
    )
    by_type = parse(
        "full_attention=rope:base=1e+06~linear:factor=1e+01+window:size=9/sliding_attention=rope:base=1e+06"
    )
    assert by_type == parse(
        "full_attention=rope:base=1e6~linear:factor=10+window:size=9/sliding_attention=rope:base=1e6"
    )


@pytest.mark.parametrize("base", [1e6, 1e14, 1e15, 1e16, 1.5e20, 1e300, 10**15, 10**20])
def test_a_large_number_reads_as_it_is_written(base: float) -> None:
    assert parse(str(whorl.RoPE(base=base))) == whorl.RoPE(base=base)
    assert parse(f"rope:base={base!r}") == parse(f"rope:base={base:e}") == whorl.RoPE(base=base)


def test_python_and_notation_say_the_same() -> None:
    assert parse("rope+window:size=32/nope") == Layers([whorl.RoPE() + whorl.Window(32), whorl.NoPE()])
    by_type = Layers({"full_attention": whorl.NoPE(), "sliding_attention": whorl.HoPE(train_length=512)})
    assert parse("full_attention=nope/sliding_attention=hope:train_length=512") == by_type


@pytest.mark.parametrize(
    "notation",
    [
        "rope:base={}",
        "sinusoidal:base={}",
        "hope:train_length={}",
        "frequencies:values={}",
        "window:size={}",
        "rope~yarn:factor={},original=64",
        "rope~base-change:base={}",
        "learned:max_positions={}",
        "p-rope:p={}",
    ],
)
def test_numbers_of_hundreds_of_digits_are_refused(notation: str) -> None:
    with pytest.raises(ValueError, match=r"must be|are finite"):
        parse(notation.format("1" + 400 * "0"))


def test_every_encoding_file_is_registered() -> None:
    inner = {"base", "config", "effects", "biases", "spectrum", "turns", "layers", "scalings", "scaled", "scores"}
    inner |= {
        "relative_vectors",
        "two_rotations",
        "angles",
        "within",
        "earlier",
        "by_run",
        "householder",
        "point_codes",
        "grid",
        "grid_buckets",
    }
    files = {m.name for m in pkgutil.iter_modules(whorl.encodings.__path__)} - inner
    assert files == {target.split(":")[0].rsplit(".", 1)[1] for target in REGISTRY.values()}
    for name in REGISTRY:
        cls = get(name)
        assert issubclass(cls, Encoding)
        assert cls.name == name
        assert cls.paper
        assert cls.__doc__
        assert f"{cls.paper}" in (sys.modules[cls.__module__].__doc__ or "") + cls.__doc__, "cite the paper"


def test_encodings_know_no_settings_of_a_config() -> None:
    """What a config of transformers says is read and written in hosts."""
    words = re.compile(
        "rope_theta|rope_type|rope_parameters|rope_scaling|max_position_embeddings|partial_rotary_factor"
    )
    sources = list(Path(whorl.encodings.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    assert not [path.name for path in sources if words.search(path.read_text(encoding="utf-8"))]


def test_layers_cycle_or_go_by_type() -> None:
    cycle = parse("rope+window:size=8/nope")
    assert [str(cycle.for_layer(i)) for i in range(3)] == ["rope+window:size=8", "nope", "rope+window:size=8"]
    typed = parse("full_attention=nope/sliding_attention=rope")
    assert str(typed.for_layer(5, "sliding_attention")) == "rope"
    with pytest.raises(ValueError, match="layer 2 is of type 'chunked'.*it has full_attention, sliding_attention"):
        typed.for_layer(2, "chunked")


def test_rules_by_type_are_equal_in_any_order() -> None:
    rules = {"sliding_attention": whorl.RoPE(), "full_attention": whorl.NoPE()}
    one, other = Layers(rules), Layers(dict(reversed(rules.items())))
    assert one == other
    assert str(one) == str(other) == "full_attention=nope/sliding_attention=rope"


def test_a_run_length_reaches_into_compositions() -> None:
    assert str(parse("hope+window:size=8/hope:train_length=64").filled(Known(train_length=128))) == (
        "hope:train_length=128+window:size=8/hope:train_length=64"
    )


REFUSED = [
    ("hoppe", "did you mean 'hope'"),
    ("P_RoPE", "did you mean 'p-rope'"),
    ("zzz", "whorl list"),
    ("", "an empty encoding"),
    ("p-rope:p=1.5", r"\[0, 1\], got 1.5"),
    ("p-rope:p=-0.1", r"\[0, 1\], got -0.1"),
    ("p-rope:p=half", "p must be a number, got 'half'"),
    ("p-rope:keep=middle", "'fastest', 'slowest', got 'middle'"),
    ("partial-rope:fraction=2", r"\[0, 1\], got 2"),
    ("rope:base=1", "above 1, got 1"),
    ("rope:bas=3", "no argument 'bas'; it takes base"),
    ("rope:base", "cannot read 'base'"),
    ("rope:base=1e4,base=1e5", "'base' stands twice"),
    ("alibi:x=1", "it takes none"),
    ("hope:train_length=0", "at least 1, got 0"),
    ("hope:train_length=12.5", "whole number"),
    ("learned:max_positions=-1", "at least 1, got -1"),
    ("window", "window needs size"),
    ("t5:num_buckets=6", "multiple of 4, got 6"),
    ("t5:max_distance=8", "must exceed num_buckets / 4 = 8 .* got 8"),
    ("kerple:form=linear", "'log', 'power', got 'linear'"),
    ("rope+hope", "rope and hope both rotate q and k"),
    ("sinusoidal+learned", "both add to the embedding"),
    ("window:size=2+window:size=3", "both are windows"),
    ("alibi+alibi", "alibi stands 2 times"),
    ("rope/learned", "happens once and not per layer"),
    ("full_attention=rope/nope", "for some layers and not for others"),
    ("full_attention=rope/full_attention=nope", "names a layer type twice"),
    ("train_length=64", "'train_length=64' gives layers of type 'train_length' the encoding '64', which is a number"),
    ("hope/base=5e5", "arguments follow a colon, as in hope:train_length=4096"),
]


@pytest.mark.parametrize(("notation", "message"), REFUSED)
def test_nonsense_is_refused_when_built(notation: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(notation)


def test_configs_are_frozen() -> None:
    with pytest.raises(AttributeError):
        parse("rope").base = 3  # type: ignore[attr-defined]


def test_a_layers_rule_cannot_be_a_term() -> None:
    with pytest.raises(ValueError, match="cannot be one term of a sum"):
        parse("rope/nope") + whorl.ALiBi()
    with pytest.raises(ValueError, match="at least two"):
        Sum((whorl.RoPE(),))


def test_importing_whorl_imports_nothing_heavy() -> None:
    code = "import sys, whorl, whorl.cli.compare; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    light = "import sys, whorl; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True).stdout == "[]\n"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "transformers" not in heavy
