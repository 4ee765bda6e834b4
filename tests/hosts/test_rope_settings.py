"""Rope settings as scalings: against every stock function of transformers, and where stock does otherwise."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from whorl.encodings import Scaled, Spectrum, parse
from whorl.encodings.p_rope import PRoPE
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings import Scaling
from whorl.encodings.scalings.linear import Linear
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.scalings.longrope import LongRoPE
from whorl.encodings.scalings.ntk import NTK, DynamicNTK
from whorl.encodings.scalings.yarn import YaRN
from whorl.hosts.transformers.rope_settings import (
    as_stock_reads,
    encoding_from,
    from_stock,
    of_layers,
    scaled_by,
    unscaled_up_to,
)

ROPE = RoPE().spectrum(128)


def close(ours: Spectrum, theirs: tuple[Any, float], rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(ours.frequencies, theirs[0], rtol=rtol, atol=0)
    assert ours.amplitude == pytest.approx(theirs[1], rel=1e-12)


@contextmanager
def in_float64() -> Iterator[None]:
    """The same stock code with float64 where it asks for float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch, "float32", torch.float64)
        yield


def stock(config: Any, length: int | None = None, layer_type: str | None = None) -> tuple[np.ndarray, float]:
    settings = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    function = ROPE_INIT_FUNCTIONS[settings["rope_type"]]
    frequencies, amplitude = function(config, torch.device("cpu"), seq_len=length, layer_type=layer_type)
    return frequencies.double().numpy(), float(amplitude)


DRAWS = 120


def drawn(kind: str, draw: int) -> tuple[Any, Scaled, int | None]:
    """A config with valid settings of this kind, what they mean, and a length."""
    r = random.Random(f"{kind} {draw}")
    head_dim = r.choice([16, 32, 64, 80, 96, 128, 256])
    share = r.choice([1.0, 1.0, 0.5, 0.25, 0.75])
    base = r.choice([500.0, 1e4, 1e4, 1.5e5, 5e5, 1e6])
    factor = r.choice([1, 1.0, 2, 4.0, 8, 16, r.uniform(1, 40)])
    original = r.choice([64, 200, 256, 512, 2048, 4096, 8192, 131072, r.randrange(16, 9000)])
    longest = int(original * r.choice([1, 2, 8, 32.5]))
    settings: dict[str, Any] = {"rope_type": kind, "rope_theta": base}
    if share < 1 or r.random() < 0.5:
        settings["partial_rotary_factor"] = share
    width, length = int(head_dim * share), None
    wanted: Scaling
    if kind in ("linear", "proportional"):
        settings["factor"] = factor
        wanted = Linear(factor)
    elif kind == "dynamic":
        settings["factor"] = factor
        longest = original
        length = r.choice([None, 1, original - 1, original, original + 1, 2 * original, r.randrange(1, 40 * original)])
        wanted = DynamicNTK(factor, original, step=1)
    elif kind == "llama3":
        low, high = r.choice(
            [(1.0, 4.0), (1, 4), (0.5, 2), (3.0, 3.0), (2.0, 32.0), (r.uniform(0.1, 2), r.uniform(2.5, 40))]
        )
        settings.update(factor=factor, low_freq_factor=low, high_freq_factor=high)
        wanted = Llama3(factor, original, low, high)
    elif kind == "yarn":
        settings["factor"] = factor
        options: dict[str, Any] = {}
        if r.random() < 0.6:
            options["beta_fast"], options["beta_slow"] = r.choice(
                [(32, 1), (32.0, 1.0), (8, 0.5), (64, 2), (4, 3.5), (2, 2)]
            )
        if r.random() < 0.6:
            options["truncate"] = r.random() < 0.5
        if (how := r.random()) < 0.25:
            options["attention_factor"] = r.choice([1.0, 0.7, 1.25])
        elif how < 0.6:
            options["mscale"], options["mscale_all_dim"] = r.choice(
                [(1.0, 1.0), (0.707, 0.707), (1.0, 0.5), (0.4, 1.2)]
            )
        settings.update(options)
        wanted = YaRN(factor, original, **options)
        if r.random() < 0.15:  # DeepSeek-V3's way: the factor is the ratio of the lengths
            settings["factor"] = None
            wanted = YaRN(longest / original, original, **options)
    else:
        assert kind == "longrope"
        short, long = ([r.uniform(1, s) for _ in range(width // 2)] for s in (2, 64))
        settings.update(short_factor=short, long_factor=long)
        length = r.choice([None, 1, original, original + 1, r.randrange(1, 8 * original)])
        if (how := r.random()) < 0.3:
            settings["attention_factor"] = r.choice([1.0, 1.19])
            wanted = LongRoPE(tuple(short), tuple(long), None, original, settings["attention_factor"])
        elif how < 0.6:
            settings["factor"] = factor
            wanted = LongRoPE(tuple(short), tuple(long), factor, original)
        else:  # Phi-3's way
            wanted = LongRoPE(tuple(short), tuple(long), longest / original, original)
    sizes = {"hidden_size": 2 * head_dim, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes.update(max_position_embeddings=longest, rope_parameters=settings)
    if kind == "longrope":
        config = Phi3Config(**sizes, original_max_position_embeddings=original, pad_token_id=0)
    else:
        if kind in ("yarn", "llama3"):
            settings["original_max_position_embeddings"] = original
        config = LlamaConfig(**sizes, head_dim=head_dim)
    inner = RoPE(base) if share == 1 else PRoPE(share, base) if kind == "proportional" else PartialRoPE(share, base)
    return config, Scaled(inner, wanted), length


@pytest.mark.parametrize("kind", ROPE_INIT_FUNCTIONS)
def test_every_stock_function_gives_the_same(kind: str) -> None:
    """Over random valid settings: to 1e-12 of stock code run in float64, and to float32's precision of it as it is."""
    lengths = 0
    for draw in range(DRAWS):
        config, encoding, length = drawn(kind, draw)
        spectrum = encoding.spectrum(config.hidden_size // 2)
        if encoding.length_dependent and length is not None:
            spectrum = encoding.spectrum_at(config.hidden_size // 2, length)
            lengths += spectrum != encoding.spectrum(config.hidden_size // 2)
        with in_float64():
            theirs = stock(config, length)
        # Phi-3's exponents stay float32 (.float()): off by up to 2^-24 each, times ln(base) in the frequency.
        close(spectrum, theirs, 1e-12 if kind != "longrope" else math.log(1e6) * 2**-24)
        # As it is: float32's exponents, and a ramp (float32, up to 1) whose error s multiplies next to theta / s.
        factor = getattr(encoding.scalings[0], "factor", None) or 1
        close(spectrum, stock(config, length), 2**-24 * (2 * math.log(1e6) + 40 * factor))
        # and the settings read as what was meant
        assert from_stock(config.rope_parameters, config.max_position_embeddings) == encoding.scalings
    assert lengths > DRAWS / 5 or kind not in ("dynamic", "longrope")


def test_hunyuan_alpha_is_ntk() -> None:
    from transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense import (
        HunYuanDenseV1Config,
        HunYuanDenseV1RotaryEmbedding,
    )

    settings = {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 1e4}
    config = HunYuanDenseV1Config(hidden_size=256, num_attention_heads=2, head_dim=128, rope_parameters=dict(settings))
    ours = Scaled(RoPE(), from_stock(settings)).spectrum(128)
    close(ours, (HunYuanDenseV1RotaryEmbedding(config).inv_freq.numpy(), 1), 2e-6)
    assert from_stock(settings) == (NTK(1000.0),)


def llama(**settings: Any) -> LlamaConfig:
    sizes = {"hidden_size": 256, "num_attention_heads": 2, "max_position_embeddings": 8192}
    return LlamaConfig(**sizes, rope_parameters={"rope_theta": 1e4, **settings})


def test_stock_ignores_truncate_by_layer_type_and_this_does_not() -> None:
    def config(truncate: bool) -> Gemma3TextConfig:
        full = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0, "original_max_position_embeddings": 4096}
        parameters = {
            "full_attention": {**full, "truncate": truncate},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
        return Gemma3TextConfig(head_dim=128, rope_parameters=parameters)

    rounded, exact = (stock(config(t), layer_type="full_attention") for t in (True, False))
    np.testing.assert_array_equal(rounded[0], exact[0])  # stock: no difference
    for truncate, same in ((True, True), (False, False)):
        scalings = from_stock(config(truncate).rope_parameters["full_attention"])
        ours = Scaled(RoPE(1e6), scalings).spectrum(128)
        assert np.allclose(ours.frequencies, rounded[0], rtol=1e-5, atol=0) == same


def test_stock_ignores_one_mscale_without_the_other_and_deepseek_does_not() -> None:
    settings = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}

    def deepseek(scale: float, mscale: float) -> float:
        return 0.1 * mscale * math.log(scale) + 1.0

    plain = stock(llama(**settings))[1]
    for given, wanted in (
        ({"mscale": 0.707}, deepseek(40, 0.707)),
        ({"mscale_all_dim": 0.8}, deepseek(40, 1) / deepseek(40, 0.8)),
        ({}, deepseek(40, 1)),
    ):
        assert stock(llama(**settings, **given))[1] == plain
        assert from_stock({**settings, **given})[0](ROPE).amplitude == pytest.approx(wanted, rel=1e-15)
    assert deepseek(40, 0.707) < plain - 0.1


@pytest.mark.parametrize(
    ("settings", "stock_gives"),
    [
        ({"original_max_position_embeddings": 24, "beta_slow": 8}, "kept"),
        ({"original_max_position_embeddings": 6}, "divided but for the first"),  # its index rounds up to 0
        ({"original_max_position_embeddings": 6, "truncate": False}, "kept"),
        ({"original_max_position_embeddings": 10**6, "rope_theta": 20.0}, "divided"),
    ],
)
def test_stock_turns_the_ramp_around_where_no_pair_lies_on_it(settings: dict, stock_gives: str) -> None:
    """All pairs too slow for beta_slow must be divided, all fast enough for beta_fast kept, as in the paper."""
    settings = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, **settings}
    spectrum = RoPE(settings["rope_theta"]).spectrum(128)
    turns = [settings["original_max_position_embeddings"] / w for w in spectrum.wavelengths]
    kept, divided = np.array(spectrum.frequencies), np.array(spectrum.frequencies) / 4
    if min(turns) > 32:
        wanted = kept
    else:
        assert max(turns) < settings.get("beta_slow", 1)
        wanted = divided
    (yarn,) = from_stock(settings)
    np.testing.assert_allclose(yarn(spectrum).frequencies, wanted, rtol=1e-14)
    first_kept = np.concatenate([kept[:1], divided[1:]])
    theirs = {"kept": kept, "divided": divided, "divided but for the first": first_kept}[stock_gives]
    np.testing.assert_allclose(stock(llama(**settings))[0], theirs, rtol=1e-5)


@pytest.mark.parametrize("turns", [1.0, 4.0])
def test_llama3_without_a_band_is_a_step(turns: float) -> None:
    """Llama 4 Scout ships so. Of a pair right at the step stock divides 0 by 0."""
    settings = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": turns, "high_freq_factor": turns}
    settings["original_max_position_embeddings"] = 512
    (llama3,) = from_stock(settings)
    wanted = [f if 512 / w > turns else f / 8 for f, w in zip(ROPE.frequencies, ROPE.wavelengths, strict=True)]
    np.testing.assert_allclose(llama3(ROPE).frequencies, wanted, rtol=1e-14)
    np.testing.assert_allclose(stock(llama(**settings))[0], wanted, rtol=1e-5)
    wavelength = float(np.float32(2 * math.pi))  # of the first pair, in stock's float32
    edge = {**settings, "original_max_position_embeddings": wavelength * turns}
    assert np.isnan(stock(llama(**edge))[0]).tolist() == [True] + [False] * 63


def test_from_stock_reads_the_old_words_and_the_default() -> None:
    assert from_stock({"rope_theta": 1e4}) == from_stock({"rope_type": "default", "factor": None}) == ()
    assert from_stock({"type": "linear", "factor": 2.0}) == (Linear(2),)
    assert from_stock({"rope_type": "proportional", "partial_rotary_factor": 0.25}) == ()
    yarn = {"rope_type": "yarn", "factor": 4.0, "beta_fast": None, "attention_factor": 1.2, "mscale": 1.0}
    assert from_stock(yarn, 2048) == (YaRN(4, 2048, attention_factor=1.2),)
    phi = {"rope_type": "longrope", "short_factor": [1], "long_factor": [2.0], "original_max_position_embeddings": 64}
    assert from_stock(phi, 32) == (LongRoPE((1,), (2,), 1, 64),)
    assert LongRoPE((1,), (2,), 1, 64).to_dict()["long_factor"] == [2.0], "a list, as JSON has it"


FROM_STOCK = [
    ({"rope_type": "axial"}, "no scaling says rope_type 'axial'; known are default, linear"),
    (
        {"rope_type": "default", "mrope_section": [16, 24, 24]},
        "no scaling says mrope_section under rope_type 'default'",
    ),
    ({"rope_type": "yarn", "factor": 16.0, "llama_4_scaling_beta": 0.1}, "no scaling says llama_4_scaling_beta"),
    ({"rope_type": "linear", "factor": 2.0, "attention_factor": 1.0}, "attention_factor under rope_type 'linear'"),
    ({"full_attention": {"rope_type": "default"}, "sliding_attention": None}, "go by layer type"),
    ({"rope_type": "linear"}, "rope_type 'linear' needs factor"),
    ({"rope_type": "linear", "factor": 0.5}, "at least 1 .*, got 0.5"),
    ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic' needs max_position_embeddings"),
    ({"rope_type": "yarn", "factor": 2.0}, "'yarn' needs max_position_embeddings"),
    (
        {"rope_type": "yarn", "original_max_position_embeddings": 512},
        "needs max_position_embeddings where it has no factor",
    ),
    ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, "needs low_freq_factor"),
    ({"rope_type": "longrope", "original_max_position_embeddings": 8192}, "needs short_factor"),
]


@pytest.mark.parametrize(("settings", "message"), FROM_STOCK)
def test_from_stock_says_what_it_cannot(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_stock(settings)


# --- settings as encodings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "notation"),
    [
        ({"rope_theta": 5e5}, "rope:base=500000"),
        ({"rope_theta": 1e4, "partial_rotary_factor": 1}, "rope:base=10000"),
        ({"rope_theta": 1e4, "partial_rotary_factor": 0.25}, "partial-rope:fraction=0.25,base=10000"),
        (
            {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "factor": 2},
            "p-rope:p=0.25,base=1000000~linear:factor=2",
        ),
        ({"type": "linear", "rope_theta": 1e4, "factor": 4, "beta_fast": 8}, "rope:base=10000~linear:factor=4"),
        (
            {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4, "original_max_position_embeddings": 512.0},
            "rope:base=10000~yarn:factor=4,original=512",
        ),
        (
            {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1], "long_factor": [2], "factor": 2},
            "rope:base=10000~longrope:short_factor=1@1,long_factor=2@2,factor=2,original=64",
        ),
    ],
)
def test_the_encoding_that_settings_mean(settings: dict[str, Any], notation: str) -> None:
    assert encoding_from(settings, 4, longest=64) == parse(notation)


def test_settings_without_a_base_mean_no_encoding() -> None:
    with pytest.raises(ValueError, match=r"\['rope_type'\] have no rope_theta"):
        encoding_from({"rope_type": "default"}, 64, None)


def test_the_mscales_of_a_longrope_are_for_other_readers() -> None:
    lists = {"short_factor": [1.0], "long_factor": [1.0], "original_max_position_embeddings": 16}
    settings = {"rope_type": "longrope", **lists, "attention_factor": 1.2, "short_mscale": 1.2, "long_mscale": 1.2}
    assert from_stock(settings) == (LongRoPE((1.0,), (1.0,), None, 16, 1.2),)
    with pytest.raises(ValueError, match="no scaling says short_mscale under rope_type 'linear'"):
        from_stock({"rope_type": "linear", "factor": 2.0, "short_mscale": 1.2})


def test_one_mscale_alone_is_left_out_as_stock_reads_it() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}
    assert as_stock_reads(yarn) == {"rope_type": "yarn", "factor": 4.0}
    both = {**yarn, "mscale_all_dim": 1.0}
    assert as_stock_reads(both) == both
    assert as_stock_reads({**both, "mscale": 0}) == as_stock_reads(yarn)


def test_up_to_where_frequencies_are_the_trained_ones() -> None:
    original = {"original_max_position_embeddings": 16}
    assert unscaled_up_to({"rope_type": "longrope", **original}, 64) == 16
    assert unscaled_up_to({"rope_type": "dynamic", **original}, 64) == 64, "stock goes by the declared length"
    assert unscaled_up_to({"rope_type": "yarn"}, 64) == 64


def test_settings_of_layers_by_type_or_flat() -> None:
    full = {"rope_type": "default", "rope_theta": 1e6}
    typed = SimpleNamespace(rope_parameters={"full_attention": full, "sliding_attention": None})
    assert of_layers(typed, "full_attention") == full
    assert of_layers(typed, "sliding_attention") is None
    assert of_layers(SimpleNamespace(rope_parameters=full), "full_attention") == full
    assert of_layers(SimpleNamespace(), "full_attention") == {}
    assert of_layers(typed, "chunked_attention") == typed.rope_parameters, "no settings of one type"
    assert of_layers(typed, "chunked_attention", typed=False) == full, "one table: the first that there are"


def test_which_settings_scale() -> None:
    assert scaled_by({"rope_theta": 1e4}) is None
    assert scaled_by({"rope_type": "proportional", "factor": 1.0}) is None
    assert scaled_by({"rope_type": "proportional", "factor": 2.0}) == "proportional"
    assert scaled_by({"type": "yarn"}) == "yarn"
    assert scaled_by({"rope_type": "unheard of"}) == "unheard of"
