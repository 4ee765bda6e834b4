"""The kinds that a written config says."""

from __future__ import annotations

import pytest

import whorl
from whorl.runtimes.spelled import KINDS, kinds, kinds_of, kinds_of_encoding
from whorl.testing import tiny_model

SAID = {
    "rope:base=50000": ("base",),
    "hope:train_length=40": ("proportional",),
    "nope": ("proportional",),
    "rope~linear:factor=2": ("linear",),
    "rope~llama3:factor=8,original=16": ("llama3",),
    "rope~yarn:factor=4,original=16": ("yarn",),
    "rope~yarn:factor=2,original=16": ("yarn", "yarn: another factor"),
    "rope~yarn:factor=4,original=16,attention_factor=1.4": ("yarn", "yarn: own attention"),
    "rope~yarn:factor=4,original=16,mscale=1,mscale_all_dim=0.7": ("yarn", "yarn: mscale"),
    "rope~yarn:factor=4,original=16,truncate=false": ("yarn", "yarn: untruncated"),
    "rope~yarn:factor=4,original=16,beta_fast=8": ("yarn", "yarn: own turns"),
    "rope~yarn:factor=4,original=16,beta_slow=2": ("yarn", "yarn: own turns"),
    "rope~yarn:factor=4,original=16,beta_fast=32,beta_slow=1": ("yarn",),
    "p-rope:p=0.5~linear:factor=2": ("longrope",),
    "frequencies:values=1@0.5@0.3@0.2@0.1@0.05@0.02@0.01,amplitude=0.8": ("longrope", "longrope: own attention"),
}


@pytest.mark.parametrize("notation", SAID)
def test_what_a_llama_says(notation: str) -> None:
    model = whorl.attach(tiny_model("llama"), notation)
    assert kinds(model) == SAID[notation]
    assert set(SAID[notation]) <= KINDS.keys()
    if "values" not in notation:  # 8 pairs, and a row of `ran` is asked with 32
        assert kinds_of_encoding(whorl.parse(notation), 64) == SAID[notation]


def test_an_attention_factor_of_a_list_is_told_by_how_near_whole_lengths_come_to_it() -> None:
    rounded, own = "longrope: rounded attention", "longrope: own attention"
    model = tiny_model("llama", max_position_embeddings=8192)
    for tail, said in {"~yarn:factor=4,original=2048": (rounded,), "~linear:factor=2": ()}.items():
        encoding = f"p-rope:p=0.5{tail}"
        assert kinds(whorl.attach(model, encoding)) == ("longrope", *said)
        assert kinds_of_encoding(whorl.parse(encoding), 8192) == ("longrope", *said)
    short = whorl.attach(tiny_model("llama", max_position_embeddings=16), "p-rope:p=0.5~yarn:factor=4,original=2048")
    assert kinds(short)[-1] == own


def test_a_list_whose_factor_is_said_by_one_name_alone() -> None:
    """As stock models have it, and as whorl wrote it before: what `stock_form` says of these has both names."""
    lists = dict.fromkeys(("short_factor", "long_factor"), [2.0] * 8)
    settings = {"rope_type": "longrope", "rope_theta": 1e4, **lists, "original_max_position_embeddings": 16}
    exact, other, stale = {"factor": 4.0}, {"factor": 2.0}, {"factor": 4.0, "long_mscale": 1.5}
    assert kinds_of({**settings, **exact}, 64) == ("longrope",)
    assert kinds_of({**settings, **other}, 64) == ("longrope", "longrope: own attention", "longrope: no mscale")
    assert kinds_of({**settings, **stale}, 64) == ("longrope", "longrope: no mscale")
    model = tiny_model("llama", rope_parameters={**settings, **other})
    assert kinds(model)[-1] == "longrope: no mscale"
    assert kinds(whorl.attach(model, whorl.encoding_of(model)))[-1] == "longrope: own attention"


@pytest.mark.parametrize(
    ("family", "notation", "said"),
    [
        ("llama", None, ("base",)),
        ("gpt_neox", None, ("part",)),
        ("gpt2", None, ("table",)),
        ("gemma3_text", None, ("base",)),
        ("gemma3_text", "full_attention=rope/sliding_attention=rope:base=20000", ("base", "sliding base")),
        ("gemma3_text", "full_attention=hope:train_length=16/sliding_attention=rope", ("proportional",)),
        ("gemma3_text", "rope~linear:factor=2", ("linear", "sliding scaled")),
        ("olmo3", None, ("base",)),
        ("olmo3", "full_attention=rope/sliding_attention=rope:base=20000", ("base", "sliding base")),
    ],
)
def test_what_a_family_says(family: str, notation: str | None, said: tuple[str, ...]) -> None:
    model = tiny_model(family)
    assert kinds(model if notation is None else whorl.attach(model, notation)) == said


def test_frequencies_that_go_by_the_length() -> None:
    settings = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert kinds(tiny_model("llama", rope_parameters=settings)) == ("by length",)
    assert kinds_of_encoding(whorl.parse("rope~dynamic-ntk:factor=4,original=16"), 64) == ("by length",)
    assert kinds_of_encoding(whorl.parse("alibi"), 64) == ()


def test_what_stock_cannot_say_has_no_kinds() -> None:
    with pytest.raises(ValueError, match="no place for a bias"):
        kinds(whorl.attach(tiny_model("llama"), "alibi"))
